"""A video file as a camera: paced by its time stamps, looped or played once."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from stream_server.errors import SourceUnsupported
from stream_server.ingest.decode import (
    EVERYTHING,
    Decoding,
    DropCounter,
    PacketDecoder,
    accelerator,
    describe,
    ignore_drops,
    seconds,
)
from stream_server.ingest.pace import Timeline
from stream_server.ingest.reader import Reader, drive
from stream_server.ingest.relay import NO_PACKETS, Relay
from stream_server.ports import PacketSink, PictureSink

# Later than this the machine was asleep or the process halted: go on from here.
PAUSE_SECONDS = 5.0


class FileSource:
    """Plays a file. One instance is one run."""

    def __init__(
        self,
        path: Path,
        *,
        loop: bool = True,
        realtime: bool = True,
        longest_side: int = 1920,
        on_drop: DropCounter = ignore_drops,
        packets: PacketSink = NO_PACKETS,
        decoding: Decoding = EVERYTHING,
    ) -> None:
        """`realtime`: at the file's own speed, leaving pictures out when decoding is slower."""
        self._path = path
        self._loop = loop
        self._realtime = realtime
        self._longest_side = longest_side
        self._on_drop = on_drop
        self._packets = packets
        self._decoding = decoding
        self._pacer = _Pacer()

    async def run(self, sink: PictureSink) -> None:
        """Deliver pictures; returns at the file's end unless looped.

        Raises `SourceUnsupported` for a file that is missing, unreadable or no video.
        """
        await drive(self._play, sink, key=f"file {self._path.name}")

    def _play(self, reader: Reader) -> None:
        container, stream = self._open()
        try:
            decoder = PacketDecoder(
                stream,
                longest_side=self._longest_side,
                on_drop=self._on_drop,
                live=False,
                decoding=self._decoding,
            )
            relay = Relay(stream, self._packets)
            while self._play_through(reader, container, stream, decoder, relay) and self._loop:
                if _rewind(container):
                    continue
                # Raw streams can't be wound back.
                container.close()
                container, stream = self._open()
                decoder.renew(stream)
        finally:
            container.close()

    def _play_through(
        self,
        reader: Reader,
        container: InputContainer,
        stream: VideoStream,
        decoder: PacketDecoder,
        relay: Relay,
    ) -> bool:
        """From here to the end; False when asked to stop."""
        count = 0
        try:
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                stamp = packet.dts if packet.dts is not None else packet.pts
                at = seconds(stamp, packet.time_base)
                due = self._pacer.due(at, decoder.interval)
                if self._realtime and not reader.wait_until(due):
                    return False
                arrived = time.monotonic()
                lag = self._pacer.lag(arrived) if self._realtime else 0.0
                relay.feed(packet, arrived)
                for shot in decoder.feed(packet, arrived=arrived, lag=lag):
                    count += 1
                    reader.deliver(shot.make, shot.captured, shot.media_time)
                relay.check_upright(decoder.rotation)
                if reader.stopped:
                    return False
        except av.error.FFmpegError as error:
            raise SourceUnsupported(
                f"{self._path} breaks off ({describe(error)}): mend or replace the file"
            ) from None
        for shot in decoder.flush(now=time.monotonic()):
            count += 1
            reader.deliver(shot.make, shot.captured, shot.media_time)
        if count == 0:
            raise SourceUnsupported(
                f"no picture of {self._path} can be decoded: is it a complete video file?"
            )
        return not reader.stopped

    def _open(self) -> tuple[InputContainer, VideoStream]:
        self._check_regular()
        try:
            # "file:" keeps a name from being taken for another protocol, and with it the library
            # lets a playlist name local files only.
            container = av.open(
                f"file:{self._path}",
                hwaccel=accelerator(self._decoding.hardware, self._path.name),
            )
        except av.error.FFmpegError as error:
            raise SourceUnsupported(
                f"{self._path} is not a video that can be read ({describe(error)})"
            ) from None
        try:
            return container, self._video(container)
        except SourceUnsupported:
            container.close()
            raise

    def _check_regular(self) -> None:
        try:
            # Before it is opened: that could block for ever on a pipe or a device.
            if not stat.S_ISREG(self._path.stat().st_mode):
                raise SourceUnsupported(f"{self._path} is not a regular file: name a video file")
            with self._path.open("rb"):
                pass
        except FileNotFoundError:
            raise SourceUnsupported(f"there is no file {self._path}: check the path") from None
        except (OSError, ValueError) as error:
            raise SourceUnsupported(
                f"{self._path} cannot be opened ({getattr(error, 'strerror', None) or error}): "
                "check the path and its permissions"
            ) from None

    def _video(self, container: InputContainer) -> VideoStream:
        if not container.streams.video:
            raise SourceUnsupported(f"{self._path} has no video in it")
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise SourceUnsupported(
                f"{self._path} is a still picture: use `maskstream predict` for it"
            )
        stream = container.streams.video[0]
        if getattr(stream, "codec_context", None) is None:
            raise SourceUnsupported(f"{self._path} holds a video format that cannot be decoded")
        return stream


class _Pacer:
    """When each packet is due on the monotonic clock; the file's loops follow without a gap."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._offset: float | None = None
        self._due = 0.0

    def due(self, stamp: float | None, interval: float) -> float:
        """Monotonic seconds at which the packet with this time stamp would have been sent."""
        media = self._timeline.place(stamp, interval)
        now = time.monotonic()
        if self._offset is None or now - (self._offset + media) > PAUSE_SECONDS:
            self._offset = now - media
        self._due = self._offset + media
        return self._due

    def lag(self, now: float) -> float:
        """Seconds behind."""
        return max(0.0, now - self._due)


def _rewind(container: InputContainer) -> bool:
    try:
        container.seek(container.start_time or 0)
    except av.error.FFmpegError:
        return False
    return True
