"""How a model is written: every way opens, and a near miss is answered with the right spelling."""

import pytest
import torch

from dense_ctx import AutoDenseModel, Part, cli, registry
from dense_ctx.config import Parts
from dense_ctx.errors import ConfigError, DenseCtxError, InputError, UnknownNameError, WeightsError
from dense_ctx.model_spec import DEFAULT_MODEL, open_model, parse_model
from dense_ctx.train import TrainConfig


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "runs (old)" / "a+b" / "model"
    AutoDenseModel.from_parts("rgb-xy", "dpt", decoder_args={"dim": 4, "width": 4}).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("lila-lite0", Part("lila-lite0")),
        ("owner/name(revision=v1)", Part("owner/name", {"revision": "v1"})),
        ("runs/mine/model", Part("runs/mine/model")),
        ("rgb-xy", Parts(Part("rgb-xy"), Part("upsample"))),
        ("dinov2-s14(weights=a b.pt)", Parts(Part("dinov2-s14", {"weights": "a b.pt"}), Part("upsample"))),
        ("rgb-xy + dpt(dim=4)", Parts(Part("rgb-xy"), Part("dpt", {"dim": 4}))),
        ("hf:facebook/dinov2-small", Parts(Part("hf:facebook/dinov2-small"), Part("upsample"))),
        ("timm:resnet18+dpt", Parts(Part("timm:resnet18"), Part("dpt"))),
        ("model:lila-lite0(a=b)+upsample", Parts(Part("model:lila-lite0", {"a": "b"}), Part("upsample"))),
        ("lora:dinov2-s14(rank=4)", Parts(Part("lora:dinov2-s14", {"rank": 4}), Part("upsample"))),
        ("lora:model:owner/name", Parts(Part("lora:model:owner/name"), Part("upsample"))),
    ],
)  # fmt: skip
def test_spellings(spec, found):
    assert parse_model(spec) == found
    if isinstance(found, Parts):
        assert parse_model(str(found)) == found


def test_a_folder_of_any_name(folder):
    assert parse_model(str(folder)) == Part(str(folder))
    assert open_model(str(folder)).dim == 4


def test_they_open():
    image = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        whole, alone = (open_model(spec)(image).pixels for spec in ("rgb-xy+upsample", "rgb-xy"))
        assert torch.equal(whole, alone)
    assert open_model("rgb-xy+dpt(dim=6, width=4)").dim == 6
    assert open_model("lila-lite0", "cpu", "bfloat16").dtype == torch.bfloat16
    assert not open_model("lila-lite0").training
    assert parse_model(DEFAULT_MODEL) == Parts(Part("efficientnet-lite0"), Part("upsample"))


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("facebook/dinov2-small", WeightsError, r"If it is a backbone, write hf:facebook/dinov2-small"),
        ("facebook/dinov2-small+upsample", UnknownNameError, r"write hf:facebook/dinov2-small"),
        ("timm/resnet18.a1_in1k", WeightsError, r"write timm:resnet18\.a1_in1k"),
        ("dinov2-s41", UnknownNameError, r"Did you mean dinov2-s14.*BACKBONE alone means BACKBONE\+upsample"),
        ("lila-lite", UnknownNameError, "Did you mean lila-lite0"),
        (
            "efficientnet-lite+upsample",
            UnknownNameError,
            r"lists all \d+\. Did you mean efficientnet-lite2, .*efficientnet-lite0\?$",
        ),
        ("lila-lite0+upsample", UnknownNameError, "saved model as a backbone is written model:lila-lite0$"),
        ("rgb-xy+upsampel", UnknownNameError, "Unknown decoder 'upsampel'.* Closest: upsample"),
        ("upsample", UnknownNameError, r"upsample is a decoder: write BACKBONE\+upsample"),
        ("lila-lite0(dim=3)", InputError, "a saved model takes revision, cache_dir, local_files_only; got dim"),
        ("rgb-xy(colour=3)", InputError, "backbone 'rgb-xy' .* does not take"),
        ("rgb-xy+", ConfigError, "the name is missing"),
        ("+upsample", ConfigError, "the name is missing"),
        ("rgb-xy+dpt(dim=4", ConfigError, "is missing"),
        ("runs/none/here", UnknownNameError, "Nor is 'runs/none/here' a folder"),
    ],
)
def test_a_near_miss_says_the_right_spelling(spec, kind, message):
    with pytest.raises(kind, match=message):
        open_model(spec)


def test_a_folder_that_is_no_model_is_said_to_be_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DenseCtxError) as caught:
        open_model(str(tmp_path / "empty"))
    assert "Did you mean" not in str(caught.value)


def test_a_device_that_is_not_there():
    for device in ("cuda:77", "phone"):
        with pytest.raises(InputError, match=f"no device '{device}' here: cpu"):
            open_model("rgb-xy", device)


