"""The composition root: builds every object from the settings, serves, and takes it all down."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from av.error import FFmpegError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from models.card import ModelCard
from models.errors import WeightsError
from models.registry import resolve
from stream_server.analyse import Analyser
from stream_server.classify.batcher import Batcher
from stream_server.classify.select import Selected, choose
from stream_server.classify.trial import choose_precision
from stream_server.detect.centerface import CenterFaceDetector, precision_probe
from stream_server.detect.geometry import FRAMES_TOGETHER
from stream_server.detect.select import GpuDetector, prefer_gpu
from stream_server.detect.yunet import YuNetDetector
from stream_server.errors import MaskstreamError, ModelError, SettingsError
from stream_server.heap import heap_trimmed, share_arenas
from stream_server.ingest import schemes
from stream_server.ingest.decode import Decoding
from stream_server.ports import FaceDetector, FrameSource, PacketSink
from stream_server.publish.encode import H264, EncodeOptions, choose_h264
from stream_server.rtc.peer import IceServer
from stream_server.settings import Settings
from stream_server.settings import schema as keys
from stream_server.streams import (
    DropCounter,
    SourceFactory,
    SourceSpec,
    StreamHub,
    StreamOptions,
    Watched,
)
from stream_server.telemetry.lag import lag_watched
from stream_server.telemetry.metrics import Metrics, package_version
from stream_server.viewers.messages import Begin
from stream_server.viewers.places import MainLoop, Place, Places
from stream_server.viewers.remote import ViewerProcess
from stream_server.web import Services, SourcePolicy, WebLimits, create_app
from stream_server.web import models as wire
from stream_server.web.problems import problem
from stream_server.web.signalling import Sessions
from stream_server.web.whep import encode_once, whep_routes
from stream_server.web.whip import whip_routes

log = structlog.get_logger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def serve(settings: Settings) -> NoReturn:
    """Run the service until SIGTERM or SIGINT, then end the process with its exit code.

    Raises `SettingsError` at once if the address cannot be listened on.
    """
    share_arenas()
    listener = listen(settings.server.host, settings.server.port)
    with listener:
        code = asyncio.run(run(settings, listener))
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process; everything has been closed by now.

    The interpreter's own way down would take seconds on a busy machine to sweep up the inference
    libraries, and would be aborted by a source's thread that wakes from C code meanwhile.
    """
    hanging = [thread.name for thread in threading.enumerate() if thread.daemon]
    if hanging:
        log.warning("threads_left_hanging", threads=hanging)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def listen(host: str, port: int) -> socket.socket:
    """A bound TCP socket; raises `SettingsError` that says why it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise SettingsError(
            f"server.host {host}, server.port {port}: cannot listen there "
            f"({error.strerror or error}); choose another with --host and --port"
        ) from error
    return listener


async def run(settings: Settings, listener: socket.socket) -> int:
    """Answer at once, load the model meanwhile, then serve; returns the exit code."""
    closing = asyncio.Event()
    front = Front()
    server = Server(server_config(settings, front), closing)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    code = EXIT_OK
    try:
        async with open_service(settings, closing) as app:
            front.app = app
            log.info("ready", url=own_url(settings, listener), version=package_version())
            await serving
    except (MaskstreamError, WeightsError) as error:
        log.error("cannot_start", error=str(error))
        code = EXIT_USAGE if isinstance(error, SettingsError) else EXIT_FAILED
    finally:
        front.app = None
        server.should_exit = True
        await serving
    return code


def own_url(settings: Settings, listener: socket.socket) -> str:
    """The address to open in a browser on this machine."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.server.tls_cert else "http"
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{settings.server.root_path}/"


class Front:
    """The ASGI app that uvicorn runs: says that it is alive while the model is being loaded."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand over to the real app once it is there."""
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            reason = "the model is being loaded, or the service stops: try again in a moment"
            if scope["path"] == "/healthz":
                response: ASGIApp = JSONResponse(wire.Health().model_dump())
            elif scope["path"] == "/readyz":
                response = JSONResponse(wire.NotReady(reason=reason).model_dump(), 503)
            else:
                response = problem(503, "Not ready", reason, Retry_After="1")
            await response(scope, receive, send)


