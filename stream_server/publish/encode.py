"""Video encoders for live viewing: no B-frames, no look-ahead, key frames on demand."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import structlog
from av.error import FFmpegError
from av.video.frame import PictureType
from av.video.stream import VideoStream

from stream_server.frames import Picture

log = structlog.get_logger(__name__)

Codec = Literal["h264", "vp8"]
H264 = Literal["libx264", "h264_nvenc"]

CLOCK = 90_000
TIME_BASE = Fraction(1, CLOCK)
NOMINAL_RATE = 30


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How the annotated stream is encoded.

    `bitrate` is the limit in bits per second for pictures of 1280x720 and more; smaller ones get
    their share of it. `crf` is the quality below that, on x264's scale. `keyframe_seconds` is the
    longest time between key frames when nobody asks for one. `h264` is FFmpeg's name of the encoder
    for H.264; VP8 is always encoded by the CPU.
    """

    crf: int = 26
    bitrate: int = 2_500_000
    keyframe_seconds: float = 2.0
    h264: H264 = "libx264"

    def bitrate_for(self, width: int, height: int) -> int:
        """Bits per second for a picture size, at least a tenth of the limit."""
        share = min(1.0, max(0.1, width * height / (1280 * 720)))
        return int(self.bitrate * share)


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """One encoded frame, the same object for every viewer. Annex-B for H.264."""

    packet: av.Packet[VideoStream]
    keyframe: bool
    captured: float

    @property
    def rtp_time(self) -> int:
        """Ticks of 1/90000 s; RTP adds an origin of its own for each viewer."""
        assert self.packet.pts is not None
        return self.packet.pts


def framed(data: bytes, rtp_time: int, keyframe: bool, captured: float) -> EncodedFrame:
    """A frame from its bytes, which somebody else encoded."""
    packet = cast("av.Packet[VideoStream]", av.Packet(data))
    packet.pts = packet.dts = rtp_time
    packet.time_base = TIME_BASE
    return EncodedFrame(packet, keyframe, captured)


class VideoEncoder:
    """Encodes pictures of any size; a change of size starts a new sequence. Not thread-safe."""

    def __init__(self, codec: Codec, options: EncodeOptions) -> None:
        self._codec: Codec = codec
        self._options = options
        self._context: av.VideoCodecContext | None = None
        self._last_pts = -1

    def encode(self, picture: Picture, captured: float, *, keyframe: bool) -> list[EncodedFrame]:
        """`captured` (monotonic seconds) becomes the presentation time stamp."""
        context = self._context
        if context is None or (context.width, context.height) != (picture.width, picture.height):
            context = self._context = self._open(picture.width, picture.height)
            keyframe = True
        frame = av.VideoFrame.from_ndarray(picture.i420, format="yuv420p")
        self._last_pts = max(self._last_pts + 1, int(captured * CLOCK))
        frame.pts = self._last_pts
        frame.time_base = TIME_BASE
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        return [
            EncodedFrame(packet, packet.is_keyframe, captured) for packet in context.encode(frame)
        ]

    def _open(self, width: int, height: int) -> av.VideoCodecContext:
        if self._codec == "vp8":
            return open_encoder("libvpx", self._options, width, height)
        try:
            return open_encoder(self._options.h264, self._options, width, height)
        except FFmpegError as error:
            if self._options.h264 == "libx264":
                raise
            # A GPU takes so many pictures at once, and none that are very small.
            log.warning("encoder_fell_back", encoder=self._options.h264, error=error.strerror)
            return open_encoder("libx264", self._options, width, height)


def open_encoder(
    name: str, options: EncodeOptions, width: int, height: int
) -> av.VideoCodecContext:
    """An encoder by FFmpeg's name, ready. Raises FFmpegError where it cannot be had."""
    context = av.CodecContext.create(name, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = width, height
    context.pix_fmt = "yuv420p"
    context.time_base = TIME_BASE
    context.framerate = Fraction(NOMINAL_RATE)
    context.thread_count = 1
    context.gop_size = max(1, round(options.keyframe_seconds * NOMINAL_RATE))
    context.max_b_frames = 0
    bitrate = options.bitrate_for(width, height)
    limits = {"maxrate": str(bitrate), "bufsize": str(bitrate), "forced-idr": "1"}
    if name == "libx264":
        context.profile = "Constrained Baseline"
        speed = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(options.crf)}
        context.options = limits | speed
    elif name == "h264_nvenc":
        speed = {"preset": "p2", "tune": "ull", "zerolatency": "1", "delay": "0"}
        quality = {"rc": "vbr", "cq": str(options.crf), "profile": "baseline"}
        context.options = limits | speed | quality
    else:
        context.bit_rate = bitrate
        context.options = {
            "deadline": "realtime",
            "cpu-used": "8",
            "lag-in-frames": "0",
            "error-resilient": "default",
        }
    context.open()
    return context


def choose_h264(wish: Literal["auto", "cpu", "nvenc"]) -> tuple[H264, str]:
    """FFmpeg's name of the H.264 encoder to be used, and why. Blocking: it encodes a picture.

    Raises FFmpegError when the GPU is asked for and does not encode.
    """
    if wish == "cpu":
        return "libx264", "publish.encoder is cpu"
    try:
        trial = open_encoder("h264_nvenc", EncodeOptions(), 640, 360)
        black = av.VideoFrame(640, 360, "yuv420p")
        black.pts = 0
        if not [*trial.encode(black), *trial.encode(None)]:
            raise av.error.ExternalError(0, "it gave no picture")
    except FFmpegError as error:
        if wish == "nvenc":
            raise
        return "libx264", f"NVENC is not usable ({error.strerror})"
    return "h264_nvenc", "NVENC encodes here"
