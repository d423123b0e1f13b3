"""Protocols: shipped ones are whole, overrides have a name, and mistakes are found before anything is computed."""

import json
import re
from pathlib import Path

import pytest
import yaml
from dense_ctx_benchmarks import papers

from dense_ctx import data as datasets
from dense_ctx import registry
from dense_ctx.errors import ConfigError, FileError, UnknownNameError
from dense_ctx.evaluate import load_protocol, protocols
from dense_ctx.evaluate.job import make_probe
from dense_ctx.evaluate.scorer import Scorer

OWN = {
    "id": "mine-v1",
    "task": "segmentation",
    "metric": "miou",
    "data": {"name": "image-folder", "train": "train", "val": "val"},
    "probe": {"name": "conv", "args": {"kernel": 1}},
    "train": {"steps": 3},
}


def write(path, **changes):
    path.write_text(yaml.safe_dump({**OWN, **changes}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", protocols())
def test_a_shipped_protocol_is_whole(name):
    """Its parts exist, its splits are the data set's, and the text says where it comes from."""
    protocol = load_protocol(name)
    assert protocol.id == name
    assert protocol.title
    assert protocol.source
    assert protocol.notes
    Scorer(protocol).rehearse(protocol.scoring.unseen or ("thing",))
    layout = datasets.layout(protocol.data.name)
    assert protocol.data.val in layout.splits
    assert protocol.data.train in (None, *layout.splits)
    assert (protocol.data.train is None) == (protocol.task == "video")
    assert protocol.probe.name in registry().names("probe")
    if protocol.task == "zero-shot":
        protocol = protocol.override(["probe.args.embeddings=random"])
    task = "regression" if protocol.task in ("depth", "normals") else "segmentation"
    assert make_probe(protocol, 0).task == task
    assert json.loads(json.dumps(protocol.to_dict())) == protocol.to_dict()


def test_protocols_of_lilas_tables_are_shipped():
    """Columns that name a protocol name one that exists: `compare --paper` can fill them."""
    columns = [column for name in papers.names("lila") for column in papers.table(name).columns.values()]
    names = {one for column in columns for one in column.protocols}
    assert names
    assert names <= set(protocols())


def test_an_unknown_name_shows_the_near_ones():
    with pytest.raises(UnknownNameError, match="Closest: davis2017-knn-v2"):
        load_protocol("davis2017-knn")
    with pytest.raises(UnknownNameError, match=r"Unknown protocol 'zzz'.*`dense-ctx plugins protocol`"):
        load_protocol("zzz")


def test_ones_own_file(tmp_path):
    protocol = load_protocol(write(tmp_path / "p.yaml"))
    assert (protocol.id, protocol.train.steps, protocol.grid, protocol.reads) == ("mine-v1", 3, 4, "pixels")
    assert protocol.scoring.absent == "left_out"
    titled = load_protocol(write(tmp_path / "t.yaml", title="Mine", source="me", notes=["note"]))
    assert titled.digest() == protocol.digest()  # words decide no number
    assert load_protocol(write(tmp_path / "g.yaml", grid=2)).digest() != protocol.digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, r"unknown key\(s\) colour; known: data, decode, grid"),
        ({"train": {"steps": 3, "epochs": 2}}, r"train: unknown key\(s\) epochs"),
        ({"scoring": {"ignore": 1}}, r"scoring: unknown key\(s\) ignore"),
        ({"metric": 3}, "metric is 3; expected text"),
        ({"scorer": ["mine"]}, "scorer is .*mine.*; expected a mapping"),
        ({"scorer": {"name": "mine", "border": 2}}, r"scorer: unknown key\(s\) border"),
        ({"probe": ["conv"]}, "probe is .*conv.*; expected a mapping with name, args"),
        ({"grid": 0}, "grid is 0; expected a whole number"),
        ({"grid": "coarse"}, "grid is 'coarse'; expected a whole number"),
        ({"reads": "pictures"}, "reads is 'pictures'; expected one of pixels, patches, both"),
        ({"precision": "half"}, "precision is 'half'; expected one of float32, tfloat32, bfloat16"),
        ({"data": {"name": "camvid", "fraction": 2}}, r"data.fraction is 2; expected in \(0, 1\]"),
        ({"data": {"train": "train"}}, "data: missing key.* name"),
        ({"train": {"steps": 0}}, "train.steps is 0; expected at least 1"),
        ({"train": {"steps": 5, "batch": "all"}}, "train.batch is 'all'; expected a whole number"),
        ({"train": {"steps": 5, "crop": 64}}, r"train.crop is 64; expected a list of 2, each a whole number"),
        ({"train": {"steps": 5, "scale": [2.0, 0.5]}}, r"train.scale is \(2.0, 0.5\); expected \[low, high\]"),
        ({"train": {"steps": 5, "label_stride": 0}}, "train.label_stride is 0"),
        ({"image": {"short_side": -3}}, "image.short_side is -3"),
        ({"image": {"size": [4]}}, r"image.size is \[4\]; expected a list of 2"),
        ({"scoring": {"matching": "best"}}, "scoring.matching is 'best'; expected one of none, hungarian"),
        ({"scoring": {"absent": "one"}}, "scoring.absent is 'one'"),
        ({"scoring": {"low": 3, "high": 2}}, "scoring.high is 2; expected above scoring.low, 3"),
    ],
)
def test_mistakes_in_a_file(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_protocol(write(tmp_path / "p.yaml", **changes))


def test_files_that_are_no_protocol(tmp_path):
    with pytest.raises(FileError, match="Cannot read the protocol"):
        load_protocol(str(tmp_path / "none.yaml"))
    path = tmp_path / "p.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_protocol(str(path))
    for text in ("", "- 1\n- 2\n", "words"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="expected a mapping with id, task"):
            load_protocol(str(path))
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(FileError, match="Cannot read the protocol"):
        load_protocol(str(path))
    path.write_text("id: x\n")
    with pytest.raises(ConfigError, match="missing"):
        load_protocol(str(path))


def test_overrides_become_part_of_the_id_and_the_digest():
    plain = load_protocol("camvid-linear-grid4-v1")
    changed = load_protocol("camvid-linear-grid4-v1", ["train.steps=5", "grid=8", "probe.args.lr=0.1"])
    assert changed.resolved_id == "camvid-linear-grid4-v1 [grid=8 probe.args.lr=0.1 train.steps=5]"
    assert (changed.train.steps, changed.grid, changed.probe.args["lr"]) == (5, 8, 0.1)
    assert changed.train.batch == plain.train.batch
    assert changed.digest() != plain.digest()
    assert plain.override([]) is plain
    assert plain.override(["image.size=[32,48]"]).image.size == (32, 48)
    assert load_protocol("davis2017-knn-grid8-v1", ["data.options.resolution=480p"]).data.options == {
        "resolution": "480p"
    }
    twice = load_protocol(changed, ["grid=2"])
    assert (twice.grid, twice.train.steps) == (2, 5)
    assert twice.resolved_id == "camvid-linear-grid4-v1 [grid=2 probe.args.lr=0.1 train.steps=5]"  # the last one counts


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("grid", "'grid' is not KEY=VALUE"),
        ("gird=3", "unknown key.* gird .did you mean grid"),
        ("train.epochs=3", "epochs"),
        ("image.size.height=3", "image.size is .*; expected"),
        ("grid.x=3", "grid is 4, which has no keys"),
        ("grid=[1", "is not YAML"),
        ("id=other-v1", "id cannot be overridden"),
        ("overrides=[]", "overrides cannot be overridden"),
        ("train=5", "train is 5; expected a mapping"),
    ],
)
def test_bad_overrides(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_protocol("camvid-linear-grid4-v1", [setting])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["metric=rmse"], "camvid-linear-grid4-v1: metric 'rmse' is not computed by segmentation; it has miou, "),
        (["task=guessing"], "Unknown metric 'guessing'"),
        (["scorer.name=depth"], "metric 'miou' is not computed by depth; it has rmse"),
        (["scoring.align=median"], "scoring.align is set, and metric 'segmentation' .* is not given it"),
        (["scorer.name=segmentation", "scoring.absent=zero"], "scoring.absent is set.*or set .* in scorer.args"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_before_any_work(tmp_path, changes, message):
    from dense_ctx.evaluate import evaluate

    with pytest.raises((ConfigError, UnknownNameError), match=message):
        evaluate(None, "camvid-linear-grid4-v1", tmp_path, tmp_path / "out", overrides=changes)
    assert not (tmp_path / "out").exists()


def test_direction():
    assert not Scorer(load_protocol("nyuv2-depth-linear-grid4-v1")).higher_is_better
    assert Scorer(load_protocol("nyuv2-depth-linear-grid4-v1", ["metric=delta1"])).higher_is_better
    assert Scorer(load_protocol("camvid-linear-grid4-v1")).higher_is_better


def test_what_scoring_sets_reaches_the_tasks_own_metric():
    depth = load_protocol("nyuv2-depth-linear-grid4-v1", ["scoring.low=0.5", "scoring.high=4", "scoring.align=median"])
    metric = Scorer(depth).new()
    assert (metric.low, metric.high, metric.align) == (0.5, 4, "median")
    settings = ["scoring.matching=hungarian", "scoring.absent=zero", "scoring.unseen=[b]"]
    metric = Scorer(load_protocol("coco-stuff-zeroshot-grid4-v1", settings)).new(("a", "b"))
    assert (metric.matching, metric.absent, metric.unseen) == ("hungarian", "zero", ("b",))
    protocol = load_protocol("camvid-linear-grid4-v1", ["scorer={name: segmentation, args: {absent: zero}}"])
    assert Scorer(protocol).new(("a",)).absent == "zero"
    assert protocol.digest() != load_protocol("camvid-linear-grid4-v1", ["scoring.absent=zero"]).digest()


def test_the_page_lists_every_protocol_and_its_example_is_one(tmp_path):
    page = (Path(__file__).parent.parent / "docs/evaluation.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+-v\d+)` \|", page, re.MULTILINE) == protocols()
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "p.yaml").write_text(example, encoding="utf-8")
    protocol = load_protocol(str(tmp_path / "p.yaml"))
    assert protocol.train.crop == (512, 512)
    assert make_probe(protocol, 0)
