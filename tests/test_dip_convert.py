"""Official DIP checkpoints: files of their keys and shapes, made here, become model folders."""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_dip.convert import from_dip, projector_of, read_dip
from dense_ctx_dip.projector import Projector

from dense_ctx import AutoDenseModel, create_backbone
from dense_ctx.cli import main
from dense_ctx.errors import CheckpointError, FileError, WeightsError


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """ViT-S/14 with registers under the published code's names, with its pickle's companions; and our own network."""
    torch.manual_seed(0)
    own = create_backbone("dinov2-reg-s14", weights=None)
    state = {f"feats_extractor.model.{key}": value for key, value in own.net.state_dict().items()}
    encoder = "feats_extractor.model."
    state[f"{encoder}register_tokens"] = state.pop(f"{encoder}reg_token")
    position = state[f"{encoder}pos_embed"]
    first = torch.randn(1, 1, 384)
    state[f"{encoder}pos_embed"] = torch.cat([first, position], 1)
    state[f"{encoder}mask_token"] = torch.zeros(1, 384)
    with torch.no_grad():
        own.net.cls_token.add_(first)  # timm keeps the class token with its position
    projector = Projector(384, 7, 6144)
    for key, value in projector.state_dict().items():
        state[f"enc_norm.{key[5:]}" if key.startswith("norm.") else f"projector.{key}"] = value
    path = tmp_path_factory.mktemp("dip") / "checkpoint-4.pth"
    torch.save({"model": state, "epoch": 4}, path)
    return path, own, projector


def test_an_official_checkpoint_becomes_a_model_folder(tmp_path, official):
    path, own, _ = official
    model = from_dip(path)
    assert model.model_config.backbone.name == "dinov2-reg-s14"
    image = torch.rand(1, 3, 42, 70)
    shift, scale = (torch.tensor(values)[:, None, None] for values in (own.mean, own.std))
    expected = own((image - shift) / scale).maps[-1]
    assert torch.allclose(model(image).patches, expected, atol=1e-5)
    model.save_pretrained(tmp_path / "dip")
    again = AutoDenseModel.from_pretrained(tmp_path / "dip")
    assert torch.equal(again(image).patches, model(image).patches)
    assert not any("projector" in key or "enc_norm" in key for key in again.state_dict())


def test_a_checkpoint_with_the_script_s_arguments_is_converted_where_its_user_allows_them(tmp_path, official, capsys):
    path, _, _ = official
    torch.save({**torch.load(path), "args": argparse.Namespace(lr=1e-7)}, tmp_path / "checkpoint-5.pth")
    command = ["convert", "dip", str(tmp_path / "checkpoint-5.pth"), "--out", str(tmp_path / "dip")]
    assert main(command) != 0
    message = capsys.readouterr().err
    assert "argparse.Namespace" in message
    assert "--allow argparse.Namespace" in message
    assert not (tmp_path / "dip").exists()
    assert main([*command, "--allow", "argparse.NoSuch"]) != 0
    assert "expected MODULE.CLASS" in capsys.readouterr().err
    for name in (
        "posix.system",
        "os",
        "builtins.eval",
        "numpy.ndarray",
        "argparse",
        "argparse.Namespace.__init__",
        "numpy.load",
        "json",
    ):
        assert main([*command, "--allow", name]) != 0
        assert f"--allow {name}: not a class of plain data" in capsys.readouterr().err
        assert not (tmp_path / "dip").exists()
    assert main([*command, "--allow", "argparse.Namespace"]) == 0
    assert AutoDenseModel.from_pretrained(tmp_path / "dip").model_config.backbone.name == "dinov2-reg-s14"


NUMPY = ["numpy.core", *(["numpy._core"] if int(np.__version__.partition(".")[0]) > 1 else [])]  # numpy 1 has the first


@pytest.mark.parametrize("name", [f"{module}.multiarray.scalar" for module in NUMPY])
def test_scalars_of_either_numpy_are_admitted_by_name(tmp_path, official, name):
    """A file of numpy 1 names what numpy 2 has moved."""
    path, _, _ = official
    torch.save({**torch.load(path), "best": np.float64(0.5), "file": Path("a")}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as old, zipfile.ZipFile(tmp_path / "w.pth", "w") as new:
        for item in old.infolist():
            new.writestr(
                item, old.read(item).replace(b"numpy._core.multiarray\nscalar", name.encode()[:-7] + b"\nscalar")
            )
    command = ["convert", "dip", str(tmp_path / "w.pth"), "--out", str(tmp_path / "dip")]
    allowed = [name, "numpy.dtype", "numpy.dtypes.Float64DType", f"pathlib.{type(Path()).__name__}"]
    assert main([*command, *(word for other in allowed[1:] for word in ("--allow", other))]) != 0
    assert main([*command, *(word for other in allowed for word in ("--allow", other))]) == 0


def test_a_module_that_is_not_admitted_is_not_imported(tmp_path, official, monkeypatch):
    (tmp_path / "surprise.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["convert", "dip", str(official[0]), "--out", str(tmp_path / "dip"), "--allow", "surprise.Class"]) == 2


def test_its_projector_goes_on(official):
    path, _, projector = official
    rows = torch.randn(3, 5, 384)
    assert torch.equal(projector_of(path)(rows), projector(rows))


def test_faults(tmp_path, official):
    path, _, _ = official
    with pytest.raises(FileError, match="No checkpoint at"):
        from_dip(tmp_path / "none.pth")
    torch.save({"model": {"blocks.0.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"neither feats_extractor\.model\.\* nor feats_extractor\.encoder\.\*: not"
    ):
        read_dip(tmp_path / "other.pth")
    torch.save({"model": {"feats_extractor.model.cls_token": torch.zeros(1, 1, 100)}}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="width 100 is none of"):
        from_dip(tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="no projector that fits together"):
        projector_of(tmp_path / "odd.pth")
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="is damaged, or holds more than tensors"):
        read_dip(tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match="do not fit"):
        from_dip(path, backbone="dinov2-s14")
