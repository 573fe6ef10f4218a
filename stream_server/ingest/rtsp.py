"""An IP camera over RTSP or RTSPS, H.264, H.265 or MJPEG. Runs once; the hub tries again."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeVar, cast
from urllib.parse import SplitResult, quote, unquote, urlsplit

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from stream_server.errors import (
    SourceAuthError,
    SourceEnded,
    SourceError,
    SourceUnreachable,
    SourceUnsupported,
)
from stream_server.ingest.access_units import Assembler, Codec
from stream_server.ingest.decode import (
    DECODE_ERROR,
    EVERYTHING,
    Decoding,
    DropCounter,
    PacketDecoder,
    accelerator,
    describe,
    ignore_drops,
    seconds,
)
from stream_server.ingest.pace import Backlog
from stream_server.ingest.reader import Reader, drive
from stream_server.ingest.relay import NO_PACKETS, Relay
from stream_server.ports import PacketSink, PictureSink

Transport = Literal["auto", "tcp", "udp"]
T = TypeVar("T")

# FFmpeg's own buffer for "user:password" as they stand in the URL.
_LOGIN_LIMIT = 127
# How long a UDP packet that overtook another is held back for it.
_REORDER_MICROSECONDS = 100_000
_PROBE_BYTES = 4096
# What FFmpeg gives of a camera's video when it is not to parse it: of these each RTP packet, ...
_BY_PIECES: Mapping[str, Codec] = {"h264": "h264", "hevc": "hevc"}
# ... of these each picture. Anything else is parsed, and a picture given out with the next one.
_BY_PICTURES = ("mjpeg",)


@dataclass(frozen=True, slots=True)
class Camera:
    """What an RTSP URL says. `address` is safe to show, `url` is not."""

    host: str
    port: int
    path: str
    secure: bool
    login: bool
    url: str = field(repr=False)

    @property
    def address(self) -> str:
        """host:port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_camera(url: str) -> Camera:
    """Read an rtsp:// or rtsps:// URL. User and password may be percent-encoded or plain.

    Raises `SourceUnsupported`, whose text does not repeat the URL.
    """
    try:
        parts = urlsplit(url.strip())
        port, host = parts.port, parts.hostname
    except ValueError:
        raise SourceUnsupported(
            "host or port of the RTSP URL cannot be read: write rtsp://USER:PASSWORD@HOST:554/PATH "
            "and percent-encode '/', '?' and '#' in user and password (%2F, %3F, %23)"
        ) from None
    if parts.scheme not in ("rtsp", "rtsps"):
        raise SourceUnsupported("a camera's URL begins with rtsp:// or rtsps://")
    if not host or port == 0:
        raise SourceUnsupported("the RTSP URL names no host and port: write rtsp://HOST:554/PATH")
    secure = parts.scheme == "rtsps"
    port = port or (322 if secure else 554)
    login = _login(parts)
    shown_host = f"[{host}]" if ":" in host else host
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Camera(
        host=host,
        port=port,
        path=parts.path or "/",
        secure=secure,
        login=bool(login),
        url=f"{parts.scheme}://{login}{shown_host}:{port}{target}",
    )


def _login(parts: SplitResult) -> str:
    """'user:password@' in the one way of writing it that FFmpeg reads right, or ''."""
    userinfo, at, _ = parts.netloc.rpartition("@")
    if not at:
        return ""
    user, _, password = userinfo.partition(":")
    plain = "!$&'()*+,;=~"
    login = ":".join(quote(unquote(part), safe=plain) for part in (user, password))
    if len(login) > _LOGIN_LIMIT:
        raise SourceUnsupported(
            f"user name and password of the RTSP URL are too long: {len(login)} characters, "
            f"percent-encoded, of {_LOGIN_LIMIT}"
        )
    return f"{login}@"