class Server(uvicorn.Server):
    """Says `closing` as soon as it shuts down, so that endless answers end by themselves."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on the first signal. Uvicorn would raise it again and so skip our own clean-up."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End endless answers, then the connections."""
        log.info("stopping")
        self._closing.set()
        await super().shutdown(sockets)


def server_config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    """How uvicorn runs: our logging, no header that names it, a bounded shutdown."""
    server = settings.server
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        root_path=settings.server.root_path,
        lifespan="off",
        ws="none",
        ssl_certfile=server.tls_cert,
        ssl_keyfile=server.tls_key,
        timeout_graceful_shutdown=max(1, int(server.shutdown_seconds) - 1),
    )


@asynccontextmanager
async def open_service(settings: Settings, closing: asyncio.Event) -> AsyncIterator[ASGIApp]:
    """Everything behind the HTTP server; yields its ASGI app."""
    metrics = Metrics()
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lag_watched(partial(metrics.loop_lag, "main")))
        await stack.enter_async_context(heap_trimmed())
        inference = await stack.enter_async_context(open_inference(settings, metrics))
        publishing = stack.enter_context(workers("publish"))
        hub = await stack.enter_async_context(
            StreamHub(
                SourceFactory(
                    schemes.kind_of, source_builder(settings, metrics), latency_budget(settings)
                ),
                inference.analyser,
                metrics,
                publishing,
                stream_options(settings, await asyncio.to_thread(make_encoder, settings)),
                configured=[
                    SourceSpec(name, source.url, source.privacy)
                    for name, source in settings.sources.items()
                ],
                store=settings.state_dir / "streams.json",
            )
        )
        sessions = Sessions(ice_servers(settings))
        stack.push_async_callback(sessions.close)
        services = Services(
            hub=hub,
            metrics=metrics,
            analyse=inference.analyser.analyse,
            info=lambda: describe(settings, inference, started),
            not_ready=lambda: None if hub.running else "the streams are not running",
            closing=closing,
        )
        places = await stack.enter_async_context(viewer_places(settings, metrics))
        yield web_app(settings, services, sessions, places)


def viewer_places(settings: Settings, metrics: Metrics) -> Places:
    """The event loops for viewers' connections."""
    encode, servers = encode_once(), ice_servers(settings)
    begin = Begin(
        settings.log.format,
        settings.log.level,
        [(list(each.urls), each.username, each.credential) for each in servers],
    )
    most = settings.webrtc.viewer_processes
    return Places(
        MainLoop(servers, encode),
        lambda name: ViewerProcess(name, begin, metrics, encode),
        metrics,
        # Decoding, networks and encoding share the cores with them.
        most=(os.cpu_count() or 2) // 4 if most is None else most,
        room=settings.webrtc.viewers_per_process,
    )


def web_app(settings: Settings, services: Services, sessions: Sessions, place: Place) -> ASGIApp:
    """The HTTP side with WHIP and WHEP."""
    hub, metrics = services.hub, services.metrics
    return create_app(
        services,
        limits=WebLimits(
            max_upload_bytes=settings.api.max_upload_bytes,
            max_upload_pixels=settings.api.max_upload_pixels,
        ),
        sources=SourcePolicy(settings.api.source_schemes, settings.api.media_dir),
        cors_origins=settings.server.cors_origins,
        routers=[
            whip_routes(
                hub,
                sessions,
                metrics,
                allow_new=settings.webrtc.allow_new_streams,
                max_bitrate=settings.webrtc.max_bitrate,
                longest_side=settings.limits.max_side,
            ),
            whep_routes(hub, sessions, place),
        ],
    )


@dataclass(frozen=True, slots=True)
class Inference:
    """The shared way from a picture to judged faces, and what to say of it."""

    analyser: Analyser
    card: ModelCard
    selected: Selected
    detector: FaceDetector
    detector_reason: str


