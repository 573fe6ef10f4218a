"""The hub with real pipelines and scripted sources: retries, standstill, crashes, persistence."""

import asyncio
import json
import re
import stat
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_server.errors import (
    InvalidStreamName,
    Overloaded,
    SettingsError,
    SourceEnded,
    SourceUnreachable,
    SourceUnsupported,
    StateNotSaved,
    StreamBusy,
    StreamExists,
    StreamNotFound,
    TooManyStreams,
    ViewUnavailable,
)
from stream_server.flow.shedding import Step
from stream_server.frames import CameraPacket, FaceBox, FaceEventKind, Picture, Privacy, Verdict
from stream_server.ports import PacketSink, PictureSink
from stream_server.streams import (
    SourceFactory,
    SourceSpec,
    Stream,
    StreamHub,
    StreamOptions,
    StreamStatus,
)
from stream_server.telemetry.metrics import Metrics
from tests.fakes.camera import FACE, HEIGHT, WIDTH, FakeAnalyser, LazyCamera

OPTIONS = StreamOptions(
    stale_seconds=0.6, retry_initial=0.05, retry_maximum=0.2, keep_seconds=0.5, max_streams=3
)


def picture(number: int) -> Picture:
    return Picture(np.full((96, 64), number % 200 + 20, np.uint8))


class Script:
    """A source that plays what it is told: ints are pictures, exceptions are raised, a number of
    seconds in a string is slept."""

    def __init__(self, *steps: object) -> None:
        self.steps = steps

    async def run(self, sink: PictureSink) -> None:
        for step in self.steps:
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, str):
                await asyncio.sleep(float(step))
            else:
                sink(picture(int(step)), captured=time.monotonic())
                await asyncio.sleep(0.02)


class House:
    def __init__(self, tmp_path: Path, *configured: SourceSpec) -> None:
        self.analyser = FakeAnalyser()
        self.metrics = Metrics()
        self.scripts: dict[str, list[Script]] = {}
        self.tries: dict[str, int] = {}
        self.watched: dict[str, Callable[[], bool]] = {}
        self.on_drop: dict[str, Callable[[str, int], None]] = {}
        self.store = tmp_path / "state" / "streams.json"
        self.configured = configured
        self.budget = 10.0

    def build(
        self,
        name: str,
        url: str,
        on_drop: Callable[[str, int], None],
        packets: PacketSink,
        watched: Callable[[], bool],
    ) -> Script:
        self.tries[name] = self.tries.get(name, 0) + 1
        self.watched[name] = watched
        self.on_drop[name] = on_drop
        waiting = self.scripts.get(name, [])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    @asynccontextmanager
    async def open(self, options: StreamOptions = OPTIONS) -> AsyncIterator[StreamHub]:
        kinds = {"rtsp": "rtsp", "webrtc": "webrtc", "demo": "demo", "file": "file"}
        with ThreadPoolExecutor(2) as workers:
            async with StreamHub(
                SourceFactory(
                    lambda url: kinds[url.split(":")[0]], self.build, lambda name: self.budget
                ),
                self.analyser,
                self.metrics,
                workers,
                options,
                configured=self.configured,
                store=self.store,
            ) as hub:
                yield hub

    def text(self) -> str:
        return self.metrics.render()[0].decode()

    def states(self, stream: str) -> list[str]:
        """In which the metrics say that it is."""
        labels = rf'maskstream_stream_state="(\w+)",stream="{stream}"'
        return re.findall(rf"maskstream_stream_state{{{labels}}} 1.0", self.text())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def until(
    hub: StreamHub, name: str, wanted: Callable[[StreamStatus], bool], seconds: float = 5
) -> StreamStatus:
    deadline = time.monotonic() + seconds
    while True:
        status = hub.get(name).status()
        if wanted(status):
            return status
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.02)


CAM = SourceSpec("cam", "rtsp://user:secret@host/1")
FOREVER = [*range(40)] * 50


