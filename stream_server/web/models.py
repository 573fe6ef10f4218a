"""The wire: what JSON goes in and out. Nothing behind the routes sees these types."""

from __future__ import annotations

import difflib
import time
from datetime import datetime
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from models import LABELS
from stream_server.errors import InvalidStreamName
from stream_server.frames import (
    STREAM_NAME,
    Analysis,
    Face,
    FaceEvent,
    Privacy,
    check_stream_name,
)
from stream_server.streams import StreamStatus
from stream_server.web.problems import shown

MAX_URL = 2048


def _checked_name(name: str) -> str:
    try:
        return check_stream_name(name)
    except InvalidStreamName as error:
        raise ValueError(str(error)) from error


NAME_SCHEMA: dict[str, Any] = {
    "pattern": f"^{STREAM_NAME.pattern}$",
    "minLength": 1,
    "maxLength": 63,
}
StreamName = Annotated[
    str, AfterValidator(_checked_name), Field(json_schema_extra=NAME_SCHEMA, examples=["lobby"])
]


def _rounded(digits: int) -> PlainSerializer:
    return PlainSerializer(lambda value: round(value, digits), return_type=float, when_used="json")


# JSON has neither NaN nor infinity: they are refused here rather than sent.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Pixels = Annotated[Finite, _rounded(2)]
Share = Annotated[Finite, Field(ge=0, le=1), _rounded(4)]
Rate = Annotated[Finite, Field(ge=0), _rounded(2)]
Seconds = Annotated[Finite, Field(ge=0), _rounded(3)]
Milliseconds = Annotated[Finite, Field(ge=0), _rounded(2)]
Label = Literal["with_mask", "without_mask", "incorrect", "uncertain"]


class In(BaseModel):
    """What comes in is closed: a field nobody knows is a mistake, and its twin is named."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = list(cls.model_fields)
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(str(name)[:40], known, n=1)
                mend = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise PydanticCustomError(
                    "unknown_field",
                    "the body has an unknown field '{name}': {mend}",
                    {"name": shown(str(name)), "mend": mend},
                )
        return value


class StreamIn(In):
    """A stream to add."""

    name: StreamName
    url: str = Field(
        min_length=1,
        max_length=MAX_URL,
        description="Where the pictures come from: rtsp://user:password@host:554/path, demo:, or "
        "webrtc: to keep a name for a publisher. /api/info lists those taken besides webrtc:.",
        examples=["rtsp://camera.example:554/stream1"],
        json_schema_extra={"format": "source-url"},
    )
    privacy: Privacy = Field(
        "none", description="blur: no picture that leaves the service shows a face that was found."
    )


class Probabilities(BaseModel):
    """Calibrated; they sum to 1."""

    with_mask: Share
    without_mask: Share
    incorrect: Share


class FaceOut(BaseModel):
    """A face and what is said of it. Pixels are those of the picture it was found in."""

    box: Annotated[
        tuple[Pixels, Pixels, Pixels, Pixels], Field(description="x, y, width, height in pixels")
    ]
    label: Label
    confidence: Share = Field(description="The likeliest label's probability.")
    probabilities: Probabilities
    detection: Finite = Field(description="The detector's score.")
    landmarks: list[tuple[Pixels, Pixels]] = Field(
        description="Eyes, nose tip and mouth corners as x, y; empty if the detector gives none."
    )
    track: int | None

    @classmethod
    def from_face(cls, face: Face) -> Self:
        """The wire's form of `face`; the corners become x, y, width, height."""
        box = face.box
        return cls(
            box=(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0),
            label=face.verdict.value,
            confidence=_share(face.confidence),
            probabilities=Probabilities(
                **dict(zip(LABELS, map(_share, face.probabilities), strict=True))
            ),
            detection=box.score,
            landmarks=list(box.landmarks),
            track=face.track,
        )


def _share(value: float) -> float:
    """Rounding in float32 may leave a probability a hair outside of 0..1."""
    return min(1.0, max(0.0, float(value)))


