"""`maskstream predict`: pictures, videos and cameras through the same analysis as the service."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO, TypeVar

import av
import cv2

from stream_server.annotate import draw
from stream_server.app import open_inference
from stream_server.errors import InvalidPicture, MaskstreamError, SettingsError
from stream_server.frames import Face, Picture, Pixels
from stream_server.predict.fetch import fetched
from stream_server.predict.inputs import Item, find, replacing, targets
from stream_server.predict.progress import Progress
from stream_server.predict.records import Record
from stream_server.predict.show import Stop, Window, nothing_shown
from stream_server.predict.together import Together
from stream_server.predict.video import Show, annotate_video, count_frames
from stream_server.settings import Settings
from stream_server.telemetry.logging import redact
from stream_server.telemetry.metrics import Metrics
from stream_server.web.uploads import FORMATS, decode

Analyse = Callable[[Picture], Awaitable[Sequence[Face]]]
T = TypeVar("T")

MAX_PIXELS = 120_000_000
MAX_BYTES = 512 << 20
FILE_FORMATS = (*FORMATS, "TIFF", "AVIF", "JPEG2000", "PPM")
"""The user's own files may be of more kinds than what strangers upload."""
PICTURES_AT_ONCE = 8
JPEG = (".jpg", ".jpeg")
FACES_FILE = "faces.jsonl"


@dataclass(slots=True)
class Outcome:
    """What became of the inputs: how many are done, and of the others the reason in one line."""

    done: int = 0
    faces: int = 0
    failures: list[str] = field(default_factory=list)


def predict_files(
    settings: Settings,
    inputs: Sequence[str],
    out: Path | None,
    *,
    to_stdout: bool,
    show: bool = False,
) -> int:
    """Annotate `inputs` into `out`, tell the faces, `show` them; returns the exit code.

    Raises SettingsError when there is nothing to do or `out` cannot be used, ModelError or
    WeightsError when the model cannot be loaded.
    """
    named, failures = find(inputs)
    outcome = Outcome(failures=failures)
    stop = Stop()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="maskstream-")))
        items = _fetch(named, folder, outcome)
        outputs = targets(items, out) if out is not None else [None] * len(items)
        if out is not None:
            _make_folder(out)
        window: Show = stack.enter_context(Window(stop)) if show else nothing_shown
        if items:
            asyncio.run(
                _with_models(settings, items, outputs, out, to_stdout, outcome, window, stop)
            )
    _summarise(outcome, out, sys.stderr)
    return 1 if outcome.failures else 0


def _fetch(named: Sequence[Item], folder: Path, outcome: Outcome) -> list[Item]:
    """The items, with the pictures that stand at addresses fetched into `folder`."""
    items = []
    for item in named:
        try:
            items.append(fetched(item, folder))
        except InvalidPicture as error:
            outcome.failures.append(_reason(item, error))
    return items


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"--out {out}: the folder cannot be made ({error.strerror}); name another"
        ) from error


def _summarise(outcome: Outcome, out: Path | None, stream: TextIO) -> None:
    if out is not None and outcome.done:
        inputs = "input" if outcome.done == 1 else "inputs"
        print(f"{outcome.done} {inputs}, {outcome.faces} faces found; see {out}", file=stream)
    for failure in outcome.failures:
        print(f"maskstream: {failure}", file=stream)


async def _with_models(
    settings: Settings,
    items: Sequence[Item],
    outputs: Sequence[Path | None],
    out: Path | None,
    to_stdout: bool,
    outcome: Outcome,
    show: Show,
    stop: Stop,
) -> None:
    async with open_inference(settings, Metrics()) as inference:
        with ExitStack() as stack:
            sinks = [sys.stdout] if to_stdout else []
            if out is not None:
                sinks.append(stack.enter_context((out / FACES_FILE).open("w", encoding="utf-8")))
            # On one terminal, lines of JSON and the progress line would tear each other up.
            silent = to_stdout and sys.stdout.isatty()
            progress = stack.enter_context(
                Progress(_total_work(items), sys.stderr, shown=sys.stderr.isatty() and not silent)
            )

            def tell(record: Record) -> None:
                for sink in sinks:
                    print(record.json_line(), file=sink, flush=sink is sys.stdout)
                outcome.faces += len(record.faces)
                progress.advance(record.file)

            with _ctrl_c_ends(stop, any(item.live for item in items)):
                analyse = Together(inference.analyser).analyse
                await process(items, outputs, analyse, tell, outcome, show, stop)


