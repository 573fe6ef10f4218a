"""Pictures are put together as they were sent, and given out with their last packet once that is
foretold reliably; whatever a camera does, no more than a picture a trial is spoilt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.ingest import access_units
from stream_server.ingest.access_units import TRIAL, AccessUnit, Assembler, Codec

START = b"\0\0\0\1"
MTU = 100
IDR, SLICE = 5, 1
SEI, SPS, PPS, AUD, FILLER = 6, 7, 8, 9, 12


def nal(kind: int, size: int = 20, *, first: bool = False) -> bytes:
    """An H.264 unit of so many bytes; of a slice, a picture's `first` or not."""
    return bytes([0x60 | kind, 0x88 if first else 0x11]) + b"\x55" * (size - 2)


def picture(*sizes: int, kind: int = SLICE) -> list[bytes]:
    """A picture of slices of these sizes."""
    return [nal(kind, size, first=number == 0) for number, size in enumerate(sizes)]


def packets(unit: bytes, payload: int = MTU) -> list[bytes]:
    """A unit as FFmpeg gives what RTP packets held: whole, or (RFC 6184, FU-A) in fragments."""
    if len(unit) <= payload:
        return [START + unit]
    body = unit[1:]
    parts = [body[at : at + payload - 2] for at in range(0, len(body), payload - 2)]
    return [START + unit[:1] + parts[0], *parts[1:]]


def whole(units: Sequence[bytes]) -> bytes:
    return b"".join(START + unit for unit in units)


def sent(pictures: Sequence[Sequence[bytes]], payload: int = MTU) -> Iterator[tuple[bytes, int]]:
    for number, units in enumerate(pictures):
        for unit in units:
            for piece in packets(unit, payload):
                yield piece, number


spoilt: list[int] = []
"""The stamps of pictures that `put_together` gave out without their end."""


def put_together(
    pieces: Iterator[tuple[bytes, int]] | Sequence[tuple[bytes, int]], codec: Codec = "h264"
) -> tuple[list[AccessUnit], list[int]]:
    """The units, and how many pieces had come when each was given out."""
    spoilt.clear()
    assembler = Assembler(codec, lambda: spoilt.append(stamp))
    units, when = list[AccessUnit](), list[int]()
    for count, (piece, stamp) in enumerate(pieces, start=1):
        for unit in assembler.feed(piece, stamp, float(count)):
            units.append(unit)
            when.append(count)
    return units, when


sizes = st.lists(st.integers(2, 5 * MTU), min_size=1, max_size=4)


@given(st.lists(sizes, min_size=1, max_size=80), st.integers(20, 300))
def test_what_was_sent_comes_out_picture_by_picture(
    pictures: list[list[int]], payload: int
) -> None:
    made = [picture(*slices) for slices in pictures]
    units, _ = put_together(sent(made, payload))
    # The last one has not been seen to end, unless that was foretold.
    assert len(made) - 1 <= len(units) <= len(made)
    for unit, original in zip(units, made, strict=False):
        assert whole(original).startswith(unit.data)
    assert sum(u.data != whole(m) for u, m in zip(units, made, strict=False)) <= 1
    assert [unit.stamp for unit in units] == list(range(len(units)))


@pytest.mark.parametrize("slices", [(30,), (MTU,), (950,), (950, 420), (40, 950, 333, 20)])
def test_after_the_trial_a_picture_is_given_out_with_its_last_packet(slices: tuple[int, ...]):
    # Sizes vary as a real encoder's do; none is that of a full packet by chance.
    made = [picture(*(size + number % 7 for size in slices)) for number in range(TRIAL + 40)]
    made[0] = [nal(SPS), nal(PPS), *picture(*(3 * size + 7 for size in slices), kind=IDR)]
    pieces = list(sent(made))
    units, when = put_together(pieces)
    last = [max(n for n, p in enumerate(pieces, 1) if p[1] == stamp) for stamp in range(len(made))]
    assert [unit.data for unit in units] == [whole(units_) for units_ in made]
    assert when[:TRIAL] == [count + 1 for count in last[:TRIAL]], "believed too early"
    assert when[-30:] == last[-30:], "held back although the trial is over"
    began = [min(n for n, p in enumerate(pieces, 1) if p[1] == unit.stamp) for unit in units]
    assert [unit.began for unit in units] == began


def test_a_packet_that_is_full_by_chance_only_holds_its_picture_back():
    made = [picture(330 + number % 5) for number in range(TRIAL + 10)]
    made.append(picture(1 + 3 * (MTU - 2)))
    made += [picture(333)] * 2
    units, when = put_together(sent(made))
    assert [unit.data for unit in units] == [whole(units_) for units_ in made]
    full = TRIAL + 10
    assert when[full] == when[full - 1] + 4, "given out when the next one began"


