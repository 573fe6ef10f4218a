"""How many heaps the threads of a process of its own have."""

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


def test_threads_share_two_heaps(tmp_path):
    def heaps(*words):
        command = [sys.executable, "-c", COUNT, str(tmp_path / "info"), *words]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert heaps("share") <= 2
    assert heaps() > 2, "nothing to be measured here"
