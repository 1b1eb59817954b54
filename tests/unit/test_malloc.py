"""Options of malloc, each test in a process of its own: what the C library has learned cannot be undone."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc")

_STEPS = """
import resource, torch
from likeness.core import malloc

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
"""


def _numbers_printed(script: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", _STEPS + script], capture_output=True, text=True, check=True)
    return [float(one) for one in done.stdout.split()]


def test_a_step_takes_up_what_the_one_before_it_freed() -> None:
    script = """
plain = faults()
with malloc.keep_freed_memory():
    faults(); kept = faults()
print(plain, kept, faults())
"""
    plain, kept, after = _numbers_printed(script)
    assert plain > 100_000
    assert kept < plain / 100
    assert after > plain / 11  # the pages of one array at least, which may be reused if something lies above it


def test_what_was_kept_goes_back_in_the_end() -> None:
    script = """
begin = resident()
with malloc.keep_freed_memory():
    faults(); during = resident()
print(begin, during, resident())
"""
    begin, during, end = _numbers_printed(script)
    assert during > begin + 50
    assert end < begin + 10


def test_large_arrays_go_back_although_smaller_ones_lie_above_them() -> None:
    script = """
malloc.set_mmap_threshold(1 << 20)
begin, held = resident(), []
for _ in range(40):
    large = torch.ones(1_000_000)
    held.append(torch.ones(1000))
    del large
print(resident() - begin)
large = [torch.ones(1_000_000) for _ in range(40)]
above = torch.ones(1000)
del large
print(resident() - begin)
"""
    assert max(_numbers_printed(script)) < 20
