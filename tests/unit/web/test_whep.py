"""WHEP with aiortc on both sides: what a viewer may wish for, and what it is told."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiortc.mediastreams import MediaStreamError

from stream_server.streams import SourceSpec
from tests.fakes.camera import RTP_STEP, WIDTH
from tests.fakes.house import House, add_demo, build, in_process, until
from tests.fakes.watching import Watching, offer, open_to_viewers, placed, post, watching

ROOM = 9


@pytest.fixture(params=["main", "viewers-1"])
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop on which all viewers are: the test's own, or a process's."""
    return str(request.param)


@pytest.fixture
async def house(loop: str, tmp_path: Path) -> AsyncIterator[House]:
    async with (
        build(tmp_path) as made,
        open_to_viewers(made, room=ROOM, elsewhere=0 if loop == "main" else ROOM),
    ):
        await add_demo(made)
        yield made


def here(house: House, loop: str) -> float:
    """How many viewers the test has on the loop where they are to be, and none on the other."""
    on_main, in_process = placed(house, "main"), placed(house, "viewers-1")
    assert (loop == "main" and in_process == 0) or on_main == ROOM
    return on_main if loop == "main" else in_process


async def test_each_verdict_names_the_rtp_time_of_its_frame(house: House) -> None:
    async with watching(house) as viewer:
        await until(lambda: sum(m["rtp_time"] is not None for m in viewer.messages) > 20, 20)
        told = {message["rtp_time"] for message in viewer.messages} - {None}
        assert len(told & set(viewer.stamps)) >= 0.8 * len(told)


async def test_the_cameras_own_video_names_its_frames_too(house: House) -> None:
    stream = await house.hub.add(SourceSpec("gate", "demo:own"), persist=False)
    await until(lambda: stream.status().source_view_refusal is None)
    async with watching(house, "?view=source", name="gate") as viewer:
        assert await viewer.width() == WIDTH
        await until(lambda: sum(m["rtp_time"] is not None for m in viewer.messages) > 10, 20)
        told = {message["rtp_time"] for message in viewer.messages} - {None}
        assert len(told & set(viewer.stamps)) >= 0.8 * len(told)
        stamps = sorted(set(viewer.stamps))
        assert {b - a for a, b in itertools.pairwise(stamps)} <= {RTP_STEP, 2 * RTP_STEP}
        status = stream.status()
        assert (status.viewers, status.published_fps) == (1, 0.0)


@pytest.mark.parametrize(
    ("query", "codec", "code", "says"),
    [
        ("?view=source", None, 409, "has sent no H.264"),
        ("?view=source", "video/VP8", 422, "offer it, or take view=annotated"),
        ("?view=front", None, 422, "view"),
        ("?rendition=huge", None, 422, "rendition"),
    ],
)
async def test_a_wish_that_cannot_be_met_is_refused_in_words(
    house: House, query: str, codec: str | None, code: int, says: str
) -> None:
    house.hub.get("lobby").publisher.source.refuse("the camera has sent no H.264")
    answer = await post(house, query, await offer(codec))
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]
    assert house.hub.get("lobby").publisher.viewers == 0


async def test_the_cameras_own_video_of_a_private_stream_is_refused(house: House) -> None:
    stream = await house.hub.add(SourceSpec("ward", "demo:own", "blur"), persist=False)
    await until(lambda: stream.status().state == "live")
    answer = await post(house, "?view=source", await offer(), name="ward")
    assert answer.status_code == 409
    assert "privacy: blur" in answer.json()["detail"]
    async with watching(house, name="ward") as viewer:
        assert await viewer.width() == WIDTH


async def test_a_viewer_gets_the_size_it_asks_for(house: House) -> None:
    async with watching(house, "?rendition=half") as viewer:
        assert await viewer.width() == WIDTH // 2
        assert house.hub.get("lobby").publisher.viewers == 1


async def test_a_receiver_that_starves_is_moved_to_a_smaller_size(house: House) -> None:
    async with watching(house) as viewer:
        assert await viewer.width() == WIDTH
        publisher = house.hub.get("lobby").publisher
        (subscription,) = publisher._subscriptions()
        # The receiver's own estimate would say every now and then that all is well.
        viewer.receiver._RTCRtpReceiver__remote_bitrate_estimator = None
        deadline = time.monotonic() + 20
        while subscription.rendition.name == "full" and time.monotonic() < deadline:
            await viewer.remb(1000)
            await asyncio.sleep(0.2)
        assert subscription.rendition.name == "half"
        while (width := await viewer.width()) == WIDTH and time.monotonic() < deadline:
            pass
        assert width == WIDTH // 2