def test_one_wrong_word_costs_one_picture_and_a_longer_trial():
    quiet = [picture(330 + number % 5) for number in range(TRIAL + 5)]
    changed = [picture(330, 210 + number % 5) for number in range(3 * TRIAL)]
    units, when = put_together(sent(quiet + changed))
    cut = [n for n, u in enumerate(units) if u.data != whole((quiet + changed)[n])]
    assert cut == spoilt == [len(quiet)]
    assert whole(changed[0]).startswith(units[len(quiet)].data)
    total = 4 * len(quiet) + 7 * len(changed)
    assert when[-1] == total - 6, "believed again too soon: the last has begun, 7 packets each"


def test_uneven_packets_are_never_foretold():
    assembler, out = Assembler("h264", pytest.fail), 0
    for number in range(4 * TRIAL):
        unit = nal(SLICE, 300, first=True)
        cut = 60 + 37 * number % 180
        for piece in (START + unit[:cut], unit[cut:]):
            for got in assembler.feed(piece, number, 0.0):
                assert got.data == START + unit
                out += 1
    assert out == 4 * TRIAL - 1


def test_filler_behind_a_picture_is_left_out_and_parameters_go_to_the_next():
    made = [picture(330 + number % 5) for number in range(TRIAL + 5)]
    pieces = list(sent(made))
    stamp = pieces[-1][1]
    pieces += [(piece, stamp) for piece in packets(nal(FILLER, 250))]
    pieces += [(START + nal(AUD), stamp), (START + nal(SPS), stamp)]
    pieces += [(piece, stamp + 1) for piece in packets(nal(IDR, 430, first=True))]
    pieces += [(piece, stamp + 2) for piece in packets(nal(SLICE, 330, first=True))]
    units, _ = put_together(pieces)
    assert units[stamp].data == whole(made[-1])
    assert units[stamp + 1].data == whole([nal(AUD), nal(SPS), nal(IDR, 430, first=True)])
    assert units[stamp + 1].stamp == stamp + 1
    assert units[stamp + 2].data == whole([nal(SLICE, 330, first=True)]), "the word was right"
    assert not spoilt


def test_pictures_with_the_same_stamp_are_told_apart_by_their_first_slice():
    made = [picture(200, 150) for _ in range(5)]
    pieces = [(piece, 0) for piece, _ in sent(made)]
    units, _ = put_together(pieces)
    assert [unit.data for unit in units] == [whole(units_) for units_ in made[:-1]]


@pytest.mark.parametrize(
    ("units", "is_key"),
    [
        ([nal(SPS), nal(PPS), *picture(300, kind=IDR)], True),
        (picture(300), False),
        ([nal(SEI), *picture(300)], False),
        # A recovery point (6) behind another message (1, of two bytes).
        ([bytes([SEI, 1, 2, 0, 0, 6, 1, 0xC4, 0x80]), *picture(300)], True),
        ([bytes([SEI, 0xFF, 6, 2, 0, 0, 0x80]), *picture(300)], False),
    ],
)
def test_key_frames(units: list[bytes], is_key: bool):
    found, _ = put_together([*sent([units]), *((p, 9) for p, _ in sent([picture(30)]))])
    assert found[0].data == whole(units)
    assert found[0].is_key is is_key


def hevc(kind: int, size: int = 20, *, first: bool = False) -> bytes:
    return bytes([kind << 1, 1, 0x80 if first else 0x20]) + b"\x55" * (size - 3)


def test_hevc():
    made = [[hevc(32), hevc(33), hevc(34), hevc(19, 90, first=True), hevc(19, 70)]]
    made += [[hevc(1, 60 + n % 9, first=True), hevc(1, 50)] for n in range(TRIAL + 10)]
    units, when = put_together(sent(made), "hevc")
    assert [unit.data for unit in units] == [whole(units_) for units_ in made]
    assert [unit.is_key for unit in units] == [True] + [False] * (TRIAL + 10)
    assert when[-1] == 5 + 2 * (TRIAL + 10), "given out with its last packet"


def test_pieces_that_never_end_are_let_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access_units, "LARGEST", 1000)
    assembler = Assembler("h264", pytest.fail)
    given_out = [unit for _ in range(50) for unit in assembler.feed(b"\x55" * 100, 7, 0.0)]
    assert [len(unit.data) for unit in given_out] == [1100] * 4


def test_a_slice_whose_beginning_was_lost_is_joined_to_what_follows():
    late = [(b"\x55" * 98, 0), (b"\x55" * 40, 0), *((p, 1) for p, _ in sent([picture(150)]))]
    units, _ = put_together([*late, *((p, 2) for p, _ in sent([picture(150)]))])
    assert units[0].data == b"\x55" * 138 + whole(picture(150))
    assert units[0].stamp == 1
