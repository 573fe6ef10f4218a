"""From single classifications to a steady verdict: evidence over time, weighted by quality."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import cv2

from stream_server.frames import FaceBox, Pixels, Verdict

MEMORY_SECONDS = 0.4
"""Evidence fades with this time constant."""
LEAST_KEPT = 0.25
"""So much of it is kept from one crop to the next however long that takes: at one frame a second
the second crop tells a face's verdict."""
MOST_WEIGHT = 3.0
"""More evidence than this many good crops counts no more: a true change must get through."""
FIRST_WEIGHT, FIRST_CROPS = 1.2, 6
"""A first verdict needs more than one good crop, or this many poor ones."""
AGAINST_SECONDS = 0.29
"""Crops must speak against a verdict for so long before it changes: as long as half a second to a
told change allows, less the time between two looks at a settled face."""
PASSING_SECONDS = 0.44
"""For so long before it changes to `incorrect`: every mask that is put on or taken off looks worn
wrong in passing. The flow sees it come, so that the first crop is no later than the mask."""
DOUBT_SECONDS = 1.0
"""A verdict is taken back when no label has been likely enough for so long."""
STAY_MARGIN = 0.1
"""A verdict is kept down to this much below the threshold at which it was given."""
LEAST_QUALITY = 0.1


class Evidence:
    """What is known of one face. Times are monotonic seconds that never go back."""

    def __init__(self, labels: Sequence[str], uncertain_below: float) -> None:
        self._threshold = uncertain_below
        self._verdicts = [Verdict(label) for label in labels]
        self._weight = 0.0
        self._at = 0.0
        self._against_since: float | None = None
        self._candidate: Verdict | None = None
        self._candidate_since = 0.0
        self._needed_again = 0.0
        self._doubt_since: float | None = None
        self._stood = 0.0
        self.verdict = Verdict.UNCERTAIN
        self.seen = 0
        self.probabilities = (1 / len(labels),) * len(labels)
        """The weighted means of the labels' probabilities; all equal before the first crop."""

    def add(self, probabilities: Sequence[float], quality: float, now: float) -> None:
        """One classification of a crop of this quality (0..1), taken at `now`."""
        fade = max(LEAST_KEPT, exp(-max(0.0, now - self._at) / MEMORY_SECONDS))
        weight = max(quality, LEAST_QUALITY)
        kept = min(self._weight * fade, MOST_WEIGHT - weight)
        self._weight = kept + weight
        self.probabilities = tuple(
            (mean * kept + new * weight) / self._weight
            for mean, new in zip(self.probabilities, probabilities, strict=True)
        )
        self._at = now
        self.seen += 1
        self._decide(self._likeliest(probabilities), now)
        if self._likeliest(self.probabilities) is self.verdict:
            self._stood = self.confidence

    def _likeliest(self, probabilities: Sequence[float]) -> Verdict:
        return self._verdicts[probabilities.index(max(probabilities))]

    @property
    def confidence(self) -> float:
        """Probability of the verdict's label; of the likeliest one while uncertain."""
        if self.verdict is Verdict.UNCERTAIN:
            return max(self.probabilities)
        return self.probabilities[self._verdicts.index(self.verdict)]

    @property
    def steady_confidence(self) -> float:
        """`confidence`, or the last one with which the verdict led while another label leads.

        A verdict that is about to change is still the verdict; "mask, 5 %" would say nothing.
        """
        leads = self._likeliest(self.probabilities) is self.verdict
        if leads or self.verdict is Verdict.UNCERTAIN:
            return self.confidence
        return self._stood

    @property
    def settled(self) -> bool:
        """Whether another crop would hardly tell anything new."""
        if self.verdict is Verdict.UNCERTAIN or self._against_since is not None:
            return False
        return self.confidence >= self._threshold

    def _decide(self, newest: Verdict, now: float) -> None:
        """Take the likeliest label for the verdict if that may be; `newest` is the last crop's."""
        leader = self._likeliest(self.probabilities)
        likely = max(self.probabilities) >= self._threshold
        if self.verdict is Verdict.UNCERTAIN:
            enough = self._weight >= FIRST_WEIGHT or self.seen >= FIRST_CROPS
            if self._stands_out(leader if likely and enough else None, now):
                self._settle(leader)
        elif self._spoken_against(leader, newest, now) and likely and newest is leader:
            self._settle(leader)
        else:
            self._doubt(now, self.confidence < self._threshold - STAY_MARGIN)

    def _stands_out(self, candidate: Verdict | None, now: float) -> bool:
        """Whether there is a verdict to give: at once the first time, after doubt not so soon."""
        if candidate is not self._candidate:
            self._candidate, self._candidate_since = candidate, now
        return candidate is not None and now - self._candidate_since >= self._needed_again

    def _spoken_against(self, leader: Verdict, newest: Verdict, now: float) -> bool:
        """Whether another label leads after crops spoke against the verdict for long enough."""
        if leader is newest is self.verdict:
            self._against_since = None
        elif self._against_since is None and newest is not self.verdict:
            self._against_since = now
        since = self._against_since
        needed = PASSING_SECONDS if leader is Verdict.INCORRECT else AGAINST_SECONDS
        return leader is not self.verdict and since is not None and now - since >= needed

    def _settle(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self._against_since = self._doubt_since = self._candidate = None
        self._needed_again = AGAINST_SECONDS

    def _doubt(self, now: float, doubtful: bool) -> None:
        if not doubtful:
            self._doubt_since = None
        elif self._doubt_since is None:
            self._doubt_since = now
        elif now - self._doubt_since >= DOUBT_SECONDS:
            self._settle(Verdict.UNCERTAIN)


def quality(crop: Pixels, box: FaceBox) -> float:
    """How far a crop (size, size, 3; BGR) can be trusted, 0..1: size, blur, light and pose.

    The product of four factors; each is 1 for an ordinary face of 32 px and more.
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY)
    side = max(box.x1 - box.x0, box.y1 - box.y0)
    size = _within(side / 32)
    # A small face is enlarged and always soft: that is in its size already.
    sharp = 1.0
    if side >= grey.shape[0] / 2:
        _, spread = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
        sharp = _within(float(spread[0, 0]) ** 2 / 40)
    mean = cv2.mean(grey)[0]
    light = _within(min(mean / 40, (255 - mean) / 30))
    return size * sharp * light * _frontal(box)


def _within(factor: float) -> float:
    return min(max(factor, 0.3), 1.0)


def _frontal(box: FaceBox) -> float:
    """1 for a face that looks here, down to 0.3 in profile; 1 without landmarks."""
    if len(box.landmarks) != 5:
        return 1.0
    (left, _), (right, _), (nose, _), *_ = box.landmarks
    apart = abs(right - left) / max(box.x1 - box.x0, 1e-6)
    offset = abs(nose - (left + right) / 2) / max(abs(right - left), 1e-6)
    return _within(min(1.6 - 2 * offset, apart / 0.3))
