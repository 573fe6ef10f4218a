"""RTSP URLs: logins with every kind of character, addresses, and nothing secret in a repr."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.ingest.rtsp import parse_camera

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=0x17F), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://cam/live", "rtsp://cam:554/live"),
        ("rtsps://cam/live", "rtsps://cam:322/live"),
        ("rtsp://cam:8554", "rtsp://cam:8554/"),
        ("rtsp://cam/live?channel=1&sub=0", "rtsp://cam:554/live?channel=1&sub=0"),
        ("rtsp://[::1]:8554/live", "rtsp://[::1]:8554/live"),
        ("rtsp://me:pw@cam/live", "rtsp://me:pw@cam:554/live"),
        # FFmpeg sends no login at all unless there is a colon.
        ("rtsp://me@cam/live", "rtsp://me:@cam:554/live"),
        ("rtsp://me:p@ss:word@cam/live", "rtsp://me:p%40ss%3Aword@cam:554/live"),
        ("rtsp://me:100%@cam/live", "rtsp://me:100%25@cam:554/live"),
        ("rtsp://me:a%2Fb%40c@cam/live", "rtsp://me:a%2Fb%40c@cam:554/live"),
        ("  rtsp://cam/live  ", "rtsp://cam:554/live"),
    ],
)
def test_one_way_of_writing_for_the_library(url, expected):
    assert parse_camera(url).url == expected


@given(WORDS, WORDS)
def test_any_login_survives_percent_encoding(user, password):
    url = f"rtsp://{quote(user, safe='')}:{quote(password, safe='')}@cam/live"
    if len(quote(user + password, safe="")) > 100:
        return
    netloc = urlsplit(parse_camera(url).url).netloc
    login, _, host = netloc.rpartition("@")
    assert host == "cam:554"
    found_user, _, found_password = login.partition(":")
    assert (unquote(found_user), unquote(found_password)) == (user, password)


def test_what_is_shown_holds_no_password():
    camera = parse_camera("rtsp://me:secret@[::1]/live?token=hidden")
    assert camera.address == "[::1]:554"
    assert camera.path == "/live"
    assert "secret" not in repr(camera)
    assert "hidden" not in repr(camera)
