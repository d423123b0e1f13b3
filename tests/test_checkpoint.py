"""Model folders: bitwise round trips, strict loading, every kind of damage, saves that fail or are killed half-way."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dense_ctx import AutoDenseModel, DenseModel, ModelConfig, Part
from dense_ctx.errors import CheckpointError, ConfigError, DenseCtxError, FileError, WeightsError
from dense_ctx.persistence import checkpoint
from dense_ctx.testing import tiny_model

DPT = {"dim": 5, "width": 6}
IMAGE = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(3))


def pixels(model):
    with torch.inference_mode():
        return model(IMAGE).pixels


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    return AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args=DPT)


@pytest.fixture
def folder(original, tmp_path):
    return original.save_pretrained(tmp_path / "modèle")


def test_round_trip_is_bitwise_and_holds_the_decoder_alone(original, folder):
    loaded = AutoDenseModel.from_pretrained(folder)
    assert not loaded.training
    assert torch.equal(pixels(loaded), pixels(original))
    stored = load_file(folder / "model.safetensors")
    assert set(stored) == {f"decoder.{key}" for key in original.decoder.state_dict()}
    assert all(torch.equal(value, original.decoder.state_dict()[key[8:]]) for key, value in stored.items())
    again = loaded.save_pretrained(folder.parent / "again")
    for name in ("config.json", "model.safetensors", "manifest.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    assert type(DenseModel.from_pretrained(folder)) is DenseModel


def test_unfrozen_tensors_are_stored_and_the_rest_is_not(tmp_path):
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
    names = model.unfreeze("net.blocks.6")
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if name in names:
                parameter.add_(0.01)
    loaded = AutoDenseModel.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert torch.equal(pixels(loaded), pixels(model))
    assert set(load_file(tmp_path / "m" / "model.safetensors")) == {f"backbone.{name}" for name in names}
    assert not any(p.requires_grad for p in loaded.backbone.parameters())
    # frozen again, and still part of the checkpoint
    loaded.save_pretrained(tmp_path / "n")
    assert set(load_file(tmp_path / "n" / "model.safetensors")) == {f"backbone.{name}" for name in names}


def test_a_backbone_without_a_home_is_stored_whole(tmp_path):
    args = {"weights": None, "depth": 2, "embed_dim": 24, "num_heads": 2}
    model = AutoDenseModel.from_parts("dino-s16", "upsample", backbone_args=args)
    loaded = AutoDenseModel.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert torch.equal(pixels(loaded), pixels(model))


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_files_are_readable_as_any_other(folder, tmp_path):
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in (*folder.iterdir(), tmp_path / "plain")}
    assert len(modes) == 1


def test_standalone_needs_no_home(original, tmp_path, monkeypatch):
    folder = original.save_pretrained(tmp_path / "m", standalone=True)
    from dense_ctx_backbones import efficientnet_lite

    def gone(model):
        raise WeightsError("no weights today")

    monkeypatch.setattr(efficientnet_lite, "packaged_state", gone)
    assert torch.equal(pixels(AutoDenseModel.from_pretrained(folder)), pixels(original))


def test_other_backbone_weights_are_noticed(original, folder, monkeypatch):
    from dense_ctx_backbones import efficientnet_lite

    state = efficientnet_lite.packaged_state("tf_efficientnet_lite0")
    state["conv_stem.weight"] = state["conv_stem.weight"] + 1e-3
    monkeypatch.setattr(efficientnet_lite, "packaged_state", lambda model: state)
    with pytest.raises(CheckpointError, match="trained on other weights of efficientnet-lite0"):
        AutoDenseModel.from_pretrained(folder)


def test_device_and_dtype(folder):
    model = AutoDenseModel.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert pixels(model).dtype == torch.bfloat16


def rewrite(folder, tensors=None, config=None):
    """Change a folder's content and keep its manifest true."""
    if tensors is not None:  # older releases of safetensors write into the file that loaded tensors are mapped from
        (folder / "model.safetensors").unlink()
        save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    names = ("config.json", "model.safetensors")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "manifest.json").write_text(json.dumps({"sha256": digests}))


def test_half_the_size(original, folder, tmp_path):
    small = original.save_pretrained(tmp_path / "small", dtype=torch.float16)
    assert (small / "model.safetensors").stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size
    loaded = AutoDenseModel.from_pretrained(small)
    assert pixels(loaded).dtype == torch.float32
    assert torch.allclose(pixels(loaded), pixels(original), atol=0.02)
    large = AutoDenseModel.from_pretrained(folder)
    with torch.no_grad():
        large.decoder.head.weight[0] = 1e5
    with pytest.raises(CheckpointError, match=r"infinity, so it is not saved: decoder\.head\.weight"):
        large.save_pretrained(tmp_path / "small", dtype=torch.float16)


