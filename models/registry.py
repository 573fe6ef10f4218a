"""From a name or a path to weights whose files are verified. No torch is needed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from models.card import ModelCard, load_card
from models.errors import WeightsError

__all__ = ["DEFAULT", "SHIPPED", "Weights", "WeightsError", "names", "resolve", "sha256"]

DEFAULT = "maskstream-v3"
SHIPPED = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True, slots=True)
class Weights:
    """A card and its verified files: safetensors for torch, .xml beside .bin for OpenVINO.

    `openvino_path` is the file that the card says to serve.
    """

    card: ModelCard
    torch_path: Path
    openvino_path: Path


def names() -> tuple[str, ...]:
    """The shipped weights, by name."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.json")))


def resolve(name_or_path: str = DEFAULT) -> Weights:
    """Find weights by shipped name, or by the path of a card or of a folder with one card.

    Every file that the card names is read once and compared with its SHA-256; those of its variants
    as far as they are there. Raises WeightsError when the name is unknown, a file is missing or a
    file is not the one the card describes.
    """
    card_path = _card_path(name_or_path)
    card = load_card(card_path)
    folder = card_path.parent
    torch_name, xml_name = f"{card.name}.safetensors", card.openvino_file
    for needed in (torch_name, xml_name, Path(xml_name).with_suffix(".bin").name):
        if needed not in card.files:
            raise WeightsError(f"{card_path} does not name {needed}; export the weights again")
    for file, expected in (_extras(card, folder) | dict(card.files)).items():
        found = sha256(folder / file)
        if found != expected:
            raise WeightsError(
                f"{folder / file} is not the file that {card_path.name} describes "
                f"(SHA-256 {found[:12]}…, not {expected[:12]}…); reinstall or export it again"
            )
    return Weights(card, folder / torch_name, folder / xml_name)


def _extras(card: ModelCard, folder: Path) -> dict[str, str]:
    """The variants' files that are beside the card; they need not be."""
    return {
        file: digest
        for variant in card.variants.values()
        for file, digest in variant.files.items()
        if (folder / file).exists()
    }


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal. Raises WeightsError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights file {path}: {error.strerror}; reinstall or export it again"
        ) from error


def _card_path(name_or_path: str) -> Path:
    shipped = SHIPPED / f"{name_or_path}.json"
    if Path(name_or_path).name == name_or_path and shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.is_dir():
        cards = sorted(path.glob("*.json"))
        if len(cards) == 1:
            return cards[0]
        raise WeightsError(f"{path} holds {len(cards)} model cards (*.json); name one of them")
    known = ", ".join(names()) or "none"
    raise WeightsError(
        f"no weights called {name_or_path!r}: neither a shipped name ({known}) nor a card's path"
    )
