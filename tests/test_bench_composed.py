"""A base, LILA's and DIP's models of it, and MAXA's heads on all three in one table: the script in examples/."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dip_data import tasks
from evaluation_data import camvid, rgbd

from dense_ctx import AutoDenseModel
from dense_ctx.files import read_json
from dense_ctx.train import TrainConfig, train

SCRIPT = Path(__file__).parents[1] / "examples" / "bench_composed.sh"
SMALL = ["--size", "32", "48", "--image-size", "64", "96", "--steps", "1", "--batch", "2", "--held-out", "0",
         "--heads", "maxa"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a script of sh")
def test_saved_models_and_their_base_stand_in_one_table(tmp_path):
    dip = train(TrainConfig.from_dict({
        "model": {"backbone": {"name": "efficientnet-lite0"}, "decoder": {"name": "upsample"}},
        "objective": {"name": "dip", "args": {"size": 64, "out": 16}},
        "data": tasks(tmp_path / "tasks"), "out": str(tmp_path / "dip"), "steps": 1, "batch_size": 2,
    }))  # fmt: skip
    words = [dip, camvid(tmp_path / "camvid"), rgbd(tmp_path / "kitchen"), tmp_path / "out", *SMALL]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", str(SCRIPT), *map(str, words)], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = [read_json(path) for path in (tmp_path / "out" / "cells").iterdir()]
    assert [record["status"] for record in records] == ["done"] * 6
    weights = {record["settings"]["backbone"]["name"]: record["weights"] for record in records}
    assert len(weights) == len(set(weights.values())) == 3
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    for name in ("efficientnet-lite0", "model:lila-lite0", f"model:{dip}"):
        assert table.count(f"| {name} | ") == 1
    grids = {record["settings"]["backbone"]["name"]: record["grid"] for record in records}
    assert grids == {"efficientnet-lite0": [2, 3], f"model:{dip}": [2, 3], "model:lila-lite0": [16, 24]}
    (folder,) = (tmp_path / "out" / "runs").glob("model_lila-lite0-maxa-maxa-depth-*")
    assert AutoDenseModel.from_pretrained(folder / "model").model_config.backbone.name == "model:lila-lite0"


def test_a_model_that_was_trained_again_makes_another_cell(tmp_path):
    from dense_ctx_bench.plan import Bench, BenchTask

    from dense_ctx.config import Part

    folder = tmp_path / "model"
    folder.mkdir()
    task = BenchTask("maxa-depth", {"name": "rgbd-folder", "root": str(tmp_path)})
    bench = Bench(tmp_path / "out", (Part(f"model:{folder}"), Part("rgb-xy")), (Part("linear"),), (task,))
    saved, plain = bench.cells()
    (folder / "manifest.json").write_text("1", encoding="utf-8")
    before = bench.settings(saved), bench.settings(plain)
    (folder / "manifest.json").write_text("2", encoding="utf-8")
    assert bench.settings(saved) != before[0]
    assert bench.settings(plain) == before[1]
