"""What a stream's viewers are told of its faces, in whichever process they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from stream_server.frames import Analysis
from stream_server.publish.rendition import encoded_time
from stream_server.streams import Stream
from stream_server.viewers.viewer import UNTOLD, Notice


@contextmanager
def notices(
    stream: Stream, encode: Callable[[Analysis], bytes], on_drop: Callable[[], None]
) -> Iterator[AsyncIterator[Notice]]:
    """What is told from now on; the newest win, and `on_drop` is called for each that lost."""

    def notice(analysis: Analysis) -> Notice:
        captured = analysis.frame.captured
        source_ticks = stream.publisher.source.rtp_time(captured)
        return Notice(encoded_time(captured), source_ticks, encode(analysis))

    with stream.results.subscribe(UNTOLD, on_drop) as analyses:
        yield (notice(analysis) async for analysis in analyses)
