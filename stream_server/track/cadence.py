"""How often to look: detection where something may have changed, inference where it informs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_server.track.tracker import Track

EMPTY_SECONDS = 0.25
"""Between detections of a scene without faces in which nothing moves."""
MOVING_SECONDS = 0.1
"""Where something moves, or a face was missed: a face that comes is found this soon."""
STEADY_SECONDS = 0.2
"""Faces that stay are carried by optical flow and put right this often."""
NEW_SECONDS = 0.04
"""A face seen once is looked for again at once."""
MOVING_CHANGE = 0.004
"""Share of a scene that differs from the frame before when somebody moves."""
RECHECK_SECONDS = 0.19
"""Between classifications of a face whose verdict stands: with `evidence.AGAINST_SECONDS`, half a
second until a change is told. A little under 0.2, so that 10 frames/s meet it."""
LONGEST_SECONDS = 2.0
"""Whatever the load, faces are looked for this often: below `tracker.KEPT_SECONDS`."""
SAME_SHARE = 0.85
"""A face looks like before if this share of its points could be followed; else it is classified
at once: a hand or a mask has come before it, or gone."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What load allows: factors on the times between detections and between classifications."""

    detect: float = 1.0
    recheck: float = 1.0


def detection_due(
    tracks: Sequence[Track],
    since: float,
    change: float,
    lost: bool,
    effort: Effort,
    least: float = 0.0,
    every: float = 0.0,
) -> bool:
    """Whether to detect now, `since` seconds after the last time.

    `change` is the share of the scene that moves, `lost` whether a box could not be carried;
    `least` are the seconds between two detections that the other streams leave room for, `every`
    those between two frames: what is not done now has to wait for so long.
    """
    if any(not track.confirmed for track in tracks):
        wanted = NEW_SECONDS
    elif lost or any(not track.in_sight for track in tracks):
        wanted = MOVING_SECONDS
    elif tracks:
        wanted = STEADY_SECONDS
    else:
        wanted = MOVING_SECONDS if change >= MOVING_CHANGE else EMPTY_SECONDS
    longest = LONGEST_SECONDS - min(every, LONGEST_SECONDS / 2)
    return since >= min(max(wanted, least) * effort.detect, longest)


def classification_due(settled: bool, followed: float, since: float, effort: Effort) -> bool:
    """Whether to classify a face now, `since` seconds after its last crop.

    `followed` is the share (0..1) of its points that look as in the frame before.
    """
    return not settled or followed < SAME_SHARE or since >= RECHECK_SECONDS * effort.recheck
