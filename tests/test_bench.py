import json
import math
import re
from xml.etree import ElementTree

import pytest
import tiny_datasets
import torch
from dense_ctx_bench.plan import Bench, BenchTask
from dense_ctx_bench.report import page
from dense_ctx_bench.run import run_bench
from dense_ctx_bench.select import Best, hold_out
from dense_ctx_bench.table import markdown
from safetensors.torch import load_file

from dense_ctx import AutoDenseModel, cli
from dense_ctx.config import Part
from dense_ctx.data import ImageSet
from dense_ctx.errors import ConfigError, UnknownNameError
from dense_ctx.testing.tiny import tiny_model
from dense_ctx.train.log import read_log

SVG = "{http://www.w3.org/2000/svg}"


def bench(tmp_path, **args):
    root = tmp_path / "data"
    if not root.exists():
        tiny_datasets.rgbd(root)
    task = BenchTask("maxa-depth", {"name": "rgbd-folder", "root": str(root)})
    values = {
        "backbones": (Part("rgb-xy"),), "heads": (Part("maxa"), Part("linear")), "tasks": (task,), "seeds": (0, 1),
        "size": (16, 24), "image_size": (12, 18), "steps": 2, "batch_size": 2,
    }  # fmt: skip
    return Bench(**{"out": tmp_path / "out", **values, **args})


def test_every_cell_is_run_once(tmp_path):
    first = run_bench(bench(tmp_path))
    assert [record["status"] for record in first] == ["done"] * 4
    for record in first:
        assert record["metric"] == "rmse"
        assert record["value"] == record["scores"]["rmse"] > 0
        assert (record["n"], record["grid"], record["image_size"]) == (2, [12, 18], [12, 18])
        assert record["learnt"] < record["parameters"]
        assert min(record["backbone_seconds"], record["head_seconds"], record["peak_memory_mb"]["process"]) > 0
        assert len(record["weights"]) == 64
    assert first[0]["value"] != first[2]["value"]  # seeds
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    assert run_bench(bench(tmp_path)) == first
    assert {path: path.stat().st_mtime_ns for path in files} == files
    next(iter(files)).unlink()
    again = run_bench(bench(tmp_path))
    assert [r["value"] for r in again] == pytest.approx([r["value"] for r in first])


def test_a_cell_that_fails_is_reported_and_the_rest_goes_on(tmp_path):
    heads = (Part("maxa", {"width": 12}), Part("linear"))
    records = run_bench(bench(tmp_path, heads=heads, seeds=(0,)))
    assert [record["status"] for record in records] == ["failed", "done"]
    assert "heads divide" in records[0]["error"]
    table = markdown(records)
    assert "| rgb-xy | maxa(width=12) | - | failed |" in table
    assert "maxa-depth: rmse (m) ↓" in table
    report = page(records)
    assert "heads divide" in report
    assert report.count("<title>rgb-xy + linear: ") == 1


def test_the_best_of_a_column_is_bold():
    def record(head, value, seed=0):
        part = {"name": head, "args": {}}
        settings = {"backbone": {"name": "b", "args": {}}, "head": part, "task": {"objective": "t"}, "seed": seed}
        return {"settings": settings, "status": "done", "metric": "rmse", "lower_is_better": True, "value": value,
                "learnt": 1000}  # fmt: skip

    lines = markdown([record("x", 1.0), record("x", 3.0, 1), record("y", 1.5)]).splitlines()
    assert lines[2] == "| b | x | 1,000 | 2 ± 1.4 |"
    assert lines[3] == "| b | y | 1,000 | **1.5** |"


