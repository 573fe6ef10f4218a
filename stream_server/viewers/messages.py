"""What crosses between the service and its viewers' processes: typed, framed, never pickled."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import get_args

from stream_server.publish.encode import Codec
from stream_server.publish.rendition import RenditionName, Size

LENGTHS = struct.Struct("!II")
# Far more than the largest key frame.
LARGEST = 16 << 20
READ_AHEAD = 256 << 10
# What has to be sent whatever happens (answers, farewells) is little. An other side that has so
# much to read does not read any more.
MOST_UNSENT = 8 << 20


# --- to a process ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The first word. `ice_servers` are [URLs, user name, credential]."""

    log_format: str
    log_level: str
    ice_servers: list[tuple[list[str], str | None, str | None]]


@dataclass(frozen=True, slots=True)
class Attend:
    """Answer this viewer's offer (`Answered`, `Failed`), and let it watch until `Closed`.

    `hall` is the stream's number on this line: a stream of the same name may come after it.
    """

    viewer: int
    hall: int
    codec: Codec
    rendition: RenditionName
    adapts: bool
    sdp: str


@dataclass(frozen=True, slots=True)
class Trickle:
    """Take a trickle-ICE fragment; `call` comes back in `Done` or `Failed`."""

    call: int
    viewer: int
    fragment: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Begin a new ICE session by a fragment; `Done` has our side of it."""

    call: int
    viewer: int
    fragment: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """End a viewer; `Closed` follows."""

    viewer: int


@dataclass(frozen=True, slots=True)
class Video:
    """An encoded frame. `captured` in monotonic seconds, which all processes share; `ticks` are
    its time stamp (1/90000 s)."""

    hall: int
    codec: Codec
    rendition: RenditionName
    captured: float
    ticks: int
    keyframe: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Verdicts:
    """An analysis, as in `Notice`."""

    hall: int
    ticks: int
    source_ticks: int | None
    data: bytes


# --- from a process -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """It listens."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to an offer, and the names of its session. `call` is the viewer's number."""

    call: int
    session: str
    etag: str
    sdp: str


@dataclass(frozen=True, slots=True)
class Done:
    """A fragment was taken; `text` is our side of a new ICE session."""

    call: int
    etag: str
    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """`error` names a class of our error tree; it is empty for a bug, which was logged there.

    `call` is the viewer's number where an offer failed.
    """

    call: int
    error: str
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A viewer has gone. Comes once for each `Attend`."""

    viewer: int


@dataclass(frozen=True, slots=True)
class WantKeyframe:
    """A viewer of this rendition lost a picture."""

    hall: int
    codec: Codec
    rendition: RenditionName


@dataclass(frozen=True, slots=True)
class Moved:
    """A viewer's network takes another size from now on."""

    viewer: int
    size: Size


@dataclass(frozen=True, slots=True)
class Dropped:
    """Frames that were left out in the process, as in the metrics."""

    hall: int
    stage: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A page has shown a picture so many seconds after it arrived."""

    hall: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the process's loop got to its work (seconds). Comes four times a second."""

    seconds: float


ToProcess = Begin | Attend | Trickle | Restart | Dismiss | Video | Verdicts
FromProcess = (
    Ready | Answered | Done | Failed | Closed | WantKeyframe | Moved | Dropped | Shown | Lag
)
Message = ToProcess | FromProcess
KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}
NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in get_args(Message)}


class NotAMessage(ValueError):
    """Bytes that no side of this version sends."""


def pack(message: Message) -> bytes:
    """Two lengths, the type and its fields in JSON, then the field `data` as it is."""
    names = NAMES[type(message)]
    values = [getattr(message, name) for name in names if name != "data"]
    words = json.dumps([type(message).__name__, *values], allow_nan=False).encode()
    data = message.data if isinstance(message, Video | Verdicts) else b""
    return LENGTHS.pack(len(words), len(data)) + words + data


def unpack(words: bytes, data: bytes) -> Message:
    """The message back. Raises `NotAMessage`."""
    try:
        name, *values = json.loads(words)
        kind = KINDS[name]
        # The fields' types are known to the checker where messages are made, not here.
        return kind(*values, data) if "data" in NAMES[kind] else kind(*values)  # type: ignore[call-arg]
    except (ValueError, KeyError, TypeError) as error:
        raise NotAMessage(f"{words[:80]!r}: {error}") from error


class Line:
    """One end of a pipe between two event loops. Messages keep their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Line:
        """The line over a Unix stream socket, which is its own from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=READ_AHEAD))

    def tell(self, message: Message) -> None:
        """Send without waiting; nothing happens once the line is closed.

        An other side that does not read is cut off before much has gathered for it.
        """
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > MOST_UNSENT:
            self.close()
            return
        self._writer.write(pack(message))

    async def room(self) -> None:
        """Wait until the other side has read most of what was sent. Raises ConnectionError."""
        await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message, None at the end of the line. Raises `NotAMessage`."""
        try:
            words, data = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
            if words + data > LARGEST:
                raise NotAMessage(f"{words + data} bytes")
            read = await self._reader.readexactly(words + data)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return unpack(read[:words], read[words:])

    async def __aiter__(self) -> AsyncIterator[Message]:
        while (message := await self.receive()) is not None:
            yield message

    def close(self) -> None:
        """Cut the line; what the other side has not read may be lost. Idempotent."""
        self._writer.transport.abort()