async def test_a_live_stream_tells_of_faces_and_hides_the_password(house: House) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open() as hub:
        stream = await hub.add(CAM)
        status = await until(hub, "cam", lambda s: s.state == "live" and s.analysed_fps > 5)
        status = await until(hub, "cam", lambda s: bool(s.faces) and s.faces[0].track == 1)
        (face,) = status.faces
        assert face.verdict is FACE.verdict
        assert face.probabilities == pytest.approx(FACE.probabilities)
        assert (face.box.x0, face.box.y1) == pytest.approx((FACE.box.x0, FACE.box.y1), abs=2)
        assert (status.width, status.height) == (64, 64)
        assert "secret" not in repr(status) + repr(stream.url)
        with stream.results.subscribe() as results:
            analysis = await asyncio.wait_for(anext(results), 2)
        assert analysis.frame.stream == "cam"
        assert 'maskstream_stream_up{stream="cam"} 1.0' in house.text()
        assert house.states("cam") == ["live"]
        assert 'maskstream_faces_total{stream="cam",verdict="with_mask"}' in house.text()
        assert (await stream.snapshot() or b"")[:2] == b"\xff\xd8"


class Visit:
    """A grey scene into which a face comes and stays: noise, the lower half of it a dark mask."""

    place = FaceBox(100, 80, 180, 180, 0.9)

    async def run(self, sink: PictureSink) -> None:
        noise = np.random.default_rng(5).integers(40, 220, (100, 80), np.uint8)
        noise[50:] //= 4
        for number in range(2000):
            shown = Picture(np.full((360, 320), 128, np.uint8))
            shown.y[0, 0] = number % 200
            if number >= 25:
                shown.y[80:180, 100:180] = noise
            sink(shown, captured=time.monotonic())
            await asyncio.sleep(0.02)


class SlowToFind(FakeAnalyser):
    """Finds the face of a Visit only when it has looked at it for the third time."""

    seen = 0

    async def search(self, picture: Picture, scale: float, *, stream: str) -> list[FaceBox]:
        self.seen += int(picture.y[100, 100] != 128)
        return [Visit.place] if self.seen > 2 else []


def contrast(jpeg: bytes | None) -> float:
    """Between pixels one above the other in the face, inside of the box's lines: none in the empty
    scene, little in a mosaic (the mask's edge)."""
    assert jpeg is not None
    grey = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    return float(np.abs(np.diff(grey[100:160, 115:165].astype(int), axis=0)).mean())


@pytest.mark.parametrize(("privacy", "bare"), [("none", True), ("blur", False)])
async def test_a_face_that_is_found_late_is_in_no_picture_that_leaves(
    house: House, privacy: Privacy, bare: bool
) -> None:
    house.analyser = SlowToFind()
    house.scripts["ward"] = [Visit()]  # type: ignore[list-item]
    contrasts: list[float] = []
    async with house.open() as hub:
        stream = await hub.add(SourceSpec("ward", "rtsp://host/1", privacy))
        assert stream.status().privacy == privacy
        with stream.jpegs() as pictures:
            async for jpeg in pictures:
                contrasts += [contrast(jpeg), contrast(await stream.snapshot())]
                came = [value for value in contrasts if value > 0.3]
                if len(came) > 30:
                    break
    assert (max(contrasts) > 25) is bare, max(contrasts)
    assert contrasts[0] < 0.3, "it was there from the start"


async def test_the_cameras_own_video_of_a_private_stream_is_withheld_for_good(house: House) -> None:
    house.scripts["ward"] = [Script(*FOREVER)]
    async with house.open() as hub:
        stream = await hub.add(SourceSpec("ward", "rtsp://host/1", "blur"))
        source = stream.publisher.source
        source.offer(CameraPacket(b"\0\0\1\x65", True, time.monotonic(), 0))
        assert "privacy: blur" in (stream.status().source_view_refusal or "")
        with pytest.raises(ViewUnavailable, match="view=annotated"):
            stream.publisher.watch("h264", "source")


