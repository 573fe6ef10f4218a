"""A real RTSP server, killed, frozen and blinded: first seen by the source, then by the service."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from stream_server.errors import SourceAuthError, SourceEnded, SourceUnreachable
from stream_server.ingest.rtsp import RtspSource
from tests import peers
from tests.fakes.collect import Collector, Run, no_threads_left
from tests.fakes.rtsp_camera import RtspCamera, encode

READ = 2.0
# The library's time-outs may take as long again.
LATE = READ + 1.0
BACK_SECONDS = 10.0

USER, PASSWORD = "us er", "p@s:s/%w#?é"
LOGIN = f"{quote(USER)}:{quote(PASSWORD, safe='')}@"

Cameras = Callable[..., RtspCamera]


@pytest.fixture(scope="session")
def clips(face_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The known face in each codec."""
    folder = tmp_path_factory.mktemp("cameras")
    endings = {"h264": "ts", "hevc": "ts", "mjpeg": "mkv"}
    return {
        codec: encode(face_clip, folder / f"{codec}.{ending}", codec)
        for codec, ending in endings.items()
    }


@pytest.fixture
def cameras(clips: dict[str, Path]) -> Iterator[Cameras]:
    """`cameras(codec="hevc", auth=("digest", USER, PASSWORD))`: a running camera."""
    running: list[RtspCamera] = []

    def start(codec: str = "h264", auth: tuple[str, ...] = ()) -> RtspCamera:
        running.append(RtspCamera(clips[codec], auth, codec=codec))
        running[-1].start()
        return running[-1]

    yield start
    for camera in running:
        camera.kill()


def url_of(camera: RtspCamera, login: str = "") -> str:
    return f"rtsp://{login}127.0.0.1:{camera.port}/cam"


# --- the source alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp", "auto"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "mjpeg"])
async def test_codecs_and_transports(cameras: Cameras, codec: str, transport: Any) -> None:
    camera, sink = await asyncio.to_thread(cameras, codec), Collector()
    source = RtspSource(url_of(camera), transport=transport, on_drop=sink.count_drop)
    async with Run(source, sink) as run:
        await run.pictures(40)
    assert {(shot.picture.width, shot.picture.height) for shot in sink.shown} == {(640, 480)}
    times = [shot.captured for shot in sink.shown[15:]]
    assert 0.035 < statistics.median(np.diff(times)) < 0.045
    # The face is in the picture: a flat or green one would have no such spread.
    assert sink.shown[-1].picture.y.std() > 30
    await no_threads_left(LATE)


@pytest.mark.parametrize("mode", ["basic", "digest"])
async def test_passwords(cameras: Cameras, mode: str) -> None:
    camera = await asyncio.to_thread(cameras, auth=(mode, USER, PASSWORD))
    sink = Collector()
    async with Run(RtspSource(url_of(camera, LOGIN)), sink) as run:
        await run.pictures(5)
    for login, words in {
        f"{quote(USER)}:wrong@": "refuses this user name or password",
        "": "asks for a user name and password",
    }.items():
        started = time.monotonic()
        async with Run(RtspSource(url_of(camera, login)), Collector()) as run:
            error = await run.error(5)
        assert isinstance(error, SourceAuthError)
        assert words in str(error)
        assert "wrong" not in str(error)
        assert time.monotonic() - started < 2


async def test_a_path_that_is_not_there(cameras: Cameras) -> None:
    camera = await asyncio.to_thread(cameras)
    async with Run(RtspSource(url_of(camera).replace("/cam", "/door")), Collector()) as run:
        error = await run.error(5)
    assert isinstance(error, SourceUnreachable)
    assert "has no stream at /door" in str(error)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("fault", "least", "most", "words"),
    [
        (RtspCamera.kill, 0.0, LATE, ""),
        (RtspCamera.freeze, READ * 0.8, READ + LATE, f"sent nothing for {READ:g} s"),
        (RtspCamera.lose_sensor, READ * 0.8, READ + LATE, f"sent nothing for {READ:g} s"),
    ],
    ids=["killed", "frozen", "blind"],
)
async def test_what_ends_a_running_stream(
    cameras: Cameras, transport: Any, fault: Any, least: float, most: float, words: str
) -> None:
    camera, sink = await asyncio.to_thread(cameras), Collector()
    source = RtspSource(url_of(camera), transport=transport, read_timeout=READ)
    async with Run(source, sink) as run:
        await run.pictures(20)
        fault(camera)
        started = time.monotonic()
        error = await run.error(most)
    took = time.monotonic() - started
    print(f"{fault.__name__} over {transport}: {took:.2f} s")
    assert isinstance(error, SourceEnded), repr(error)
    assert words in str(error)
    assert least < took < most
    camera.kill()
    await no_threads_left(LATE)


async def test_a_frozen_camera_is_left_at_once_when_cancelled(cameras: Cameras) -> None:
    camera, sink = await asyncio.to_thread(cameras), Collector()
    async with Run(RtspSource(url_of(camera), read_timeout=READ), sink) as run:
        await run.pictures(5)
        camera.freeze()
        await asyncio.sleep(0.3)
        assert await run.cancel() < 1.0
    await no_threads_left(READ + LATE)