def test_the_held_out_images_choose_the_head(tmp_path):
    record = run_bench(bench(tmp_path, held_out=0.5, steps=20, seeds=(0,), heads=(Part("maxa"),)))[0]
    (run,) = (tmp_path / "out" / "runs").iterdir()
    rows = [row for row in read_log(run / "log.jsonl") if "rmse" in str(row)]
    assert record["selected"]["step"] in range(2, 21, 2)
    values = [float(value) for value in re.findall(r"'rmse': ([\d.e-]+)", str(rows))]
    assert record["selected"]["value"] == pytest.approx(min(values))
    tensors = load_file(run / "best.safetensors")
    published = AutoDenseModel.from_pretrained(run / "model").decoder.state_dict()
    assert all(torch.equal(value, tensors[key]) for key, value in published.items())


def test_the_best_is_kept_over_a_continued_run(tmp_path):
    model = tiny_model()
    first = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    best = Best(tmp_path, "rmse", lower=True)
    best.offer(model, 1, 0.5)
    with torch.no_grad():
        model.decoder.project[0].weight.add_(1)
    best.offer(model, 2, 0.5)  # no better
    best.offer(model, 3, float("nan"))
    Best(tmp_path, "rmse", lower=True).offer(model, 4, 0.7)
    assert best.restore(model) == {"step": 1, "value": 0.5}
    assert all(torch.equal(value, first[key]) for key, value in model.decoder.state_dict().items())
    upwards = Best(tmp_path / "iou", "iou", lower=False)
    for step, value in enumerate((0.1, 0.3, 0.2)):
        upwards.offer(model, step, value)
    assert upwards.record == {"step": 1, "value": 0.3}


def test_images_are_held_out_once_and_for_all():
    class Numbers(ImageSet):
        names = tuple(str(n) for n in range(25))

        def __getitem__(self, index):
            return index

    fit, held = hold_out(Numbers(), 0.1)
    assert held.indices == [5, 15]
    assert sorted(fit.indices + held.indices) == list(range(25))
    assert fit[5] == 6
    assert len(hold_out(Numbers(), 0)[1]) == 0


def test_faults(tmp_path):
    run_bench(bench(tmp_path, heads=(Part("linear"),), seeds=(0,)))
    with pytest.raises(ConfigError, match=r"holds another cell \(steps: 2 there, 3 now\)"):
        run_bench(bench(tmp_path, heads=(Part("linear"),), seeds=(0,), steps=3))
    with pytest.raises(ConfigError, match="seeds is empty"):
        bench(tmp_path, seeds=())
    with pytest.raises(ConfigError, match="one twice"):
        bench(tmp_path, seeds=(1, 1))
    with pytest.raises(UnknownNameError, match="linaer"):
        bench(tmp_path, heads=(Part("linaer"),))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"tasks": (BenchTask("maxa-depth", {"root": "x"}),)}, "needs data, as in maxa-depth.*got root in its"),
        ({"tasks": (BenchTask("maxa-depth", {"name": "rgbd-foldr", "root": "x"}),)}, "Closest: rgbd-folder"),
        ({"tasks": (BenchTask("maxa-deep", {"name": "rgbd-folder", "root": "x"}),)}, "maxa-depth"),
        ({"tasks": (BenchTask("maxa-depth", {"name": "rgbd-folder", "root": "x"}, steps=0),)}, "steps=0"),
        ({"tasks": (BenchTask("maxa-depth", {"name": "rgbd-folder", "root": "x"}, lr=-1),)}, "lr=-1"),
        ({"heads": (Part("maxa", {"lr": "fast"}),)}, "maxa: lr=fast"),
        ({"schedule": "step"}, "constant or cosine"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"size": (0, 8)}, r"size=\(0, 8\)"),
        ({"held_out": 0.7}, "from 0 to 0.5"),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_said_before_any_work(tmp_path, args, message):
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        bench(tmp_path, **args)


