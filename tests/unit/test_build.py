"""The package's build: the page is made and shipped, only when needed; pins and imports hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hatch_build
from tests.peers import ROOT

HEAVY = ("lightning", "matplotlib", "onnx", "tensorboard", "torchmetrics")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small source tree whose page counts as built."""
    (tmp_path / "frontend" / "src").mkdir(parents=True)
    (tmp_path / "frontend" / "src" / "main.ts").write_text("1")
    page = tmp_path / hatch_build.PAGE
    page.mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html>")
    (page / hatch_build.STAMP).write_text(hatch_build.sources_digest(tmp_path / "frontend"))
    return tmp_path


def test_a_fresh_page_is_left_alone(tree: Path) -> None:
    assert hatch_build.build_page(tree) is False


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "frontend/src/main.ts").write_text("2"),
        lambda tree: (tree / "frontend/src/main.ts").rename(tree / "frontend/src/other.ts"),
        lambda tree: (tree / "frontend/new.ts").write_text(""),
        lambda tree: (tree / hatch_build.PAGE / "index.html").unlink(),
    ],
    ids=["changed", "renamed", "added", "page gone"],
)
def test_whatever_changes_makes_the_page_stale(tree: Path, change: object) -> None:
    assert hatch_build.is_fresh(tree)
    change(tree)  # type: ignore[operator]
    assert not hatch_build.is_fresh(tree)


def test_installed_node_modules_are_no_sources(tree: Path) -> None:
    (tree / "frontend/node_modules/x").mkdir(parents=True)
    (tree / "frontend/node_modules/x/index.js").write_text("")
    assert hatch_build.is_fresh(tree)


def test_a_tree_without_the_lock_says_so(tree: Path) -> None:
    (tree / "frontend/new.ts").write_text("")
    with pytest.raises(hatch_build.PageBuildError, match=r"package-lock\.json is missing"):
        hatch_build.build_page(tree)


def test_a_failing_npm_is_quoted(tree: Path) -> None:
    """The lock does not fit the package: `npm ci` refuses, and its words are handed on."""
    (tree / "frontend/package.json").write_text('{"dependencies": {"preact": "11.2.0"}}')
    (tree / "frontend/package-lock.json").write_text('{"lockfileVersion": 3, "packages": {}}')
    with pytest.raises(hatch_build.PageBuildError, match=r"(?s)`npm ci.*` in frontend/.*sync"):
        hatch_build.build_page(tree)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from that sdist without a registry."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    texts = ["constraints.txt", "LICENSE", "README.md", "CHANGELOG.md"]
    for name in ["pyproject.toml", "hatch_build.py", ".gitignore", *texts]:
        shutil.copy2(ROOT / name, source)
    left_out = shutil.ignore_patterns("node_modules", "page", "__pycache__")
    for name in ("stream_server", "models", "trainer", "frontend"):
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, "--sdist", str(source)], check=True, timeout=300)
    sdist = next(folder.glob("maskstream-*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    unpacked = next((folder / "unpacked").iterdir())
    no_registry = os.environ | {"npm_config_registry": "http://127.0.0.1:9/"}
    subprocess.run([*build, "--wheel", str(unpacked)], env=no_registry, check=True, timeout=300)
    return sdist, next(folder.glob("maskstream-*.whl"))


@pytest.mark.timeout(300)
def test_the_wheel_carries_page_weights_and_cards(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
        page = wheel.read("stream_server/web/page/index.html").decode()
    for script in re.findall(r'(?:src|href)="\./([^"]+)"', page):
        assert f"stream_server/web/page/{script}" in names
    weights = {path.name for path in (ROOT / "models" / "weights").iterdir()}
    assert {name.rpartition("/")[2] for name in names if "models/weights/" in name} >= weights
    assert any(name.endswith(".safetensors") for name in weights)
    assert "stream_server/py.typed" in names
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "models",
        "stream_server",
        "trainer",
    }


@pytest.mark.timeout(300)
def test_the_sdist_has_no_installed_modules(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        names = archive.getnames()
    assert not [name for name in names if "node_modules" in name]
    assert [name for name in names if name.endswith("frontend/package-lock.json")]


def test_every_requirement_is_pinned_and_the_pin_fits() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.+]+", pin)] == []
    pinned = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    for requirement in map(Requirement, wanted):
        if requirement.name != "maskstream":
            pin = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin), requirement


def test_locks_hold_no_addresses() -> None:
    lock = json.loads((ROOT / "frontend" / "package-lock.json").read_text())
    assert [name for name, entry in lock["packages"].items() if "resolved" in entry] == []
    assert [
        name for name, entry in lock["packages"].items() if name and "integrity" not in entry
    ] == []


def test_serving_loads_none_of_the_trainers_libraries() -> None:
    ask = "import sys, stream_server.app, stream_server.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "stream_server.app" in loaded
    assert [name for name in HEAVY if name in loaded] == []
