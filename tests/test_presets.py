"""Presets: official ones write out every value with its source, and inherit none of our defaults."""

import inspect
import json
import re
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import tiny_datasets
from dip_data import tasks

from dense_ctx import create_backbone, create_decoder, registry
from dense_ctx.cli import main
from dense_ctx.config import Part, load_yaml, parse_part
from dense_ctx.data import layout
from dense_ctx.errors import ConfigError, FileError, InputError, UnknownNameError
from dense_ctx.persistence.file_args import check_file_args
from dense_ctx.train import TrainConfig

LILA = [
    "lila-s14",
    "lila-b14",
    "lila-l14",
    "lila-l14-kinetics",
    "lila-mae-b16",
    "lila-dinov2-reg-b14",
    "lila-dinov3-b16",
]
DIP = ["dip-s14", "dip-b14", "dip-l14", "dip-clip-b16", "dip-mae-b16"]
SOURCES = r"run\b|LILA |DIP |FlowFeat|code\b|open\b|without effect"
# where the presets of a family differ; all else is one set of values
LILA_DIFFER = {
    "out", "model.backbone.name", "model.backbone.args.layers", "model.decoder.args.dim", "model.decoder.args.width",
    "model.decoder.args.projections", "data.layout", "data.split", "data.frames", "objective.args.sampling.items",
}  # fmt: skip
DIP_DIFFER = {"out", "model.backbone.name", "model.backbone.args.layers"}


def written(name):
    return load_yaml(registry().text("preset", name), name)


