"""What an operator can set: names, defaults, bounds. Each description is shown to the operator."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from stream_server.errors import InvalidStreamName
from stream_server.frames import Privacy, check_stream_name

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Scheme = Literal["rtsp", "rtsps", "file", "demo"]
# A webrtc: stream is there from the start and waits for its publisher.
SCHEMES: tuple[str, ...] = (*get_args(Scheme), "webrtc")


class Section(BaseModel):
    """Frozen, and closed: a key that is not here is a mistake."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True
    )


def _expand_home(value: object) -> object:
    if isinstance(value, str):
        if not value:
            raise ValueError("the path is empty")
        return Path(value).expanduser()
    return value


OwnPath = Annotated[Path, BeforeValidator(_expand_home)]


class Server(Section):
    """Where the page, the API and the WebRTC signalling are served."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all"
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 picks a free one")
    tls_cert: OwnPath | None = Field(
        default=None, description="PEM certificate chain; needs tls_key too"
    )
    tls_key: OwnPath | None = Field(
        default=None, description="PEM private key without a passphrase"
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description='pages of other origins that may call the API, e.g. ["https://a.example"]',
    )
    root_path: str = Field(
        default="", description='path in front of all URLs behind a proxy, e.g. "/cams"'
    )
    shutdown_seconds: float = Field(
        default=4, gt=0, le=60, description="how long a stop may take before it is forced"
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#@\s]+", origin):
                raise ValueError(
                    f"{origin!r} is not an origin; write it like https://a.example, without a path"
                )
        return origins

    @field_validator("root_path")
    @classmethod
    def _root(cls, path: str) -> str:
        if path and not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", path):
            raise ValueError(f'{path!r} is not a path like "/cams" (no slash at the end)')
        return path

    @model_validator(mode="after")
    def _tls_pair(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_cert"
            raise ValueError(f"tls_cert and tls_key belong together; {missing} is missing")
        if self.tls_cert is not None and self.tls_key is not None:
            _check_certificate(self.tls_cert, self.tls_key)
        return self


def _check_certificate(cert: Path, key: Path) -> None:
    for path in (cert, key):
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty passphrase makes an encrypted key fail instead of asking on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "not readable"
        raise ValueError(
            f"{cert.name} and {key.name} are not a PEM certificate and its key ({reason})"
        ) from error


class Log(Section):
    """What is logged to standard error, and how."""

    format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="auto: for people on a terminal, one JSON object a line elsewhere",
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug, info, warning or error"
    )


Budget = Annotated[float, Field(ge=20, le=10_000)]


class Source(Section):
    """One camera or file."""

    url: str = Field(
        repr=False, description="rtsp://, rtsps://, file://, demo: or webrtc:; or a file's path"
    )
    transport: Literal["auto", "tcp", "udp"] = Field(
        default="auto", description="RTSP media over tcp or udp; auto tries tcp, then udp"
    )
    open_timeout: Seconds = Field(default=5, description="seconds to connect")
    read_timeout: Seconds = Field(
        default=5, description="seconds of silence before it is reconnected"
    )
    loop: bool = Field(default=True, description="play a file again when it is over")
    decode: Literal["all", "reference", "key"] = Field(
        default="reference",
        description="while nobody watches: all frames, those that others refer to, or key frames "
        "alone (which must come more often than stale_seconds)",
    )
    hwaccel: Literal["none", "auto"] = Field(
        default="none", description="auto decodes on a GPU where FFmpeg can, else on the CPU"
    )
    privacy: Privacy = Field(
        default="none",
        description="blur: no picture that leaves the service shows a face that was found",
    )
    latency_budget_ms: Budget | None = Field(
        default=None, description="of this stream alone; analysis.latency_budget_ms if null"
    )

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        return check_source_url(url)


def check_source_url(url: str) -> str:
    """The URL of a camera, a file or the demo; a plain path becomes a file:// URL.

    Raises ValueError whose text does not repeat the URL, which may hold a password.
    """
    if not url or not url.isprintable():
        raise ValueError("the URL is empty or holds control characters")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    if scheme is None:
        return Path(url).expanduser().absolute().as_uri()
    if scheme[1].lower() not in SCHEMES:
        raise ValueError(f"scheme {scheme[1]!r} cannot be read; use one of {', '.join(SCHEMES)}")
    if " " in url:
        raise ValueError("the URL holds a blank; write it as %20")
    if scheme[1].lower() in ("demo", "webrtc") and scheme.end() != len(url):
        raise ValueError(f"nothing goes behind the colon of {scheme[0]}")
    if scheme[1].lower() in ("rtsp", "rtsps"):
        try:
            parts = urlsplit(url)
            host, _port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(
                "host or port of the URL cannot be read; write rtsp://HOST:554/PATH and "
                "percent-encode special characters of user and password"
            ) from error
        if not host:
            raise ValueError("the URL names no host; write rtsp://HOST:554/PATH")
    return url


def _source_table(value: object) -> object:
    if value is None:
        raise ValueError("a URL is missing")
    return {"url": value} if isinstance(value, str) else value


def _stream_name(name: object) -> str:
    try:
        return check_stream_name(str(name))
    except InvalidStreamName as error:
        raise ValueError(str(error)) from error


class Api(Section):
    """What strangers may ask of the API."""

    source_schemes: tuple[Scheme, ...] = Field(
        default=("rtsp", "rtsps", "demo"),
        description="kinds of sources that POST /api/streams may add; file needs media_dir",
    )
    media_dir: OwnPath | None = Field(
        default=None, description="the only folder whose files POST /api/streams may add"
    )
    max_upload_mb: float = Field(
        default=16, gt=0, le=1024, description="largest body of POST /api/predict"
    )
    max_upload_pixels: int = Field(
        default=40_000_000, ge=256, le=1 << 29, description="largest picture that is decoded"
    )

    @model_validator(mode="after")
    def _files_need_a_folder(self) -> Self:
        if "file" in self.source_schemes and self.media_dir is None:
            raise ValueError("source_schemes holds file, so media_dir must name the folder")
        if self.media_dir is not None and not self.media_dir.is_dir():
            raise ValueError(f"media_dir: there is no folder {self.media_dir}")
        return self

    @property
    def max_upload_bytes(self) -> int:
        return int(self.max_upload_mb * (1 << 20))


class Limits(Section):
    """Bounds that keep one machine answering."""

    max_streams: int = Field(default=32, ge=1, le=1000, description="streams at once")
    max_viewers_per_stream: int = Field(
        default=50, ge=1, le=10_000, description="viewers of one stream"
    )
    max_side: int = Field(
        default=1920, ge=64, le=7680, description="pictures with a longer side are scaled down (px)"
    )


class Retry(Section):
    """How a lost camera is called again: exponential backoff with jitter, without end."""

    initial_seconds: Seconds = Field(default=0.5, description="wait before the second try")
    max_seconds: Seconds = Field(default=5, description="longest wait between two tries")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_seconds < self.initial_seconds:
            raise ValueError("max_seconds must not be less than initial_seconds")
        return self


class IceServer(Section):
    """A STUN or TURN server."""

    urls: Annotated[
        tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)
    ] = Field(min_length=1, description='e.g. ["turn:turn.example:3478?transport=udp"]')
    username: str | None = Field(default=None, description="for TURN")
    credential: SecretStr | None = Field(default=None, description="for TURN")

    @field_validator("urls")
    @classmethod
    def _ice_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not re.fullmatch(r"(?:stun|stuns|turn|turns):[^\s/@]+", url):
                raise ValueError(
                    "an ICE server is written stun:host:port or turn:host:port; "
                    "user name and password have keys of their own"
                )
        return urls

    @model_validator(mode="after")
    def _turn_needs_a_login(self) -> Self:
        if any(url.startswith("turn") for url in self.urls) and not (
            self.username and self.credential
        ):
            raise ValueError("a TURN server needs username and credential")
        return self


class WebRtc(Section):
    """Browsers and WHIP/WHEP peers."""

    ice_servers: tuple[IceServer, ...] = Field(
        default=(), description="STUN and TURN servers for peers outside the local network"
    )
    allow_new_streams: bool = Field(
        default=True, description="a WHIP publisher may create a stream by using a new name"
    )
    keep_seconds: float = Field(
        default=10, ge=0, le=86_400, description="how long such a stream outlives its publisher"
    )
    max_bitrate: int = Field(
        default=2_500_000, ge=50_000, le=50_000_000, description="asked of publishers (bit/s)"
    )
    viewer_processes: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="most further processes for viewers' connections; null: one for four cores",
    )
    viewers_per_process: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="viewers that the service itself and each process take before the next one "
        "is started",
    )


class Detector(Section):
    """Finds faces."""

    name: Literal["centerface", "yunet"] = Field(
        default="centerface", description="centerface or yunet"
    )
    path: OwnPath | None = Field(
        default=None, description="the ONNX file of yunet, which is not shipped"
    )
    long_side: int | None = Field(
        default=None, ge=64, le=4096, description="px the picture is scaled to first; null chooses"
    )
    threshold: float = Field(default=0.4, gt=0, lt=1, description="least score of a face")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="of centerface; auto, fp32 or bf16"
    )

    @model_validator(mode="after")
    def _yunet_needs_a_file(self) -> Self:
        if self.name == "yunet" and self.path is None:
            raise ValueError("detector yunet is not shipped: path must name its ONNX file")
        if self.path is not None and not self.path.is_file():
            raise ValueError(f"path: there is no file {self.path}")
        return self


class Classifier(Section):
    """Tells masks."""

    weights: str = Field(
        default="maskstream-v3", min_length=1, description="a shipped name, or a model card's path"
    )
    runtime: Literal["auto", "openvino", "torch"] = Field(
        default="auto", description="auto: torch on a CUDA GPU, else openvino"
    )
    device: str = Field(
        default="auto",
        pattern=r"auto|cpu|cuda(?::\d+)?",
        description="auto, cpu, cuda (all GPUs together) or cuda:N (that one)",
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        default="auto", description="auto, fp32, fp16 or bf16"
    )
    max_batch: int = Field(default=32, ge=1, le=256, description="crops classified in one go")
    window_ms: float = Field(
        default=3, ge=0, le=1000, description="how long the first crop waits for company"
    )
    uncertain_below: float | None = Field(
        default=None, ge=0, le=1, description="least confidence of a verdict; null takes the card's"
    )


class Analysis(Section):
    """How much is looked at, and how soon a verdict must be there."""

    latency_budget_ms: Budget = Field(
        default=150,
        description="from a frame's arrival to its verdicts; work is left out to keep it",
    )
    unwatched_fps: float = Field(
        default=15, gt=0, le=240, description="frames looked at while nobody watches (per second)"
    )


class Publish(Section):
    """The annotated video."""

    encoder: Literal["auto", "cpu", "nvenc"] = Field(
        default="auto", description="of H.264: auto takes NVENC where a GPU encodes, else the CPU"
    )
    bitrate: int = Field(
        default=2_500_000,
        ge=50_000,
        le=50_000_000,
        description="upper limit of a rendition (bit/s)",
    )
    crf: int = Field(
        default=26, ge=0, le=51, description="constant quality on x264's scale; less is finer"
    )
    keyframe_seconds: float = Field(
        default=2, gt=0, le=60, description="longest distance of key frames; viewers ask for more"
    )
    jpeg_quality: int = Field(default=80, ge=1, le=100, description="of MJPEG and snapshots")


def _xdg(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "maskstream"


class Settings(Section):
    """The whole configuration; build it with `load`. Frozen."""

    server: Server = Field(default_factory=Server)
    log: Log = Field(default_factory=Log)
    state_dir: OwnPath = Field(
        default_factory=lambda: _xdg("XDG_STATE_HOME", ".local/state"),
        description="streams added through the API are kept here, readable by this user only",
    )
    cache_dir: OwnPath = Field(
        default_factory=lambda: _xdg("XDG_CACHE_HOME", ".cache"),
        description="may be deleted at any time",
    )
    sources: dict[
        Annotated[str, BeforeValidator(_stream_name)],
        Annotated[Source, BeforeValidator(_source_table)],
    ] = Field(default_factory=dict, description="streams that are there from the start")
    api: Api = Field(default_factory=Api)
    limits: Limits = Field(default_factory=Limits)
    stale_seconds: Seconds = Field(
        default=5, description="a picture that stood still so long is stale"
    )
    retry: Retry = Field(default_factory=Retry)
    webrtc: WebRtc = Field(default_factory=WebRtc)
    detector: Detector = Field(default_factory=Detector)
    classifier: Classifier = Field(default_factory=Classifier)
    analysis: Analysis = Field(default_factory=Analysis)
    publish: Publish = Field(default_factory=Publish)