async def test_a_lost_camera_is_tried_again_without_end_and_comes_back(house: House) -> None:
    gone = SourceUnreachable("rtsp://user:secret@host/1 refused the connection")
    house.scripts["cam"] = [
        Script(*range(5), SourceEnded("the camera went silent")),
        *[Script(gone) for _ in range(6)],
        Script(*FOREVER),
    ]
    async with house.open() as hub:
        await hub.add(CAM)
        status = await until(hub, "cam", lambda s: s.state == "retrying" and s.reconnects >= 2)
        assert "refused" in (status.detail or "")
        assert "secret" not in (status.detail or "")
        assert status.retry_in_seconds is not None
        assert 'maskstream_stream_up{stream="cam"} 0.0' in house.text()
        status = await until(hub, "cam", lambda s: s.state == "live")
        assert status.reconnects == 7
        assert status.detail is None
        assert 'maskstream_stream_reconnects_total{stream="cam"} 7.0' in house.text()


async def test_what_cannot_be_read_at_all_is_tried_rarely(house: House) -> None:
    house.scripts["cam"] = [Script(SourceUnsupported("there is no file x.mp4"))]
    async with house.open() as hub:
        await hub.add(CAM)
        await until(hub, "cam", lambda s: s.state == "retrying")
        await asyncio.sleep(0.5)
        assert house.tries["cam"] <= 4  # 0.2 s apart, not 0.05


async def test_a_file_played_to_its_end_has_ended(house: House) -> None:
    house.scripts["cam"] = [Script(1, 2, 3)]
    async with house.open() as hub:
        await hub.add(CAM)
        await until(hub, "cam", lambda s: s.state == "ended")
        await asyncio.sleep(0.8)
        status = hub.get("cam").status()
        assert (status.state, status.stale) == ("ended", False)
        assert house.tries["cam"] == 1


async def _move(stream: Stream) -> None:
    """Show pictures that change, more often than any script."""
    for number in cycle(range(70, 250)):
        stream._receive(picture(number), captured=time.monotonic())
        await asyncio.sleep(0.004)


@pytest.mark.parametrize(
    ("steps", "words"),
    [((1, 2, 3, "30"), "no frames"), ((1, 2, *[3] * 2000), "all show the same picture")],
    ids=["silent", "frozen"],
)
async def test_a_picture_that_stands_still_is_stale_until_it_moves(
    house: House, steps: tuple[object, ...], words: str
) -> None:
    house.scripts["cam"] = [Script(*steps)]
    async with house.open() as hub:
        stream = await hub.add(CAM)
        await until(hub, "cam", lambda s: s.state == "live")
        status = await until(hub, "cam", lambda s: s.state == "stale")
        assert words in (status.detail or "")
        assert status.stale
        assert 'maskstream_stream_stale{stream="cam"} 1.0' in house.text()
        assert 'maskstream_stream_up{stream="cam"} 0.0' in house.text()
        assert house.states("cam") == ["stale"]
        with stream.jpegs() as pictures:  # a viewer is told, and goes on being told
            first = await asyncio.wait_for(anext(aiter(pictures)), 4)
            assert first[:2] == b"\xff\xd8"
        # Some pictures are left out, as nobody watches: of so many one gets through.
        moving = asyncio.create_task(_move(stream))
        await until(hub, "cam", lambda s: s.state == "live" and not s.stale)
        assert 'maskstream_stream_stale{stream="cam"} 0.0' in house.text()
        moving.cancel()


async def test_a_crash_is_counted_and_restarted_and_touches_nobody_else(house: House) -> None:
    house.scripts["cam"] = [Script(*range(5), ZeroDivisionError("a bug")), Script(*FOREVER)]
    house.scripts["other"] = [Script(*FOREVER)]
    async with house.open() as hub:
        await hub.add(SourceSpec("other", "demo:"))
        await hub.add(CAM)
        status = await until(hub, "cam", lambda s: s.restarts == 1 and s.state == "live")
        assert status.restarts == 1
        house.analyser.error = ZeroDivisionError("a bug in the pipeline")
        await until(hub, "other", lambda s: s.restarts >= 1)
        house.analyser.error = None
        await until(hub, "other", lambda s: s.analysed_fps > 5)
        assert 'maskstream_stream_restarts_total{stream="cam"}' in house.text()


