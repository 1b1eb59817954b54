"""What becomes of freed memory, in processes of their own: what the C library has learned cannot be taken back."""

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


def _told(script: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", _STEPS + script], capture_output=True, text=True, check=True)
    return [float(one) for one in done.stdout.split()]


def test_a_step_takes_up_what_the_one_before_it_freed() -> None:
    script = "plain = faults()\nwith malloc.kept():\n    faults(); kept = faults()\nprint(plain, kept, faults())"
    plain, kept, after = _told(script)
    assert plain > 100_000
    assert kept < plain / 100
    assert after > plain / 2  # as it was before


def test_what_was_kept_goes_back_in_the_end() -> None:
    script = (
        "begin = resident()\nwith malloc.kept():\n    faults(); during = resident()\nprint(begin, during, resident())"
    )
    begin, during, end = _told(script)
    assert during > begin + 50
    assert end < begin + 10


def test_large_arrays_go_back_although_smaller_ones_lie_above_them() -> None:
    script = """
malloc.give_back(1 << 20)
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
    assert max(_told(script)) < 20
