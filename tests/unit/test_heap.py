"""The heaps of processes of their own: how many their threads have, what they give back."""

import subprocess
import sys

COUNT = """
import ctypes, re, sys, threading
if "share" in sys.argv:
    from stream_server.heap import share_arenas
    share_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
together = threading.Barrier(8)
def work():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
out = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, out)
libc.fflush(out)
print(len(re.findall("<heap nr", open(sys.argv[1]).read())))
"""

HOLES = """
import asyncio, ctypes
import psutil
from stream_server.heap import heap_trimmed
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(10_000) for _ in range(5_000)]
for block in blocks:
    ctypes.memset(block, 1, 10_000)
for block in blocks[:-1]:  # the last one stands at the heap's end
    libc.free(block)
held = psutil.Process().memory_info().rss
async def main():
    async with heap_trimmed(interval=0.05):
        await asyncio.sleep(1)
    print(held - psutil.Process().memory_info().rss, len(asyncio.all_tasks()))
asyncio.run(main())
"""


def test_what_is_free_within_a_heap_goes_back_to_the_system():
    command = [sys.executable, "-c", HOLES]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    given_back, tasks = map(int, answer.split())
    assert given_back > 40_000_000
    assert tasks == 1, "something goes on"


def test_threads_share_two_heaps(tmp_path):
    def heaps(*words):
        command = [sys.executable, "-c", COUNT, str(tmp_path / "info"), *words]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert heaps("share") <= 2
    assert heaps() > 2, "nothing to be measured here"