async def test_it_plays_on_after_the_camera_has_come_back(cameras: Cameras) -> None:
    camera = await asyncio.to_thread(cameras)
    for _ in range(2):
        sink = Collector()
        async with Run(RtspSource(url_of(camera)), sink) as run:
            await run.pictures(5)
        await asyncio.to_thread(camera.kill)
        await asyncio.to_thread(camera.start)


# --- through the whole service --------------------------------------------------------------------

# Loading the model alone takes most of a minute on a crowded machine.
whole_service = pytest.mark.timeout(300)


def stream(service: peers.Service, name: str) -> dict[str, Any]:
    status: dict[str, Any] = service.get(f"/api/streams/{name}")
    return status


def wait_live(service: peers.Service, name: str, seconds: float) -> None:
    peers.wait_until(lambda: stream(service, name)["state"] == "live", seconds, f"{name} is live")


@whole_service
def test_a_camera_that_was_killed_is_back_within_ten_seconds_and_no_other_stream_hiccups(
    server: Callable[..., peers.Service], cameras: Cameras
) -> None:
    camera = cameras(auth=("digest", USER, PASSWORD))
    service = server("--source", "demo=demo:", "--source", f"door={url_of(camera, LOGIN)}")
    wait_live(service, "door", 20)
    wait_live(service, "demo", 20)
    assert stream(service, "door")["reconnects"] == 0
    demo_before, started = stream(service, "demo"), time.monotonic()
    worst_age = 0.0

    def lost() -> bool:
        nonlocal worst_age
        demo = stream(service, "demo")
        worst_age = max(worst_age, demo["last_frame_age_seconds"])
        assert demo["state"] == "live"
        return bool(stream(service, "door")["state"] == "retrying")

    camera.kill()
    peers.wait_until(lost, 10, "the loss is noticed")
    noticed = time.monotonic() - started
    detail = stream(service, "door")["detail"]
    # Long enough for several tries and a backoff that has grown.
    for _ in range(80):
        lost()
        time.sleep(0.1)
    camera.start()
    returned = time.monotonic()
    frames = stream(service, "door")["frames_in"]

    def back() -> bool:
        lost()
        door = stream(service, "door")
        return bool(door["state"] == "live" and door["frames_in"] > frames)

    peers.wait_until(back, BACK_SECONDS, "the camera's stream is up again")
    took = time.monotonic() - returned
    door, demo = stream(service, "door"), stream(service, "demo")
    print(f"noticed after {noticed:.2f} s, back {took:.2f} s after its return; {detail}")
    assert door["reconnects"] >= 2
    assert door["restarts"] == 0
    metrics = service.text("/metrics")
    assert f'maskstream_stream_reconnects_total{{stream="door"}} {door["reconnects"]}.0' in metrics
    assert 'maskstream_stream_up{stream="door"} 1.0' in metrics
    assert (demo["reconnects"], demo["restarts"]) == (0, 0)
    assert worst_age < 1.0
    rate = (demo["frames_in"] - demo_before["frames_in"]) / (time.monotonic() - started)
    assert rate > 10, f"the demo fell to {rate:.1f} frames/s"
    shown = service.text("/api/streams") + metrics + service.log.read_text()
    assert quote(PASSWORD, safe="") not in shown
    assert PASSWORD not in shown


@whole_service
def test_dead_cameras_delay_neither_the_others_nor_the_end(
    server: Callable[..., peers.Service], cameras: Cameras
) -> None:
    """Some accept and never answer, one froze in the middle of its stream."""
    camera = cameras()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        dead = f"rtsp://127.0.0.1:{hole.getsockname()[1]}/cam"
        service = server(
            *("--source", "demo=demo:", "--source", f"frozen={url_of(camera)}"),
            *[word for n in range(6) for word in ("--source", f"dead{n}={dead}")],
        )
        wait_live(service, "demo", 15)
        wait_live(service, "frozen", 20)
        camera.freeze()
        before, started = stream(service, "demo")["frames_in"], time.monotonic()
        for _ in range(40):
            assert stream(service, "demo")["last_frame_age_seconds"] < 1.0
            time.sleep(0.1)
        rate = (stream(service, "demo")["frames_in"] - before) / (time.monotonic() - started)
        assert rate > 10, f"the demo fell to {rate:.1f} frames/s"
        assert {stream(service, f"dead{n}")["state"] for n in range(6)} <= {
            "connecting",
            "retrying",
        }
        took = service.stop()
        print(f"stopped in {took:.2f} s")
        assert took < 5


@whole_service
def test_a_wrong_password_is_told_and_tried_again(
    server: Callable[..., peers.Service], cameras: Cameras
) -> None:
    camera = cameras(auth=("basic", USER, PASSWORD))
    service = server()
    url = url_of(camera, f"{quote(USER)}:hunter2@")
    assert service.ask("POST", "/api/streams", {"name": "door", "url": url}) == 201
    status = peers.wait_until(
        lambda: (s := stream(service, "door"))["state"] == "retrying" and s, 10, "it is refused"
    )
    assert "refuses this user name or password" in status["detail"]
    assert status["retry_in_seconds"] is not None
    assert "hunter2" not in service.text("/api/streams") + service.log.read_text()
