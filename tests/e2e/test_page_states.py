"""The page in a real Chromium when things are not well: what it says, and that it mends itself."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import peers

Chromium = Callable[..., AbstractContextManager[Browser]]
Server = Callable[..., peers.Service]

SOON, LATE = 20_000, 45_000
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DECODED = """
async () => {
  const peer = document.querySelector('[data-testid=live-video]')?.pc;
  if (!peer) return 0;
  for (const stat of (await peer.getStats()).values())
    if (stat.type === 'inbound-rtp' && stat.kind === 'video') return stat.framesDecoded ?? 0;
  return 0;
}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[peers.Service]:
    """One service without a stream of its own for all tests that leave none behind."""
    running = peers.start_service(tmp_path_factory.mktemp("page"), cache_dir, env={})
    yield running
    running.stop()


def start_camera(page: Page, url: str, name: str) -> None:
    page.goto(url)
    page.get_by_test_id("stream-name").fill(name)
    page.get_by_test_id("start-camera").click()


def expect_stage(page: Page, state: str, timeout: float = LATE) -> None:
    expect(page.get_by_test_id("stage")).to_have_attribute("data-state", state, timeout=timeout)


def expect_tile(page: Page, name: str, state: str, timeout: float = LATE) -> None:
    expect(page.get_by_test_id(f"tile-{name}")).to_have_attribute(
        "data-state", state, timeout=timeout
    )


def expect_new_frames(page: Page) -> None:
    """The big picture moves: frames are decoded now, not only some time ago."""
    deadline = time.monotonic() + LATE / 1000
    before = page.evaluate(DECODED)
    while page.evaluate(DECODED) < before + 3 or before == 0:
        before = before or page.evaluate(DECODED)
        assert time.monotonic() < deadline, "no new frame was decoded"
        time.sleep(0.2)


def add_stream(page: Page, name: str, url: str) -> None:
    page.get_by_test_id("add-name").fill(name)
    page.get_by_test_id("add-url").fill(url)
    page.get_by_test_id("add-submit").click()


def remove_stream(page: Page, name: str) -> None:
    page.get_by_test_id(f"remove-{name}").click()
    page.get_by_test_id("remove-confirm").click()
    expect(page.get_by_test_id(f"tile-{name}")).to_have_count(0, timeout=SOON)


@pytest.mark.parametrize(
    ("flags", "host", "code", "says"),
    [
        (("--use-fake-ui-for-media-stream=deny",), "127.0.0.1", "permission-denied", "Allow"),
        (
            ("--use-fake-device-for-media-stream=device-count=0",),
            "127.0.0.1",
            "no-camera",
            "Plug a camera in",
        ),
        (
            ("--host-resolver-rules=MAP cam.test 127.0.0.1",),
            "cam.test",
            "insecure-origin",
            "localhost",
        ),
    ],
    ids=["permission denied", "no camera", "insecure origin"],
)
def test_a_camera_that_cannot_be_had_says_how_to_mend_it(
    service: peers.Service,
    chromium: Chromium,
    artifacts: Path,
    flags: tuple[str, ...],
    host: str,
    code: str,
    says: str,
) -> None:
    with chromium(flags=flags) as browser:
        page = browser.new_page()
        page.goto(f"http://{host}:{service.port}/")
        page.get_by_test_id("start-camera").click()
        notice = page.get_by_test_id("notice")
        expect(notice).to_have_attribute("data-code", code, timeout=SOON)
        expect(notice).to_contain_text(says)
        expect(page.get_by_test_id("start-camera")).to_be_enabled()
        expect(page.get_by_test_id("server-link")).to_have_attribute("data-state", "up")
        page.screenshot(path=artifacts / f"page-{code}.png")
    assert service.get("/api/streams") == {"streams": []}