def test_a_head_s_own_rate_stands_above_the_task_s(tmp_path):
    heads = (Part("linear", {"lr": 0.3}), Part("linear"))
    task = BenchTask("maxa-depth", {"name": "rgbd-folder", "root": str(tmp_path / "data")}, lr=0.2)
    plan = bench(tmp_path, heads=heads, seeds=(0,), tasks=(task,))
    records = run_bench(plan)
    assert [record["status"] for record in records] == ["done", "done"]
    rates = {}
    for cell in plan.cells():
        rows = read_log(tmp_path / "out" / "runs" / cell.name / "log.jsonl")
        rates[cell.head.args.get("lr")] = next(row["lr"] for row in rows if "lr" in row)
    assert rates == {0.3: 0.3, None: 0.2}
    assert "| linear(lr=0.3) |" in markdown(records)


def test_the_schedule_reaches_the_training(tmp_path):
    for schedule in ("constant", "cosine"):
        out = tmp_path / schedule
        plan = bench(tmp_path, out=out, heads=(Part("linear"),), seeds=(0,), steps=20, schedule=schedule)
        assert run_bench(plan)[0]["settings"]["schedule"] == schedule
        (run,) = (out / "runs").iterdir()
        rates = [row["lr"] for row in read_log(run / "log.jsonl") if "lr" in row]
        assert rates == pytest.approx(
            [2e-3 * (1 if schedule == "constant" else (1 + math.cos(math.pi * step / 20)) / 2) for step in range(20)]
        )


def test_the_command_line_says_which_cell_failed_and_why_once(tmp_path, capsys):
    tiny_datasets.rgbd(tmp_path / "data")
    words = ["bench", "--backbones", "rgb-xy", "--heads", "maxa(heads=5)", "linear(layers=[-1])"]
    words += ["--tasks", f"maxa-depth(name=rgbd-folder, root={tmp_path / 'data'}, lr=1e-3)", "--size", "16", "24"]
    words += ["--image-size", "12", "18", "--steps", "2", "--batch", "2", "--seeds", "0", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert "cell 1 of 4: rgb-xy + maxa(heads=5), maxa-depth, seed 0\n" in err
    assert "rgb-xy + maxa(heads=5), maxa-depth, seed 1: failed like cell 1\n" in out
    assert out.count("expected a width of at least 4 that the heads divide") == 1
    assert "rgb-xy + linear(layers=[-1]), maxa-depth, seed 0: rmse " in out
    assert "2 of 4 cells failed; the same command tries them again" in err
    for text, message in {
        "maxa-depth(name=a": "'maxa-depth(name=a' is not NAME or NAME(key=value, ...)",
        "maxa-depth(lr=x)": "needs data",
    }.items():
        assert cli.main(["bench", "--backbones", "rgb-xy", "--tasks", text, "--out", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_from_the_command_line(tmp_path, capsys):
    root = tmp_path / "data"
    tiny_datasets.rgbd(root)
    words = ["bench", "--backbones", "rgb-xy", "--heads", "linear", "--tasks"]
    words += [
        f"maxa-depth(name=rgbd-folder, root={root})",
        f"maxa-normals(name=rgbd-folder, root={root}, target=normals)",
    ]
    words += ["--size", "16", "24", "--image-size", "12", "18", "--steps", "2", "--batch", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--no-cache"]) == 0
    assert "maxa-normals: mean" in capsys.readouterr().out
    assert not (tmp_path / "out" / "features").exists()
    assert (tmp_path / "out" / "table.md").read_text().count("\n") == 3
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    legend, *plots = re.findall(r"<svg.*?</svg>", report, re.S)
    assert "rgb-xy" in legend
    assert "linear" in legend
    for svg in plots:
        assert len(ElementTree.fromstring(svg).findall(f"{SVG}g/{SVG}circle")) == 1
    assert len(plots) == 3  # two tasks against speed, one against the other
    files = {path.stem for path in (tmp_path / "out" / "plots").iterdir()}
    assert files == {"legend", "speed-maxa-depth", "speed-maxa-normals", "maxa-depth-maxa-normals"}
    cells = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cells").iterdir()]
    assert len(cells) == 2