@asynccontextmanager
async def open_inference(settings: Settings, metrics: Metrics) -> AsyncIterator[Inference]:
    """Load detector and classifier in a thread, and run the one batcher.

    Raises `ModelError` or `WeightsError` if either cannot be used.
    """
    detector, detector_reason, selected, card = await asyncio.to_thread(load_models, settings)
    metrics.runtime(selected.name, selected.device, selected.precision)
    if selected.gpu_memory is not None:
        metrics.gpu_memory(selected.device, selected.gpu_memory)
    async with open_analyser(detector, selected, card, settings.classifier, metrics) as analyser:
        yield Inference(analyser, card, selected, detector, detector_reason)


@asynccontextmanager
async def open_analyser(
    detector: FaceDetector,
    selected: Selected,
    card: ModelCard,
    options: keys.Classifier,
    metrics: Metrics,
) -> AsyncIterator[Analyser]:
    """Run the one batcher and the threads of both networks."""
    # Whoever waits for a GPU holds a thread: a full batch's for each of the detector's lanes.
    lanes = getattr(detector, "lanes", 0)
    detections = max(2, os.cpu_count() or 2, FRAMES_TOGETHER * lanes)
    threshold = options.uncertain_below
    with workers("analyse") as pool, ThreadPoolExecutor(detections, "detect") as detectors:
        async with Batcher(
            selected.classifier,
            max_batch=options.max_batch,
            window_ms=options.window_ms,
            replicas=selected.replicas,
            on_batch=lambda size, _seconds: metrics.batch(size),
            on_drop=metrics.dropped_crops,
            on_wait=lambda seconds: metrics.stage_seconds("queue", seconds),
        ) as batcher:
            metrics.queue_depth("crops", lambda: batcher.pending)
            yield Analyser(
                detector,
                batcher,
                card,
                uncertain_below=card.uncertain_below if threshold is None else threshold,
                workers=pool,
                detectors=detectors,
                detections=detections,
                metrics=metrics,
            )


def load_models(settings: Settings) -> tuple[FaceDetector, str, Selected, ModelCard]:
    """Blocking: seconds."""
    weights = resolve(settings.classifier.weights)
    selected = choose(
        weights,
        runtime=settings.classifier.runtime,
        device=settings.classifier.device,
        precision=settings.classifier.precision,
        cache_dir=settings.cache_dir,
    )
    found = make_detector(settings.detector, settings.cache_dir, selected.gpus)
    return *found, selected, weights.card


def make_detector(
    options: keys.Detector, cache_dir: Path, gpus: Sequence[str] = ()
) -> tuple[FaceDetector, str]:
    """The detector that the settings name, on `gpus` if it can, and why it runs as it does."""
    side = options.long_side
    size = "input size chosen for each stream" if side is None else f"long side {side} px"
    if options.name == "yunet":
        if options.path is None:
            raise ModelError("detector yunet needs detector.path, the path of its ONNX file")
        yunet = YuNetDetector(options.path, long_side=side, threshold=options.threshold)
        return yunet, size
    cpu = partial(cpu_centerface, options, cache_dir)
    if gpus:
        detector, reason = prefer_gpu(partial(gpu_centerface, options, gpus), cpu)
    else:
        detector, reason = cpu()
    return detector, f"{size}; {reason}"


def cpu_centerface(options: keys.Detector, cache_dir: Path) -> tuple[FaceDetector, str]:
    """In OpenVINO, and why in this precision."""
    choice = choose_precision(precision_probe(), options.precision, cache_dir)
    centerface = CenterFaceDetector(
        long_side=options.long_side, threshold=options.threshold, precision=choice.precision
    )
    return centerface, f"{choice.precision}: {choice.reason}"


def gpu_centerface(options: keys.Detector, gpus: Sequence[str]) -> GpuDetector:
    """In torch, which the classifier has imported by now."""
    from stream_server.classify.cuda import lane
    from stream_server.detect.torch_cuda import TorchCenterFaceDetector

    return TorchCenterFaceDetector(
        [lane(gpu) for gpu in gpus],
        long_side=options.long_side,
        threshold=options.threshold,
        precision=options.precision,
    )