async def test_slowness_drops_frames_with_a_reason(house: House) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open() as hub:
        await hub.add(CAM)
        house.analyser.seconds = 0.2
        await until(hub, "cam", lambda s: s.frames_dropped.get("analyse/superseded", 0) > 5)
        dropped = 'maskstream_frames_dropped_total{reason="superseded",stage="analyse"'
        assert dropped in house.text()


async def test_a_classifier_that_sheds_crops_costs_no_frame(house: House) -> None:
    house.analyser.error = Overloaded("full")
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open() as hub:
        await hub.add(CAM)
        status = await until(hub, "cam", lambda s: s.analysed_fps > 5 and bool(s.faces))
        assert status.restarts == 0
        assert status.faces[0].verdict is Verdict.UNCERTAIN
        house.analyser.error = None
        await until(hub, "cam", lambda s: s.faces[0].verdict is Verdict.WITH_MASK)


async def test_work_is_shed_while_verdicts_come_late_and_frames_are_thinned_at_last(
    house: House,
) -> None:
    house.analyser.late = 0.06
    house.budget = 0.05
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open() as hub:
        await hub.add(CAM)
        status = await until(hub, "cam", lambda s: s.shedding is Step.FEWER_FRAMES, seconds=9)
        assert status.budget_misses >= 4
        await until(hub, "cam", lambda s: s.frames_dropped.get("analyse/shed", 0) > 3)
        text = house.text()
        assert 'maskstream_shedding_step{stream="cam"} 4.0' in text
        for step in ("detect_less", "smaller_input", "recheck_less", "fewer_frames"):
            assert f'maskstream_shedding_changes_total{{step="{step}",stream="cam"}} 1.0' in text
        house.analyser.late = 0.0
        await until(hub, "cam", lambda s: s.shedding is Step.RECHECK_LESS, seconds=9)


class LateCamera:
    """Its pictures have lain in a queue for `late` seconds."""

    late = 0.5

    async def run(self, sink: PictureSink) -> None:
        while True:
            bgr = np.full((HEIGHT, WIDTH, 3), int(time.monotonic() * 50) % 256, np.uint8)
            sink(Picture.from_bgr(bgr), captured=time.monotonic() - self.late)
            await asyncio.sleep(0.02)


async def test_of_pictures_that_come_too_late_hardly_any_is_looked_at(house: House) -> None:
    camera = LateCamera()
    house.budget = 0.15
    async with house.open() as hub:
        hub.publish("browser", camera, allow_new=True)
        stream = hub.get("browser")
        with stream.results.subscribe():
            await asyncio.sleep(2.0)
            assert 1 < stream.status().analysed_fps < 4
            assert stream.status().frames_dropped["analyse/late"] > 40
            camera.late = 0.0
            await until(hub, "browser", lambda s: s.analysed_fps > 10)


async def test_nobody_watching_means_fewer_frames_looked_at(house: House) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open(replace(OPTIONS, unwatched_fps=10)) as hub:
        stream = await hub.add(CAM)
        await asyncio.sleep(1.5)
        status = stream.status()
        assert 7 < status.analysed_fps < 13
        assert status.frames_dropped["analyse/unwatched"] > 20
        with stream.results.subscribe():
            await until(hub, "cam", lambda s: s.analysed_fps > 25)


