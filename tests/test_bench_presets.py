"""Benchmarks by name: MAXA's tables are whole, run with their own settings for each task, and fill their columns."""

import hashlib
import inspect
import json
import re
from pathlib import Path

import pytest
import tiny_datasets
import torch
from dense_ctx_bench.check import check_parts
from dense_ctx_bench.plan import Bench, BenchTask
from dense_ctx_bench.presets import bench_of
from dense_ctx_bench.run import run_bench
from dense_ctx_maxa.pixel_tasks import Semantic
from dense_ctx_maxa.scoring import ClusterScores

from dense_ctx import create_backbone, registry
from dense_ctx.cli import main
from dense_ctx.config import Part, load_yaml, parse_part
from dense_ctx.data import layout
from dense_ctx.errors import ConfigError, InputError, UnknownNameError, WeightsError

PRESETS = ["maxa-table2", "maxa-table3", "maxa-table4", "maxa-table5", "maxa-semantic-ours"]
OF_BENCH = {"size", "image_size", "lr"}  # what a benchmark sets itself
ROOTS = {"coco-instances": "C", "coco-stuff171": "C", "voc2012": "V", "nyuv2": "N"}


def written(name):
    return load_yaml(registry().text("preset", name), name)


def missing(kind, part, own=()):
    """Arguments that a part leaves to a default of ours."""
    entry, positional = registry().get(kind, part.name)
    parameters = list(inspect.signature(registry().resolve(entry)).parameters.values())[len(positional) :]
    arguments = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - set(entry.args) - set(own)
    return arguments - set(part.args)


@pytest.mark.parametrize("name", PRESETS)
def test_an_official_benchmark_inherits_no_default_of_ours(name):
    data = written(name)
    for text in data["backbones"].values():
        assert not missing("backbone", parse_part(text)), text
    for text in data["heads"]:
        assert not missing("decoder", parse_part(text), {"dims", "strides", "dim", "size", "grid"}), text
    for key, task in data["tasks"].items():
        assert set(task) == {"objective", "data", "train", "val", "steps", "lr", "args", "head", "images"}, key
        assert not missing("objective", Part(task["objective"], task["args"]), OF_BENCH), key
        if "task" in task["args"]:
            assert not missing("task", parse_part(task["args"]["task"])), key
        assert set(task["data"]) == {"name", *(option for option, _ in layout(task["data"]["name"]).options)}, key
    needed = {task["data"]["name"] for task in data["tasks"].values()}
    assert isinstance(bench_of(name, {k: ROOTS[k] for k in needed}, Path("x")), Bench)
    for line in registry().text("preset", name).splitlines():
        if not re.match(r"#|\s*[a-z_0-9]+:$", line):
            assert re.match("MAXA |open|run|ours, as above$", line.partition("  # ")[2]), line
    short = {key: value for key, value in data.items() if key != "select"}
    assert set(short) < set(data)


def test_the_published_settings():
    table2 = bench_of("maxa-table2", {"coco-instances": "C"}, Path("x"))
    table3 = bench_of("maxa-table3", {"coco-stuff171": "C", "voc2012": "V", "nyuv2": "N"}, Path("x"))
    instances, boundaries, _ = table2.tasks
    _, stuff, depth = table3.tasks
    assert (instances.images, instances.args["task"][:28]) == (8000, "instances(least=3, large=0.0")
    assert (stuff.head, stuff.images, stuff.args["task"]) == ({"cnn_width": 64}, 100_000, "semantic(outputs=201)")
    assert (boundaries.lr, depth.lr, depth.val) == (2e-3, 2e-3, "test")
    assert (table2.select, table2.size, len(table2.backbones)) == ("loss", (224, 224), 21)
    published = [
        row["name"] for row in json.loads(registry().file("paper", "maxa").read_text())["tables"]["table2"]["rows"]
    ]
    assert list(written("maxa-table2")["backbones"]) == list(written("maxa-table3")["backbones"]) == published


@pytest.fixture
def preset(tmp_path):
    """A benchmark of one's own with the names of MAXA's table 2, on tiny data."""
    tiny_datasets.instances(tmp_path / "coco")
    data = written("maxa-table2")
    data |= {
        "backbones": {"Random (untrained)": "rgb-xy", "MAE": "efficientnet-lite0(weights=null, layers=[1])"},
        "size": [16, 24],
        "image_size": [12, 18],
        "batch_size": 2,
    }
    data["held_out"] = 0.5
    for task in data["tasks"].values():
        task.update(train="val", steps=2, images=None)
    data["tasks"]["instances"]["args"]["task"] = "instances(least=1, large=0.0, seed=0)"
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(data))
    return path


