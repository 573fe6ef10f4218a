"""`maskstream` that says of each frame which number it read from its pixels.

With each frame's faces goes one more, of two pixels, whose track is that number: what the
analysis really saw, whatever time stamps say. Takes maskstream's own arguments. With NUMBERS_ONLY
in the environment no face is looked for, so that a busy machine too can look at every frame.
"""

from __future__ import annotations

import os
from dataclasses import replace

from stream_server import streams
from stream_server.cli import main
from stream_server.flow.shedding import Step
from stream_server.follow import Follower, Sight
from stream_server.frames import Face, FaceBox, Frame, Verdict
from tests.fakes import numbered_clip


class NumberReader(Follower):
    """Follows faces, and reads numbers."""

    async def look(self, frame: Frame, step: Step) -> Sight:
        """The faces, and a tiny one that carries the number."""
        alone = "NUMBERS_ONLY" in os.environ
        sight = Sight((), ()) if alone else await super().look(frame, step)
        box = FaceBox(0.0, 0.0, 2.0, 2.0, 1.0)
        number = numbered_clip.read(frame.picture.y)
        marker = Face(box, Verdict.UNCERTAIN, 1.0, (1.0, 0.0, 0.0), number)
        return replace(sight, faces=(marker, *sight.faces))


if __name__ == "__main__":
    streams.Follower = NumberReader  # type: ignore[misc]
    main()
