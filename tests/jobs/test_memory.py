"""Blocks of a step's size stay the process's own: the system does not clear them again and again."""

import os
import resource
import subprocess
import sys

import pytest

from jobs.memory import HUGE_PAGES

ASKED = """
import resource, sys
from jobs.memory import reuse_memory

if sys.argv[1] == "reuse":
    reuse_memory()
import torch
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_cleared(how: str) -> int:
    """Pages that the system cleared for five tensors of 64 MiB, one after the other."""
    # Other tests of this process may have asked for huge pages, which the environment hands on.
    environment = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
    command = [sys.executable, "-c", ASKED, how]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are those of Linux and glibc")
def test_freed_blocks_are_used_again() -> None:
    of_a_block = 4 * 2**24 // resource.getpagesize()
    assert pages_cleared("not") > 4 * of_a_block
    assert pages_cleared("reuse") < of_a_block
