"""Every value of every official preset is that of an independent table, published_settings.py, which is whole."""

import published_settings as published
import pytest
import yaml
from test_presets import DIP, LILA, arguments, leaves, written

from dense_ctx import registry
from dense_ctx.cli import main
from dense_ctx.config import load_value, parse_part
from dense_ctx.errors import ConfigError

TASKS = ["dip-tasks-s14", "dip-tasks-b14", "dip-tasks-l14"]
MAXA = list(published.MAXA_COLUMNS)
RUN = {"out", "data", "data.root", "workers", "compile", "log_with", "log", "resume", "verb", "cache",
       "objective.args.cue_cache", "objective.args.sampling.memory", "model.backbone.args.prefix"}  # fmt: skip
SECTIONS = ("validate.", "save.")  # of the run, too


def rows(text):
    for line in text.strip().splitlines():
        path, value, source = (cell.strip() for cell in line.split(" | "))
        assert source, line
        yield path, load_value(value, line)


def expected(text, variant):
    """{path: value} for one preset of a family."""
    values = {}
    for path, value in rows(text):
        if isinstance(value, dict) and (variant in value or "default" in value):
            value = value.get(variant, value.get("default"))
        if value != "ABSENT":
            values[path] = value
    return values


def decided(values, also=()):
    return {k: v for k, v in values.items() if k not in RUN | set(also) and not k.startswith(SECTIONS)}


def official(name):
    kind = "dip-tasks-" if name in TASKS else f"{name.partition('-')[0]}-"
    text = {"dip-tasks-": published.DIP_TASKS, "dip-": published.DIP, "lila-": published.LILA}[kind]
    return expected(text, name.removeprefix(kind))


@pytest.mark.parametrize("name", LILA + DIP + TASKS)
def test_each_value_is_the_published_one(name):
    decisions = decided(leaves(written(name)), {"accumulate"} if name in LILA else ())  # LILA's decides no number
    assert decisions == official(name)


def test_a_change_of_any_single_value_is_noticed():
    for name in ("lila-b14", "dip-s14", "dip-tasks-b14"):
        values = decided(leaves(written(name)), {"accumulate"} if name in LILA else ())
        for path in values:
            assert {**values, path: "changed"} != official(name)
        assert len(values) >= 27


def backbones(text):
    for line in text.strip().splitlines():
        row, name, layers, more = (cell.strip() for cell in line.split(" | "))
        layers, more = load_value(layers, line), load_value(more, line)
        none = {"prefix": None, "resize": False, "adapters": None, "dtype": None}
        args = {"weights": "pretrained", **none, "layers": layers, "norm": True, **more}
        if name == "sam2-base-plus-neck":
            args = {"weights": "pretrained", **more}
        if name == "mocov3-b16":
            args = {"weights": "pretrained", "layers": layers, "norm": True}
        yield row, name, args


@pytest.mark.parametrize("name", MAXA)
def test_each_value_of_a_benchmark_is_the_published_one(name):
    data = written(name)
    of_tables = {row: (part, args) for row, part, args in backbones(published.MAXA_BACKBONES)}
    if name == "maxa-table4":
        of_tables = {row: of_tables[row] for row in ("Dino V2", "MAE", "SigLIP-384")}
    if name == "maxa-table5":
        of_tables = {row: (part, args) for row, part, args in backbones(published.MAXA_TABLE5)}
    parts = {row: parse_part(text) for row, text in data.pop("backbones").items()}
    assert {row: (part.name, dict(part.args)) for row, part in parts.items()} == of_tables
    assert list(parts) == list(of_tables)
    assert list(map(parse_part, data.pop("heads"))) == list(map(parse_part, published.MAXA_HEADS[name]))
    tasks = data.pop("tasks")
    assert tasks == {key: dict(rows(published.MAXA_TASKS[key])) for key in published.MAXA_COLUMNS[name]}
    assert decided(leaves(data)) == dict(rows(published.MAXA))


def test_the_keys_of_a_benchmark_are_checked(tmp_path, capsys):
    data = written("maxa-table3")
    path = tmp_path / "own.yaml"
    words = ["bench", str(path), "--data", "voc2012=x", "coco-stuff171=x", "nyuv2=x", "--out", str(tmp_path / "out")]
    for key in ("optimizer", "clip_norm", "mixed_precision", "schedule", "select", "held_out"):
        path.write_text(yaml.safe_dump({k: v for k, v in data.items() if k != key}))
        assert main(words) == 2
        assert f"missing key(s) {key}" in capsys.readouterr().err
    for change, message in (
        ({"optimizer": {"name": "adamw", "beta": [0.9, 0.9]}}, "unknown key(s) beta (did you mean betas?)"),
        ({"optimizer": {"lr": 0.1}}, "optimizer.lr=0.1: a rate is a task's"),
        ({"tasks": {"voc": {**data["tasks"]["voc"], "stepz": 1}}}, "unknown key(s) stepz"),
        ({"clip_norm": "none"}, "clip_norm is 'none'"),
    ):
        path.write_text(yaml.safe_dump({**data, **change}))
        assert main(words) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_a_preset_of_tasks_inherits_no_default_of_ours(name):
    from dataclasses import fields

    from dense_ctx_dip.task_settings import TaskSettings

    data = written(name)
    assert set(data) == {"verb", "model"} | {field.name for field in fields(TaskSettings)}
    for kind, part in (("segmenter", data["segmenter"]), *((kind, data["model"][kind]) for kind in data["model"])):
        assert set(arguments(kind, part)) == set(part["args"])
    for line in registry().text("preset", name).splitlines():
        if not line.startswith("#") and not line.rstrip().endswith(":"):
            assert line.partition("  # ")[2].startswith(("run", "DIP ", "DiffCut", "open", "without effect")), line


def test_tasks_are_made_by_a_preset(tmp_path, capsys):
    """The verb takes all that a preset says, and changes of it."""
    from dense_ctx_dip.task_preset import task_preset
    from test_dip_tasks import pictures

    model, settings = task_preset("dip-tasks-s14", ["segmenter.args.tau=0.4", "classes=7"])
    assert (str(model).partition("(")[0], settings.classes, settings.neighbours) == ("dinov2-reg-s14", 7, 5)
    assert dict(settings.segmenter.args)["tau"] == 0.4
    own = written("dip-tasks-s14") | {
        "model": {"backbone": {"name": "rgb-xy", "args": {}}, "decoder": {"name": "upsample", "args": {}}},
        "segmenter": {"name": "slic", "args": {"segments": 12}},
        "side": 48,
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(own))
    images = str(pictures(tmp_path / "images", 6))
    words = ["pseudo-label", images, "--config", str(path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "classes=4"]) == 0
    assert (tmp_path / "out/pairs.jsonl").exists()
    capsys.readouterr()
    for more, message in (
        (["classes=5"], "cluster.classes: 4 there, 5 now"),
        (["classes=4", "--segmenter", "ncut"], "--segmenter would have no effect with --config"),
        (["classes=4", "--model", "rgb-xy"], "--model would have no effect with --config"),
        (["clases=4"], "unknown key(s) clases (did you mean classes?)"),
        (["verb=train"], "verb cannot be changed"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="maxa-table2 is no preset of pseudo-label"):
        task_preset("maxa-table2")
