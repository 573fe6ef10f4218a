"""One line of JSON: the faces of a picture, or of a frame of a video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from stream_server.frames import Face
from stream_server.web.models import FaceOut


@dataclass(frozen=True, slots=True)
class Record:
    """`frame` and `time` (seconds from the video's start) are None for a picture.

    Boxes are in pixels of the upright picture of `width` x `height`.
    """

    file: str
    width: int
    height: int
    faces: Sequence[Face]
    frame: int | None = None
    time: float | None = None

    def json_line(self) -> str:
        """The record as one line, the faces in the form that the API uses."""
        table: dict[str, object] = {"file": self.file}
        if self.frame is not None:
            table |= {"frame": self.frame, "time": self.time}
        table |= {"width": self.width, "height": self.height}
        table["faces"] = [FaceOut.from_face(face).model_dump(mode="json") for face in self.faces]
        return json.dumps(table, ensure_ascii=False, allow_nan=False)
