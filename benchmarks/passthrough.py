"""What one more viewer costs the server: the camera's own packets, our encode, aiortc's encode.

    python -m benchmarks.passthrough [--clip PATH] [--seconds 10] [--rounds 3] [--json OUT]

A real RTSP server plays 720p at 30 frames/s; viewers are WebRTC peers in another process that
decrypt but do not decode. Stated is the server's CPU time (user and system) for each frame that
a viewer got, above that without a viewer: by frame, so that a machine too busy for all of them
tells the same. Nothing is detected here, so that only viewing is measured; every frame is decoded
in all ways, as analysis needs it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer, MediaRelay
from fastapi import FastAPI, Request, Response

from benchmarks.camera import machine
from benchmarks.clips import RATE, write_camera
from benchmarks.rtsp import available, rtsp_camera
from models.registry import resolve
from stream_server.analyse import Analyser
from stream_server.app import workers
from stream_server.classify.batcher import Batcher
from stream_server.frames import FaceBox, Picture
from stream_server.ingest import schemes
from stream_server.ingest.decode import Watched
from stream_server.ports import FrameSource, PacketSink
from stream_server.streams import DropCounter, SourceFactory, SourceSpec, StreamHub, StreamOptions
from stream_server.telemetry.metrics import Metrics
from stream_server.viewers.places import MainLoop
from stream_server.web.signalling import Sessions
from stream_server.web.whep import encode_once, whep_routes

WAYS = {
    "none": ("ours", "", 0),
    "passthrough": ("ours", "?view=source", 4),
    "annotated": ("ours", "?rendition=full", 1),
    "shared": ("ours", "?rendition=full", 4),
    "aiortc_none": ("aiortc", "", 0),
    "aiortc": ("aiortc", "", 1),
}
"""Who serves, what is asked for, and by how many viewers."""
CPU = "cpu_ms_per_frame"
WARM_UP_SECONDS = 4.0
START_SECONDS = 60


class Blind:
    """A detector that finds no face."""

    name = "none"

    def detect(self, picture: Picture, scale: float = 1.0) -> list[FaceBox]:
        """Nothing."""
        return []


async def serve_ours(url: str, app: FastAPI) -> None:
    """The real hub and WHEP over a blind analyser."""
    metrics, sessions = Metrics(), Sessions([])
    card = resolve().card

    def build(
        name: str, url: str, on_drop: DropCounter, packets: PacketSink, watched: Watched
    ) -> FrameSource:
        return schemes.build(url, on_drop=on_drop, packets=packets)

    async with AsyncExitStack() as stack:
        pool = stack.enter_context(workers("publish"))
        batcher = await stack.enter_async_context(Batcher(NoClassifier()))
        analyser = Analyser(
            Blind(),
            batcher,
            card,
            uncertain_below=0.5,
            workers=pool,
            detectors=pool,
            detections=1,
            metrics=metrics,
        )
        # Others' load must not shed frames in one way and not in another.
        factory = SourceFactory(schemes.kind_of, build, latency_budget=lambda name: 1e6)
        hub = await stack.enter_async_context(
            StreamHub(factory, analyser, metrics, pool, StreamOptions())
        )
        stream = await hub.add(SourceSpec("camera", url), persist=False)
        app.include_router(whep_routes(hub, sessions, MainLoop([], encode_once())))
        app.get("/frames")(lambda: metrics.stream("camera").frames_in)
        # One reader keeps every frame analysed, viewers or none.
        with stream.results.subscribe() as results:
            async for _ in results:
                pass


class NoClassifier:
    """Never asked."""

    labels = ("with_mask", "without_mask", "incorrect")
    input_size = 32

    def classify(self, crops: Any) -> Any:
        """Nobody finds a face to ask about."""
        raise AssertionError


async def serve_aiortc(url: str, app: FastAPI) -> None:
    """What aiortc's examples do: a player, a relay, and an encoder for each viewer."""
    camera, relay = MediaPlayer(url).video, MediaRelay()
    assert camera is not None
    # A relay without a reader reads nothing: without a viewer too, every frame is decoded.
    own = relay.subscribe(camera, buffered=False)
    peers: set[RTCPeerConnection] = set()
    frames = itertools.count(1)
    app.state.frames = 0
    app.get("/frames")(lambda: app.state.frames)

    @app.post("/whep/camera")
    async def view(request: Request) -> Response:
        peer = RTCPeerConnection()
        peers.add(peer)
        sender = peer.addTrack(relay.subscribe(camera, buffered=False))
        prefer_h264(next(t for t in peer.getTransceivers() if t.sender is sender))
        sdp = (await request.body()).decode()
        await peer.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        return Response(peer.localDescription.sdp, 201)

    while True:
        await own.recv()
        app.state.frames = next(frames)


async def serve(kind: str, url: str, port: int) -> None:
    """Serve one way until killed."""
    app = FastAPI()
    ways = {"ours": serve_ours, "aiortc": serve_aiortc}
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    await asyncio.gather(ways[kind](url, app), server.serve())


def prefer_h264(transceiver: Any) -> None:
    """Offer or answer H.264 alone."""
    known = RTCRtpReceiver.getCapabilities("video")
    assert known is not None
    transceiver.setCodecPreferences(
        [codec for codec in known.codecs if codec.mimeType == "video/H264"]
    )


