"""A video through the analysis: decoded, annotated, encoded as H.264, its sound kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, Self, TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from stream_server.annotate import draw
from stream_server.errors import InvalidPicture
from stream_server.frames import Face, Picture
from stream_server.ingest.decode import Normaliser, describe
from stream_server.predict.inputs import Item, replacing
from stream_server.predict.records import Record
from stream_server.predict.show import Stop, nothing_shown

Analyse = Callable[[Picture], Awaitable[Sequence[Face]]]
T = TypeVar("T")


class Show(Protocol):
    """Somebody who looks on."""

    def __call__(self, picture: Picture, faces: Sequence[Face], *, still: bool) -> None: ...


LONGEST_SIDE = 3840
MAX_PIXELS = 120_000_000
CLOCK = Fraction(1, 90_000)
# Sound before the first picture waits for it; minutes of it are a broken file.
MOST_SOUND_PACKETS = 10_000
FRAMES_AT_ONCE = 4
NETWORK_SECONDS = 10.0
MOST_LATE = 0.5
"""Seconds; a frame of a live source that is later is not looked at."""
# What an MP4 may hold; other sound is encoded as AAC.
COPIED_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"})


def count_frames(path: Path | str) -> int:
    """About how many frames a video has; 1 if it does not say or cannot be read. Blocking."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            duration = (container.duration or 0) / av.time_base
            return int(stream.frames or duration * float(stream.average_rate or 0)) or 1
    except (av.error.FFmpegError, IndexError, OSError):
        return 1


async def annotate_video(
    item: Item,
    output: Path | None,
    analyse: Analyse,
    tell: Callable[[Record], None],
    show: Show = nothing_shown,
    stop: Stop | None = None,
) -> None:
    """Tell the faces of each frame and, if `output` is given, write the annotated video there.

    Each frame is handed to `show`. It ends with the video, or when `stop` wants it; what was seen
    until then is kept. Of what is live, frames are left out when the analysis falls behind.
    A damaged video is written as far as it can be read. Raises InvalidPicture that says what is
    wrong with it, or OSError.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(await asyncio.to_thread(_opened, item))
        job = _Job(item.name, analyse, tell, show)
        late = Lateness() if item.live else None
        stop = stop or Stop()
        if output is not None:
            unfinished = stack.enter_context(replacing(output))
            job.writer = stack.enter_context(Writer(unfinished, reader))
        try:
            while not stop.wanted:
                found = await _in_thread(partial(next, reader.pictures(), None))
                if found is None:
                    break
                if late is None or late.keeps_up(float(found[1])):
                    await job.begin(*found)
            await job.finish()
        finally:
            await job.cancel()
        if not job.frames:
            reason = reader.damage or "no frame in it"
            raise InvalidPicture(f"not a picture or video that can be read ({reason})")
    if reader.damage:
        raise InvalidPicture(
            f"damaged ({reader.damage}); the {job.frames} frames that can be read are done"
        )


async def _in_thread(call: Callable[[], T]) -> T:
    """The outcome of a blocking call; whoever is cancelled meanwhile goes on only when it is over.

    Closing a container frees what a thread in it still works on, and the process would crash.
    """
    running = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        running.exception()  # Nobody is left to ask for it.
        raise


class _Job:
    """The frames of one video under way: analysed side by side, told and written in order."""

    def __init__(
        self, file: str, analyse: Analyse, tell: Callable[[Record], None], show: Show
    ) -> None:
        self._file, self._analyse, self._tell, self._show = file, analyse, tell, show
        self._waiting: deque[tuple[Picture, Fraction, asyncio.Future[Sequence[Face]]]] = deque()
        self.writer: Writer | None = None
        self.frames = 0

    async def begin(self, picture: Picture, time: Fraction) -> None:
        """Start on a frame, and finish the oldest if enough are under way."""
        self._waiting.append((picture, time, asyncio.ensure_future(self._analyse(picture))))
        if len(self._waiting) >= FRAMES_AT_ONCE:
            await self._finish_oldest()

    async def finish(self) -> None:
        """Finish all frames under way."""
        while self._waiting:
            await self._finish_oldest()

    async def _finish_oldest(self) -> None:
        picture, time, future = self._waiting[0]
        faces = await future
        self._waiting.popleft()
        if self.writer is not None:
            await _in_thread(partial(self.writer.write, picture, faces, time))
        seconds = round(float(time), 6)
        self._tell(Record(self._file, picture.width, picture.height, faces, self.frames, seconds))
        self._show(picture, faces, still=False)
        self.frames += 1

    async def cancel(self) -> None:
        """Give up what is under way, if anything is."""
        futures = [future for *_, future in self._waiting]
        for future in futures:
            future.cancel()
        await asyncio.gather(*futures, return_exceptions=True)


class Lateness:
    """Says which frames of a live source to leave out, so that what is seen is never long past."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._ahead = inf

    def keeps_up(self, time: float) -> bool:
        """Whether the frame of the source's time `time` (seconds) comes in time to be looked at.

        The soonest frame so far is the measure.
        """
        ahead = self._clock() - time
        self._ahead = min(self._ahead, ahead)
        return ahead - self._ahead <= MOST_LATE


def _opened(item: Item) -> Reader:
    try:
        container = _container(item)
    except av.error.FFmpegError as error:
        raise InvalidPicture(
            f"not a picture or video that can be read ({describe(error)})"
        ) from error
    video = next(iter(container.streams.video), None)
    if video is None or video.width * video.height > MAX_PIXELS:
        container.close()
        wrong = "too large" if video else "there is no video in it"
        raise InvalidPicture(f"not a video that can be read ({wrong})")
    return Reader(container, video)