async def test_the_pages_clock_is_answered_and_its_latency_counted(house: House) -> None:
    async with watching(house) as viewer:
        await until(lambda: viewer.channel.readyState == "open", 20)
        for nonsense in ("{", "[]", '{"ping": "x"}', '{"shown_after_ms": -5}', "x" * 4000, b"\xff"):
            viewer.channel.send(nonsense)
            await asyncio.sleep(0.1)  # the channel may let messages overtake each other
        for message in ('{"ping": 1234.5}', '{"shown_after_ms": 80}'):
            viewer.channel.send(message)
        await until(lambda: any("ping" in message for message in viewer.messages), 20)
        (answer,) = (message for message in viewer.messages if "ping" in message)
        assert answer["ping"] == 1234.5
        assert abs(answer["time"] - time.time()) < 10
        shown = house.metrics.capture_to_display.labels("lobby")
        await until(lambda: shown._sum.get() > 0)
        assert shown._sum.get() == pytest.approx(0.08)
        assert viewer.peer.connectionState == "connected"


async def test_viewers_are_bounded_wherever_they_are(house: House, loop: str) -> None:
    async with watching(house), watching(house):
        refused = await post(house, "", await offer())
        assert refused.status_code == 429
        assert "limit of 2 viewers" in refused.json()["detail"]
        status = house.hub.get("lobby").status()
        assert (status.viewers, here(house, loop)) == (2, 2)
        watched = {"stream": "lobby", "rendition": "full"}
        value = house.metrics.registry.get_sample_value
        assert value("maskstream_rendition_viewers", watched) == 2


def fragment(sdp: str, **changed: str) -> str:
    """Credentials and candidates of a description, what is `changed`, not what is empty."""
    kept = [line[2:].partition(":")[::2] for line in sdp.splitlines() if line.startswith("a=")]
    names = {"ice-ufrag", "ice-pwd", "candidate"}
    values = {name: value for name, value in kept if name in names} | changed
    return "\r\n".join([*(f"a={name}:{value}" for name, value in values.items() if value), ""])


async def patch(
    client: httpx.AsyncClient, session: str, body: str, if_match: str | None
) -> httpx.Response:
    headers = {"content-type": "application/trickle-ice-sdpfrag"}
    given = {} if if_match is None else {"if-match": if_match}
    return await client.patch(session, content=body, headers=headers | given)


async def test_a_session_is_patched_and_ended(house: House, loop: str) -> None:
    async with watching(house) as viewer, in_process(house.app) as client:
        assert await viewer.width() == WIDTH
        session, late = viewer.session, fragment(viewer.peer.localDescription.sdp)
        body = fragment(late, candidate="")
        renewed = fragment(late, **{"ice-ufrag": "anew", "ice-pwd": "p" * 22})
        asked: list[tuple[str, str | None, int]] = [
            (body, None, 428),
            (body, '"other"', 412),
            (body, viewer.etag, 204),
            (late, viewer.etag, 400),  # its offer had said that there are no more
            (fragment(body, candidate="nonsense"), viewer.etag, 400),
            (renewed, viewer.etag, 412),
        ]
        for text, if_match, code in asked:
            answer = await patch(client, session, text, if_match)
            assert answer.status_code == code, (if_match, answer.text)
        restarted = await patch(client, session, renewed, "*")
        assert restarted.status_code == 200
        assert "a=ice-ufrag:" in restarted.text
        assert "a=candidate:" in restarted.text
        assert restarted.headers["etag"] not in (viewer.etag, "")
        assert (await patch(client, session, renewed, viewer.etag)).status_code == 412
        assert (await patch(client, session, renewed, restarted.headers["etag"])).status_code == 204

        assert (await client.delete(session)).status_code == 200
        assert house.hub.get("lobby").publisher.viewers == 0
        assert here(house, loop) == 0
        for gone in (await client.delete(session), await patch(client, session, body, "*")):
            assert gone.status_code == 404
            assert "POST a new offer" in gone.json()["detail"]


async def play_on(viewer: Watching) -> None:
    while True:
        await viewer.width()


async def test_a_removed_stream_hangs_up_its_viewers(house: House, loop: str) -> None:
    async with watching(house) as viewer:
        assert await viewer.width() == WIDTH
        await house.hub.remove("lobby")
        with pytest.raises(MediaStreamError):
            await play_on(viewer)
        await until(lambda: here(house, loop) == 0)
    text = house.metrics.render()[0].decode()
    assert 'stream="lobby"' not in text, "what it was told late brought its series back"


async def test_a_lost_picture_brings_a_key_frame(house: House) -> None:
    def keyframes() -> float:
        return float(house.metrics.keyframes.labels("lobby", "vp8", "full")._value.get()) + float(
            house.metrics.keyframes.labels("lobby", "h264", "full")._value.get()
        )

    async with watching(house) as viewer:
        await viewer.width()
        await asyncio.sleep(0.5)
        before = keyframes()
        for _ in range(20):  # a burst counts as one
            for ssrc in viewer.receiver._RTCRtpReceiver__remote_streams:
                await viewer.receiver._send_rtcp_pli(ssrc)
        await asyncio.sleep(0.25)
        assert 1 <= keyframes() - before <= 2


async def test_an_offer_that_cannot_be_answered_leaves_nothing_behind(
    house: House, loop: str
) -> None:
    refused = await post(house, "", (await offer()).replace("a=rtcp-mux\r\n", ""))
    assert refused.status_code == 422
    assert "RTCP mux is not enabled" in refused.json()["detail"]
    assert house.hub.get("lobby").publisher.viewers == 0
    await until(lambda: here(house, loop) == 0)
