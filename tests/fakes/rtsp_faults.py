"""An RTSP server that misbehaves on request: wrong answers, silence, hanging up, garbling."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=faulty\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:track1\r\n"
)
MTU = 1300
FPS = 25


def units_of(clip: Path) -> list[list[bytes]]:
    """The NAL units of each picture of an Annex B H.264 file."""
    pictures = []
    with av.open(str(clip), format="h264") as container:
        for packet in container.demux(video=0):
            if packet.size:
                marked = bytes(packet).replace(b"\0\0\0\1", b"\0\0\1")
                pictures.append([unit for unit in marked.split(b"\0\0\1") if unit])
    return pictures


def payloads(unit: bytes) -> list[bytes]:
    """One NAL unit as RTP payloads (RFC 6184: single or FU-A)."""
    if len(unit) <= MTU:
        return [unit]
    indicator, kind, body = unit[0] & 0xE0 | 28, unit[0] & 0x1F, unit[1:]
    pieces = [body[start : start + MTU] for start in range(0, len(body), MTU)]
    last = len(pieces) - 1
    return [
        bytes([indicator, kind | (n == 0) << 7 | (n == last) << 6]) + piece
        for n, piece in enumerate(pieces)
    ]


@dataclass
class FaultyRtsp:
    """What it does wrong. Methods are RTSP's, and "CONNECT" for the moment before the first.

    `answers`: whole answers by method instead of the right ones. `silent_at`, `closes_at`: the
    method that it does not answer, or hangs up at. `stamp`: a picture's time stamp in seconds by
    its number. `garble`: changes a picture's RTP payloads. `stops_after`: pictures until silence.
    `asked` and `transports` keep what was asked for, `sent_at` when each picture was sent
    (monotonic seconds).
    """

    clip: Path | None = None
    answers: Mapping[str, bytes] = field(default_factory=dict)
    silent_at: str | None = None
    closes_at: str | None = None
    sdp: str = SDP
    stamp: Callable[[int], float] = lambda number: number / FPS
    garble: Callable[[int, list[bytes]], list[bytes]] = lambda number, parts: parts
    stops_after: int | None = None
    sent: int = 0
    asked: list[str] = field(default_factory=list)
    transports: list[str] = field(default_factory=list)
    port: int = 0
    sent_at: dict[int, float] = field(default_factory=dict)
    _talks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FaultyRtsp]:
        """Listens on a free port of 127.0.0.1."""
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for talk in self._talks:
                talk.cancel()
            await asyncio.gather(*self._talks)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            if not await self._goes_on("CONNECT"):
                return
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                method = request.split(" ", 1)[0].lstrip("$")
                self.asked.append(method)
                self.transports += [line for line in request.splitlines() if "Transport:" in line]
                if not await self._goes_on(method):
                    return
                writer.write(self._answer(method, request))
                if method == "PLAY":
                    await self._play(writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.transport.abort()

    async def _goes_on(self, moment: str) -> bool:
        if moment == self.silent_at:
            await asyncio.Event().wait()
        return moment != self.closes_at

    def _answer(self, method: str, request: str) -> bytes:
        number = next(
            (line[5:].strip() for line in request.splitlines() if line.startswith("CSeq:")), "0"
        )
        if method in self.answers:
            return self.answers[method].replace(b"CSEQ", number.encode())
        lines = ["RTSP/1.0 200 OK", f"CSeq: {number}", "Session: 1;timeout=60"]
        body = ""
        if method == "OPTIONS":
            lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        if method == "DESCRIBE":
            body = self.sdp
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        if method == "SETUP":
            lines.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        assert self.clip is not None, "this fault needs a clip"
        pictures = units_of(self.clip)
        sequence = 0
        begun = time.monotonic()
        while not writer.is_closing() and (
            self.stops_after is None or self.sent < self.stops_after
        ):
            parts = [
                part for unit in pictures[self.sent % len(pictures)] for part in payloads(unit)
            ]
            parts = self.garble(self.sent, parts)
            stamp = int(self.stamp(self.sent) * 90_000) & 0xFFFFFFFF
            for index, part in enumerate(parts):
                marker = (index == len(parts) - 1) << 7
                packet = (
                    struct.pack(">BBHII", 0x80, marker | 96, sequence & 0xFFFF, stamp, 1) + part
                )
                writer.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                sequence += 1
            self.sent_at[self.sent] = time.monotonic()
            self.sent += 1
            await asyncio.sleep(max(0.0, begun + self.sent / FPS - time.monotonic()))
        await asyncio.Event().wait()
