"""Accept headers, as browsers, curl and strangers send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.web.negotiate import best

JSON, JPEG = "application/json", "image/jpeg"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/*", JSON),
        ("image/jpeg", JPEG),
        ("IMAGE/JPEG", JPEG),
        ("image/*", JPEG),
        ("image/avif,image/webp,image/apng,image/*,*/*;q=0.8", JPEG),
        ("application/json;q=0.5, image/jpeg;q=0.6", JPEG),
        ("application/json;q=0.6, image/jpeg;q=0.5", JSON),
        ("application/json;q=0, */*", JPEG),
        ("image/jpeg;q=0, */*;q=0.1", JSON),
        ("application/json;charset=utf-8;q=0.9, image/jpeg;q=0.1", JSON),
        ("text/html", None),
        ("text/html;q=1, */*;q=0", None),
        ("application/json;q=0", None),
        ("image/png", None),
        ("nonsense", JSON),
        ("image/jpeg;q=2", JSON),
        ("image/jpeg;q=nan", JSON),
    ],
)
def test_the_offer_the_client_likes_most(accept: str | None, expected: str | None) -> None:
    assert best(accept, (JSON, JPEG)) == expected


@given(st.text(max_size=60))
def test_any_text_has_an_answer(accept: str) -> None:
    assert best(accept, (JSON, JPEG)) in (JSON, JPEG, None)