def leaves(value, path=""):
    """Dotted paths of a nested mapping's values."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {k: v for key, item in value.items() for k, v in leaves(item, f"{path}.{key}" if path else key).items()}


def settings(default):
    """The keys of a nested dataclass, {name: None or its own}."""
    return {
        f.name: settings(value) if is_dataclass(value := getattr(default, f.name)) else None for f in fields(default)
    }


def arguments(kind, part):
    """What a part takes: {argument: None, or the keys of its settings}."""
    entry, positional = registry().get(kind, part["name"])
    parameters = list(inspect.signature(registry().resolve(entry)).parameters.values())[len(positional) :]
    own = {"dims", "strides"} | set(entry.args)
    return {
        p.name: settings(p.default) if is_dataclass(p.default) else None
        for p in parameters
        if p.name not in own and p.kind is not p.VAR_KEYWORD
    }


def absent(expected, value, path=""):
    """Keys that a mapping leaves to a default."""
    for key, inner in expected.items():
        where = f"{path}.{key}" if path else key
        if not isinstance(value, dict) or key not in value:
            yield where
        elif inner is not None:
            yield from absent(inner, value[key], where)


def inherited(data):
    """What a configuration leaves to a default of ours, as dotted paths."""
    whole = settings(TrainConfig(out="x", steps=1)) | {"model": None, "objective": None}
    for key in ("wait", "device"):  # what another start of the same run does, and where: not what the run is
        del whole[key]
    yield from absent(whole, data)
    for kind, part, path in (
        ("backbone", data["model"]["backbone"], "model.backbone"),
        ("decoder", data["model"]["decoder"], "model.decoder"),
        ("objective", data["objective"], "objective"),
    ):
        yield from absent(arguments(kind, part), part.get("args", {}), f"{path}.args")
    for cue in data["objective"]["args"].get("cues", ()):
        part = parse_part(cue)
        if part.name != "features":
            yield from absent(arguments("cue", {"name": part.name}), dict(part.args), f"cues.{part.name}")
    if isinstance(data["data"], dict):
        yield from absent(dict.fromkeys(["root", "layout", "split"]), data["data"], "data")
        options = [name for name, _ in layout(data["data"]["layout"]).options]
        yield from absent(dict.fromkeys(options), data["data"], "data")


@pytest.mark.parametrize("name", LILA + DIP)
def test_an_official_preset_inherits_no_default_of_ours(name):
    data = written(name)
    assert list(inherited(data)) == []
    removable = [path for path in leaves(data) if not path.endswith(".name") and path != "data"]
    assert len(removable) > 45
    for path in removable:  # the check notices each single one
        short, keys = deepcopy(data), path.split(".")
        inner = short
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        assert any(path == missing or path.startswith(f"{missing}.") for missing in inherited(short)), path


@pytest.mark.parametrize("name", LILA + DIP)
def test_every_value_has_its_source(name):
    for line in registry().text("preset", name).splitlines():
        if re.match(r"#|\s*[a-z_]+:$", line):  # the header, and keys with a section below
            continue
        value, _, source = line.partition("  # ")
        assert re.match(SOURCES, source), line
        assert value.strip(), line


@pytest.mark.parametrize(("family", "differ"), [(LILA, LILA_DIFFER), (DIP, DIP_DIFFER)])
def test_presets_of_a_family_differ_where_the_paper_does(family, differ):
    first = leaves(written(family[0]))
    for name in family[1:]:
        other = leaves(written(name))
        assert {key for key in first.keys() | other.keys() if first.get(key) != other.get(key)} <= differ, name


def test_the_published_values():
    lila, kinetics = (TrainConfig.load(name) for name in ("lila-b14", "lila-l14-kinetics"))
    assert (lila.optimizer.lr, lila.optimizer.weight_decay, lila.batch_size, lila.steps) == (1e-4, 1e-5, 32, 30000)
    assert (lila.clip_norm, lila.model.decoder.args["dim"], lila.model.decoder.args["width"]) == (None, 192, 192)
    assert lila.data == {"root": None, "layout": "youtube-vos", "split": ["train", "valid"], "frames": "all"}
    assert (kinetics.model.decoder.args["dim"], kinetics.objective.args["sampling"]["items"]) == (256, "clips")
    for name in DIP:
        dip = TrainConfig.load(name)
        assert dip.batch_size // dip.accumulate == 4
        assert dip.optimizer.lr == pytest.approx(1.5e-7 * 384 / 256)
        assert (dip.epochs, dip.steps, dip.schedule.warmup, dip.schedule.floor, dip.clip_norm) == (5, None, 0, 0, None)
        assert (dip.objective.args["resize"], dip.objective.args["size"]) == (256, 224)


def test_the_list(capsys):
    assert main(["train", "--list"]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert set(rows) == set(registry().names("preset")) >= {*LILA, *DIP}
    assert "ViT-B/14" in rows["lila-b14"]
    assert main(["train", "lila-b14", "--list"]) == 0
    assert capsys.readouterr().out == registry().text("preset", "lila-b14")


def test_names_and_files_that_are_none(tmp_path, capsys):
    with pytest.raises(UnknownNameError, match=r"Unknown preset 'lila-b15'\. Closest: lila-b14"):
        TrainConfig.load("lila-b15")
    with pytest.raises(FileError, match=r"Cannot read the preset .*none\.yaml"):
        TrainConfig.load(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match=r"lila-b14.*stepz"):
        TrainConfig.load("lila-b14", ["stepz=1"])
    with pytest.raises(InputError, match="gama"):
        registry().create("objective", "lila", **TrainConfig.load("lila-b14").objective.args, gama=1)
    assert main(["train"]) == 2
    assert "--list shows the presets" in capsys.readouterr().err


@pytest.mark.parametrize("name", LILA + DIP)
def test_a_presets_parts_can_be_made(name):
    """But for weights: its objective, and its network and decoder with random ones, by the preset's own arguments."""
    config = TrainConfig.load(name, ["objective.args.cues=[features]"] if name in LILA else [])
    registry().create("objective", config.objective.name, **config.objective.args)
    backbone, decoder = config.model.backbone, config.model.decoder
    registry().bind("backbone", backbone.name, **backbone.args)
    if name.endswith(("s14", "mae-b16")):  # the large ones take a second each
        copy = create_backbone(backbone.name, **{**backbone.args, "weights": None})
        assert create_decoder(decoder.name, copy, **decoder.args).dim == decoder.args.get("dim", copy.dims[0])


