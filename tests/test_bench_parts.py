"""Third parties' parts in a benchmark: refused by name before any cell, or their errors stay in their own cells."""

import re

import bench_parts
import pytest
import tiny_datasets
import torch
from dense_ctx_bench.plan import BenchTask
from dense_ctx_bench.run import run_bench
from dense_ctx_bench.table import markdown
from test_bench import bench

from dense_ctx import AutoDenseModel, cli, registry
from dense_ctx.config import Part
from dense_ctx.errors import ConfigError, DenseCtxError, InputError
from dense_ctx.files import read_json
from dense_ctx.train.data import mix, seed_all


@pytest.fixture(autouse=True)
def _parts():
    with bench_parts.registered():
        yield


def task(tmp_path, objective, **args):
    return BenchTask(objective, {"name": "rgbd-folder", "root": str(tmp_path / "data")}, args=args)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"heads": (Part("linear", {"dmi": 3}),)}, InputError, "decoder 'linear'.*'dmi'"),
        ({"backbones": (Part("rgb-xy", {"width": 3}),)}, InputError, "backbone 'rgb-xy'.*'width'"),
        ({"tasks": ("lila", {})}, ConfigError, "lila cannot score.*ScoredObjective"),
        ({"tasks": ("benched-plain", {})}, ConfigError, "benched-plain cannot score"),
        ({"tasks": ("benched-nameless", {})}, ConfigError, "benched-nameless: its metric is None, not a str"),
        ({"tasks": ("benched-depth", {})}, ConfigError, "benched-depth cannot train on features from disk.*--no-cache"),
        ({"tasks": ("benched-reader", {"fault": "__init__"})}, InputError, "'benched-reader'.*TypeError: a mistake"),
        ({"tasks": ("maxa-depth", {"flop": 1})}, InputError, "flop.*options of the data set rgbd-folder: .*target"),
        ({"tasks": ("maxa-depth", {"size": [8, 8]})}, ConfigError, "size is the same for all tasks.*--size"),
        ({"tasks": ("maxa", {"task": "depht"})}, DenseCtxError, "Unknown task 'depht'. Closest: depth"),
        ({"tasks": ("maxa", {})}, InputError, "objective 'maxa'.*missing.*task"),
    ],
)
def test_parts_are_refused_by_name_before_any_work(tmp_path, parts, error, message):
    if "tasks" in parts:
        name, args = parts["tasks"]
        parts = {"tasks": (task(tmp_path, "maxa-depth"), task(tmp_path, name, **args))}
    plan = bench(tmp_path, **parts)
    begun = []
    with pytest.raises(error, match=message):
        run_bench(plan, begin=begun.append)
    assert not begun
    assert not (tmp_path / "out").exists()


BLAME = "PluginError: objective 'benched-depth' of plugin 'benched' of bench-parts 0.1 failed: "
FAULTS = {
    "dataset": f"{BLAME}KeyError: 'a mistake in dataset'",
    "outputs raise": f"{BLAME}KeyError: 'a mistake in outputs raise'",
    "outputs": "InputError: dim=0: the head needs",
    "setup": f"{BLAME}KeyError: 'a mistake in setup'",
    "forward": f"{BLAME}KeyError: 'a mistake in forward'",
    "loss": "NonFiniteError: step 1",
    "score": f"{BLAME}KeyError: 'a mistake in score'",
    "exit": "SystemExit: 0",
    "nothing": f"{BLAME}AttributeError",
    "no metric": "ConfigError: benched-depth's score() gave images, without error",
    "no count": "ConfigError: benched-depth's score() gave error, without images",
    "words": f"{BLAME}ValueError",
    "nan": "InputError: error is nan: the validation images allow no score",
}


def test_an_error_of_a_part_fails_its_own_cell_and_no_other(tmp_path):
    tasks = tuple(task(tmp_path, "benched-depth", fault=fault) for fault in FAULTS)
    good = (task(tmp_path, "benched-depth"), task(tmp_path, "maxa-depth"))
    plan = bench(tmp_path, tasks=(*tasks, *good), heads=(Part("linear"),), seeds=(0,), cache=False)
    calls = []
    records = run_bench(plan, on_error=lambda cell, error: calls.append((cell.task.args["fault"], error.__traceback__)))
    assert [record["status"] for record in records] == ["failed"] * len(FAULTS) + ["done"] * 2
    for record, (fault, message) in zip(records, FAULTS.items(), strict=False):
        assert record["error"].startswith(message), fault
    assert [fault for fault, _ in calls] == list(FAULTS)
    assert all(traceback is not None for _, traceback in calls)
    assert (records[-2]["metric"], records[-2]["unit"], records[-2]["lower_is_better"]) == ("error", "m2", True)
    assert "benched-depth(fault=nan): failed" in markdown(records)
    stored = [read_json(path) for path in (tmp_path / "out" / "cells").iterdir()]
    assert all(record in stored for record in records)


