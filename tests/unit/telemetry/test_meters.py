import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_server.frames import FaceEvent, FaceEventKind, Verdict
from stream_server.telemetry.meters import LatencyWindow, RateMeter
from stream_server.telemetry.metrics import Metrics


def test_a_steady_rate_is_told_and_falls_when_events_stop() -> None:
    meter = RateMeter(window=3.0)
    for number in range(90):
        meter.tick(number / 30)
    assert meter.rate(89 / 30) == pytest.approx(30, rel=0.05)
    assert meter.rate(89 / 30 + 1) < 24
    assert meter.rate(89 / 30 + 3.1) == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_percentiles_are_values_that_were_seen(values: list[float]) -> None:
    window = LatencyWindow(300)
    for value in values:
        window.add(value)
    ordered = sorted(values)
    assert window.percentile(1.0) == ordered[-1]
    p50, p95 = window.percentile(0.5), window.percentile(0.95)
    assert p50 in ordered
    assert p95 in ordered
    assert sum(value <= p95 for value in values) >= 0.95 * len(values)


def test_no_percentile_of_nothing() -> None:
    assert LatencyWindow().percentile(0.5) is None


def left(stream: str) -> FaceEvent:
    kind, last, longest = FaceEventKind.LEFT, Verdict.WITH_MASK, Verdict.INCORRECT
    return FaceEvent(kind, stream, 1, 1e9, last, None, 0.9, 3.0, longest)


def test_series_of_a_removed_stream_go_away_and_others_stay() -> None:
    metrics = Metrics()
    for name in ("front", "back"):
        stream = metrics.stream(name)
        stream.frame_in()
        stream.frame_analysed(0.02, missed=True)
        stream.frame_published(0.03)
        stream.dropped("analyse", "superseded")
        stream.sight([Verdict.WITH_MASK])
        stream.detected()
        stream.face_event(left(name))
        stream.shedding("detect_less", 1)
        stream.encoded("h264", "full", keyframe=True)
        stream.reconnect()
    late = metrics.stream("front")
    metrics.remove_stream("front")
    text = metrics.render()[0].decode()
    assert 'stream="front"' not in text
    late.dropped("viewer", "slow")
    late.sight([Verdict.UNCERTAIN])
    late.face_event(left("front"))
    late.shedding("smaller_input", 2)
    late.detected()
    late.encoded("vp8", "full", keyframe=False)
    assert 'stream="front"' not in metrics.render()[0].decode()
    assert 'maskstream_frames_in_total{stream="back"} 1.0' in text
    assert 'maskstream_faces_total{stream="back",verdict="with_mask"} 1.0' in text
    assert 'maskstream_people_total{stream="back",verdict="incorrect"} 1.0' in text
    assert 'maskstream_faces_in_sight{stream="back",verdict="with_mask"} 1.0' in text
    assert 'maskstream_latency_budget_misses_total{stream="back"} 1.0' in text
