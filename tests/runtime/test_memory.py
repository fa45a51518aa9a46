"""Freed memory is kept for the next round."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from policyopt.runtime.memory import keep_freed
if sys.argv[1] == "kept":
    assert keep_freed()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for round in range(16):
    if round == 8:  # the heap has grown as far as it must
        before = faults()
    torch.ones(10_000_000)  # 40 MB
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to")
def test_arrays_of_later_rounds_use_the_memory_of_earlier_ones():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    # A system that takes back memory of its own accord may do so once.
    assert 4 * faults("kept") < faults("default")