async def test_a_picture_that_nobody_will_look_at_is_not_even_made(house: House) -> None:
    camera = LazyCamera()
    async with house.open(replace(OPTIONS, unwatched_fps=10)) as hub:
        hub.publish("browser", camera, allow_new=True)
        stream = hub.get("browser")
        await asyncio.sleep(1.0)
        assert camera.given > 30
        assert 7 <= camera.made <= 13
        assert stream.status().frames_in == camera.given
        with stream.results.subscribe():
            made, given = camera.made, camera.given
            await asyncio.sleep(0.5)
            assert camera.made - made >= camera.given - given - 1


async def test_a_face_appears_changes_and_leaves_once_each_and_a_person_is_counted(
    house: House,
) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open() as hub:
        stream = await hub.add(CAM)
        with stream.events.subscribe(99) as events:
            await until(hub, "cam", lambda s: [f.verdict for f in s.faces] == [FACE.verdict])
            house.analyser.probabilities = (0.02, 0.95, 0.03)
            await until(hub, "cam", lambda s: s.faces[0].verdict is Verdict.WITHOUT_MASK)
            await asyncio.sleep(1.0)
            house.analyser.boxes = []
            await until(hub, "cam", lambda s: not s.faces)
            told = [await asyncio.wait_for(anext(events), 3) for _ in range(3)]
            await asyncio.sleep(0.5)
            assert not events._items
            assert 'people_total{stream="cam",verdict="without_mask"} 1.0' in house.text()
    kinds = [(event.kind, event.verdict, event.previous) for event in told]
    assert kinds == [
        (FaceEventKind.APPEARED, Verdict.WITH_MASK, None),
        (FaceEventKind.CHANGED, Verdict.WITHOUT_MASK, Verdict.WITH_MASK),
        (FaceEventKind.LEFT, Verdict.WITHOUT_MASK, None),
    ]
    assert {event.track for event in told} == {1}
    assert told[2].counted is Verdict.WITHOUT_MASK
    assert told[0].wall < told[1].wall < told[2].wall


async def test_while_it_is_called_again_a_camera_still_says_why(house: House) -> None:
    house.scripts["cam"] = [Script(SourceUnreachable("host:1 refused")), Script("0.6", *FOREVER)]
    async with house.open() as hub:
        await hub.add(CAM)
        again = await until(hub, "cam", lambda s: s.reconnects == 1 and s.state == "connecting")
        assert again.detail == "host:1 refused"
        assert (await until(hub, "cam", lambda s: s.state == "live")).detail is None


async def test_pictures_left_out_on_purpose_are_no_standstill(house: House) -> None:
    house.scripts["cam"] = [Script(1, 2, "30")]
    async with house.open() as hub:
        await hub.add(CAM)
        await until(hub, "cam", lambda s: s.state == "live")
        for _ in range(12):  # for twice as long as makes a picture stale
            house.on_drop["cam"]("unwatched", 1)
            await asyncio.sleep(0.1)
            assert hub.get("cam").status().state == "live"
        gone = await until(hub, "cam", lambda s: s.state == "stale")
        assert "no frames" in (gone.detail or "")


async def test_the_same_picture_is_a_standstill_also_where_others_are_left_out(
    house: House,
) -> None:
    house.scripts["cam"] = [Script(1, *[2, "0.1"] * 60)]
    async with house.open() as hub:
        await hub.add(CAM)
        await until(hub, "cam", lambda s: s.state == "live")
        for _ in range(12):
            house.on_drop["cam"]("unwatched", 1)
            await asyncio.sleep(0.1)
        assert "all show the same picture" in (hub.get("cam").status().detail or "")


async def test_a_face_has_not_left_because_looking_at_it_took_long(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream_server.track.tracker.KEPT_SECONDS", 0.45)
    house.analyser.late = 0.5
    house.scripts["cam"] = [Script(*[step for n in range(40) for step in (n, "0.68")])]
    async with house.open() as hub:
        stream = await hub.add(CAM)
        with stream.events.subscribe(9) as events:
            came = await asyncio.wait_for(anext(events), 9)
            assert (came.kind, came.verdict) == (FaceEventKind.APPEARED, FACE.verdict)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 4)


