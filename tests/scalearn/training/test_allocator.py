import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from pathlib import Path

import torch

from scalearn.training.allocator import keep_freed_memory, return_freed_memory

PAGES, BYTES = 20_000, 80_000_000


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(BYTES // 4)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / PAGES


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) / PAGES


print("as it comes", faults())
print("took effect", keep_freed_memory())
faults()
print("kept", faults(), resident())
return_freed_memory()
print("returned", resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64", reason="needs glibc with pages of 4 KiB")
def test_memory_freed_by_tensors_is_used_again_and_returned_when_told() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)

    before, effect, kept, returned = (line.split()[-2:] for line in done.stdout.splitlines())
    assert float(before[-1]) > 9  # every allocation anew
    assert effect[-1] == "True"
    assert float(kept[0]) < 0.1
    assert float(kept[1]) - float(returned[-1]) > 0.9  # of one tensor
