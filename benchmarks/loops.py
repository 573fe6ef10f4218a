"""What more event loops could bring at most: packets sent by one thread, two, and two processes.

python -m benchmarks.loops [ROUNDS]

Each worker runs an event loop of its own that does what aiortc's sender does for each packet:
build and serialise it, encrypt it, give it to a UDP socket. Nothing is shared between workers, so
this is the best case. Rounds take turns, so that others' load falls on all ways alike.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable

from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensionsMap, RtpPacket
from pylibsrtp import Policy, Session

SECONDS = 1.0
PAYLOAD = os.urandom(1100)
EXTENSIONS = HeaderExtensionsMap()
EXTENSIONS.configure(
    RTCRtpParameters(
        headerExtensions=[
            RTCRtpHeaderExtensionParameters(id=1, uri="urn:ietf:params:rtp-hdrext:sdes:mid"),
            RTCRtpHeaderExtensionParameters(
                id=2, uri="http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
            ),
        ]
    )
)


def shares(packets: int = 20_000) -> tuple[float, float]:
    """CPU microseconds of a packet in a loop: all of it, and what runs without the lock."""
    session = Session(Policy(key=os.urandom(30), ssrc_type=Policy.SSRC_ANY_OUTBOUND))
    plain = [built(number) for number in range(packets)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        started = time.thread_time()
        sent = asyncio.run(send_for(SECONDS, sink.getsockname()[1]))
        whole = (time.thread_time() - started) / sent
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(sink.getsockname())
            started = time.thread_time()
            for data in plain:
                sender.send(session.protect(data))
            free = (time.thread_time() - started) / packets
    return whole * 1e6, free * 1e6


def built(number: int) -> bytes:
    """One packet before it is encrypted."""
    packet = RtpPacket(payload_type=97, sequence_number=number % 65536, timestamp=number)
    packet.ssrc, packet.payload = 1234, PAYLOAD
    packet.extensions.abs_send_time = number & 0xFFFFFF
    packet.extensions.mid = "0"
    return packet.serialize(EXTENSIONS)


async def send_for(seconds: float, port: int) -> int:
    """Packets sent in so many seconds."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
    )
    key = os.urandom(30)
    session = Session(Policy(key=key, ssrc_type=Policy.SSRC_ANY_OUTBOUND))
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        transport.sendto(session.protect(built(sent)))
        sent += 1
        if sent % 4 == 0:  # about a frame
            await asyncio.sleep(0)
    transport.close()
    return sent


def work(port: int, tell: Callable[[int], None]) -> None:
    """One worker."""
    tell(asyncio.run(send_for(SECONDS, port)))


def threads(count: int, port: int) -> float:
    """Packets a second by so many threads of this process."""
    sent: list[int] = []
    workers = [threading.Thread(target=work, args=(port, sent.append)) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(sent) / SECONDS


def processes(count: int, port: int) -> float:
    """Packets a second by so many processes."""
    context = multiprocessing.get_context("fork")
    sent: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    workers = [context.Process(target=work, args=(port, sent.put)) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(sent.get() for _ in workers) / SECONDS


def main(rounds: int) -> None:
    """Print each way's median and its ratio to one thread of the same round."""
    ways: dict[str, Callable[[int], float]] = {
        "1 thread": lambda port: threads(1, port),
        "2 threads": lambda port: threads(2, port),
        "2 processes": lambda port: processes(2, port),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way(sink.getsockname()[1]))
    whole, free = shares()
    sys.stdout.write(
        f"CPU of a packet: {whole:.1f} us, {free:.1f} of it (at most) outside the lock\n"
    )
    for name, rates in found.items():
        ratios = [rate / one for rate, one in zip(rates, found["1 thread"], strict=True)]
        sys.stdout.write(
            f"{name:12} {statistics.median(rates):8.0f} packets/s, {statistics.median(ratios):.2f}"
            f" of one thread ({min(ratios):.2f} to {max(ratios):.2f})\n"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