@pytest.mark.timeout(240)
def test_page_and_camera_come_back_by_themselves_when_the_server_does(
    server: Server,
    chromium: Chromium,
    fake_camera: Path,
    artifacts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = server()
    with chromium(camera=fake_camera) as browser:
        page = browser.new_page()
        start_camera(page, first.url, "desk")
        expect_stage(page, "live")
        expect_new_frames(page)
        expect(page.get_by_test_id("state-banner")).to_have_count(0)

        first.process.kill()
        first.process.wait()
        first.stopped = True
        expect(page.get_by_test_id("state-banner")).to_have_attribute(
            "data-state", "lost", timeout=SOON
        )
        expect_stage(page, "lost", SOON)
        expect(page.get_by_test_id("faces").locator("li")).to_have_count(0)
        page.screenshot(path=artifacts / "page-lost.png")

        monkeypatch.setattr(peers, "free_port", lambda *_: first.port)
        server()
        expect(page.get_by_test_id("state-banner")).to_have_count(0, timeout=LATE)
        expect_stage(page, "live")
        expect_new_frames(page)
        expect_tile(page, "desk", "live")


def test_a_busy_name_is_told_and_another_one_offered(
    service: peers.Service, chromium: Chromium, fake_camera: Path, artifacts: Path
) -> None:
    with chromium(camera=fake_camera) as browser:
        owner = browser.new_context().new_page()
        start_camera(owner, service.url, "lobby")
        expect_stage(owner, "live")

        second = browser.new_context().new_page()
        start_camera(second, service.url, "lobby")
        notice = second.get_by_test_id("notice")
        expect(notice).to_have_attribute("data-code", "stream-busy", timeout=SOON)
        expect(notice).to_contain_text("lobby")
        expect(notice).to_contain_text("choose another name")
        second.screenshot(path=artifacts / "page-busy.png")
        second.get_by_test_id("notice-action").click()
        expect_stage(second, "live")
        assert second.get_by_test_id("stream-name").input_value() != "lobby"
        expect_stage(owner, "live")

        for page in (owner, second):
            page.get_by_test_id("stop-camera").click()
            expect(page.get_by_test_id("start-camera")).to_be_visible()
    wait_for_no_stream(service)


def wait_for_no_stream(service: peers.Service) -> None:
    peers.wait_until(
        lambda: service.get("/api/streams") == {"streams": []}, 30, "browser streams are gone"
    )


def sessions_ended(service: peers.Service) -> float:
    """How many DELETEs of sessions came; a 404 if the peer itself had hung up just before."""
    counts = re.findall(
        r'^maskstream_http_requests_total{(?=.*"DELETE")(?=.*"/wh[ie]p/).*} (\S+)$',
        service.text("/metrics"),
        re.MULTILINE,
    )
    return sum(map(float, counts))


def test_leaving_the_page_ends_its_sessions_at_once(
    service: peers.Service, chromium: Chromium, fake_camera: Path
) -> None:
    with chromium(camera=fake_camera) as browser:
        page = browser.new_page()
        start_camera(page, service.url, "leaver")
        expect_stage(page, "live")
        ended = sessions_ended(service)
        page.goto("about:blank")

        def left() -> bool:
            streams = service.get("/api/streams")["streams"]
            return all(one["state"] == "waiting" and one["viewers"] == 0 for one in streams)

        # Long before the server itself would miss a peer that says nothing.
        peers.wait_until(left, 3, "publisher and viewer have left")
    both = "a DELETE came for the publisher and one for the viewer"
    peers.wait_until(lambda: sessions_ended(service) == ended + 2, 3, both)
    wait_for_no_stream(service)


def test_removing_the_stream_stops_its_camera(
    service: peers.Service, chromium: Chromium, fake_camera: Path
) -> None:
    with chromium(camera=fake_camera) as browser:
        page = browser.new_page()
        start_camera(page, service.url, "gone")
        expect_stage(page, "live")
        assert service.ask("DELETE", "/api/streams/gone") == 204
        expect(page.get_by_test_id("notice")).to_have_attribute(
            "data-code", "stream-removed", timeout=SOON
        )
        expect(page.get_by_test_id("start-camera")).to_be_visible()
        assert "gone" not in [one["name"] for one in service.get("/api/streams")["streams"]]


def test_a_stream_is_added_and_removed(
    service: peers.Service, chromium: Chromium, artifacts: Path
) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(service.url)
        add_stream(page, "portraits", "demo:")
        expect_tile(page, "portraits", "live")
        expect_stage(page, "live")
        expect_new_frames(page)
        expect(page.get_by_test_id("faces").locator("[data-verdict]").first).to_be_visible(
            timeout=SOON
        )
        for figure in ("fps", "latency", "dropped"):
            expect(page.get_by_test_id(figure)).to_contain_text(re.compile(r"\d"), timeout=SOON)
        page.screenshot(path=artifacts / "page-demo.png", full_page=True)

        add_stream(page, "portraits", "demo:")
        expect(page.get_by_test_id("add-error")).to_contain_text("portraits", timeout=SOON)
        page.get_by_test_id("remove-portraits").click()
        page.get_by_test_id("remove-cancel").click()
        expect_tile(page, "portraits", "live")
        remove_stream(page, "portraits")
        expect_stage(page, "empty", SOON)
    assert service.get("/api/streams") == {"streams": []}


def test_a_camera_is_added_with_its_faces_hidden(
    service: peers.Service, chromium: Chromium, artifacts: Path
) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(service.url)
        page.get_by_test_id("add-hidden").check()
        add_stream(page, "hall", "demo:")
        expect_tile(page, "hall", "live")
        expect(page.get_by_test_id("add-hidden")).not_to_be_checked()
        add_stream(page, "yard", "demo:")
        expect_tile(page, "yard", "live")
        page.get_by_test_id("tile-hall").click()
        expect_new_frames(page)
        original = page.get_by_test_id("original")
        expect(original).to_have_attribute("aria-disabled", "true")
        expect(original).to_have_attribute("title", re.compile("privacy"))
        page.screenshot(path=artifacts / "page-hidden.png", full_page=True)
        hidden = {s["name"]: s["privacy"] for s in service.get("/api/streams")["streams"]}
        assert hidden == {"hall": "blur", "yard": "none"}
        remove_stream(page, "hall")
        remove_stream(page, "yard")


def test_a_bad_camera_address_gets_plain_words_and_no_password_is_shown(
    service: peers.Service, chromium: Chromium, artifacts: Path, free_port: Callable[[], int]
) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(service.url)
        error = page.get_by_test_id("add-error")
        add_stream(page, "door", "http://127.0.0.1/video")
        expect(error).to_contain_text("“http:” is not taken here", timeout=SOON)
        add_stream(page, "door", "rtsp://user:hunter2@cam!/live")
        expect(error).to_contain_text("host", timeout=SOON)
        assert "gone" not in [one["name"] for one in service.get("/api/streams")["streams"]]

        page.get_by_test_id("add-user").fill("user")
        page.get_by_test_id("add-password").fill("hunter2")
        add_stream(page, "door", f"rtsp://127.0.0.1:{free_port()}/live")
        expect_tile(page, "door", "retrying")
        tile = page.get_by_test_id("tile-door")
        expect(tile).to_contain_text(re.compile(r"Trying again"))
        expect(tile).to_contain_text(re.compile("refused|reach|connect", re.IGNORECASE))
        assert "hunter2" not in page.content()
        assert page.get_by_test_id("add-password").input_value() == ""
        page.screenshot(path=artifacts / "page-retrying.png", full_page=True)
        remove_stream(page, "door")


def test_a_phone_never_scrolls_sideways(
    service: peers.Service, chromium: Chromium, fake_camera: Path, artifacts: Path
) -> None:
    with chromium(camera=fake_camera) as browser:
        context = browser.new_context(**PHONE, color_scheme="dark")
        page = context.new_page()

        def check(moment: str) -> None:
            wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            page.screenshot(path=artifacts / f"page-phone-{moment}.png", full_page=True)
            assert wide <= seen == 390, f"{moment}: {wide} px wide on a screen of {seen}"

        page.goto(service.url)
        expect(page.get_by_test_id("server-link")).to_have_attribute("data-state", "up")
        check("empty")
        longest = "a" * 63
        add_stream(page, longest, "rtsp://127.0.0.1:1/" + "long" * 40)
        expect_tile(page, longest, "retrying")
        start_camera(page, service.url, "b" * 63)
        expect_stage(page, "live")
        expect_tile(page, "b" * 63, "live")
        check("live")
        page.get_by_test_id("stop-camera").click()
        remove_stream(page, longest)
    wait_for_no_stream(service)


def still_clip(face_clip: Path, target: Path) -> Path:
    """Four seconds of one picture of a face; Motion JPEG, so that no frame refines another."""
    picture = ["-i", str(face_clip), "-vf", "trim=end_frame=1,loop=-1:1:0,setpts=N/25/TB"]
    encode = ["-t", "4", "-r", "25", "-c:v", "mjpeg", "-q:v", "3", str(target)]
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", *picture, *encode], check=True)
    return target


def test_a_picture_that_stands_still_is_greyed_and_named(
    server: Server, chromium: Chromium, face_clip: Path, tmp_path: Path, artifacts: Path
) -> None:
    clip = still_clip(face_clip, tmp_path / "still.avi")
    running = server("--source", f"hall={clip}")
    with chromium() as browser:
        page = browser.new_page()
        page.goto(running.url)
        expect_tile(page, "hall", "stale")
        assert running.get("/api/streams/hall")["faces"], "the clip shows a face"
        expect_stage(page, "stale")
        expect(page.get_by_test_id("stage")).to_contain_text("stands still")
        expect(page.get_by_test_id("faces").locator("li")).to_have_count(0)
        page.wait_for_timeout(500)
        grey = "getComputedStyle(document.querySelector('[data-testid=live-video]')).filter"
        assert "grayscale(1)" in page.evaluate(grey)
        page.screenshot(path=artifacts / "page-stale.png")


def test_without_webrtc_there_are_plain_pictures(
    server: Server, chromium: Chromium, artifacts: Path
) -> None:
    running = server("--source", "demo=demo:")
    with chromium() as browser:
        # High enough for the tile, which is only filled where it can be seen.
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.add_init_script("delete window.RTCPeerConnection")
        page.goto(running.url)
        expect_stage(page, "pictures")
        sizes = "() => Array.from(document.querySelectorAll('img.picture'), (i) => i.naturalWidth)"

        def both_show() -> bool:
            return [width > 0 for width in page.evaluate(sizes)] == [True, True]

        peers.wait_until(both_show, 20, "pictures in the big view and in the tile")
        page.screenshot(path=artifacts / "page-pictures.png")