class FrameResult(BaseModel):
    """The faces of one frame: an event of /api/streams/{name}/events, a message to a viewer."""

    stream: str
    frame: int = Field(description="Counts the frames that came from the source.")
    time: Finite = Field(description="Unix seconds of its arrival, by the server's clock.")
    media_time: Finite | None = Field(description="The source's own clock in seconds.")
    width: int
    height: int
    latency_ms: Milliseconds = Field(description="From the frame's arrival to this result.")
    faces: list[FaceOut]

    @classmethod
    def from_analysis(cls, analysis: Analysis, now: float | None = None) -> Self:
        """The wire's form of `analysis`, told at `now` (time.monotonic(), the default)."""
        frame = analysis.frame
        at = time.monotonic() if now is None else now
        return cls(
            stream=frame.stream,
            frame=frame.number,
            time=frame.wall,
            media_time=frame.media_time,
            width=frame.picture.width,
            height=frame.picture.height,
            latency_ms=max(0.0, at - frame.captured) * 1e3,
            faces=[FaceOut.from_face(face) for face in analysis.faces],
        )


class FaceEventOut(BaseModel):
    """Something that happened once to a face: an event of /api/streams/{name}/events."""

    kind: Literal["face_appeared", "verdict_changed", "face_left"]
    stream: str
    track: int = Field(description="The face's id; never used again while the stream runs.")
    time: Finite = Field(description="Unix seconds of the frame that showed it.")
    verdict: Label = Field(description="What is said from now on; the last word when it left.")
    previous: Label | None = Field(description="What was said before a change.")
    confidence: Share
    seconds: Seconds = Field(description="How long the face has been there.")
    counted: Label = Field(description="The verdict that stood longest: the person's in counts.")

    @classmethod
    def from_event(cls, event: FaceEvent) -> Self:
        """The wire's form of `event`."""
        return cls(
            kind=event.kind.value,
            stream=event.stream,
            track=event.track,
            time=event.wall,
            verdict=event.verdict.value,
            previous=None if event.previous is None else event.previous.value,
            confidence=_share(event.confidence),
            seconds=max(0.0, event.seconds),
            counted=event.counted.value,
        )


class Latency(BaseModel):
    """Percentiles of the last frames, in milliseconds."""

    p50: Milliseconds
    p95: Milliseconds
    p99: Milliseconds


Shed = Literal["nothing", "detect_less", "smaller_input", "recheck_less", "fewer_frames"]


class SourceView(BaseModel):
    """Whether the camera's own video can be watched: POST /whep/{name}?view=source."""

    available: bool
    reason: str | None = Field(description="Why not, and how to mend it.")


class DecoderOut(BaseModel):
    """Where the video is decoded, and why there."""

    model_config = ConfigDict(from_attributes=True)

    device: str = Field(description="cpu, or FFmpeg's name of the device.", examples=["cpu"])
    reason: str