def test_strict_about_tensors(folder):
    good = load_file(folder / "model.safetensors")
    cases = [
        ({k: v for k, v in good.items() if k != "decoder.head.bias"}, r"missing decoder\.head\.bias"),
        ({**good, "decoder.extra": torch.zeros(2)}, r"left over decoder\.extra"),
        ({**good, "decoder.head.bias": torch.zeros(7)}, r"decoder\.head\.bias is \[7\], not \[6\]"),
        ({**good, "decoder.head.bias": torch.zeros(6, dtype=torch.int64)}, r"decoder\.head\.bias is torch\.int64"),
        ({**good, "decoder.head.bias": torch.full((6,), float("nan"))}, r"decoder\.head\.bias holds NaN"),
    ]
    for tensors, message in cases:
        rewrite(folder, tensors)
        with pytest.raises(CheckpointError, match=message):
            AutoDenseModel.from_pretrained(folder)
    rewrite(folder, {k: v.half() for k, v in good.items()})
    AutoDenseModel.from_pretrained(folder)  # a smaller float is fine


def test_strict_about_the_configuration(folder):
    good = json.loads((folder / "config.json").read_text())
    cases = [
        ({**good, "colour": 1}, ConfigError, "unknown key.* colour"),
        ({k: v for k, v in good.items() if k != "decoder"}, ConfigError, "missing key.* decoder"),
        ({**good, "format_version": 99}, ConfigError, "format version 99 is newer .*pip install --upgrade dense-ctx"),
        ({**good, "format_version": "one"}, ConfigError, "not a whole number"),
        ({**good, "decoder": {"name": "dpt", "argz": {}}}, ConfigError, "unknown key.* argz"),
        (
            {**good, "backbone": {"name": "from-elsewhere"}, "plugins": {"dense-else": "3"}},
            CheckpointError,
            "dense-else 3",
        ),
        (
            {**good, "decoder": {"name": "dpt", "args": {"banana": 1}}},
            ConfigError,
            "does not take banana=1 from a file",
        ),
        ({**good, "backbone_tensors": ["net.nothing"]}, CheckpointError, r"no tensors net\.nothing"),
        ([1], CheckpointError, "holds a list"),
    ]
    for config, error, message in cases:
        rewrite(folder, config=config)
        with pytest.raises(error, match=message):
            AutoDenseModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json"])
def test_missing_files_are_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileError, match=name.replace(".", r"\.")):
        AutoDenseModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "manifest.json"])
def test_no_damage_is_silent(folder, name):
    """A flipped byte or a cut at forty places of each file: a typed error, or a file that still says the same."""
    path = folder / name
    data = path.read_bytes()
    meaning = json.loads(data) if name.endswith(".json") else data
    for index in range(40):
        place = index * (len(data) - 1) // 39
        for broken in (data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :], data[:place]):
            path.write_bytes(broken)
            try:
                checkpoint.MODEL.read(folder, str, str)
            except DenseCtxError:
                continue
            # white space of the manifest is all that may change unnoticed
            assert name == "manifest.json"
            assert json.loads(broken) == meaning


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_pickles_are_never_opened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pth"):
        (folder / name).write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran"))))
    (folder / "manifest.json").write_text(json.dumps({"sha256": {"config.json": "", "model.safetensors": ""}}))
    with pytest.raises(FileError, match=r"no model\.safetensors"):
        AutoDenseModel.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_hostile_files(folder):
    good = json.loads((folder / "manifest.json").read_text())
    for content in (b"\xff" * 16, (1 << 62).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0{}", b""):
        (folder / "model.safetensors").write_bytes(content)
        rewrite(folder)
        with pytest.raises(CheckpointError, match=r"damaged|missing decoder"):
            AutoDenseModel.from_pretrained(folder)
    (folder / "manifest.json").write_text(json.dumps({"sha256": {**good["sha256"], "../secret": "0"}}))
    with pytest.raises(DenseCtxError):
        AutoDenseModel.from_pretrained(folder)
    (folder / "manifest.json").write_text(json.dumps({"sha256": [1]}))
    with pytest.raises(CheckpointError, match=r"does not list config\.json"):
        AutoDenseModel.from_pretrained(folder)


def changed(model):
    """The same model with another bias."""
    copy = DenseModel(model.backbone, type(model.decoder)(model.backbone.dims, model.backbone.strides, **DPT))
    copy.decoder.load_state_dict(model.decoder.state_dict())
    copy.model_config = model.model_config
    with torch.no_grad():
        copy.decoder.head.bias += 1
    return copy


@pytest.mark.parametrize("at", range(12))
def test_a_save_that_fails_anywhere_leaves_the_old_model(original, folder, monkeypatch, at):
    """Each write, sync and rename in turn finds the disk full."""
    calls = {"left": at}

    def failing(function):
        def wrapper(*args, **kwargs):
            calls["left"] -= 1
            if calls["left"] == -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        return wrapper

    monkeypatch.setattr(checkpoint, "write_tensors", failing(checkpoint.write_tensors))
    monkeypatch.setattr(checkpoint, "write_text", failing(checkpoint.write_text))
    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    from pathlib import Path

    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    new = changed(original)
    said, expected = "", new
    try:
        new.save_pretrained(folder)
    except FileError as error:
        said, expected = str(error), original
    monkeypatch.undo()
    assert said == "" or ("No space left" in said and "What was there is unchanged" in said)
    assert (calls["left"] >= 0) == (expected is new)
    assert torch.equal(pixels(AutoDenseModel.from_pretrained(folder)), pixels(expected))
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_persons_files_stay(original, folder):
    (folder / "README.md").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "a.txt").write_text("a")
    changed(original).save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / "figures" / "a.txt").read_text() == "a"


