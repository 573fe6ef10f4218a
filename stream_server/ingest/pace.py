"""Time and load of a source, pure: a media clock that no time stamp can break, and what to skip."""

from __future__ import annotations

# A step of the time stamps that differs from the time that passed by more is a jump, not a pause.
JUMP_SECONDS = 5.0
# A read that took this long, or this share of the time between two pictures, had to wait: nothing
# more had arrived. Shorter ones may be the interpreter lock changing hands.
WAITED_SECONDS, WAITED_SHARE = 0.025, 0.75
# Seconds a second by which the clocks of camera and service may drift apart, and then some.
DRIFT = 0.001


class Timeline:
    """Turns time stamps that stall, jump or run backwards into media time that only advances."""

    def __init__(self) -> None:
        self._stamp: float | None = None
        self._media: float | None = None

    def place(self, stamp: float | None, elapsed: float) -> float:
        """Media time (s) of the next picture.

        `stamp`: its time stamp (s), None if it has none. `elapsed`: the time (s) that has
        probably passed since the picture before, used where the stamp can't be believed.
        """
        last, self._stamp = self._stamp, stamp if stamp is not None else self._stamp
        if self._media is None:
            self._media = stamp if stamp is not None else 0.0
            return self._media
        step = None if stamp is None or last is None else stamp - last
        if step is None or step <= 0 or abs(step - elapsed) > JUMP_SECONDS:
            step = max(elapsed, 0.0)
        self._media += step
        return self._media


class Backlog:
    """How far a live reader is behind what has arrived already."""

    def __init__(self) -> None:
        self._floor: float | None = None  # arrival less time stamp of what was read in time
        self._stamp = self._arrived = self._lag = 0.0

    def lag(self, stamp: float | None, arrived: float, waited: float) -> float:
        """Seconds behind, for a picture whose reading began at `arrived` (monotonic) after reads
        that took up to `waited` seconds.

        What had to be waited for came late by itself, by no more than the wait: a slow network is
        no reason to skip, only a full queue is. A picture that is shown before one that came
        earlier is as far behind as that one.
        """
        if stamp is None:
            return 0.0
        step, passed = stamp - self._stamp, arrived - self._arrived
        if self._floor is None or abs(step - passed) > JUMP_SECONDS:
            self._floor = arrived - stamp
        elif step <= 0:
            return self._lag
        else:
            late = waited if waited > min(WAITED_SECONDS, WAITED_SHARE * step) else 0.0
            self._floor = min(self._floor + DRIFT * passed + late, arrived - stamp)
        self._stamp, self._arrived = stamp, arrived
        self._lag = arrived - stamp - self._floor
        return self._lag


class CatchUp:
    """Decides which packets a decoder that has fallen behind leaves out. Times in seconds."""

    def __init__(self, *, soft: float = 0.3, hard: float = 1.5, patience: float = 10.0) -> None:
        self._soft = soft
        self._hard = hard
        self._patience = patience
        self._waiting_since: float | None = None
        self.skip_unreferenced = False

    def admit(self, *, lag: float, is_key: bool, now: float) -> bool:
        """Whether to decode this packet.

        From `hard` on only key frames are, until one comes less than `soft` late: leaving out a
        picture that others refer to would smear all of them. After `patience` without one it goes
        on anyway. Sets `skip_unreferenced` from `soft` on.
        """
        self.skip_unreferenced = lag >= (self._soft / 3 if self.skip_unreferenced else self._soft)
        if self._waiting_since is None:
            if lag < self._hard or is_key:
                return True
            self._waiting_since = now
        caught_up = is_key and lag < self._soft
        if caught_up or now - self._waiting_since >= self._patience:
            self._waiting_since = None
            return True
        return is_key
