"""What the benchmarks compute from what they see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks import cameras, compare, roundtrip, soak
from benchmarks.clips import pictures_of
from benchmarks.compare import beaten, held, markdown, rising
from benchmarks.errors import MeasureError
from benchmarks.figures import slope_per_minute
from benchmarks.floor import Floor, Shares
from benchmarks.peers.contest import CameraRow, NotMeasured, attempted
from benchmarks.peers.environments import PeerUnavailable
from benchmarks.peers.judgements import Judgement, walled
from benchmarks.processes import Usage
from benchmarks.service import Sample, Series, latency_quantile

# --- growth ---------------------------------------------------------------------------------------


def test_growth_is_told_per_minute() -> None:
    assert slope_per_minute([(second, 100 + second / 2) for second in range(60)]) == pytest.approx(
        30
    )


def test_growth_leaves_out_the_warm_up() -> None:
    warm = [(float(second), 100.0 * min(second, 10)) for second in range(100)]
    assert slope_per_minute(warm, skip=0.3) == pytest.approx(0)
    assert (slope_per_minute(warm, skip=0.0) or 0) > 100


def test_two_points_tell_no_growth() -> None:
    assert slope_per_minute([]) is None
    assert slope_per_minute([(0, 1), (60, 5)], skip=0.0) is None


# --- the clips ------------------------------------------------------------------------------------


def test_a_portrait_clip_keeps_its_shape(tmp_path: Path) -> None:
    """Faces drawn three times as wide are no faces to a detector."""
    clip = tmp_path / "portrait.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 360, 640, "yuv420p"
        for _ in range(3):
            white = np.full((640, 360, 3), 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(white, format="bgr24")))
        container.mux(stream.encode())
    shown = next(pictures_of(clip))
    assert shown.shape == (720, 1280, 3)
    lit = np.flatnonzero(shown[360, :, 0] > 128)
    assert (lit.size, lit[0]) == (405, 437)


# --- what camera peers say ------------------------------------------------------------------------


def test_waiting_in_buffers_counts_as_latency_but_not_from_decoded() -> None:
    # The camera's clock is 1000 s behind. Each frame is decoded 20 ms later than the one before.
    frames = [
        Judgement(n / 10, 1000 + n / 10 + 0.02 * n, 1000.03 + n / 10 + 0.02 * n) for n in range(50)
    ]
    found = walled([frames], 1000, 1010)
    assert found.decoded_to_verdict_p95_ms == pytest.approx(30)
    assert found.arrival_to_verdict_p50_ms == pytest.approx(30 + 20 * 24)
    assert found.late_at_end_ms == pytest.approx(30 + 20 * 49)


def test_a_peer_is_as_good_as_its_slowest_camera() -> None:
    fast = [Judgement(n / 20, 5 + n / 20, 5.01 + n / 20) for n in range(40)]
    found = walled([fast, fast[::4]], 5, 7)
    assert found.analysed_fps_min == pytest.approx(5)


def test_a_wall_on_which_nothing_was_judged_has_no_latency() -> None:
    found = walled([[], []], 0, 10)
    assert found.analysed_fps_min == 0
    assert found.arrival_to_verdict_p95_ms is None
    assert found.late_at_end_ms is None


# --- the comparison -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "counts"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 3, 4, 5]), (12, [1, 2, 3, 4, 6, 8, 12])],
)
def test_cameras_rise_up_to_the_number_asked_for(most: int, counts: list[int]) -> None:
    assert rising(most) == counts


def row(count: int, fps: float, p95: float | None) -> CameraRow:
    return CameraRow(count, fps, 1, p95, 1, 2, 3, 1.5, 200)


def test_cameras_are_held_that_are_judged_often_and_soon() -> None:
    rows = [row(1, 30, 50), row(2, 10, 150), row(4, 9.9, 100), row(8, 20, 151), row(16, 20, None)]
    assert held(rows, "arrival_to_verdict_p95_ms") == 2
    assert held([NotMeasured("no network")], "arrival_to_verdict_p95_ms") == 0


def test_a_peer_is_beaten_when_it_held_none_of_its_last_two_counts() -> None:
    good, slow = row(2, 30, 50), row(3, 4, 900)
    assert not beaten([])
    assert not beaten([slow])
    assert not beaten([slow, good])
    assert not beaten([good, slow])
    assert beaten([good, slow, slow])
    assert beaten([NotMeasured("no network")] * 2)


def test_ratios_are_told_only_where_there_is_something_to_compare_with() -> None:
    assert compare.ratio(8, 2) == 4
    assert compare.ratio(8, 0) is None


def test_a_peer_without_figures_has_its_reason_in_the_table() -> None:
    failed = attempted(fails)
    assert failed == NotMeasured("inference cannot be installed here: no network")
    text = markdown(["", "cameras"], [compare._camera_cells("InferencePipeline", failed)])
    assert "not measured: inference cannot be installed here: no network" in text


def fails() -> CameraRow:
    raise PeerUnavailable("inference cannot be installed here: no network\nand a second line")


def test_a_bug_in_a_peers_measurement_is_no_reason() -> None:
    def buggy() -> CameraRow:
        raise TypeError("oops")

    with pytest.raises(TypeError):
        attempted(buggy)


# --- the round trip -------------------------------------------------------------------------------


def test_a_returned_picture_is_as_late_as_its_number_s_nearest_showing() -> None:
    local = [(0.0, 1), (33.0, 2), (66.0, 3), (5000.0, 2)]
    assert roundtrip.latencies(local, [(90.0, 2), (4000.0, 3), (5010.0, 2)]) == [
        (90.0, 57.0),
        (4000.0, 3934.0),
        (5010.0, 10.0),
    ]


def test_a_number_that_the_preview_left_out_is_told_by_the_next() -> None:
    local = [(0.0, 1), (100.0, 4)]
    [(at, late)] = roundtrip.latencies(local, [(150.0, 2)])
    assert at == 150
    assert late == pytest.approx(50 + 2000 / 30)
    assert roundtrip.latencies([(0.0, 1), (100.0, 9)], [(150.0, 2)]) == []


def test_a_picture_that_the_preview_shows_after_it_came_back_counts_below_nought() -> None:
    assert roundtrip.latencies([(10.0, 1)], [(20.0, 7), (5.0, 1)]) == [(5.0, -5.0)]


def test_a_number_that_cannot_be_read_tells_nothing() -> None:
    assert roundtrip.latencies([(10.0, -1), (11.0, 0)], [(20.0, -1)]) == []


def test_pictures_carry_their_number_in_their_lower_edge() -> None:
    picture = roundtrip.numbered(np.full((480, 640, 3), 128, np.uint8), 0b10_0000_0000_0101)
    middles = picture[480 - roundtrip.BLOCK // 2, roundtrip.BLOCK // 2 :: roundtrip.BLOCK, 1]
    blocks = [bool(shade > 128) for shade in middles[: 2 * roundtrip.BITS]]
    bits, opposites = blocks[: roundtrip.BITS], blocks[roundtrip.BITS :]
    assert opposites == [not bit for bit in bits]
    assert [n for n, bit in enumerate(bits) if bit] == [0, 2, 13]
    assert (picture[: 480 - roundtrip.BLOCK] == 128).all()


def test_a_latency_that_grows_is_seen_as_such() -> None:
    local = [(33.0 * n, n) for n in range(400)]
    remote = [(33.0 * n + 100 + 3.3 * n, n) for n in range(300)]
    memory = [Usage(float(n), 0.0, 100_000_000 + n * 1_000_000) for n in range(10)]
    found = roundtrip.figures(roundtrip.Watched(local, remote, 29.5, memory), 10.0, None)
    assert found.added_latency_p50_ms == pytest.approx(100 + 3.3 * 149.5, abs=4)
    assert found.added_latency_at_end_ms > 900
    assert found.latency_growth_ms_per_minute == pytest.approx(60_000 * 3.3 / 36.3, rel=0.01)
    assert found.memory_growth_mb_per_minute == pytest.approx(60)
    assert found.returned_fps == pytest.approx(1000 / 36.3, rel=0.01)
    assert found.decoded_fps == 29.5


def test_a_camera_of_which_nothing_can_be_told_is_an_error() -> None:
    with pytest.raises(MeasureError, match="could be told"):
        roundtrip.figures(roundtrip.Watched([], [], 0.0, [Usage(0.0, 0.0, 1)]), 1.0, None)


def test_a_plateau_and_the_step_that_shedding_costs_are_told_apart() -> None:
    points = [soak.Point(20.0 * n, 700.0 + 25 * (n >= 27), 19, 2 * (n == 27)) for n in range(30)]
    found = soak.fitted(8, 40, points)
    assert found.rss_mb_each_minute == [700.0] * 9 + [725.0]
    assert found.shedding_step_each_minute == [0] * 9 + [2]
    assert (found.rss_mb_start, found.rss_mb_end, found.open_files_end) == (700.0, 725.0, 19)
    assert found.slope_mb_per_minute is not None
    assert found.slope_mb_per_minute > 1


# --- the wall -------------------------------------------------------------------------------------


def sample(at: float, cpu: float, **totals: Mapping[str, float] | float) -> Sample:
    """A sample whose series have the label `stream`, `reason` or `le`."""
    labels = {"frames_dropped_total": "reason", "capture_to_result_seconds_bucket": "le"}
    series: Series = {}
    for name, values in totals.items():
        by = values if isinstance(values, Mapping) else {"a": values}
        for value in by:
            key = f"maskstream_{name}", ((labels.get(name, "stream"), value),)
            series[key] = float(by[value])
    return Sample(at, cpu, 500_000_000, series)


def test_the_wall_is_told_by_its_slowest_camera() -> None:
    latency = {"0.05": 0.0, "0.1": 0.0, "+Inf": 0.0}
    first = sample(
        0,
        10,
        frames_analysed_total={"a": 0, "b": 0},
        detections_total={"a": 0, "b": 0},
        frames_dropped_total={"unwatched": 0, "superseded": 0},
        shedding_step={"a": 0, "b": 0},
        capture_to_result_seconds_bucket=latency,
    )
    last = sample(
        10,
        22,
        frames_analysed_total={"a": 150, "b": 90},
        detections_total={"a": 50, "b": 40},
        frames_in_total={"a": 300, "b": 300},
        frames_dropped_total={"unwatched": 300, "superseded": 7},
        shedding_step={"a": 0, "b": 1},
        capture_to_result_seconds_bucket={"0.05": 100, "0.1": 200, "+Inf": 200},
        batch_size_sum=120,
        batch_size_count=80,
    )
    found = cameras.wall(2, [first, last])
    assert found.analysed_fps_min == pytest.approx(9)
    assert found.arrival_to_verdict_p50_ms == pytest.approx(50)
    assert found.arrival_to_verdict_p95_ms == pytest.approx(95)
    assert found.cpu_cores == pytest.approx(1.2)
    assert found.dropped == 7
    assert found.shedding_step_max == 1
    assert found.cpu_ms_per_analysed_frame == pytest.approx(50)
    assert found.per_analysed_frame == Shares(2.5, 0.375, 0.5)
    assert found.batch == pytest.approx(1.5)


def test_the_floor_is_the_sum_of_what_each_frame_needs() -> None:
    floor = Floor(decode_cpu_ms=2, detect_cpu_ms=10, classify_cpu_ms=1.5)
    assert floor.cost(Shares(decoded=2, detected=0.5, classified=0.4)) == pytest.approx(9.6)


def test_no_latency_of_nothing() -> None:
    nothing = sample(0, 0, capture_to_result_seconds_bucket={"0.1": 5, "+Inf": 5})
    assert latency_quantile(nothing, nothing, cameras.LATENCY, 0.95) is None