@asynccontextmanager
async def viewer(base: str, query: str) -> AsyncIterator[list[int]]:
    """A peer that plays nothing; gives the list of RTP time stamps that came."""
    peer, stamps = RTCPeerConnection(), list[int]()
    prefer_h264(peer.addTransceiver("video", direction="recvonly"))
    peer.createDataChannel("faces", ordered=False, maxRetransmits=0)

    async def take(packet: Any, arrival_time_ms: int) -> None:
        if not stamps or stamps[-1] != packet.timestamp:
            stamps.append(packet.timestamp)

    peer.getReceivers()[0]._handle_rtp_packet = take  # type: ignore[method-assign]
    try:
        await peer.setLocalDescription(await peer.createOffer())
        answer = await post(f"{base}/whep/camera{query}", peer.localDescription.sdp)
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        yield stamps
    finally:
        await peer.close()


async def post(url: str, offer: str) -> str:
    """The answer to an offer; waits for a camera that has sent nothing yet."""
    async with httpx.AsyncClient(timeout=20) as client:
        for _ in range(START_SECONDS):
            answer = await client.post(
                url, content=offer, headers={"content-type": "application/sdp"}
            )
            if answer.status_code == 201:
                return answer.text
            await asyncio.sleep(1)
    raise RuntimeError(f"{url}: {answer.text}")


async def until_up(base: str) -> None:
    """Return once something answers HTTP there."""
    async with httpx.AsyncClient(timeout=20) as client:
        for _ in range(START_SECONDS):
            try:
                await client.get(base)
            except httpx.TransportError:
                await asyncio.sleep(1)
            else:
                return
    raise RuntimeError(f"nothing answers at {base}")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(kind: str, url: str) -> Iterator[tuple[int, str]]:
    """A process that serves; gives its id and address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "benchmarks.passthrough", "--serve", kind, url, str(port)]
    with subprocess.Popen(words) as process:
        try:
            yield process.pid, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


async def measure(way: str, url: str, seconds: float) -> dict[str, float]:
    """The server's CPU time for each camera frame, and the share of frames that viewers got."""
    kind, query, viewers = WAYS[way]
    with server(kind, url) as (pid, base):
        await until_up(base)
        await asyncio.sleep(WARM_UP_SECONDS)
        async with AsyncExitStack() as stack:
            seen = [await stack.enter_async_context(viewer(base, query)) for _ in range(viewers)]
            await asyncio.sleep(WARM_UP_SECONDS)
            frames, shown, cpu = await frames_in(base), sum(map(len, seen)), cpu_seconds(pid)
            await asyncio.sleep(seconds)
            frames = await frames_in(base) - frames
            cpu = (cpu_seconds(pid) - cpu) / frames
            shown = sum(map(len, seen)) - shown
    return {
        "cpu_ms_per_frame": 1e3 * cpu,
        "shown": shown / max(1, viewers) / frames,
        "fps": frames / seconds,
        "viewers": viewers,
    }


async def frames_in(base: str) -> int:
    """How many frames the server has decoded."""
    async with httpx.AsyncClient(timeout=20) as client:
        return int((await client.get(f"{base}/frames")).text)


def costs(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Median CPU milliseconds for each frame that a viewer got."""
    found = {}
    for way, (kind, _, viewers) in WAYS.items():
        if not viewers:
            continue
        base = "none" if kind == "ours" else "aiortc_none"
        each = [(r[way][CPU] - r[base][CPU]) / (viewers * r[way]["shown"]) for r in rounds]
        found[way] = statistics.median(each)
    return found


def report(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Print a table; returns it for machines."""
    found = costs(rounds)
    texts = {
        "passthrough": "the camera's own packets (view=source), 4 viewers",
        "annotated": "our annotated rendition, one viewer: it is encoded for it",
        "shared": "our annotated rendition, each of 4 viewers",
        "aiortc": "aiortc's way, re-encoded for each viewer",
    }
    print(f"\n1280x720 at 30 frames/s, {machine()}\n")
    print("| viewer | server CPU, ms a frame | % of a core at 30 fps | times | frames seen |")
    print("|---|---|---|---|---|")
    for way, text in texts.items():
        shown = statistics.median(r[way]["shown"] for r in rounds)
        ms, times = found[way], found[way] / found["passthrough"]
        print(f"| {text} | {ms:.2f} | {ms * RATE / 10:.1f} | {times:.1f} | {shown:.0%} |")
    return {"machine": machine(), "cpu_ms_per_viewer_and_frame": found, "rounds": list(rounds)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passthrough", description=__doc__)
    parser.add_argument("--clip", type=Path, help="a video (default: a moving portrait)")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often the ways take turns")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        kind, url, port = options.serve
        asyncio.run(serve(kind, url, int(port)))
        return 0
    if not available():
        parser.error("GStreamer's RTSP server and ffmpeg are needed: scripts/system-packages test")
    with tempfile.TemporaryDirectory(prefix="maskstream-bench-") as folder:
        clip = write_camera(Path(folder) / "camera.ts", options.clip)
        rounds = []
        for number in range(options.rounds):
            found = {}
            for way in WAYS:
                with rtsp_camera(clip) as url:
                    found[way] = asyncio.run(measure(way, url, options.seconds))
                print(f"round {number + 1}, {way}: {found[way]}", flush=True)
            rounds.append(found)
    table = report(rounds)
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
