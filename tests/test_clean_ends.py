"""Two processes that shared a run end by themselves: status 0, no "terminate called without an active exception"."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_data import rgbd

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def ends(tmp_path, runs, how):
    """The runs whose two processes did not end well, with what they said."""
    root, folder = rgbd(tmp_path / "rgbd"), tmp_path / how
    folder.mkdir()
    words = [sys.executable, str(Path(__file__).parent / "process_host.py"), str(runs), str(root), str(folder), how]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    statuses = json.loads(done.stdout.rpartition("STATUS")[2])
    assert len(statuses) == runs
    bad = []
    for run, pair in enumerate(statuses):
        said = [(folder / f"log-{run}-{rank}").read_text() for rank in range(2)]
        if pair != [0, 0] or any("terminate called" in text or "Traceback" in text for text in said):
            bad.append((pair, said))
    return bad


@pytest.mark.parametrize("how", ["train", "evaluate"])
def test_two_runs_of_two_processes_end(tmp_path, how):
    assert not ends(tmp_path, 2, how)


@pytest.mark.faults
def test_a_hundred_runs_of_two_processes_end(tmp_path):
    assert not ends(tmp_path, 90, "train")
    assert not ends(tmp_path, 10, "evaluate")
    print("100 of 100")
