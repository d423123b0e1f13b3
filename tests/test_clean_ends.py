"""Two processes that shared a run end by themselves: status 0, no "terminate called without an active exception"."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_data import rgbd

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def run_pairs(tmp_path, runs, how):
    """Of each run of two processes: both (status, when it ended) and what both said."""
    root, folder = rgbd(tmp_path / "rgbd"), tmp_path / "runs"
    folder.mkdir()
    words = [sys.executable, str(Path(__file__).parent / "process_host.py"), str(runs), str(root), str(folder), how]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    statuses = json.loads(done.stdout.rpartition("STATUS")[2])
    assert len(statuses) == runs
    return [
        (pair, [(folder / f"log-{run}-{rank}").read_text() for rank in range(2)]) for run, pair in enumerate(statuses)
    ]


def ends(tmp_path, runs, how):
    """The runs whose two processes did not end well."""
    return [
        (pair, said)
        for pair, said in run_pairs(tmp_path, runs, how)
        if [status for status, _ in pair] != [0, 0] or any("terminate called" in t or "Traceback" in t for t in said)
    ]


@pytest.mark.parametrize("how", ["train", "evaluate", "srun"])
def test_two_runs_of_two_processes_end(tmp_path, how):
    assert not ends(tmp_path, 2, how)


@pytest.mark.faults
def test_a_hundred_runs_of_two_processes_end(tmp_path):
    (tmp_path / "evaluate").mkdir()
    assert not ends(tmp_path, 90, "train")
    assert not ends(tmp_path / "evaluate", 10, "evaluate")
    print("100 of 100")


FAULTS = {  # of process 1: what it says, and what process 0 says
    "raise-1": ("RuntimeError: the objective's own fault", "process 1 failed: RuntimeError: the objective's own fault"),
    "stay-1": ("RuntimeError: the objective's own fault", "process 1 failed: RuntimeError: the objective's own fault"),
    "nan-1": ("NonFiniteError: step 3: The features: NaN or infinity in pixels; the samples and weights are finite",
              "process 1 failed: step 3: The features"),
    "die-1": ("", "another process was killed"),
    "term-1": ("StoppedError: stopped after step", "StoppedError: stopped after step"),
    "raise-0": ("process 0 failed: RuntimeError: the objective's own fault", "RuntimeError: the objective's own fault"),
}  # fmt: skip


def test_what_ends_one_process_ends_both_within_seconds_with_its_words(tmp_path):
    for number, (pair, said) in enumerate(run_pairs(tmp_path, len(FAULTS), ",".join(FAULTS))):
        name = list(FAULTS)[number]
        began = float((tmp_path / "runs" / f"{number}.fault").read_text())
        faulty = int(name[-1])
        status, ended = pair[1 - faulty]
        assert status == 1, (name, pair, said)
        assert ended - began < 10, (name, ended - began)
        if name != "stay-1":
            assert pair[faulty][1] - began < 10, name
        assert FAULTS[name][0] in said[1], (name, said)
        assert FAULTS[name][1] in said[0], (name, said)