def _container(item: Item) -> InputContainer:
    if item.is_camera:
        return av.open(str(item.path), format="v4l2")
    if not item.address:
        return av.open(str(item.path))
    # A camera may send nothing by UDP through a router; TCP comes through or fails at once.
    options = {"rtsp_transport": "tcp"} if item.address.lower().startswith("rtsp") else {}
    return av.open(item.address, options=options, timeout=NETWORK_SECONDS)


class Reader:
    """The pictures of a video, each with its time in seconds from the start. Blocking.

    Sound that is met on the way waits in `sound_packets`. `damage` says what cannot be read.
    """

    def __init__(self, container: InputContainer, video: VideoStream) -> None:
        video.thread_type = "AUTO"
        self.rate = video.average_rate or Fraction(25)
        self.origin = Fraction(container.start_time or 0, av.time_base)
        self.sound: AudioStream | None = next(iter(container.streams.audio), None)
        self.sound_packets: deque[Packet[AudioStream]] = deque(maxlen=MOST_SOUND_PACKETS)
        self.damage = ""
        self._container, self._video = container, video
        self._normalise = Normaliser(longest_side=LONGEST_SIDE)
        self._last: Fraction | None = None
        self._pictures = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def pictures(self) -> Iterator[tuple[Picture, Fraction]]:
        """The one iterator over the pictures."""
        return self._pictures

    def _read(self) -> Iterator[tuple[Picture, Fraction]]:
        streams = [stream for stream in (self._video, self.sound) if stream is not None]
        packets = self._container.demux(streams)
        while (packet := self._next(packets)) is not None:
            if isinstance(packet.stream, AudioStream):
                self.sound_packets.append(cast("Packet[AudioStream]", packet))
            else:
                yield from self._decode(cast("Packet[VideoStream]", packet))

    def _next(self, packets: Iterator[Packet[Any]]) -> Packet[Any] | None:
        try:
            return next(packets, None)
        except av.error.FFmpegError as error:
            self.damage = describe(error)
            return None

    def _decode(self, packet: Packet[VideoStream]) -> Iterator[tuple[Picture, Fraction]]:
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            self.damage = describe(error)
            return
        for frame in frames:
            time = Fraction(0) if self._last is None else self._last + 1 / self.rate
            if frame.pts is not None and frame.time_base is not None:
                time = max(frame.pts * frame.time_base - self.origin, Fraction(0))
            # Encoders refuse time that stands still or runs backwards.
            if self._last is not None and time <= self._last:
                time = self._last + Fraction(1, 1000)
            self._last = time
            yield self._normalise(frame, self._video.sample_aspect_ratio), time


class Writer:
    """An MP4 with the annotated pictures and the sound of `reader`. Blocking."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self._reader = reader
        self._container: OutputContainer = av.open(
            str(path), "w", format="mp4", options={"movflags": "+faststart"}
        )
        self._video: VideoStream | None = None
        self._sound: AudioStream | None = None
        self._copies = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._video is not None:
                self._write_sound()
                self._container.mux(self._video.encode(None))
                if self._sound is not None and not self._copies:
                    self._container.mux(self._sound.encode(None))
        finally:
            self._container.close()

    def write(self, picture: Picture, faces: Sequence[Face], time: Fraction) -> None:
        """One picture, with `faces` drawn, and the sound that was read until now."""
        if self._video is None:
            self._video = self._add_streams(picture)
        if (picture.width, picture.height) != (self._video.width, self._video.height):
            # The size of an MP4 cannot change on the way.
            picture = Picture.from_bgr(picture.scaled_bgr(self._video.width, self._video.height))
        frame = av.VideoFrame.from_ndarray(draw(picture, faces).i420, format="yuv420p")
        frame.time_base = CLOCK
        frame.pts = round(time / CLOCK)
        self._container.mux(self._video.encode(frame))
        self._write_sound()

    def _add_streams(self, picture: Picture) -> VideoStream:
        video = self._container.add_stream(
            "libx264", rate=self._reader.rate, options={"crf": "20", "preset": "veryfast"}
        )
        video.width, video.height, video.pix_fmt = picture.width, picture.height, "yuv420p"
        video.codec_context.time_base = CLOCK
        sound = self._reader.sound
        if sound is not None and not sound.rate:
            self._reader.damage = "its sound cannot be read"
        elif sound is not None:
            self._copies = sound.codec_context.name in COPIED_SOUND
            if self._copies:
                self._sound = self._container.add_stream_from_template(sound)
            else:
                self._sound = self._container.add_stream("aac", rate=sound.rate or 48_000)
        return video

    def _write_sound(self) -> None:
        while self._sound is not None and self._reader.sound_packets:
            packet = self._reader.sound_packets.popleft()
            if self._copies:
                self._copy(packet, self._sound)
            else:
                self._convert(packet, self._sound)

    def _copy(self, packet: Packet[AudioStream], sound: AudioStream) -> None:
        if packet.dts is None or packet.pts is None:
            return
        shift = round(self._reader.origin / packet.time_base)
        packet.pts -= shift
        packet.dts -= shift
        packet.stream = sound
        self._container.mux(packet)

    def _convert(self, packet: Packet[AudioStream], sound: AudioStream) -> None:
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            self._reader.damage = f"sound: {describe(error)}"
            return
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(self._reader.origin / frame.time_base)
            self._container.mux(sound.encode(frame))
