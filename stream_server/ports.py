"""What the pipeline asks of its parts. Each port has one contract suite in tests/contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stream_server.frames import AnyPicture, CameraPacket, FaceBox, Picture, Pixels


class PictureSink(Protocol):
    """Where a source puts its pictures; callable from any thread, never blocks, newest wins."""

    def __call__(
        self,
        picture: AnyPicture,
        *,
        captured: float,
        media_time: float | None = None,
    ) -> None:
        """`captured`: monotonic seconds when the encoded frame had arrived; times in seconds.

        A function makes the picture: it is called before this returns, and only for a picture
        that will be looked at, since bringing a decoded frame into our form is not cheap.
        """


class PacketSink(Protocol):
    """Where a source puts its camera's own packets; callable from any thread, never blocks."""

    def offer(self, packet: CameraPacket) -> None:
        """The next packet, before its picture is decoded."""

    def refuse(self, reason: str) -> None:
        """None will come: `reason` names the culprit and the mend."""


class FrameSource(Protocol):
    """A camera, a file or a peer. Runs once; the hub builds a new one for each try."""

    async def run(self, sink: PictureSink) -> None:
        """Deliver pictures until the source is over.

        Returns when a finite source is played to its end. Raises a SourceError when it cannot go
        on. Cancelling ends it within a second, whatever the camera does.
        """


class FaceDetector(Protocol):
    """Finds faces. Blocking and thread-safe."""

    @property
    def name(self) -> str: ...

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """Faces in pixel coordinates of `picture`, best score first.

        A `scale` below 1 makes the detector look at it that much smaller: faster, and blind to
        the smallest faces.
        """


class FaceClassifier(Protocol):
    """Tells masks. Blocking; called from one thread at a time."""

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def input_size(self) -> int: ...

    def classify(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Calibrated probabilities (n, labels) for BGR uint8 crops (n, size, size, 3)."""
