"""The files under docker/, each asked of the program that reads it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from stream_server.settings import load
from stream_server.telemetry.metrics import Metrics
from tests.peers import ROOT, find_program

DOCKER = ROOT / "docker"
DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> str:
    """What a program says; fails if it is not content."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exported_names() -> set[str]:
    """Every series name that a maskstream process exposes, the client library's own included."""
    names = set()
    for metric in Metrics().registry.collect():
        endings = {
            "counter": ["_total"],
            "info": ["_info"],
            "histogram": ["_bucket", "_sum", "_count"],
        }.get(metric.type, [""])
        names |= {metric.name + ending for ending in endings}
    return names | {"up"}


def queries() -> Iterator[tuple[str, str]]:
    """(where it stands, PromQL) of all dashboards and alerts, variables filled in."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name}: {panel['title']}", re.sub(r"\$\w+", ".*", target["expr"])
    for group in yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yml: {rule['alert']}", rule["expr"]


def selectors(node: Any) -> Iterator[Any]:
    """The vector selectors anywhere below a node of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        if (below := getattr(node, name, None)) is not None:
            yield from selectors(below)
    for argument in getattr(node, "args", None) or ():
        yield from selectors(argument)


@pytest.mark.parametrize(("where", "promql"), [pytest.param(*q, id=q[0]) for q in queries()])
def test_each_query_asks_for_what_is_exported(where: str, promql: str) -> None:
    asked = {selector.name for selector in selectors(promql_parser.parse(promql))}
    assert asked, where
    assert asked <= exported_names(), where


def test_prometheus_reads_its_configuration_and_the_alerts() -> None:
    said = run(find_program("promtool"), "check", "config", DOCKER / "prometheus.yml")
    assert "8 rules found" in said


def test_the_alerts_fire_when_they_should() -> None:
    run(find_program("promtool"), "test", "rules", DOCKER / "alerts.test.yml")


def test_each_alert_is_tried() -> None:
    tried = yaml.safe_load((DOCKER / "alerts.test.yml").read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tried
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    groups = yaml.safe_load((DOCKER / "alerts.yml").read_text())["groups"]
    assert fired == {rule["alert"] for group in groups for rule in group["rules"]}


def test_compose_reads_its_file() -> None:
    run(BIN / "docker-compose", "-f", ROOT / "docker-compose.yml", "config", "--quiet")


def test_compose_gives_settings_that_the_service_knows() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    settings = load(environ=compose["services"]["maskstream"]["environment"])
    assert settings.server.host == "127.0.0.1"
    assert settings.log.format == "json"


def test_dockerfile_gives_settings_that_the_service_knows() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    given = dict(re.findall(r"(MASKSTREAM__\w+)=(\S+)", text))
    assert load(environ=given).server.host == "0.0.0.0"


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    assert run(BIN / "hadolint", DOCKER / "Dockerfile") == ""


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_hangs_together(path: Path) -> None:
    """Unique ids, no panel over another, and every variable that a query uses is there."""
    board = json.loads(path.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(board)))
    assert used - variables <= {"__all"}


def test_grafana_is_provisioned_with_what_compose_mounts() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "maskstream.yml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    mounts = [mount.split(":")[1] for mount in compose["services"]["grafana"]["volumes"]]
    assert folder in mounts
