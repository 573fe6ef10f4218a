"""Whole pictures from the pieces that FFmpeg's RTP reader gives when it is not to parse them. Pure.

FFmpeg's parser takes a picture for complete when the next one begins: a frame interval late, 33 ms
at 30 frames/s and 100 at 10. RTP's marker says which packet ends a picture (RFC 6184, 5.1), but
FFmpeg keeps it to itself. What is left of it are sizes: a packetiser fills every packet of a slice
but the last, and an encoder cuts its pictures into equally many slices. So the end can be
foretold; that is believed only after it came true for many pictures in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Codec = Literal["h264", "hevc"]

TRIAL = 60
"""Pictures for which the end must have been foretold rightly: two seconds of most cameras."""
LONGER_TRIAL = 10
"""How many times as long the next trial is after one wrong word, which spoils a picture or more."""
LARGEST = 16 * 2**20
"""Bytes after which a picture is given out as it is: no camera's is so large."""

_START = b"\x00\x00\x01"
_LONG_START = b"\x00\x00\x00\x01"
_RECOVERY_POINT = 6  # an SEI message: decoding can begin here


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One picture in Annex B form. `stamp` as its pieces had it; `began`: when the first came."""

    data: bytes
    stamp: int | None
    is_key: bool
    began: float


@dataclass(frozen=True, slots=True)
class Nal:
    """What matters here of a NAL unit."""

    is_slice: bool
    is_key: bool = False  # decoding can begin with its picture
    is_first: bool = False  # a picture's first slice
    leads: bool = False  # parameters and the like, which stand before the slices


class Foresight:
    """Foretells which packet is a picture's last, and knows whether it can be relied on.

    All packets of a slice are equally large but the last; those with a start code hold a little
    more than those that continue, so the two are told apart (as 1 and 0).
    """

    def __init__(self) -> None:
        self._full, self._largest = [0, 0], [0, 0]
        self._last_size, self._last_starts = 0, True
        self._slices = {True: 0, False: 0}  # of the last picture, by whether it was a key frame
        self._foretold = False
        self._right, self._needed = 0, TRIAL

    @property
    def reliable(self) -> bool:
        """What `ends` says may be acted upon."""
        return self._right >= self._needed

    def ends(self, size: int, slices: int, starts: bool, is_key: bool) -> bool:
        """Whether a picture ends with this packet, of `size` bytes, of its slice number `slices`.

        To be asked about each packet of a slice. False also where that can't be known.
        """
        if self._foretold:
            self._was_wrong()
        if not starts:
            self._full[self._last_starts] = self._last_size
        known = size <= self._largest[starts]
        if not known:
            self._largest[starts] = size
        self._last_size, self._last_starts = size, starts
        is_last = known and size != self._full[starts]
        self._foretold = is_last and slices == self._slices[is_key]
        return self._foretold

    def over(self, slices: int, *, is_key: bool) -> None:
        """The picture has ended, with so many slices."""
        self._right += self._foretold
        self._foretold = False
        self._slices[is_key] = slices

    def _was_wrong(self) -> None:
        if self.reliable:
            self._needed *= LONGER_TRIAL
        self._right = 0


class Assembler:
    """Puts the pieces of one video stream together. Not thread-safe.

    A piece is what one RTP packet held: one or more NAL units with start codes, or a further part
    of the one before, without. Nothing but filler is lost, unless an end was foretold wrongly: then
    the rest of that picture.
    """

    def __init__(self, codec: Codec, on_spoilt: Callable[[], None]) -> None:
        """`on_spoilt` is called for a picture that was given out without its end."""
        self._read = _h264 if codec == "h264" else _hevc
        self._on_spoilt = on_spoilt
        self._foresight = Foresight()
        self._pieces: list[bytes] = []
        self._bytes = self._slices = 0
        self._stamp: int | None = None
        self._began = 0.0
        self._is_key = self._in_slice = self._given = self._spoilt = False

    def feed(self, piece: bytes, stamp: int | None, arrived: float) -> list[AccessUnit]:
        """The pictures that this piece shows to be complete: the one before, its own, or none.

        `stamp`: the RTP time stamp; `arrived`: seconds of any clock.
        """
        complete: list[AccessUnit] = []
        starts = piece.startswith((_LONG_START, _START))
        nals = [self._read(unit) for unit in _units(piece)] if starts else []
        if self._is_over(nals, stamp):
            if not self._given:
                complete.append(self._unit())
            self._begin()
        for nal in nals:
            self._in_slice = nal.is_slice
            self._slices += nal.is_slice
            self._is_key = self._is_key or nal.is_key
        if not self._given:
            self._add(piece, stamp, arrived)
        elif self._in_slice and not self._spoilt:
            self._spoilt = True
            self._on_spoilt()
        ends = self._in_slice and self._foresight.ends(
            len(piece), self._slices, starts, self._is_key
        )
        if ends and self._foresight.reliable:
            self._given = True
            complete.append(self._unit())
        return complete

    def _is_over(self, nals: list[Nal], stamp: int | None) -> bool:
        """Whether a piece with these units belongs to the next picture."""
        if self._bytes > LARGEST:
            return True
        if not self._slices:
            return False
        if stamp != self._stamp and stamp is not None:
            return True
        return any(nal.is_first or (nal.leads and self._given) for nal in nals)

    def _begin(self) -> None:
        self._foresight.over(self._slices, is_key=self._is_key)
        self._pieces.clear()
        self._bytes = self._slices = 0
        self._is_key = self._in_slice = self._given = self._spoilt = False

    def _add(self, piece: bytes, stamp: int | None, arrived: float) -> None:
        if not self._pieces:
            self._began = arrived
        self._pieces.append(piece)
        self._bytes += len(piece)
        self._stamp = stamp

    def _unit(self) -> AccessUnit:
        return AccessUnit(b"".join(self._pieces), self._stamp, self._is_key, self._began)


def _units(piece: bytes) -> Iterator[bytes]:
    """The beginning of each NAL unit behind its start code."""
    start = piece.find(_START)
    while start >= 0:
        yield piece[start + 3 : start + 67]
        start = piece.find(_START, start + 3)


def _h264(unit: bytes) -> Nal:
    """By table 7-1 of H.264. A slice begins with the number of its first macroblock."""
    kind = unit[0] & 0x1F if unit else 0
    is_slice = kind in (1, 5)
    return Nal(
        is_slice,
        is_key=kind == 5 or (kind == 6 and _RECOVERY_POINT in _messages(unit[1:])),
        is_first=is_slice and len(unit) > 1 and unit[1] >= 0x80,
        leads=6 <= kind <= 9,
    )


def _hevc(unit: bytes) -> Nal:
    """By table 7-1 of H.265: 16 to 23 are pictures at which decoding can begin."""
    kind = unit[0] >> 1 & 0x3F if unit else 63
    is_slice = kind < 32
    return Nal(
        is_slice,
        is_key=16 <= kind <= 23,
        is_first=is_slice and len(unit) > 2 and unit[2] >= 0x80,
        leads=32 <= kind <= 35 or kind == 39,
    )


def _messages(sei: bytes) -> Iterator[int]:
    """The kinds of messages in an SEI unit, as far as it is there (H.264, 7.3.2.3)."""
    at = 0
    while at + 1 < len(sei):
        numbers = []
        for _ in range(2):
            number = 0
            while at < len(sei) - 1 and sei[at] == 0xFF:
                number, at = number + 255, at + 1
            numbers.append(number + sei[at] if at < len(sei) else 0)
            at += 1
        yield numbers[0]
        at += numbers[1]
