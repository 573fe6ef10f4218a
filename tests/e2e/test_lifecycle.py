"""The service ends in time and wholly, whatever its peers do; and answers before it is ready."""

import asyncio
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.e2e.test_whip_whep import whep_viewer
from tests.peers import MASKSTREAM, wait_until


@contextmanager
def black_hole() -> Iterator[str]:
    """A camera that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        held: list[socket.socket] = []
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    held.append(listener.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"rtsp://user:secret@127.0.0.1:{listener.getsockname()[1]}/cam"
        finally:
            done.set()
            thread.join()
            for connection in held:
                connection.close()


def endless(url: str, got: list[int]) -> threading.Thread:
    """Read an endless answer in a thread until the server ends it."""

    def read() -> None:
        try:
            with httpx.stream("GET", url, timeout=30) as answer:
                got.extend(len(chunk) for chunk in answer.iter_raw())
        except httpx.TransportError:
            return

    thread = threading.Thread(target=read)
    thread.start()
    return thread


async def test_sigterm_with_everybody_connected_ends_it_in_time(server: Any) -> None:
    """A silent camera, MJPEG and event readers, a WebRTC viewer: gone in under 5 seconds."""
    with black_hole() as camera:
        running = server("--source", "demo=demo:", "--source", f"dead={camera}")
        got: list[list[int]] = [[], []]
        readers = [
            endless(f"{running.url}/streams/demo.mjpg", got[0]),
            endless(f"{running.url}/api/events", got[1]),
        ]
        async with whep_viewer(running.url, "demo") as peer:
            await asyncio.wait_for(peer.getReceivers()[0].track.recv(), 20)
            process = psutil.Process(running.process.pid)
            children = process.children(recursive=True)
            seconds = await asyncio.to_thread(running.stop)
        for reader in readers:
            await asyncio.to_thread(reader.join, 10)
            assert not reader.is_alive()
        assert seconds < 5
        assert all(got)
        assert not [child for child in children if child.is_running()]
        assert "secret" not in running.log.read_text()
        assert "Traceback" not in running.log.read_text()


def test_sigterm_right_after_a_stream_was_added_ends_it_cleanly(server: Any) -> None:
    """The demo is still painting its faces then, in a thread that cannot be interrupted."""
    running = server()
    assert running.ask("POST", "/api/streams", {"name": "demo", "url": "demo:"}) == 201
    assert running.stop() < 5
    assert "Traceback" not in running.log.read_text()


def test_a_broken_file_of_remembered_streams_is_named_and_exit_code_2(
    tmp_path: Path, cache_dir: Path
) -> None:
    (tmp_path / "streams.json").write_text("{not json")
    given = {"MASKSTREAM__STATE_DIR": str(tmp_path), "MASKSTREAM__CACHE_DIR": str(cache_dir)}
    done = subprocess.run(
        [*MASKSTREAM, "serve", "--port", "0"],
        env=os.environ | given,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "cannot_start" in line]
    assert str(tmp_path / "streams.json") in told


def test_added_streams_outlast_a_restart_and_removed_ones_do_not(server: Any) -> None:
    first = server()
    assert first.ask("POST", "/api/streams", {"name": "kept", "url": "demo:"}) == 201
    assert first.ask("POST", "/api/streams", {"name": "gone", "url": "demo:"}) == 201
    assert first.ask("DELETE", "/api/streams/gone") == 204
    first.stop()
    second = server()
    streams = second.get("/api/streams")["streams"]
    assert [stream["name"] for stream in streams] == ["kept"]
    wait_until(
        lambda: second.get("/api/streams/kept")["state"] == "live", 40, "the kept stream is live"
    )


def test_a_removed_stream_leaves_no_thread(server: Any) -> None:
    running = server()
    process = psutil.Process(running.process.pid)
    assert running.ask("POST", "/api/streams", {"name": "warm", "url": "demo:"}) == 201
    wait_until(lambda: running.get("/api/streams/warm")["state"] == "live", 40, "it is live")
    assert running.ask("DELETE", "/api/streams/warm") == 204
    time.sleep(1)
    before = process.num_threads()
    for _ in range(5):
        assert running.ask("POST", "/api/streams", {"name": "again", "url": "demo:"}) == 201
        wait_until(lambda: running.get("/api/streams/again")["frames_in"] > 3, 40, "frames come")
        assert running.ask("DELETE", "/api/streams/again") == 204
    time.sleep(1)
    assert process.num_threads() <= before + 1
