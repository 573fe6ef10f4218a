"""A window with what is being looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import cv2

from stream_server.annotate import draw
from stream_server.errors import SettingsError
from stream_server.frames import Face, Picture

TITLE = "maskstream"
ROOM = (1280, 720)
"""Most pixels of a window at its start; it can be drawn larger."""
ENDING_KEYS = (ord("q"), 27)
_TRY = "import cv2; cv2.namedWindow('maskstream'); cv2.waitKey(1)"
_TRY_SECONDS = 20.0
_TICK_MS = 30


class Stop:
    """Whether somebody asked for the end: what is done until then is kept."""

    def __init__(self) -> None:
        self.wanted = False

    def ask(self) -> None:
        """End after the picture or frame at hand."""
        self.wanted = True


class Window:
    """Shows annotated pictures; q, Esc or closing it sets `stop`. All calls from one thread.

    Raises SettingsError when no window can be opened here.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        # Without a display OpenCV does not raise, it aborts the process: a child tries it first.
        words = [sys.executable, "-c", _TRY]
        try:
            opened = not subprocess.run(
                words, capture_output=True, timeout=_TRY_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            opened = False
        if not opened:
            raise SettingsError(
                "--show: no window can be opened here (no display, or OpenCV without windows); "
                "leave --show out and look at the files in --out"
            )
        # The wheel's Qt complains that it brings no fonts; nothing is written with them.
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        self._size = (0, 0)
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        cv2.destroyAllWindows()

    def __call__(self, picture: Picture, faces: Sequence[Face], *, still: bool) -> None:
        """Show `picture`; a still one until a key is pressed."""
        if (picture.width, picture.height) != self._size:
            self._size = (picture.width, picture.height)
            scale = min(1.0, *(room / side for room, side in zip(ROOM, self._size, strict=True)))
            cv2.resizeWindow(TITLE, *(round(scale * side) for side in self._size))
        cv2.imshow(TITLE, draw(picture, faces).bgr())
        key = cv2.waitKey(1)
        while key < 0 and still and self._open():
            key = cv2.waitKey(_TICK_MS)
        if key & 0xFF in ENDING_KEYS or not self._open():
            self._stop.ask()

    def _open(self) -> bool:
        return cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1


def nothing_shown(picture: Picture, faces: Sequence[Face], *, still: bool) -> None:
    """There is no window."""
