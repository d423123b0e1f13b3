"""Several processes at one benchmark; a benchmark that is stopped; backbones whose weights the seed draws."""

import json
import os
import signal
import subprocess
import sys
import threading
from unittest import mock

import pytest
import tiny_datasets
import torch
from dense_ctx_bench import cells
from dense_ctx_bench.run import _alone, run_bench
from filelock import FileLock
from test_bench import bench

from dense_ctx import cli
from dense_ctx.config import Part
from dense_ctx.device import processes
from dense_ctx.errors import StoppedError
from dense_ctx.testing.tiny import TinyBackbone

MAY_DIFFER = {
    "process", "seconds", "training_seconds", "backbone_seconds", "head_seconds", "peak_memory_mb", "environment",
}  # fmt: skip


def numbers(record):
    return {key: value for key, value in record.items() if key not in MAY_DIFFER}


def test_a_cell_runs_alone_whatever_started_the_processes():
    srun = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7",
            "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2"}  # fmt: skip
    for started in (srun, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}):
        with mock.patch.dict(os.environ, started):
            assert processes() == (1, 2)
            with _alone():
                assert processes() == (0, 1)
            assert processes() == (1, 2)


@pytest.mark.slow
def test_processes_share_the_cells_and_find_what_one_finds(tmp_path):
    root = tmp_path / "data"
    tiny_datasets.rgbd(root)
    command = ["bench", "--backbones", "rgb-xy", "--heads", "maxa", "linear", "--seeds", "0", "1", "2", "3", "--tasks"]
    command += [f"maxa-depth(name=rgbd-folder, root={root})", "--size", "16", "24", "--image-size", "12", "18"]
    command += ["--steps", "20", "--batch", "3", "--held-out", "0.4", "--out"]
    assert cli.main([*command, str(tmp_path / "one")]) == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dense_ctx.cli"]
    ran = subprocess.run(
        [sys.executable, *launch, *command, str(tmp_path / "two")],
        capture_output=True, text=True, timeout=600, check=False,
        # torchrun gives each process one thread; sums over other numbers of threads round otherwise
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count(", seed ") == 8  # each cell once, by whoever ran it
    assert ran.stdout.count("| backbone | head |") == 1  # the table by the first one
    one, two = (
        {path.name: json.loads(path.read_text()) for path in (tmp_path / name / "cells").iterdir()}
        for name in ("one", "two")
    )
    assert {record["process"] for record in one.values()} == {0}
    assert {record["process"] for record in two.values()} == {0, 1}
    assert {name: numbers(record) for name, record in one.items()} == {name: numbers(r) for name, r in two.items()}
    assert (tmp_path / "one" / "table.md").read_text() == (tmp_path / "two" / "table.md").read_text()
    weights = [
        {path.parent.parent.name: path.read_bytes() for path in (tmp_path / name / "runs").rglob("model.safetensors")}
        for name in ("one", "two")
    ]
    assert len(weights[0]) == 8
    assert weights[0] == weights[1]


def test_a_cell_that_another_process_runs_is_waited_for(tmp_path):
    plan = bench(tmp_path, seeds=(0,))
    whole = run_bench(plan)
    files = sorted((tmp_path / "out" / "cells").iterdir())
    texts = [path.read_text() for path in files]
    for path in files:
        path.unlink()
    lock = FileLock(tmp_path / "out" / ".locks" / files[0].stem, thread_local=False)
    lock.acquire()

    def finish():
        files[0].write_text(texts[0].replace('"process": 0', '"process": 7'))
        lock.release()

    timer = threading.Timer(1.5, finish)
    timer.start()
    ranks = []
    records = run_bench(plan, lambda cell, record: ranks.append(record["process"]))
    timer.join()
    assert [numbers(record) for record in records] == [numbers(record) for record in whole]
    assert sorted(record["process"] for record in records) == [0, 7]
    assert ranks == [0]  # what the other one ran, the other one reports


def test_a_cell_whose_process_died_is_taken_over(tmp_path):
    plan = bench(tmp_path, seeds=(0,), heads=(Part("linear"),))
    (record,) = run_bench(plan)
    (path,) = (tmp_path / "out" / "cells").iterdir()
    path.unlink()
    lock = FileLock(tmp_path / "out" / ".locks" / path.stem, thread_local=False)
    lock.acquire()
    timer = threading.Timer(0.5, lock.release)  # and no record
    timer.start()
    assert numbers(run_bench(plan)[0]) == numbers(record)
    timer.join()


def test_a_signal_stops_the_benchmark_and_the_cell_goes_on_next_time(tmp_path, monkeypatch, capsys):
    straight = run_bench(bench(tmp_path / "straight", steps=20, held_out=0.4, seeds=(0,)))
    plain = cells.train

    def interrupted(config, validate, **parts):
        def once(model, step):
            if step == 10:
                signal.raise_signal(signal.SIGTERM)
            return validate(model, step)

        return plain(config, validate=once, **parts)

    plan = bench(tmp_path / "stopped", steps=20, held_out=0.4, seeds=(0,))
    monkeypatch.setattr(cells, "train", interrupted)
    with pytest.raises(StoppedError, match="stopped after step 10 of 20"):
        run_bench(plan)
    assert not (tmp_path / "stopped" / "out" / "cells").exists()  # not a failure, and nothing after it was begun
    words = ["bench", "--backbones", "rgb-xy", "--tasks", "maxa-depth(name=rgbd-folder, root="]
    words[-1] += f"{tmp_path / 'stopped' / 'data'})"
    words += ["--size", "16", "24", "--image-size", "12", "18", "--steps", "20", "--batch", "2", "--held-out", "0.4"]
    assert cli.main([*words, "--out", str(tmp_path / "by-command")]) == 128 + signal.SIGTERM
    assert "stopped after step 10" in capsys.readouterr().err
    monkeypatch.setattr(cells, "train", plain)
    assert [numbers(record)["scores"] for record in run_bench(plan)] == [record["scores"] for record in straight]


def test_an_untrained_backbone_is_another_one_for_each_seed(tmp_path, monkeypatch):
    """Its features lie apart, and are the same whatever runs before."""

    class Untrained(TinyBackbone):
        source = "random"

        def __init__(self):
            super().__init__((8, 16))
            self.shallow.reset_parameters()
            self.deep.reset_parameters()

    monkeypatch.setattr(cells, "create_backbone", lambda name: Untrained())
    plan = bench(tmp_path, heads=(Part("linear"),))
    torch.manual_seed(5)
    first = run_bench(plan)
    assert [record["status"] for record in first] == ["done", "done"]
    assert first[0]["weights"] != first[1]["weights"]
    assert len([path for path in (tmp_path / "out" / "features").iterdir() if path.is_dir()]) == 2
    for path in (tmp_path / "out" / "cells").iterdir():
        path.unlink()
    torch.manual_seed(6)
    assert [numbers(record) for record in run_bench(plan)] == [numbers(record) for record in first]
