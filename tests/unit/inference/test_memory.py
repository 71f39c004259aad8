"""Memory that a pass frees is kept for the next."""

import os
import subprocess
import sys

import pytest

from bento_services.serve import ALLOCATOR

PROGRAM = """
import ctypes, resource, threading
earlier = threading.Thread(target=lambda: bytearray(1 << 20))
earlier.start()
earlier.join()

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def passes():
    for number in range(20):
        blocks = [libc.malloc(1 << 21) for _ in range(60)]
        for block in blocks:
            libc.memset(block, 1, 1 << 21)
        for block in blocks:
            libc.free(block)
        if number == 4:
            before.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

before = []
thread = threading.Thread(target=passes)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before[0])
"""


def page_faults(environment: dict[str, str]) -> int:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=env)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
def test_a_pass_in_a_thread_does_not_fault_its_memory_in_anew():
    assert page_faults(ALLOCATOR) < 1000
    for name in ALLOCATOR.keys() - {"MALLOC_MMAP_THRESHOLD_"}:
        without = {key: value for key, value in ALLOCATOR.items() if key != name}
        assert page_faults(without) > 10_000, name
