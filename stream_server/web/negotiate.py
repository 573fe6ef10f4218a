"""Content negotiation by the Accept header (RFC 9110, section 12.5.1). Pure."""

from __future__ import annotations

from collections.abc import Sequence


def best(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer the client likes most, the first of equals; None if it takes none of them.

    The most specific range that matches an offer gives its quality. A range that cannot be
    parsed is ignored; no header, or one without any range, takes everything.
    """
    ranges = [parsed for part in (accept or "").split(",") if (parsed := _parse(part))]
    if not ranges:
        return offers[0]

    def quality(offer: str) -> float:
        kind = offer.split("/", maxsplit=1)[0]
        for pattern in (offer, f"{kind}/*", "*/*"):
            found = [q for name, q in ranges if name == pattern]
            if found:
                return max(found)
        return 0.0

    liked = max(offers, key=quality)
    return liked if quality(liked) > 0 else None


def _parse(part: str) -> tuple[str, float] | None:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    if name.count("/") != 1:
        return None
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return None
            return (name, quality) if 0 <= quality <= 1 else None
    return name, 1.0