@contextmanager
def _ctrl_c_ends(stop: Stop, live: bool) -> Iterator[None]:
    """Ctrl-C is how a camera's recording ends: what was seen is kept. A second one breaks off."""
    loop = asyncio.get_running_loop()

    def ask() -> None:
        stop.ask()
        loop.remove_signal_handler(signal.SIGINT)

    if live:
        loop.add_signal_handler(signal.SIGINT, ask)
    try:
        yield
    finally:
        if live:
            loop.remove_signal_handler(signal.SIGINT)


def _total_work(items: Sequence[Item]) -> int:
    """About how many pictures and frames; 0 if it cannot be known."""
    if any(item.live for item in items):
        return 0
    return sum(count_frames(item.address or item.path) if item.is_video else 1 for item in items)


async def process(
    items: Sequence[Item],
    outputs: Sequence[Path | None],
    analyse: Analyse,
    tell: Callable[[Record], None],
    outcome: Outcome,
    show: Show = nothing_shown,
    stop: Stop | None = None,
) -> None:
    """Pictures, then videos, in their order, until `stop` wants the end; each is shown by `show`.

    One that cannot be read is noted in `outcome` and left out.
    """
    stop = stop or Stop()
    jobs = list(zip(items, outputs, strict=True))
    pictures = [job for job in jobs if not job[0].is_video]
    starts = [partial(_picture, *job, analyse) for job in pictures]
    async with aclosing(_in_order(starts, PICTURES_AT_ONCE)) as results:
        async for result in results:
            if isinstance(result, str):
                outcome.failures.append(result)
                continue
            picture, record = result
            tell(record)
            outcome.done += 1
            show(picture, record.faces, still=True)
            if stop.wanted:
                break
    for item, output in jobs:
        if item.is_video and not stop.wanted:
            try:
                await annotate_video(item, output, analyse, tell, show, stop)
                outcome.done += 1
            except BrokenPipeError:
                raise
            except (MaskstreamError, OSError, av.error.FFmpegError) as error:
                outcome.failures.append(_reason(item, error))


async def _in_order(
    starts: Iterable[Callable[[], Awaitable[T]]], at_once: int
) -> AsyncGenerator[T]:
    """The results of the jobs in their order, with at most `at_once` of them under way."""
    waiting: deque[asyncio.Future[T]] = deque()
    try:
        for start in starts:
            waiting.append(asyncio.ensure_future(start()))
            if len(waiting) >= at_once:
                yield await waiting.popleft()
        while waiting:
            yield await waiting.popleft()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _picture(
    item: Item, output: Path | None, analyse: Analyse
) -> tuple[Picture, Record] | str:
    """One picture with its record, or why there is none."""
    try:
        pixels = await asyncio.to_thread(read_picture, item.path)
        picture = await asyncio.to_thread(Picture.from_bgr, pixels)
        faces = tuple(await analyse(picture))
        if output is not None:
            await asyncio.to_thread(_write_picture, output, picture, faces, pixels.shape)
    except (MaskstreamError, OSError) as error:
        return _reason(item, error)
    height, width = pixels.shape[:2]
    return picture, Record(item.name, width, height, faces)


def read_picture(path: Path) -> Pixels:
    """An upright BGR picture (EXIF orientation applied). Raises InvalidPicture or OSError."""
    if path.stat().st_size > MAX_BYTES:
        raise InvalidPicture(f"the file is larger than {MAX_BYTES >> 20} MB: scale it down")
    return decode(path.read_bytes(), MAX_PIXELS, FILE_FORMATS)


def _write_picture(
    output: Path, picture: Picture, faces: Sequence[Face], shape: tuple[int, ...]
) -> None:
    # An odd side was padded to be drawn on.
    drawn = draw(picture, faces).bgr()[: shape[0], : shape[1]]
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if output.suffix.lower() in JPEG else []
    done, data = cv2.imencode(output.suffix, drawn, quality)
    if not done:
        raise InvalidPicture(f"the annotated picture cannot be written as {output.suffix}")
    with replacing(output) as unfinished:
        unfinished.write_bytes(data.tobytes())


def _reason(item: Item, error: Exception) -> str:
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return f"{item.name}: {redact(text)}".replace("\n", " ")
