"""Bad input to the papers' settings at the command line: it says what to do, no code in a file runs, nothing stays."""

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from test_dip_objective import official_tasks
from test_evaluate_published import voc
from test_official import dip

from dense_ctx import registry
from dense_ctx.cli import main

MODEL = "efficientnet-lite0+upsample"


class Payload:
    """Makes a file when a pickle of it is opened by torch.load without its guard."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def refusal(words, capsys, out):
    """The error of a command that leaves no model and no result in `out`."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    _, mark, error = capsys.readouterr().err.rpartition("error: ")
    assert mark
    assert not (out / "model").exists()
    assert not list(out.glob("result.json"))
    return error


def train_dip(data, out, *more):
    settings = ["model.backbone.args.weights=null", "workers=0", "mixed_precision=no", f"out={out}", *more]
    return ["train", "dip-s14", f"data={yaml.safe_dump(data, default_flow_style=True, width=10**6).strip()}", *settings]


def test_a_list_of_pairs_with_a_missing_image(tmp_path, capsys):
    data = official_tasks(tmp_path)
    with Path(data["pairs"]).open("a", encoding="utf-8") as file:
        file.write("train/002.jpg: train/777.jpg\n")
    error = refusal(train_dip(data, tmp_path / "out"), capsys, tmp_path / "out")
    assert "names 1 images that are not in" in error
    assert "'train/777.jpg'. Names are relative to the folder of images" in error


def test_labels_with_code_in_them(tmp_path, capsys):
    data, trace = official_tasks(tmp_path), tmp_path / "trace"
    for name in ("000", "001", "002"):
        torch.save(Payload(trace), tmp_path / f"labels/train/{name}.pt")
    more = ["batch_size=2", "accumulate=1", "epochs=null", "steps=1", "objective.args.out=16"]
    error = refusal(train_dip(data, tmp_path / "out", *more), capsys, tmp_path / "out")
    assert "is damaged, or holds more than a tensor and is not opened" in error
    assert not trace.exists()
    torch.load(tmp_path / "labels/train/000.pt", weights_only=False)
    assert trace.exists()  # it would have


@pytest.mark.parametrize("kind", ["dip", "flowfeat"])
def test_a_checkpoint_with_code_in_it(kind, tmp_path, capsys):
    torch.save({"model": dip("model"), "args": Payload(tmp_path / "trace")}, tmp_path / "w.pth")
    error = refusal(["convert", kind, tmp_path / "w.pth", "--out", tmp_path / "out"], capsys, tmp_path / "out")
    assert "w.pth is damaged, or holds more than tensors and is not opened" in error
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_width(tmp_path, capsys):
    torch.save({"model": dip("encoder")}, tmp_path / "w.pth")
    words = ["convert", "dip", tmp_path / "w.pth", "--out", tmp_path / "out"]
    assert "width 24 is none of" in refusal(words, capsys, tmp_path / "out")
    other = "backbone=dinov2-reg-s14(depth=4, embed_dim=32, num_heads=2, img_size=70)"
    error = refusal([*words, other], capsys, tmp_path / "out")
    assert "of another shape" in error
    assert "[24, 24] for [32, 32]" in error
    assert f"weights of {tmp_path / 'w.pth'} do not fit" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", registry().names("preset"))
def test_a_preset_with_an_unknown_key(name, tmp_path, capsys):
    data = yaml.safe_load(registry().text("preset", name))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**data, "stepz": 3}), encoding="utf-8")
    out = tmp_path / "out"
    if data.get("verb") == "bench":
        words = ["bench", path, "--data", "voc2012=x", "--out", out]
    elif data.get("verb") == "pseudo-label":
        words = ["pseudo-label", tmp_path, "--config", path, "--out", out]
    else:
        words = ["train", path, f"out={out}"]
    error = refusal(words, capsys, out)
    assert "mine.yaml" in error
    assert re.search(r"unknown key\(s\) stepz( \(did you mean steps\?\))?; known: ", error)
    assert not out.exists()


@pytest.mark.parametrize("protocol", ["voc2012-dip-v1", "voc2012-hummingbird-v1", "voc2012-dip-8th-v1"])
def test_data_without_trainaug(protocol, tmp_path, capsys):
    root, out = voc(tmp_path / "voc"), tmp_path / "out"
    (root / "sets/trainaug.txt").unlink()
    error = refusal(["evaluate", MODEL, "--protocol", protocol, "--data", root, "--out", out], capsys, out)
    assert str(Path("ImageSets/SegmentationAug/trainaug.txt")) in error
    assert "SBD" in error