async def test_a_face_leaves_also_when_its_camera_falls_silent(house: House) -> None:
    house.scripts["cam"] = [Script(*range(20), "30")]
    async with house.open() as hub:
        stream = await hub.add(CAM)
        with stream.events.subscribe(9) as events:
            kinds = [(await asyncio.wait_for(anext(events), 4)).kind for _ in range(2)]
    assert kinds == [FaceEventKind.APPEARED, FaceEventKind.LEFT]


async def test_streams_are_remembered_privately_and_configured_ones_win(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.scripts = {"cam": [Script(*FOREVER)], "door": [Script(*FOREVER)]}
    async with house.open() as hub:
        await hub.add(CAM)
        await hub.add(SourceSpec("door", "demo:"), persist=False)
    assert [entry["name"] for entry in json.loads(house.store.read_text())] == ["cam"]
    assert stat.S_IMODE(house.store.stat().st_mode) == 0o600
    house.configured = (SourceSpec("cam", "demo:"),)
    async with house.open() as hub:
        assert [(s.name, s.kind) for s in hub.streams()] == [("cam", "demo")]
    house.configured = ()
    async with house.open() as hub:
        assert [(s.name, s.kind) for s in hub.streams()] == [("cam", "rtsp")]
        await hub.remove("cam")
    assert json.loads(house.store.read_text()) == []


async def test_streams_added_at_once_are_all_remembered(house: House) -> None:
    names = [f"cam{number}" for number in range(8)]
    house.scripts = {name: [Script(*FOREVER)] for name in names}
    async with house.open(replace(OPTIONS, max_streams=8)) as hub:
        await asyncio.gather(*(hub.add(SourceSpec(name, CAM.url)) for name in names))
        assert [entry["name"] for entry in json.loads(house.store.read_text())] == names
        await asyncio.gather(*(hub.remove(name) for name in names[1:]))
    assert [entry["name"] for entry in json.loads(house.store.read_text())] == names[:1]


async def test_a_remembered_stream_that_cannot_start_now_stays_remembered(house: House) -> None:
    house.scripts = {name: [Script(*FOREVER)] for name in ("cam", "door", "gate")}
    async with house.open() as hub:
        await hub.add(CAM)
        await hub.add(SourceSpec("door", CAM.url))
    async with house.open(replace(OPTIONS, max_streams=1)) as hub:  # by mistake
        await hub.remove("cam")
        await hub.add(SourceSpec("gate", CAM.url))
    async with house.open() as hub:
        assert [stream.name for stream in hub.streams()] == ["door", "gate"]


async def test_without_a_place_to_remember_it_no_stream_is_added(house: House) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]
    house.store.parent.write_text("a file where a folder is wanted")
    async with house.open() as hub:
        with pytest.raises(StateNotSaved, match=r"not added: .*streams\.json .*state_dir"):
            await hub.add(CAM)
        assert hub.streams() == []
        assert 'stream="cam"' not in house.text()
        house.store.parent.unlink()
        await hub.add(CAM)
        house.store.unlink()
        house.store.parent.rmdir()
        house.store.parent.write_text("again")
        with pytest.raises(StateNotSaved, match="ended, but comes back"):
            await hub.remove("cam")
        assert hub.streams() == []


async def test_privacy_outlives_a_restart(house: House) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open() as hub:
        await hub.add(replace(CAM, privacy="blur"))
    async with house.open() as hub:
        assert hub.get("cam").status().privacy == "blur"
    house.store.write_text(json.dumps([{"name": "cam", "url": CAM.url}]))  # of an older version
    async with house.open() as hub:
        assert hub.get("cam").status().privacy == "none"


WRONG_PRIVACY = '[{"name": "cam", "url": "demo:", "privacy": "Blur"}]'


@pytest.mark.parametrize("text", ["{not json", WRONG_PRIVACY])
async def test_a_broken_store_is_named(house: House, text: str) -> None:
    house.store.parent.mkdir()
    house.store.write_text(text)
    with pytest.raises(SettingsError, match=r"streams\.json"):
        async with house.open():
            pass