class StreamStatusOut(BaseModel):
    """What an operator sees of a stream."""

    name: str
    kind: Literal["webrtc", "rtsp", "file", "demo"]
    source: str = Field(description="The URL, without its user name and password.")
    privacy: Privacy = Field(description="What viewers see of faces: all, or a mosaic.")
    state: Literal["connecting", "live", "stale", "retrying", "ended", "waiting"]
    detail: str | None = Field(description="Why it is not live.")
    stale: bool = Field(description="The picture stands still, whatever the state.")
    retry_in_seconds: Seconds | None
    width: int = Field(description="Pixels; 0 until the first picture.")
    height: int = Field(description="Pixels; 0 until the first picture.")
    input_fps: Rate
    analysed_fps: Rate
    detected_fps: Rate = Field(description="Frames that went through the face detector.")
    published_fps: Rate
    frames_in: int
    frames_dropped: dict[str, int] = Field(
        description="Frames left out, by stage/reason.", examples=[{"analyse/superseded": 12}]
    )
    viewers: int
    source_view: SourceView
    decoder: DecoderOut | None = Field(
        description="Null until a camera or file is opened, and for publishers and the demo."
    )
    reconnects: int
    restarts: int
    last_frame_age_seconds: Seconds | None
    capture_to_result_ms: Latency | None
    latency_budget_ms: Milliseconds = Field(description="Promised from arrival to verdicts.")
    budget_misses: int = Field(description="Frames whose verdicts came later.")
    shedding: Literal["nothing", "detect_less", "smaller_input", "recheck_less", "fewer_frames"] = (
        Field(description="What is left out at present to keep the budget, with all before it.")
    )
    faces: list[FaceOut] = Field(description="Those of the last analysed frame.")
    created_at: datetime

    @classmethod
    def from_status(cls, status: StreamStatus) -> Self:
        """The wire's form of `status`."""
        return cls(
            name=status.name,
            kind=status.kind,
            source=status.source,
            privacy=status.privacy,
            state=status.state,
            detail=status.detail,
            stale=status.stale,
            retry_in_seconds=status.retry_in_seconds,
            width=status.width,
            height=status.height,
            input_fps=status.input_fps,
            analysed_fps=status.analysed_fps,
            detected_fps=status.detected_fps,
            published_fps=status.published_fps,
            frames_in=status.frames_in,
            frames_dropped=status.frames_dropped,
            viewers=status.viewers,
            source_view=SourceView(
                available=status.source_view_refusal is None, reason=status.source_view_refusal
            ),
            decoder=None if status.decoder is None else DecoderOut.model_validate(status.decoder),
            reconnects=status.reconnects,
            restarts=status.restarts,
            last_frame_age_seconds=status.last_frame_age_seconds,
            capture_to_result_ms=_latency(status),
            latency_budget_ms=status.latency_budget_ms,
            budget_misses=status.budget_misses,
            shedding=cast("Shed", status.shedding.name.lower()),
            faces=[FaceOut.from_face(face) for face in status.faces],
            created_at=status.created_at,
        )


def _latency(status: StreamStatus) -> Latency | None:
    p50, p95, p99 = (
        status.capture_to_result_p50_ms,
        status.capture_to_result_p95_ms,
        status.capture_to_result_p99_ms,
    )
    if p50 is None or p95 is None or p99 is None:
        return None
    return Latency(p50=p50, p95=p95, p99=p99)


class StreamList(BaseModel):
    """All streams, oldest first."""

    streams: list[StreamStatusOut]


class ModelOut(BaseModel):
    """The classifier's weights, from their card."""

    name: str
    labels: list[str]
    input_size: int
    uncertain_below: Finite


class RuntimeOut(BaseModel):
    """Where the classifier runs, and why there."""

    name: str
    device: str
    precision: str
    reason: str


class DetectorOut(BaseModel):
    """What finds the faces, and why this one."""

    name: str
    reason: str


class IceServerOut(BaseModel):
    """A STUN or TURN server for the browser; the credential is meant for it."""

    urls: list[str]
    username: str | None = None
    credential: str | None = None


class LimitsOut(BaseModel):
    """What the service refuses to go beyond."""

    max_streams: int
    max_viewers_per_stream: int
    max_upload_bytes: int
    max_upload_pixels: int


class InfoOut(BaseModel):
    """What is running."""

    name: Literal["maskstream"] = "maskstream"
    version: str
    uptime_seconds: Seconds
    model: ModelOut
    runtime: RuntimeOut
    detector: DetectorOut
    ice_servers: list[IceServerOut]
    limits: LimitsOut
    source_schemes: list[str] = Field(description="What POST /api/streams takes, besides webrtc.")


class PredictionOut(BaseModel):
    """The faces of one uploaded picture."""

    width: int
    height: int
    faces: list[FaceOut]
    model: ModelOut


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """The model is loaded and the hub runs."""

    status: Literal["ready"] = "ready"


class NotReady(BaseModel):
    """Requests would be refused."""

    status: Literal["not ready"] = "not ready"
    reason: str