def test_ctrl_c_is_no_failure_of_a_cell(tmp_path, monkeypatch):
    def interrupted(self, *args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_parts.Depth, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_bench(bench(tmp_path, tasks=(task(tmp_path, "benched-reader"),), heads=(Part("linear"),), seeds=(0,)))
    assert not (tmp_path / "out" / "cells").exists()


def words(tmp_path, *tasks):
    root = tmp_path / "data"
    if not root.exists():
        tiny_datasets.rgbd(root)
    tasks = [text.replace("DATA", f"name=rgbd-folder, root={root}") for text in tasks]
    sizes = ["--size", "16", "24", "--image-size", "12", "18", "--steps", "2", "--batch", "2"]
    parts = ["--backbones", "rgb-xy", "--heads", "linear", "--tasks", *tasks]
    return ["bench", *parts, *sizes, "--no-cache", "--out", str(tmp_path / "out")]


@pytest.mark.parametrize("debug", [False, True])
def test_the_traceback_is_shown_for_debugging_alone(tmp_path, capsys, debug):
    command = words(tmp_path, "benched-depth(DATA, fault=score)", "maxa-depth(DATA)")
    assert cli.main(["--debug", *command] if debug else command) == 1
    out, err = capsys.readouterr()
    assert f"rgb-xy + linear, benched-depth(fault=score), seed 0: {FAULTS['score']}" in out
    assert "1 of 2 cells failed" in err
    assert ("bench_parts.py" in err) == ("Traceback (most recent call last)" in err) == debug


def test_a_task_of_a_third_party_by_name_and_arguments(tmp_path, capsys):
    command = words(tmp_path, "maxa(task=depth, DATA)", "maxa(task=benched-near(metres=3), DATA)")
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "rgb-xy + linear, maxa(task=depth), seed 0: rmse " in out
    assert "| maxa(task=depth): rmse (m) ↓ | maxa(task=benched-near(metres=3)): mse ↓ |" in out


def test_options_of_the_data_set_and_arguments_of_the_objective_are_told_apart(tmp_path):
    from dense_ctx_bench.command import _task

    part = _task("maxa(task=normals, name=rgbd-folder, root=X, target=normals, flip=true, lr=1e-3, val=all)")
    assert part == BenchTask("maxa", {"name": "rgbd-folder", "root": "X", "target": "normals"}, val="all", lr=1e-3,
                             args={"task": "normals", "flip": True})  # fmt: skip


def test_heads_that_read_other_maps_share_a_cache_folder(tmp_path):
    heads = (
        Part("linear"),
        Part("linear", {"layers": [0, 1]}),
        Part("linear", {"layers": [-1, 0]}),
        Part("benched-all"),
    )
    plan = bench(tmp_path, backbones=(Part("benched-tiny"),), heads=heads, seeds=(0,), image_size=(16, 24))
    records = run_bench(plan)
    assert [record["status"] for record in records] == ["done"] * 4
    assert len([path for path in (tmp_path / "out" / "features").rglob("train-*") if path.is_dir()]) == 3


def test_features_read_from_disk_are_those_of_the_backbone(tmp_path):
    parts = {"tasks": (task(tmp_path, "benched-reader"),), "heads": (Part("linear"),), "seeds": (0,)}
    values = [run_bench(bench(tmp_path, out=tmp_path / str(cache), cache=cache, **parts))[0]["value"]
              for cache in (True, False)]  # fmt: skip
    assert values[0] == pytest.approx(values[1], rel=5e-3)


def test_a_backbone_that_trains_is_not_read_from_disk(tmp_path):
    parts = {"backbones": (Part("benched-tiny", {"adapt": True}),), "heads": (Part("linear"),), "seeds": (0,)}
    (record,) = run_bench(bench(tmp_path, image_size=(16, 24), **parts))
    assert "benched-tiny has adapters that train" in record["error"]
    assert "--no-cache" in record["error"]
    plan = bench(tmp_path, out=tmp_path / "other", image_size=(16, 24), cache=False, steps=30, **parts)
    assert run_bench(plan)[0]["status"] == "done"
    (folder,) = (tmp_path / "other" / "runs").iterdir()
    trained = AutoDenseModel.from_pretrained(folder / "model").backbone.state_dict()
    seed_all(mix(0, "bench", "backbone"))
    fresh = registry().create("backbone", "benched-tiny", adapt=True).state_dict()
    assert [name for name, tensor in fresh.items() if not torch.equal(tensor, trained[name])] == ["deep.bias"]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("lila-lite0", "A saved model as a backbone is written model:lila-lite0$"),
        ("facebook/dinov2-small", "If it is a backbone, write hf:facebook/dinov2-small$"),
        (
            "dinov2-s1",
            r"Unknown backbone .dinov2-s1.\. `dense-ctx plugins backbone` lists all \d+\. Did you mean [^?]*\?$",
        ),
        ("model:runs/none/model", "There is no model at runs/none/model: expected a folder"),
        ("lora:model:runs/none/model", "There is no model at runs/none/model: expected a folder"),
    ],
)
def test_a_backbone_that_is_not_there_is_refused_before_the_first_cell(tmp_path, capsys, backbone, message):
    data = tmp_path / "data"
    data.mkdir()
    words = ["bench", "--backbones", backbone, "--heads", "linear", "--out", str(tmp_path / "out"), "--tasks"]
    assert cli.main([*words, f"maxa-depth(name=rgbd-folder, root={data})"]) == 2
    assert re.search(message, capsys.readouterr().err.strip())
    assert cli.main([*words[:2], "rgb-xy", *words[3:], "maxa-depth(name=rgbd-folder, root=no/where)"]) == 2
    assert "error: maxa-depth: there is no data at root=no/where" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