async def test_removing_stops_everything_and_clears_the_series(house: House) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]
    async with house.open() as hub:
        before = len(asyncio.all_tasks())
        stream = await hub.add(CAM)
        await until(hub, "cam", lambda s: s.state == "live")
        viewer = stream.publisher.watch("h264")
        await hub.remove("cam")
        assert 'stream="cam"' not in house.text()
        assert viewer.ended.is_set()
        assert len(asyncio.all_tasks()) == before
        with pytest.raises(StreamNotFound):
            await hub.remove("cam")


async def test_names_and_numbers_are_bounded(house: House) -> None:
    house.scripts = {name: [Script(*FOREVER)] for name in "abcd"}
    async with house.open() as hub:
        for name in "abc":
            await hub.add(SourceSpec(name, "demo:"))
        with pytest.raises(StreamExists):
            await hub.add(SourceSpec("a", "demo:"))
        with pytest.raises(TooManyStreams):
            await hub.add(SourceSpec("d", "demo:"))
        await hub.remove("a")
        for name in ("", "A", "a b", "../x", "x" * 64, "a\n"):
            with pytest.raises(InvalidStreamName):
                await hub.add(SourceSpec(name, "demo:"))


async def test_a_publisher_whose_picture_stands_still_gives_way_to_one_that_comes(
    house: House,
) -> None:
    async with house.open() as hub:
        hub.publish("phone", Script(1, 2, 3, "60"), allow_new=True)
        await until(hub, "phone", lambda s: s.state == "live")
        with pytest.raises(StreamBusy):
            hub.check_free("phone", allow_new=True)
        await until(hub, "phone", lambda s: s.state == "stale")
        hub.publish("phone", Script(*range(60), "60"), allow_new=True)
        status = await until(hub, "phone", lambda s: s.state == "live")
        assert status.frames_in > 3
        with pytest.raises(StreamBusy):
            hub.publish("phone", Script(), allow_new=True)
        assert status.restarts == 0


async def test_a_publisher_makes_a_stream_that_leaves_after_it(house: House) -> None:
    house.scripts["fixed"] = [Script()]
    async with house.open() as hub:
        hub.publish("visitor", Script(*range(20), SourceEnded("left")), allow_new=True)
        with pytest.raises(StreamBusy):
            hub.publish("visitor", Script(), allow_new=True)
        await until(hub, "visitor", lambda s: s.state == "live")
        await until(hub, "visitor", lambda s: s.state == "waiting")
        hub.publish("visitor", Script(*range(40), SourceEnded("left")), allow_new=True)
        await until(hub, "visitor", lambda s: s.state == "live")
        with pytest.raises(StreamNotFound):
            await until(hub, "visitor", lambda s: False, seconds=6)
        with pytest.raises(StreamNotFound):
            hub.publish("stranger", Script(), allow_new=False)
        await hub.add(SourceSpec("fixed", "webrtc:"))
        hub.publish("fixed", Script(1), allow_new=False)
        await asyncio.sleep(2.0)
        assert hub.get("fixed").status().state == "waiting"
        house.scripts["cam"] = [Script(*FOREVER)]
        await hub.add(CAM)
        with pytest.raises(StreamBusy, match="its own rtsp source"):
            hub.publish("cam", Script(), allow_new=True)


async def test_a_source_is_told_whether_anybody_watches(house: House) -> None:
    house.scripts["cam"] = [Script(*FOREVER)]

    async def told(wanted: bool) -> None:
        await until(hub, "cam", lambda _: house.watched["cam"]() is wanted)

    async with house.open() as hub:
        stream = await hub.add(CAM)
        await until(hub, "cam", lambda status: status.state == "live")
        await told(False)
        for watching in (stream.jpegs, stream.results.subscribe):
            with watching():
                await told(True)
            await told(False)
