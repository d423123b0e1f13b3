"""What glibc does with freed memory in a process of `dense-ctx`."""

import os
import subprocess
import sys

import pytest

from dense_ctx import cli

# resident bytes after 200 MB, more than glibc ever keeps by itself, were written and freed
FREED = """
import os, sys
from dense_ctx.commands.allocator import reuse_freed_memory
reused = sys.argv[1] == "reuse" and reuse_freed_memory()
block = bytearray(b"1") * 200_000_000
del block
print(reused, int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
"""


def freed(word, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))} | variables
    command = [sys.executable, "-c", FREED, word]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    reused, resident = done.stdout.split()
    return reused == "True", int(resident)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted on Linux with glibc")
def test_freed_memory_is_there_for_the_next_image():
    reused, resident = freed("reuse")
    if not reused:
        pytest.skip("peaks are counted on Linux with glibc")
    assert resident > 200e6
    assert freed("plain")[1] < 100e6
    refused, resident = freed("reuse", MALLOC_ARENA_MAX="2")  # the user's own settings hold
    assert not refused
    assert resident < 100e6


def test_a_process_without_a_bound_reuses_memory(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(cli, "reuse_freed_memory", lambda: calls.append(1))

    def run(*words, own=True):
        calls.clear()
        monkeypatch.setattr(sys, "argv", ["dense-ctx", *words])
        cli.main(None if own else list(words))
        return len(calls)

    assert run("compare", "no.json") == 1
    assert run("compare", "no.json", own=False) == 0  # called from Python, whose memory is not ours to set
    assert run("predict", "--query", "no.png", "--model", "no") == 1
    assert run("predict", "--query", "no.png", "--model", "no", "--max-memory", "1GB") == 0
    assert run("features", "no.png") == 1
    assert run("features", "no.png", "--npy") == 0  # whose bound is 2GB, where none is said: it peaked at 2.46 GB
    assert run("predict", "--query", "no.tif", "--model", "no", "--format", "tif") == 0