def workers(name: str) -> ThreadPoolExecutor:
    """As many threads as cores, at least two, so that one busy stream does not hold up all."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix=name)


def source_builder(
    settings: Settings, metrics: Metrics
) -> Callable[[str, str, DropCounter, PacketSink, Watched], FrameSource]:
    """Builds a source from its URL with the options of its name, else the defaults."""

    def build(
        name: str, url: str, on_drop: DropCounter, packets: PacketSink, watched: Watched
    ) -> FrameSource:
        options = settings.sources.get(name) or keys.Source(url=url)
        return schemes.build(
            url,
            transport=options.transport,
            open_timeout=options.open_timeout,
            read_timeout=options.read_timeout,
            loop=options.loop,
            longest_side=settings.limits.max_side,
            on_drop=on_drop,
            packets=packets,
            decoding=Decoding(
                options.decode, watched, options.hwaccel, metrics.stream(name).decoded_on
            ),
        )

    return build


def latency_budget(settings: Settings) -> Callable[[str], float]:
    """From a stream's name to its budget in seconds."""

    def budget(name: str) -> float:
        source = settings.sources.get(name)
        own = source.latency_budget_ms if source else None
        return (settings.analysis.latency_budget_ms if own is None else own) / 1e3

    return budget


def make_encoder(settings: Settings) -> H264:
    """FFmpeg's name of the H.264 encoder; blocking. Raises SettingsError if it cannot be had."""
    try:
        name, reason = choose_h264(settings.publish.encoder)
    except FFmpegError as error:
        raise SettingsError(
            f"publish.encoder is nvenc, but no GPU encodes here ({error.strerror}): set it to auto"
        ) from error
    log.info("encoder_selected", encoder=name, reason=reason)
    return name


def stream_options(settings: Settings, h264: H264) -> StreamOptions:
    """What the hub needs of the settings; `h264` is FFmpeg's name of the encoder."""
    return StreamOptions(
        stale_seconds=settings.stale_seconds,
        retry_initial=settings.retry.initial_seconds,
        retry_maximum=settings.retry.max_seconds,
        keep_seconds=settings.webrtc.keep_seconds,
        unwatched_fps=settings.analysis.unwatched_fps,
        max_streams=settings.limits.max_streams,
        max_viewers=settings.limits.max_viewers_per_stream,
        jpeg_quality=settings.publish.jpeg_quality,
        encode=EncodeOptions(
            crf=settings.publish.crf,
            bitrate=settings.publish.bitrate,
            keyframe_seconds=settings.publish.keyframe_seconds,
            h264=h264,
        ),
    )


def ice_servers(settings: Settings) -> list[IceServer]:
    """STUN and TURN servers as peers are told of them."""
    return [
        IceServer(
            server.urls,
            server.username,
            server.credential.get_secret_value() if server.credential else None,
        )
        for server in settings.webrtc.ice_servers
    ]


def describe(settings: Settings, inference: Inference, started: float) -> wire.InfoOut:
    """What /api/info says."""
    card, selected = inference.card, inference.selected
    return wire.InfoOut(
        version=package_version(),
        uptime_seconds=time.monotonic() - started,
        model=wire.ModelOut(
            name=card.name,
            labels=list(card.labels),
            input_size=card.input_size,
            uncertain_below=inference.analyser.uncertain_below,
        ),
        runtime=wire.RuntimeOut(
            name=selected.name,
            device=selected.device,
            precision=selected.precision,
            reason=selected.reason,
        ),
        detector=wire.DetectorOut(
            name=inference.detector.name,
            reason=inference.detector_reason,
        ),
        ice_servers=[
            wire.IceServerOut(
                urls=list(server.urls), username=server.username, credential=server.credential
            )
            for server in ice_servers(settings)
        ],
        limits=wire.LimitsOut(
            max_streams=settings.limits.max_streams,
            max_viewers_per_stream=settings.limits.max_viewers_per_stream,
            max_upload_bytes=settings.api.max_upload_bytes,
            max_upload_pixels=settings.api.max_upload_pixels,
        ),
        source_schemes=list(settings.api.source_schemes),
    )
