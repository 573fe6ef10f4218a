"""A real Prometheus, with the configuration that is shipped, scrapes the running service."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import peers
from tests.unit.test_docker_files import DASHBOARDS

DEMO = ("--source", "demo=demo:")


@pytest.fixture
def scraped(
    server: Callable[..., peers.Service],
    prometheus: Callable[[Path], peers.Prometheus],
    tmp_path: Path,
) -> tuple[peers.Service, peers.Prometheus]:
    """The service with the demo, and a Prometheus that asks it each second."""
    service = server(*DEMO)
    shipped = (peers.ROOT / "docker" / "prometheus.yml").read_text()
    config = shipped.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}").replace(": 5s", ": 1s")
    assert str(service.port) in config
    (tmp_path / "alerts.yml").write_text((peers.ROOT / "docker" / "alerts.yml").read_text())
    (tmp_path / "prometheus.yml").write_text(config)
    return service, prometheus(tmp_path / "prometheus.yml")


def test_promtool_finds_nothing_to_mend(server: Callable[..., peers.Service]) -> None:
    service = server(*DEMO)
    analysed = re.compile(r'^maskstream_frames_analysed_total\{stream="demo"\} [1-9]', re.MULTILINE)
    peers.wait_until(lambda: analysed.search(service.text("/metrics")), 20, "a frame is analysed")
    checked = subprocess.run(
        [peers.find_program("promtool"), "check", "metrics"],
        input=service.text("/metrics"),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_prometheus_sees_the_demo(scraped: tuple[peers.Service, peers.Prometheus]) -> None:
    _, prometheus = scraped
    peers.wait_until(lambda: prometheus.value('up{job="maskstream"}') == 1, 20, "up")
    rate = 'rate(maskstream_frames_analysed_total{stream="demo"}[10s])'
    peers.wait_until(lambda: (prometheus.value(rate) or 0) > 1, 20, "frames are analysed")
    assert prometheus.value('maskstream_stream_up{stream="demo"}') == 1
    assert prometheus.value('maskstream_stream_stale{stream="demo"}') == 0
    verdicts = prometheus.query('maskstream_faces_total{stream="demo"} > 0')
    assert {"with_mask", "without_mask"} <= {series["metric"]["verdict"] for series in verdicts}
    mean = "sum(maskstream_capture_to_result_seconds_sum) / sum(maskstream_frames_analysed_total)"
    assert 0 < (prometheus.value(mean) or 0) < 2


def test_a_removed_stream_leaves_no_series(
    scraped: tuple[peers.Service, peers.Prometheus],
) -> None:
    service, prometheus = scraped
    assert service.ask("POST", "/api/streams", {"name": "second", "url": "demo:"}) == 201
    series = '{__name__=~"maskstream_.+", stream="second"}'
    peers.wait_until(lambda: prometheus.query(series), 20, "the second stream is scraped")
    assert service.ask("DELETE", "/api/streams/second") == 204
    peers.wait_until(lambda: not prometheus.query(series), 20, "the second stream's series end")
    assert '"second"' not in service.text("/metrics")
    assert prometheus.value('maskstream_stream_up{stream="demo"}') == 1


def test_prometheus_answers_each_query_of_the_dashboard(
    scraped: tuple[peers.Service, peers.Prometheus],
) -> None:
    """The core panels have data; the rest is at least understood."""
    _, prometheus = scraped
    rate = "rate(maskstream_frames_analysed_total[10s])"
    peers.wait_until(lambda: prometheus.query(rate), 20, "frames are analysed")
    answered = {}
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                promql = re.sub(r"\$\w+", ".*", target["expr"]).replace("[1m]", "[10s]")
                answered[panel["title"]] = bool(prometheus.query(promql))
    for title in ("Cameras with pictures", "Runtime", "Frames in", "Capture to result", "CPU"):
        assert answered[title], title
