"""What a URL means, and what is said of one that means nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_server.errors import SourceUnsupported
from stream_server.ingest.demo import DemoSource
from stream_server.ingest.file import FileSource
from stream_server.ingest.rtsp import RtspSource
from stream_server.ingest.schemes import build, file_of, kind_of


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rtsp://camera/1", "rtsp"),
        ("RTSPS://camera/1", "rtsp"),
        ("demo:", "demo"),
        ("webrtc:", "webrtc"),
        ("file:///a.mp4", "file"),
        ("file:a.mp4", "file"),
        ("/videos/a.mp4", "file"),
        ("a.mp4", "file"),
        (r"C:\videos\a.mp4", "file"),
        ("videos/12:30.mp4", "file"),
    ],
)
def test_kinds(url, kind):
    assert kind_of(url) == kind


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("http://user:secret@camera/1", "'http'"),
        ("rtmp://camera/1", "rtsp:, rtsps:, file:, demo:, webrtc:"),
        ("", "empty"),
        ("   ", "empty"),
        ("webrtc:", "waits for its publisher"),
        ("demo:faces", "write demo:"),
        ("rtsp://", "no host"),
        ("rtsp:///path", "no host"),
        ("rtsp://camera:0/1", "no host and port"),
        ("rtsp://camera:99999/1", "cannot be read"),
        ("rtsp://user:sec/ret@camera/1", "percent-encode"),
        ("rtsp://user:sec#ret@camera/1", "percent-encode"),
        ("rtsp://user:" + "secret" * 30 + "@camera/1", "too long"),
        ("rtsp://[::1/1", "cannot be read"),
        ("file:///a.mp4#twice", "'#twice'"),
        ("file://nas/a.mp4", "'nas'"),
        ("file:", "no path"),
        ("file:///a%00b.mp4", "no path"),
    ],
)
def test_what_means_nothing_is_told_in_one_line_without_the_password(url, word):
    with pytest.raises(SourceUnsupported) as caught:
        build(url)
    message = str(caught.value)
    assert word in message
    assert "\n" not in message
    assert "secret" not in message
    assert "sec" not in message.replace("second", "")


@pytest.mark.parametrize(
    ("url", "path", "once"),
    [
        ("file:///videos/a%20b.mp4", "/videos/a b.mp4", False),
        ("file:/videos/a.mp4#once", "/videos/a.mp4", True),
        ("file://localhost/videos/a.mp4", "/videos/a.mp4", False),
        ("file:a.mp4#once", "a.mp4", True),
        ("FILE:///C:/videos/a.mp4", "C:/videos/a.mp4", False),
        ("file:///videos/what%3F%23.mp4", "/videos/what?#.mp4", False),
        ("/videos/100%20#once", "/videos/100%20#once", False),
        (r"C:\videos\a.mp4", r"C:\videos\a.mp4", False),
    ],
)
def test_files(url, path, once):
    assert file_of(url) == (Path(path), once)


def test_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert file_of("~/a.mp4") == (Path("/home/me/a.mp4"), False)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_any_absolute_path_survives_the_way_through_a_url(name):
    path = Path("/videos") / name
    assert file_of(path.as_uri()) == (path, False)


@given(st.text())
@example("~\0")
@example("file:~%00")
def test_no_url_breaks_anything(url):
    # Anything but a SourceUnsupported would fail the test.
    with suppress(SourceUnsupported):
        build(url)


@pytest.mark.parametrize(
    ("url", "source"),
    [("rtsp://camera/1", RtspSource), ("a.mp4", FileSource), ("demo:", DemoSource)],
)
def test_each_kind_has_its_source(url, source):
    assert type(build(url)) is source
