"""Processes for viewers that are killed, hang, or lose the service: nothing leaks, it goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from stream_server.viewers import remote
from tests.e2e.test_whip_whep import whep_viewer
from tests.fakes.house import House, add_demo, build, in_process, until
from tests.fakes.watching import (
    Watching,
    open_to_viewers,
    placed,
    viewer_processes,
    watching,
)
from tests.peers import wait_until

ROOM = {
    "MASKSTREAM__WEBRTC__VIEWER_PROCESSES": "1",
    "MASKSTREAM__WEBRTC__VIEWERS_PER_PROCESS": "1",
}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """The first viewer is on the test's own loop, further ones are in two processes."""
    async with build(tmp_path) as made, open_to_viewers(made, room=1, most=2):
        await add_demo(made)
        yield made
    assert viewer_processes() == []


def lost(house: House, loop: str = "viewers-1") -> float:
    name = "maskstream_viewer_processes_lost_total"
    return house.metrics.registry.get_sample_value(name, {"loop": loop}) or 0.0


def working() -> list[str]:
    """The coroutines of tasks that belong to a process or its relays."""
    names = [str(getattr(t.get_coro(), "__qualname__", "")) for t in asyncio.all_tasks()]
    return sorted(n.split(".")[1] for n in names if n.startswith(("ViewerProcess.", "Relay.")))


async def plays(viewer: Watching, pictures: int = 10) -> None:
    for _ in range(pictures):
        assert await viewer.width() > 0


async def test_a_killed_process_ends_its_own_viewers_only(house: House) -> None:
    descriptors = psutil.Process().num_fds()
    publisher = house.hub.get("lobby").publisher
    async with watching(house) as local:
        await plays(local)
        async with watching(house) as remote_one, in_process(house.app) as client:
            await plays(remote_one)
            (process,) = viewer_processes()
            process.kill()
            await until(lambda: lost(house) == 1)
            assert (publisher.viewers, placed(house, "viewers-1")) == (1, 0)
            assert (await client.delete(remote_one.session)).status_code == 404
            headers = {
                "content-type": "application/trickle-ice-sdpfrag",
                "if-match": remote_one.etag,
            }
            answer = await client.patch(remote_one.session, content="", headers=headers)
            assert answer.status_code == 404
            await plays(local)
        async with watching(house) as next_one:
            await plays(next_one)
            (fresh,) = viewer_processes()
            assert fresh.pid != process.pid
            assert placed(house, "viewers-1") == 1
            await plays(local)
    await until(lambda: publisher.viewers == 0)
    await until(lambda: working() == ["_live", "_watch"])
    # The process that runs has a line.
    await until(lambda: psutil.Process().num_fds() <= descriptors + 1)


async def test_a_process_killed_while_it_answers_costs_nobody_the_picture(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = remote.Line.tell

    def tell_and_die(line: remote.Line, message: Any) -> None:
        tell(line, message)
        if isinstance(message, remote.Attend):
            for process in viewer_processes():
                process.kill()

    monkeypatch.setattr(remote.Line, "tell", tell_and_die)
    async with watching(house), watching(house) as second:
        await plays(second)
        assert (placed(house, "main"), lost(house)) == (2, 1)


async def test_a_process_that_hangs_is_given_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENT_SECONDS", 2)
    async with watching(house) as local, watching(house) as second, in_process(house.app) as client:
        await plays(second)
        (process,) = viewer_processes()
        process.suspend()
        deletion = asyncio.create_task(client.delete(second.session))
        await plays(local)
        assert (await asyncio.wait_for(deletion, 10)).status_code == 200
        await until(lambda: not process.is_running() or lost(house) == 1)
        await plays(local)
    await until(lambda: lost(house) == 1)
    assert not psutil.pid_exists(process.pid)


async def test_what_a_process_says_amiss_is_its_end_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(house) as local, watching(house) as second:
        await plays(second)
        monkeypatch.setattr(remote, "Lag", remote.Shown)  # its next word will not be known
        await until(lambda: lost(house) == 1)
        await plays(local)
        assert house.hub.get("lobby").publisher.viewers == 1


def gone(pid: int) -> bool:
    """Ended; whoever adopts orphans may leave its entry in the table."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_sigterm_leaves_no_process_even_one_that_hangs(server: Callable[..., Any]) -> None:
    running = server("--source", "demo=demo:", env=ROOM)
    async with whep_viewer(running.url, "demo"), whep_viewer(running.url, "demo") as second:
        await asyncio.wait_for(second.getReceivers()[0].track.recv(), 20)
        (process,) = viewer_processes(running.process.pid)
        loaded = " ".join(each.path for each in process.memory_maps())
        assert "libavcodec" in loaded
        assert "torch" not in loaded
        assert "openvino" not in loaded
        os.kill(process.pid, signal.SIGSTOP)
        seconds = await asyncio.to_thread(running.stop)
    assert seconds < 5
    assert gone(process.pid)
    assert "Traceback" not in running.log.read_text()


async def test_signals_meant_for_all_are_the_services_business(server: Callable[..., Any]) -> None:
    """A terminal's Ctrl-C and a service manager's SIGTERM go to all processes at once."""
    running = server("--source", "demo=demo:", env=ROOM)
    async with whep_viewer(running.url, "demo"), whep_viewer(running.url, "demo") as second:
        await asyncio.wait_for(second.getReceivers()[0].track.recv(), 20)
        (process,) = viewer_processes(running.process.pid)
        for word in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid, word)
        await asyncio.sleep(0.5)
        assert not gone(process.pid)
        await asyncio.wait_for(second.getReceivers()[0].track.recv(), 20)
        os.kill(running.process.pid, signal.SIGINT)
        running.stopped = True
        assert await asyncio.to_thread(running.process.wait, 5) == 0
    assert gone(process.pid)
    text = running.log.read_text()
    assert "viewer_process_lost" not in text
    assert "Traceback" not in text


async def test_a_service_that_is_killed_leaves_no_orphan(server: Callable[..., Any]) -> None:
    running = server("--source", "demo=demo:", env=ROOM)
    async with whep_viewer(running.url, "demo"), whep_viewer(running.url, "demo") as second:
        await asyncio.wait_for(second.getReceivers()[0].track.recv(), 20)
        (process,) = viewer_processes(running.process.pid)
        running.stopped = True
        running.process.kill()
        started = time.monotonic()
        await asyncio.to_thread(wait_until, lambda: gone(process.pid), 5, "the process has ended")
        print(f"gone after {time.monotonic() - started:.1f} s")
    running.process.wait()
