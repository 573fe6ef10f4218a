"""Streams with privacy: blur show no face that can be known again, to any client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import httpx
import numpy as np
import numpy.typing as npt

from stream_server.annotate.overlay import INKS
from stream_server.frames import Picture, Pixels, Verdict
from tests import peers

# Of the clip's face, inside of the box's lines and below the label (px).
FACE = np.s_[190:300, 285:355]
Detail = npt.NDArray[np.float64]


def detail(bgr: Pixels) -> Detail:
    """What is fine in the face: the picture less its blurred self."""
    grey = cv2.cvtColor(bgr[FACE], cv2.COLOR_BGR2GRAY).astype(np.float64)
    return grey - cv2.GaussianBlur(grey, (0, 0), 3)


def likeness(a: Detail, b: Detail) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def parts(url: str, count: int) -> Iterator[Pixels]:
    """The first pictures of a motion JPEG."""
    held = b""
    with httpx.stream("GET", url, timeout=20) as answer:
        for chunk in answer.iter_bytes():
            held += chunk
            while (end := held.find(b"\xff\xd9")) >= 0:
                jpeg, held = held[held.index(b"\xff\xd8") : end + 2], held[end + 2 :]
                yield cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
                count -= 1
                if not count:
                    return


def test_a_face_in_a_private_stream_cannot_be_known_again(
    server: Callable[..., peers.Service], face_clip: Path
) -> None:
    with av.open(str(face_clip)) as clip:
        originals = [detail(f.to_ndarray(format="bgr24")) for f in clip.decode(video=0)]

    def best(picture: Pixels) -> float:
        seen = detail(picture)
        return max(likeness(seen, original) for original in originals)

    url = face_clip.as_uri()
    service = server(
        *("--source", f"open={url}"),
        env={
            "MASKSTREAM__SOURCES__WARD": f"{{url: '{url}', privacy: blur}}",
            "MASKSTREAM__CLASSIFIER__PRECISION": "fp32",
            "MASKSTREAM__DETECTOR__PRECISION": "fp32",
        },
    )
    peers.wait_until(lambda: service.get("/api/streams/open")["faces"], 40, "a face")
    bare = [best(picture) for picture in parts(f"{service.url}/streams/open.mjpg", 5)]
    assert min(bare) > 0.9, "the measure does not know a face that is shown"
    assert service.ask("DELETE", "/api/streams/open") == 204
    hidden = list(parts(f"{service.url}/streams/ward.mjpg", 20))
    assert max(best(picture) for picture in hidden) < 0.35
    fine = np.abs(np.array([detail(picture) for picture in hidden])).mean()
    assert fine < 0.5 * np.abs(np.array(originals)).mean()
    ink = INKS[Verdict.WITHOUT_MASK]
    for picture in hidden[-5:]:
        planes = Picture.from_bgr(picture)
        red = (cv2.absdiff(planes.u, ink.u) < 15) & (cv2.absdiff(planes.v, ink.v) < 15)
        assert red.sum() > 100, "no box is drawn"
    status = service.get("/api/streams/ward")
    assert not status["source_view"]["available"]
    assert status["decoder"] == {"device": "cpu", "reason": "hwaccel is none"}
