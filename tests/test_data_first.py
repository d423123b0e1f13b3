"""Missing data is noticed before weights are fetched or opened, by every verb, told by the order of events."""

import functools

import pytest
import tiny_datasets
from dense_ctx_backbones.hf_backbone import HfBackbone
from dense_ctx_backbones.timm_backbone import TimmBackbone
from dense_ctx_dip.diffcut import DiffCutSegmenter
from dense_ctx_lila.cues.depth import DepthAnything
from dense_ctx_lila.cues.sea_raft import SEARAFT
from test_evaluate_published import voc

from dense_ctx.cli import main
from dense_ctx.errors import WeightsError

EVENTS = []


@pytest.fixture(autouse=True)
def events(monkeypatch):
    """Every read of weights is written down, and refused: nothing is fetched here."""
    for owner in (TimmBackbone, HfBackbone, DepthAnything, SEARAFT, DiffCutSegmenter):

        @functools.wraps(owner.__init__)
        def fetch(*args, **_):
            EVENTS.append(type(args[0]).__name__)
            raise WeightsError("weights were asked for")

        monkeypatch.setattr(owner, "__init__", fetch)
    EVENTS.clear()


def error_of(words, capsys):
    capsys.readouterr()
    assert main([str(word) for word in words]) != 0
    captured = capsys.readouterr()
    return captured.err + captured.out


def commands(data, out):
    """Each verb on the data below `data`: a command and what it says where that is missing."""
    evaluate = ["evaluate", "dinov2-s14+dpt", "--out", out, "--protocol"]
    yield [*evaluate, "voc2012-dip-v1", "--data", data / "voc"], "voc2012"
    yield [*evaluate, "davis2017-linear-v2", "--data", data / "davis"], "DAVIS 2017"
    yield ["train", "lila-s14", f"data.root={data / 'ytvos'}", f"out={out}"], "ytvos"
    yield ["train", "lila-l14-kinetics", f"data.root={data / 'kinetics'}", f"out={out}"], "kinetics"
    dip = ["train", "dip-s14", "mixed_precision=no", f"out={out}"]  # fp16 asks for an accelerator before all else
    yield [*dip, f"data={data / 'tasks'}"], "tasks"
    yield [*dip, f"data={{images: {data / 'x'}, labels: {data / 'y'}, pairs: {data / 'z'}}}"], str(data)
    roots = [f"{name}={data / name}" for name in ("voc2012", "coco-stuff171", "nyuv2")]
    yield ["bench", "maxa-table3", "--data", *roots, "--out", out], "there is no data at root="
    yield ["pseudo-label", data / "images", "--out", out, "--model", "dinov2-reg-s14+upsample"], "is no folder"


@pytest.mark.parametrize("index", range(8))
def test_a_missing_root_is_noticed_before_weights(index, tmp_path, capsys):
    words, message = list(commands(tmp_path / "nowhere", tmp_path / "out"))[index]
    assert message in error_of(words, capsys)
    assert EVENTS == []


def test_the_events_are_noticed_where_the_data_is_there(tmp_path, capsys):
    """The other way round: with its data, each verb comes to its weights."""
    root = voc(tmp_path / "voc")
    words = ["evaluate", "dinov2-s14+dpt", "--protocol", "voc2012-dip-v1", "--data", root, "--out", tmp_path / "a"]
    assert "weights were asked for" in error_of(words, capsys)
    tiny_datasets.image(tmp_path / "images/a.jpg")
    words = ["pseudo-label", tmp_path / "images", "--out", tmp_path / "b", "--model", "dinov2-reg-s14+upsample"]
    assert "weights were asked for" in error_of(words, capsys)
    for index in range(7):
        tiny_datasets.image(tmp_path / f"clips/one/{index:05d}.jpg")
    data = f"data={{root: {tmp_path / 'clips'}, layout: clips}}"
    assert "weights were asked for" in error_of(["train", "lila-s14", data, f"out={tmp_path / 'c'}"], capsys)
    assert EVENTS == ["TimmBackbone", "TimmBackbone", "DepthAnything"]  # of LILA's, its cues' networks come first


def test_a_split_that_is_missing_fails_a_benchmark_before_weights(tmp_path, capsys):
    root = voc(tmp_path / "voc")
    (root / "ImageSets/Segmentation/val.txt").unlink()
    task = f"maxa-semantic(name=voc2012, root={root}, train=trainaug)"
    words = ["bench", "--backbones", "dinov2-s14", "--heads", "linear", "--tasks", task, "--out", tmp_path / "out"]
    assert "val.txt is missing" in error_of(words, capsys)
    assert EVENTS == []


def test_a_list_of_a_share_that_is_missing_is_noticed_before_weights(tmp_path, capsys):
    words = ["evaluate", "dinov2-s14+dpt", "--protocol", "voc2012-dip-8th-v1", "--data", voc(tmp_path / "voc"), "--out",
             tmp_path / "out"]  # fmt: skip
    assert "trainaug_8_0.txt is missing" in error_of(words, capsys)
    assert EVENTS == []