def test_places_that_are_no_model_folder(original, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("thesis", "file"):
        with pytest.raises(FileError, match="exists and is not a model folder"):
            original.save_pretrained(tmp_path / name)
    with pytest.raises(FileError, match="Cannot write"):
        original.save_pretrained(tmp_path / "file" / "model")
    (tmp_path / "empty").mkdir()
    original.save_pretrained(tmp_path / "empty")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "x"


def test_what_cannot_be_saved_says_why(original, tmp_path):
    with pytest.raises(ConfigError, match=r"made of modules.*CONTRIBUTING"):
        tiny_model().save_pretrained(tmp_path / "m")
    broken = changed(original)
    with torch.no_grad():
        broken.decoder.head.bias[0] = float("inf")
    with pytest.raises(CheckpointError, match=r"decoder\.head\.bias"):
        broken.save_pretrained(tmp_path / "m")
    odd = changed(original)
    odd.model_config = replace(original.model_config, trained_with={"when": object()})
    with pytest.raises(ConfigError, match="JSON"):
        odd.save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, torch
from dense_ctx import AutoDenseModel
torch.manual_seed(0)
model = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args={"dim": 5, "width": 6})
print("ready", flush=True)
for number in range(10**6):
    with torch.no_grad():
        model.decoder.head.bias.fill_(number)
    model.save_pretrained(sys.argv[1])
"""


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_save_leaves_a_whole_model(tmp_path):
    target = tmp_path / "model"
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.3 + float(torch.rand((), generator=generator)))
        process.send_signal(signal.SIGKILL)
        process.wait()
        model = AutoDenseModel.from_pretrained(target)
        assert len(model.decoder.head.bias.unique()) == 1


def test_a_kill_between_the_two_renames_is_mended(original, folder):
    shutil.move(folder, folder.with_name(f".{folder.name}.previous"))
    assert torch.equal(pixels(AutoDenseModel.from_pretrained(folder)), pixels(original))


def test_card(original, tmp_path):
    import yaml

    folder = original.save_pretrained(
        tmp_path / "my-model",
        metrics=[{"name": "J&F", "value": 71.2, "command": "dense-ctx evaluate"}],
        trained_with={"objective": "lila", "steps": 3},
        license="apache-2.0",
    )
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "dense_ctx"
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert "| J&F | 71.2 | `dense-ctx evaluate` |" in body
    assert 'from_pretrained("my-model")' in body
    assert '"objective": "lila"' in body
    assert "[1, 5, H, W]" in body
    assert AutoDenseModel.from_pretrained(folder).model_config.trained_with == {"objective": "lila", "steps": 3}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("/home/Max Muster/data/camvid", "camvid"),
        ("C:\\Users\\Max\\data", "data"),
        ("\\\\server\\share\\data", "data"),
        ("~/data/camvid/", "camvid"),
        ("/", "/"),
        (
            'dense-ctx train /home/max/run.yaml data.root="/home/Max Muster/data" lr=1e-3',
            'dense-ctx train run.yaml data.root="data" lr=1e-3',
        ),
        ("data.root=/mnt/a/b,/mnt/a/c", "data.root=b,c"),
        ("https://huggingface.co/timm/vit", "https://huggingface.co/timm/vit"),
        ("facebook/dinov2-small", "facebook/dinov2-small"),
        ("data/camvid", "data/camvid"),
        ("km/h", "km/h"),
        (None, None),
        ([1, {"root": "/mnt/x"}], [1, {"root": "x"}]),
    ],
)
def test_the_training_record_holds_no_absolute_path(original, tmp_path, value, stored):
    folder = original.save_pretrained(tmp_path / "model", trained_with={"key": value})
    assert json.loads((folder / "config.json").read_text())["trained_with"] == {"key": stored}
    again = AutoDenseModel.from_pretrained(folder)
    again.model_config = replace(again.model_config, trained_with={"key": value})
    assert json.loads((again.save_pretrained(tmp_path / "b") / "config.json").read_text())["trained_with"] == {
        "key": stored
    }


def test_configuration_round_trip():
    config = ModelConfig(Part("a", {"x": [1, 2]}), Part("b"), backbone_tensors=("t",), trained_with={"k": {"n": 1}})
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