class RtspSource:
    """Reads one camera in a thread of its own. One instance is one try."""

    def __init__(
        self,
        url: str,
        *,
        transport: Transport = "auto",
        open_timeout: float = 5.0,
        read_timeout: float = 5.0,
        longest_side: int = 1920,
        on_drop: DropCounter = ignore_drops,
        packets: PacketSink = NO_PACKETS,
        decoding: Decoding = EVERYTHING,
    ) -> None:
        """`auto` asks for TCP, then UDP. Time-outs in seconds: to connect, and of silence.

        Raises `SourceUnsupported` for a URL that names no camera.
        """
        self._camera = parse_camera(url)
        self._transport = transport
        self._open_timeout = open_timeout
        self._read_timeout = read_timeout
        self._longest_side = longest_side
        self._on_drop = on_drop
        self._packets = packets
        self._decoding = decoding

    async def run(self, sink: PictureSink) -> None:
        """Deliver pictures until the camera ends. Always raises a `SourceError`, or is cancelled.

        `SourceUnreachable`, `SourceAuthError`, `SourceUnsupported` before the first picture;
        `SourceEnded` after it.
        """
        await self._probe(sink)
        await drive(self._read, sink, key=self._camera.address)

    async def _probe(self, sink: PictureSink) -> None:
        """See that something speaks RTSP there: unlike FFmpeg's, this wait can be cancelled."""
        try:
            async with asyncio.timeout(self._open_timeout):
                addresses = await self._resolve(sink)
                await self._ask_options(addresses)
        except TimeoutError:
            raise SourceUnreachable(
                f"{self._camera.address} did not answer within {self._open_timeout:g} s: "
                "is the camera on, and the address right?"
            ) from None
        except ssl.SSLError as error:
            raise SourceUnreachable(
                f"{self._camera.address} does not speak TLS "
                f"({error.reason or 'handshake failed'}): try rtsp:// instead of rtsps://"
            ) from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "no connection"
            raise SourceUnreachable(
                f"{self._camera.address} cannot be reached ({reason}): "
                "check the address and the network"
            ) from None

    async def _resolve(self, sink: PictureSink) -> list[str]:
        """Numeric addresses. The look-up can't be cancelled, so it gets a thread of its own."""
        camera, found = self._camera, list[str]()

        def look_up(reader: Reader) -> None:
            try:
                infos = socket.getaddrinfo(camera.host, camera.port, type=socket.SOCK_STREAM)
            except (socket.gaierror, UnicodeError):
                raise SourceUnreachable(
                    f"there is no host {camera.host!r}: check the name in the URL"
                ) from None
            found.extend(dict.fromkeys(str(info[4][0]) for info in infos))

        await drive(look_up, sink, key=camera.address)
        return found

    async def _ask_options(self, addresses: list[str]) -> None:
        camera = self._camera
        context = _unverified() if camera.secure else None
        failure: OSError = ConnectionRefusedError()
        for address in addresses:
            try:
                reader, writer = await asyncio.open_connection(address, camera.port, ssl=context)
                break
            except ssl.SSLError:
                raise
            except OSError as error:
                failure = error
        else:
            raise failure
        try:
            target = f"{'rtsps' if camera.secure else 'rtsp'}://{camera.address}{camera.path}"
            writer.write(f"OPTIONS {target} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
            answer = await reader.read(_PROBE_BYTES)
        finally:
            writer.transport.abort()
        if not answer.startswith(b"RTSP/"):
            what = "closed the connection" if not answer else "answers, but not with RTSP"
            raise SourceUnreachable(
                f"{camera.address} {what}: is this the camera's RTSP port (often 554)?"
            )

    def _read(self, reader: Reader) -> None:
        started = time.monotonic()
        container = self._attempt(
            self._open, lambda error: self._opening_failed(error, time.monotonic() - started)
        )
        try:
            stream = self._video(container)
            decoder = PacketDecoder(
                stream,
                longest_side=self._longest_side,
                on_drop=self._on_drop,
                decoding=self._decoding,
            )
            self._attempt(
                lambda: self._pump(reader, container, stream, decoder), self._reading_failed
            )
        finally:
            container.close()
        if not reader.stopped:
            raise SourceEnded(f"{self._camera.address} ended the stream")

    def _attempt(
        self, action: Callable[[], T], explain: Callable[[av.error.FFmpegError], SourceError]
    ) -> T:
        try:
            return action()
        except av.error.FFmpegError as error:
            raise explain(error) from None

    def _open(self) -> InputContainer:
        container = self._connect(parse=False)
        names = {getattr(video.codec_context, "name", None) for video in container.streams.video}
        if names <= {*_BY_PIECES, *_BY_PICTURES, None}:
            return container
        container.close()
        return self._connect(parse=True)

    def _connect(self, *, parse: bool) -> InputContainer:
        options = {
            "allowed_media_types": "video",
            # One packet tells the size; guessing the frame rate from twenty costs a second.
            "fpsprobesize": "0",
            "max_delay": str(_REORDER_MICROSECONDS),
            # Bounds the farewell to a camera that has stopped reading.
            "timeout": str(int(self._read_timeout * 1e6)),
            "fflags": "" if parse else "noparse",
        }
        if self._transport == "auto":
            options["rtsp_flags"] = "prefer_tcp"
        else:
            options["rtsp_transport"] = self._transport
        return av.open(
            self._camera.url,
            format="rtsp",
            options=options,
            # Opening takes about twice as long as it is told; so does reading with a parser, which
            # first gives out what it holds back.
            timeout=(self._open_timeout / 2, self._read_timeout / (2 if parse else 1)),
            hwaccel=accelerator(self._decoding.hardware, self._camera.address),
        )

    def _video(self, container: InputContainer) -> VideoStream:
        if not container.streams.video:
            raise SourceUnsupported(
                f"{self._camera.address} sends no video at {self._camera.path}: check the path"
            )
        stream = container.streams.video[0]
        if getattr(stream, "codec_context", None) is None:
            raise SourceUnsupported(
                f"{self._camera.address} sends video that cannot be decoded: "
                "set the camera to H.264 or H.265"
            )
        return stream

    def _pump(
        self,
        reader: Reader,
        container: InputContainer,
        stream: VideoStream,
        decoder: PacketDecoder,
    ) -> None:
        backlog = Backlog()
        relay = Relay(stream, self._packets)
        waited, asked = 0.0, time.monotonic()
        time_base = stream.time_base
        whole = _pictures(stream, lambda: self._on_drop(DECODE_ERROR, 1))
        for piece in container.demux(stream):
            arrived = time.monotonic()
            if reader.stopped or piece.size == 0:
                return
            waited = max(waited, arrived - asked)
            for packet, began in whole(piece, arrived):
                stamp = packet.dts if packet.dts is not None else packet.pts
                lag = backlog.lag(seconds(stamp, time_base), began, waited)
                waited = 0.0
                # What lay in the socket had arrived before it was read.
                captured = began - lag
                relay.feed(packet, captured)
                for shot in decoder.feed(packet, arrived=captured, lag=lag):
                    reader.deliver(shot.make, shot.captured, shot.media_time)
            asked = time.monotonic()

    def _opening_failed(self, error: av.error.FFmpegError, seconds: float) -> SourceError:
        camera = self._camera
        if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            return SourceAuthError(
                f"{camera.address} refuses this user name or password: check them in the URL"
                if camera.login
                else f"{camera.address} asks for a user name and password: "
                "write rtsp://USER:PASSWORD@HOST/PATH"
            )
        if isinstance(error, av.error.HTTPNotFoundError):
            return SourceUnreachable(
                f"{camera.address} answers, but has no stream at {camera.path}: check the path"
            )
        # In the middle of a request the library calls a time-out "not permitted".
        if isinstance(error, av.error.ExitError) or seconds >= self._open_timeout / 2:
            return SourceUnreachable(
                f"{camera.address} answers, but sent no video within {self._open_timeout:g} s"
            )
        if isinstance(error, av.error.HTTPError | av.error.HTTPClientError):
            kind = "5xx" if isinstance(error, av.error.HTTPServerError) else "4xx"
            return SourceUnreachable(
                f"{camera.address} refuses to play {camera.path} (RTSP error {kind}): "
                "check the path and the transport"
            )
        return SourceUnreachable(
            f"{camera.address} hung up, or answered what cannot be understood "
            f"({describe(error)}): is it an RTSP camera?"
        )

    def _reading_failed(self, error: av.error.FFmpegError) -> SourceError:
        if isinstance(error, av.error.ExitError | TimeoutError):
            return SourceEnded(f"{self._camera.address} sent nothing for {self._read_timeout:g} s")
        return SourceEnded(f"{self._camera.address} broke off ({describe(error)})")


def _pictures(
    stream: VideoStream, on_spoilt: Callable[[], None]
) -> Callable[[Packet[VideoStream], float], Iterable[tuple[Packet[VideoStream], float]]]:
    """What turns a packet as it was read at some time into whole pictures, and when each began."""
    codec = _BY_PIECES.get(stream.codec_context.name)
    if codec is None:
        return lambda packet, arrived: [(packet, arrived)]
    assembler = Assembler(codec, on_spoilt)
    time_base = stream.time_base or Fraction(1, 90_000)

    def assembled(
        piece: Packet[VideoStream], arrived: float
    ) -> Iterator[tuple[Packet[VideoStream], float]]:
        for unit in assembler.feed(bytes(piece), piece.pts, arrived):
            packet = cast("Packet[VideoStream]", Packet(unit.data))
            packet.pts, packet.time_base = unit.stamp, time_base
            packet.is_keyframe = unit.is_key
            yield packet, unit.began

    return assembled


def _unverified() -> ssl.SSLContext:
    """Cameras sign their own certificates; FFmpeg does not check them either."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