def test_training_takes_the_same_spellings(folder):
    base = {"out": "a", "steps": 1}
    mapping = {"backbone": {"name": "rgb-xy", "args": {}}, "decoder": {"name": "dpt", "args": {"dim": 4}}}
    for written in ("rgb-xy+dpt(dim=4)", mapping, {"backbone": "rgb-xy", "decoder": "dpt(dim=4)"}):
        config = TrainConfig.from_dict({**base, "model": written})
        assert config.model == Parts(Part("rgb-xy"), Part("dpt", {"dim": 4}))
        assert config.to_dict()["model"] == mapping
    for saved in ("lila-lite0", "owner/name", str(folder)):
        assert TrainConfig.from_dict({**base, "model": saved}).model == saved
    assert TrainConfig.from_dict({**base, "model": "rgb-xy"}).model == Parts(Part("rgb-xy"), Part("upsample"))


# ---------------------------------------------------------------------- verbs


def test_every_registered_model_and_backbone_is_a_spelling():
    for name in registry().names("model"):
        assert parse_model(name) == Part(name)
    for name in registry().names("backbone"):
        text = f"{name}x" if name.endswith(":") else name
        assert parse_model(text) == Parts(Part(text), Part("upsample"))


IDLE = [
    (["features", "IMAGE", "--npy", "--half", "--scale", "2"], "--half, --scale would have no effect with --npy"),
    (["evaluate", "--list", "--data", "x"], "--data would have no effect with --list"),
    (["evaluate", "rgb-xy", "--list"], "MODEL would have no effect with --list"),
    (["evaluate", "--list", "grid=3"], "KEY=VALUE would have no effect with --list"),
    (["evaluate", "--list", "--limit", "3", "--seeds", "1"], "--seeds, --limit would have no effect with --list"),
    (["measure", "--images", "IMAGE", "--gaps", "1", "--frames", "3"], "--frames, --gaps would have no effect without"),
    (["compare", "--tables", "--paper", "lila:table1"], "--paper would have no effect with --tables"),
    (["compare", "IMAGE", "--tables"], "JSON would have no effect with --tables"),
    (["datasets", "camvid", "--split", "val"], "--split would have no effect without ROOT"),
    (["datasets", "--complete"], "--complete would have no effect without ROOT"),
    (["text", "CLASSES", "--data", "x", "--out", "y"], "--data would have no effect with CLASSES"),
    (["evaluate", "--protocol", "x", "--data", "x", "grid=3", "grid=4"], "'grid=4' contradicts 'grid=3'"),
    (["train", "x.yaml", "model.backbone=a", "model=b"], "'model=b' contradicts 'model.backbone=a'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), IDLE)
def test_arguments_without_effect_are_refused(words, message, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_one_protocol_with_settings_is_shown(capsys):
    assert cli.main(["evaluate", "--list", "--protocol", "camvid-linear-grid4-v1", "grid=8", "probe.args.lr=1e-3"]) == 0
    text = capsys.readouterr().out
    assert '"grid": 8' in text
    assert '"lr": 0.001' in text


def test_evaluate_reads_numbers_and_words(tmp_path, capsys):
    """`probe.args.lr=1e-3` was a traceback: text where a number is compared."""
    words = ["evaluate", "rgb-xy", "--protocol", "camvid-linear-grid4-v1", "--data", str(tmp_path), "--device", "cpu"]
    assert cli.main([*words, "probe.args.lr=1e-3"]) == 2
    assert "Expected under the root" in capsys.readouterr().err  # that is: only the data are missing
    assert cli.main([*words, "train.flip=no"]) == 2
    assert "train.flip is 'no'; expected true or false" in capsys.readouterr().err


def test_the_plugins_of_a_kind(capsys):
    import json

    assert cli.main(["plugins", "segmenter"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:-2]] == ["segmenter"] * 4
    assert out.splitlines()[-1] == "segmenter 4"
    assert cli.main(["plugins"]) == 0
    assert all(f"{kind} " in capsys.readouterr().out.splitlines()[-1] for kind in ["backbone"])
    assert cli.main(["plugins", "--json", "cue"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {entry["kind"] for entry in document["entries"]} == {"cue"}
    kinds = {kind["name"]: kind for kind in document["kinds"]}
    assert set(kinds) == set(registry().kinds)
    assert kinds["segmenter"] == {
        "name": "segmenter", "base": "dense_ctx_dip.segmenters:Segmenter", "suffix": None, "plugin": "dip", "count": 4
    }  # fmt: skip
    assert kinds["protocol"]["suffix"] == ".yaml"
    assert kinds["backbone"]["plugin"] is None
    assert cli.main(["plugins", "segmentor"]) == 2
    assert "There is no kind 'segmentor'. Did you mean segmenter?" in capsys.readouterr().err


def test_an_extra_that_is_not_installed_is_no_failure(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.delitem(sys.modules, "dense_ctx_dip.diffcut", raising=False)
    assert cli.main(["plugins", "segmenter", "--check"]) == 0
    out = capsys.readouterr().out
    assert "UNAVAILABLE segmenter diffcut: " in out
    assert 'pip install "dense-ctx[diffcut]"' in out
