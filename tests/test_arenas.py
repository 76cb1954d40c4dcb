"""The threads of a gateway share few arenas of malloc, so that what one needed once does not stay for ever."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys, threading

from ragtune_serving.processes import limit_arenas

if sys.argv[1] == "limited":
    limit_arenas(2)
together, libc = threading.Barrier(9), ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p


def work():
    libc.malloc(100_000)  # too large for Python's own allocator, too small for a mapping of its own
    together.wait()
    together.wait()


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
together.wait()
starts = [int(line.split("-")[0], 16) for line in open("/proc/self/maps")]
print(sum(start % (64 << 20) == 0 for start in starts))  # an arena of a thread begins at a multiple of 64 MiB
together.wait()
"""


def arenas(how: str) -> int:
    reply = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(reply.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
def test_threads_share_few_arenas_of_malloc():
    assert arenas("unlimited") >= 6, "otherwise this test shows nothing"
    assert arenas("limited") <= 2
