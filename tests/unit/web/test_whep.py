"""WHEP with aiortc on both sides: what a viewer may wish for, and what it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, pack_remb_fci

from stream_server.streams import SourceSpec
from stream_server.viewers.messages import Begin
from stream_server.viewers.places import MainLoop, Places
from stream_server.viewers.remote import ViewerProcess
from stream_server.web.signalling import Sessions
from stream_server.web.whep import encode_once, whep_routes
from tests.fakes.camera import RTP_STEP, WIDTH
from tests.fakes.house import House, add_demo, build, in_process, until

BEGIN = Begin("console", "warning", [])


@pytest.fixture(params=["here", "process"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """Viewers are on the test's own event loop, or all of them in a process."""
    async with build(tmp_path) as made:
        sessions, encode = Sessions([]), encode_once()
        places = Places(
            MainLoop([], made.metrics, encode),
            lambda name: ViewerProcess(name, BEGIN, made.metrics, encode),
            made.metrics,
            most=1,
            room=9 if request.param == "here" else 0,
        )
        async with places:
            made.app.include_router(whep_routes(made.hub, sessions, places))
            await add_demo(made)
            yield made
            await sessions.close()


class Watching:
    """A connected viewer, what its channel said, and the RTP time stamps that came."""

    def __init__(self, peer: RTCPeerConnection) -> None:
        self.peer = peer
        self.channel = peer.createDataChannel("faces", ordered=False, maxRetransmits=0)
        self.messages: list[dict[str, Any]] = []
        self.channel.on("message", lambda text: self.messages.append(json.loads(text)))
        self.stamps: list[int] = []

    @property
    def receiver(self) -> RTCRtpReceiver:
        return self.peer.getReceivers()[0]

    def overhear(self) -> None:
        handle = self.receiver._handle_rtp_packet

        async def listen(packet: Any, arrival_time_ms: int) -> None:
            self.stamps.append(packet.timestamp)
            await handle(packet, arrival_time_ms)

        self.receiver._handle_rtp_packet = listen

    async def width(self) -> int:
        frame = await asyncio.wait_for(self.receiver.track.recv(), 10)
        return int(frame.width)

    async def remb(self, bits: int) -> None:
        for ssrc in self.receiver._RTCRtpReceiver__remote_streams:
            packet = RtcpPsfbPacket(RTCP_PSFB_APP, ssrc=0, media_ssrc=0)
            packet.fci = pack_remb_fci(bits, [ssrc])
            await self.receiver._send_rtcp(packet)


async def post(house: House, query: str, sdp: str, name: str = "lobby") -> httpx.Response:
    async with in_process(house.app) as client:
        return await client.post(
            f"/whep/{name}{query}", content=sdp, headers={"content-type": "application/sdp"}
        )


@asynccontextmanager
async def watching(house: House, query: str = "", name: str = "lobby") -> AsyncIterator[Watching]:
    peer = RTCPeerConnection()
    try:
        peer.addTransceiver("video", direction="recvonly")
        viewer = Watching(peer)
        await peer.setLocalDescription(await peer.createOffer())
        answer = await post(house, query, peer.localDescription.sdp, name)
        assert answer.status_code == 201, answer.text
        viewer.overhear()
        await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
        yield viewer
    finally:
        await peer.close()


async def offer(codec: str | None = None) -> str:
    peer = RTCPeerConnection()
    video = peer.addTransceiver("video", direction="recvonly")
    if codec is not None:
        known = RTCRtpReceiver.getCapabilities("video").codecs
        video.setCodecPreferences([each for each in known if each.mimeType == codec])
    await peer.setLocalDescription(await peer.createOffer())
    sdp = str(peer.localDescription.sdp)
    await peer.close()
    return sdp


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