@pytest.mark.parametrize("name", registry().names("preset"))
def test_what_a_preset_trains_can_be_opened_again(name):
    """Its parts' arguments are those that may stand in a model's config.json."""
    data = written(name)
    if data.get("verb") == "bench":
        parts = [("backbone", text) for text in data["backbones"].values()] + [("decoder", t) for t in data["heads"]]
        parts = [(kind, parse_part(text)) for kind, text in parts]
    elif isinstance(data["model"], str):  # a published model, trained further: its own config.json was read already
        parts = []
        assert data["model"] in registry().names("model")
    else:
        parts = [(kind, Part(**data["model"][kind])) for kind in ("backbone", "decoder")]
    for kind, part in parts:
        check_file_args(kind, part.name, part.args, name)


@pytest.mark.slow
def test_two_steps_of_lila_as_published(tmp_path):
    """The preset itself, with random weights, cues that need none, and smaller numbers that the run decides."""
    for split in ("train", "valid"):
        for index in range(7):
            tiny_datasets.image(tmp_path / f"{split}_all_frames/JPEGImages/{split}/{index:05d}.jpg")
    small = [
        "model.backbone.args.weights=null",
        "objective.args.cues=[features, 'flow:dis']",
        "batch_size=2",
        "workers=0",
    ]
    small += ["objective.args.sampling.size=28", "objective.args.sampling.map_size=28", "mixed_precision=no"]
    small += [f"data.root={tmp_path}", f"out={tmp_path / 'out'}"]
    assert main(["train", "lila-s14", *small, "steps=2", "save.every=0", "log=1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    losses = [row["losses"] for row in rows if "losses" in row]
    assert len(losses) == 2
    assert {"features", "flow:dis", "edges"} <= set(losses[0])
    assert all(value == value for row in losses for value in row.values())


@pytest.mark.slow
def test_two_steps_of_dip_as_published(tmp_path):
    data = tasks(tmp_path, size=(300, 280))
    small = ["model.backbone.args.weights=null", "batch_size=4", "accumulate=1", "workers=0", "mixed_precision=no"]
    small += ["objective.args.out=16", "epochs=null", "steps=2", "save.every=0", "log=1", f"out={tmp_path / 'out'}"]
    assert main(["train", "dip-s14", *small, f"data={json.dumps(data)}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    assert next(row["lr"] for row in rows if "loss" in row) == pytest.approx(2.25e-7)
    assert all(5.9 < row["loss"] < 7 for row in rows if "loss" in row)  # between log(e + 999) - 1 and log(1000)


OURS = {"lila-b14-ours": "lila-b14", "dip-b14-ours": "dip-b14", "maxa-semantic-ours": "maxa-table3"}
KEY = re.compile(r"#   ([a-z][a-z_.0-9]+): (.*)")


@pytest.mark.parametrize(("name", "official"), OURS.items())
def test_ours_names_each_of_its_differences_and_figures_that_are_in_the_results(name, official):
    own, published = leaves(written(name)), leaves(written(official))
    differ = {key for key in own.keys() | published.keys() if own.get(key) != published.get(key)} - {"out"}
    header = [line for line in registry().text("preset", name).splitlines() if line.startswith("#")]
    starts = [index for index, line in enumerate(header) if KEY.match(line)]
    assert starts
    keys = set()
    for start in starts:
        key, rest = KEY.match(header[start]).groups()
        keys.add(key)
        text = " ".join([rest, *(line.removeprefix("#   ") for line in header[start + 1 :])])
        text = text[: text.index(")", text.index("docs/results/"))]
        page = re.search(r"docs/results/\w+\.md", text)[0]
        root = Path(__file__).parent.parent
        if (root / "docs").is_dir():  # a source tree
            results = (root / page).read_text(encoding="utf-8")
            heading = re.search(r'"(.+)"', text)[1]
            section = re.search(rf"^#+ {heading}\n(.*?)(?=^## |\Z)", results, re.MULTILINE | re.DOTALL)
            assert section, heading
            for figure in re.findall(r"\d+\.\d+", text.partition(". ")[2]):
                assert figure in section[1], (key, figure)
    assert {key for key in differ if not any(key == k or key.startswith(f"{k}.") for k in keys)} == set()
    assert {k for k in keys if not any(key == k or key.startswith(f"{k}.") for key in differ)} == set()