def test_a_preset_runs_by_one_command(preset, tmp_path, capsys):
    words = ["bench", str(preset), "--data", f"coco-instances={tmp_path / 'coco'}", "--out", str(tmp_path / "out")]
    assert main([*words, "--tasks", "boundaries", "distance", "--backbones", "Random (untrained)"]) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "out/cells").glob("*.json")]
    assert {record["settings"]["preset"]["column"] for record in records} == {"boundaries", "distance"}
    assert {record["selected"]["by"] for record in records} == {"ce", "mse"}
    assert {record["settings"]["preset"]["row"] for record in records} == {"Random (untrained)"}
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "out"), "--paper", "maxa:table2"]) == 2
    assert "has no column of" in capsys.readouterr().err  # a file of one's own is not the paper's preset


def shipped(out, name="maxa-table2", whole=True):
    """As if the cells of a folder had been measured under a shipped preset, on the whole data set."""
    digest = hashlib.sha256(registry().text("preset", name).encode()).hexdigest()
    for path in (out / "cells").glob("*.json"):
        record = json.loads(path.read_text())
        record["settings"]["preset"] |= {"name": name, "digest": digest}
        if whole:
            data = record["data"]
            data |= {key.removeprefix("published_"): n for key, n in data.items() if key.startswith("published_")}
        path.write_text(json.dumps(record))


def test_cells_fill_the_columns_of_their_table(preset, tmp_path, capsys):
    bench = bench_of(str(preset), {"coco-instances": str(tmp_path / "coco")}, tmp_path / "out", ["MAE"], ["boundaries"])
    (record,) = run_bench(bench)
    assert record["status"] == "done", record
    published = {"samples": 5000, "training_samples": 5000}
    assert {f"published_{key}": count for key, count in published.items()}.items() <= record["data"].items()
    shipped(tmp_path / "out", whole=False)
    assert main(["compare", str(tmp_path / "out"), "--paper", "maxa:table2"]) == 2
    error = capsys.readouterr().err
    assert f"MAE under maxa-table2/boundaries scored {record['data']['samples']} of the 5,000 published" in error
    shipped(tmp_path / "out")
    assert main(["compare", str(tmp_path / "out"), "--paper", "maxa:table2"]) == 0
    head, *_, ours = capsys.readouterr().out.splitlines()
    cells = dict(
        zip(
            [c.split()[0] for c in head.strip("| ").split("|")],
            [c.strip() for c in ours.strip("| ").split("|")],
            strict=True,
        )
    )
    assert cells["method"] == "MAE (ours, dense_ctx)"
    assert float(cells["boundary_ce"]) == pytest.approx(record["scores"]["ce"], abs=1e-4)
    assert float(cells["boundary_iou"]) == pytest.approx(100 * record["scores"]["iou"], abs=0.1)
    assert (cells["image"], cells["ari"], cells["distance_mse"]) == ("12", "-", "-")
    for table, message in (
        ("maxa:table3", "has no column of maxa-table2"),
        ("lila:table1", "has no column of maxa-table2"),
    ):
        assert main(["compare", str(tmp_path / "out"), "--paper", table]) == 2
        assert message in capsys.readouterr().err
    path = next((tmp_path / "out/cells").iterdir())
    changed = json.loads(path.read_text())
    changed["settings"]["preset"]["digest"] = "0"
    path.write_text(json.dumps(changed))
    assert main(["compare", str(tmp_path / "out"), "--paper", "maxa:table2"]) == 2
    assert "another maxa-table2 than the one that is shipped" in capsys.readouterr().err
    del changed["settings"]["preset"]
    path.write_text(json.dumps(changed))
    assert main(["compare", str(tmp_path / "out"), "--paper", "maxa:table2"]) == 2
    assert "settings of its own" in capsys.readouterr().err


def test_what_is_wrong_with_a_preset_is_said(tmp_path, preset, capsys):
    for name, roots, tasks, error, message in (
        ("maxa-table9", {}, None, UnknownNameError, "Unknown preset 'maxa-table9'"),
        ("lila-b14", {}, None, ConfigError, "no preset of a benchmark"),
        ("maxa-table2", {}, None, InputError, r"needs the folders of coco-instances: --data coco-instances=PATH"),
        ("maxa-table2", {"voc2012": "V"}, None, InputError, "given: voc2012"),
        ("maxa-table2", {"coco-instances": "C"}, ["depth"], InputError, "has no task depth; it has instances"),
    ):
        with pytest.raises(error, match=message):
            bench_of(name, roots, tmp_path, None, tasks)
    data = json.loads(preset.read_text())
    preset.write_text(json.dumps({**data, "stepz": 3}))
    with pytest.raises(ConfigError, match=r"unknown key\(s\) stepz"):
        bench_of(str(preset), {"coco-instances": "C"}, tmp_path)
    out = ["--out", str(tmp_path / "o")]
    for words, message in (
        ([*out], "bench needs --backbones and --tasks, or a preset"),
        (["maxa-table2", "--data", "coco", *out], "'coco' is not DATASET=ROOT"),
        (["maxa-table2", "--steps", "3", *out], "--steps would have no effect with a preset"),
        (
            ["--backbones", "rgb-xy", "--tasks", "maxa-depth(name=nyuv2, root=x)", "--data", "a=b", *out],
            "--data would have no",
        ),
    ):
        assert main(["bench", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "maxa-table2"]) == 2
    assert "a preset of another verb: dense-ctx bench ... maxa-table2" in capsys.readouterr().err


