"""WHEP viewers of a house: aiortc in this process, its peers wherever the house puts them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, pack_remb_fci

from stream_server.viewers.messages import Begin
from stream_server.viewers.places import MainLoop, Places
from stream_server.viewers.remote import ViewerProcess
from stream_server.web.signalling import Sessions
from stream_server.web.whep import encode_once, whep_routes
from tests.fakes.house import House, in_process

BEGIN = Begin("console", "warning", [])


@asynccontextmanager
async def open_to_viewers(
    house: House, *, room: int, most: int = 1, elsewhere: int = 0
) -> AsyncIterator[Places]:
    """WHEP over the test's own event loop and up to `most` processes, with `room` in each.

    Of the room in the test's loop `elsewhere` is taken by viewers that only count.
    """
    sessions, encode = Sessions([]), encode_once()
    main = MainLoop([], encode)
    main.viewers = elsewhere

    def start(name: str) -> ViewerProcess:
        return ViewerProcess(name, BEGIN, house.metrics, encode)

    async with Places(main, start, house.metrics, most=most, room=room) as places:
        house.app.include_router(whep_routes(house.hub, sessions, places))
        yield places
    await sessions.close()


def viewer_processes(of: int | None = None) -> list[psutil.Process]:
    """The living ones that this process, or that with the given id, has started."""
    children = psutil.Process(of).children()
    return [each for each in children if "stream_server.viewers" in " ".join(each.cmdline())]


def placed(house: House, loop: str) -> float:
    """The number of viewers that an event loop says it has."""
    labels = {"loop": loop}
    count = house.metrics.registry.get_sample_value("maskstream_event_loop_viewers", labels)
    assert count is not None
    return count


class Watching:
    """A connected viewer, what its channel said, and the RTP time stamps that came."""

    def __init__(self, peer: RTCPeerConnection) -> None:
        self.peer = peer
        self.channel = peer.createDataChannel("faces", ordered=False, maxRetransmits=0)
        self.messages: list[dict[str, Any]] = []
        self.channel.on("message", lambda text: self.messages.append(json.loads(text)))
        self.stamps: list[int] = []
        self.session = self.etag = ""

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
        viewer.session, viewer.etag = answer.headers["location"], answer.headers["etag"]
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
