"""What a pass frees is kept for the next."""

import os
import subprocess
import sys

import pytest

from bento_services.serve import worker_environment

PROGRAM = """
import ctypes, resource, threading
earlier = threading.Thread(target=lambda: bytearray(1 << 20))
earlier.start()
earlier.join()
if {kept}:
    from bento_services.inference.process_tuning import keep_freed_memory
    keep_freed_memory()

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


def page_faults(*, kept: bool, environment: dict[str, str]) -> int:
    program = PROGRAM.format(kept=kept)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_pass_in_a_thread_does_not_fault_its_memory_in_anew(tmp_path):
    given = worker_environment({"BENTOML_HOME": str(tmp_path)}, port=3000)
    one_arena = {name: value for name, value in given.items() if name.startswith("MALLOC_")}
    assert page_faults(kept=True, environment=one_arena) < 1000
    assert page_faults(kept=False, environment=one_arena) > 10_000
    assert page_faults(kept=True, environment={}) > 10_000, "the environment is needed, too"
