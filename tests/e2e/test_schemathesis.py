"""Schemathesis, which nobody here wrote, reads /openapi.json and tries to prove it wrong."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import peers

HERE = Path(__file__).parent
# Their answers have no end, which no schema can say and no generated client waits for;
# tests/e2e/test_api.py and tests/unit/web/test_live.py read them.
ENDLESS = r"(/events|\.mjpg)$"
LIMIT_SECONDS = 60
OPERATIONS = 10


@pytest.mark.timeout(240)
def test_schemathesis_finds_nothing(server: Callable[..., peers.Service], tmp_path: Path) -> None:
    limits = {"MASKSTREAM__LIMITS__MAX_STREAMS": "3"}
    service = server(env=limits)
    ran = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            *("--config-file", HERE / "schemathesis.toml"),
            *("run", f"{service.url}/openapi.json", "--checks", "all"),
            *("--exclude-path-regex", ENDLESS),
            *("--max-examples", "15", "--max-time", str(LIMIT_SECONDS), "--seed", "20261123"),
            *("--request-timeout", "20", "--generation-database", "none", "--no-color"),
            "--continue-on-failure",
        ],
        cwd=tmp_path,
        env={"SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks", "PYTHONPATH": str(peers.ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert f"Tested: {OPERATIONS}" in ran.stdout, ran.stdout
    generated = re.search(r"(\d+) generated", ran.stdout)
    assert generated is not None, ran.stdout
    assert int(generated[1]) > 150, "too few requests to mean anything"
    _assert_that_the_good_cases_were_good(service)
    assert "Traceback" not in service.log.read_text()


def _assert_that_the_good_cases_were_good(service: peers.Service) -> None:
    """Requests that are all refused would prove little: each operation must have succeeded."""
    samples = service.text("/metrics")
    for method, route, status in (
        ("POST", "/api/streams", 201),
        ("POST", "/api/predict", 200),
        ("GET", "/api/streams/{name}", 200),
        ("DELETE", "/api/streams/{name}", 204),
    ):
        assert f'method="{method}",route="{route}",status="{status}"' in samples, (method, route)
    assert 'status="500"' not in samples