def test_images_of_the_training_split_are_drawn_once(tmp_path):
    tiny_datasets.rgbd(tmp_path / "data")
    task = BenchTask("maxa-depth", {"name": "rgbd-folder", "root": str(tmp_path / "data")}, images=1)
    sizes = {"size": (16, 24), "image_size": (12, 18), "steps": 1, "batch_size": 1, "held_out": 0, "select": "loss"}
    bench = Bench(tmp_path / "out", (Part("rgb-xy"),), (Part("linear"),), (task,), **sizes)
    (record,) = run_bench(bench)
    assert record["status"] == "done"
    assert record["settings"]["task"]["images"] == 1
    many = Bench(tmp_path / "many", bench.backbones, bench.heads, (BenchTask("maxa-depth", task.data, images=99),))
    (record,) = run_bench(many)
    assert "images=99, but the split train of rgbd-folder has" in record["error"]


def test_outputs_beyond_the_classes():
    task = Semantic(outputs=5)
    assert task.channels == 5
    scores = task.scores(("a", "b"))
    logits = torch.zeros(5, 2, 2)
    logits[4] = 9  # the likeliest is none of the classes
    logits[1] = 1
    scores.update(logits, torch.ones(2, 2, dtype=torch.int64))
    values = scores.compute().values
    assert values["pixel_accuracy"] == 1.0
    assert values["ce"] > 7
    with pytest.raises(ConfigError, match="outputs=5, but the data set has 6 classes"):
        task.scores(tuple("abcdef"))


def test_large_instances():
    target = torch.zeros(10, 10, dtype=torch.int64)
    target[0, :3], target[2:6], target[6:] = 1, 2, 3
    latent = torch.nn.functional.one_hot(target, 4).permute(2, 0, 1).float()
    for least, large, counted in ((3, 0.0, 1), (3, 0.03, 1), (3, 0.04, 0), (2, 0.3, 1), (4, 0.0, 0)):
        scores = ClusterScores(least=least, large=large)
        scores.update(latent, target)
        assert scores.images == counted, (least, large)
    with pytest.raises(InputError, match=r"least=0, large=0\.0"):
        registry().create("task", "instances", least=0)


def test_backbones_whose_weights_are_elsewhere(tmp_path):
    with pytest.raises(WeightsError, match=r"MoCo v3's weights are on no Hub.*vit-b-300ep\.pth\.tar"):
        create_backbone("mocov3-b16")
    own = create_backbone("mocov3-b16", weights=None)
    state = {f"module.base_encoder.{key}": value for key, value in own.net.state_dict().items()}
    state["module.base_encoder.head.0.weight"] = torch.zeros(2, 2)
    torch.save({"state_dict": state, "epoch": 300}, tmp_path / "vit-b-300ep.pth.tar")
    read = create_backbone("mocov3-b16", weights=str(tmp_path / "vit-b-300ep.pth.tar"))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(own(images).maps[-1], read(images).maps[-1])
    hiera = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
        "blocks_per_stage": [1, 2, 2, 1], "global_attention_blocks": [2], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
    }  # fmt: skip
    small = {"backbone_channel_list": [64, 32, 16, 8], "backbone_config": hiera}
    neck = create_backbone("sam2-base-plus-neck", weights=None, config=small)
    assert [tuple(item.shape) for item in neck(torch.rand(1, 3, 64, 96)).maps] == [(1, 256, 4, 6)]
    assert (neck.image_size, neck.strides, neck.dims) == ((1024, 1024), (16,), (256,))


@pytest.mark.parametrize("name", PRESETS)
def test_the_parts_of_an_official_benchmark_take_their_arguments(name, tmp_path):
    needed = {task["data"]["name"] for task in written(name)["tasks"].values()}
    check_parts(bench_of(name, dict.fromkeys(needed, str(tmp_path)), tmp_path / "out"))
