"""Each test of the HTTP side gets a house of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.house import House, build, in_process


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with build(tmp_path) as made:
        yield made


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(house.app) as made:
        yield made
