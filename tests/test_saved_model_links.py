"""Models on models whose links are missing, changed, circular or no models at all."""

import json
import shutil

import pytest
import torch
from chained_models import DPT, LITE, learned_model, pixels, upon

from dense_ctx import AutoDenseModel, create_backbone
from dense_ctx.errors import CheckpointError, ConfigError, FileError, UnknownNameError, WeightsError


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return learned_model(tmp_path_factory.mktemp("learned") / "a")


@pytest.fixture
def offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_a_link_relative_to_the_working_directory_or_to_the_model(learned, tmp_path, monkeypatch):
    shutil.copytree(learned, tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    model = AutoDenseModel.from_parts("model:runs/a", "upsample")
    folder = model.save_pretrained(tmp_path / "b")
    assert json.loads((folder / "config.json").read_text())["backbone"]["name"] == "model:runs/a"
    assert torch.equal(pixels(AutoDenseModel.from_pretrained("b")), pixels(model))
    shutil.move(tmp_path / "runs", folder / "runs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(pixels(AutoDenseModel.from_pretrained("../b")), pixels(model))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["runs/a", "a", "../x/a"])
def test_a_missing_middle_link(learned, tmp_path, monkeypatch, name):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(learned, name)
    middle = AutoDenseModel.from_parts(f"model:{name}", "upsample").save_pretrained("b")
    top = AutoDenseModel.from_parts("model:b", "upsample").save_pretrained(tmp_path / "top")
    shutil.rmtree(name)
    for folder in (middle, top):  # both name the one that misses its backbone
        with pytest.raises(FileError) as error:
            AutoDenseModel.from_pretrained(folder)
        assert f"{middle} is built on the model {name!r}, which is missing" in str(error.value)
        assert f"no folder {tmp_path / 'work' / name} or {middle / name}" in str(error.value)
        assert "standalone=True" in str(error.value)


@pytest.mark.parametrize("what", ["weights", "config", "kind"])
def test_a_changed_middle_link(tmp_path, what):
    torch.manual_seed(0)
    first = AutoDenseModel.from_parts(LITE, "dpt", decoder_args=DPT)
    folder = first.save_pretrained(tmp_path / "a")
    top = upon(folder, "b")
    before = create_backbone(f"model:{folder}").digest
    if what == "weights":
        with torch.no_grad():
            first.decoder.head.bias[0] += 1e-3
    if what == "config":  # the same tensors, read otherwise
        first = AutoDenseModel.from_parts(LITE, "dpt", backbone_args={"layers": [-4, -3, -2, -1]}, decoder_args=DPT)
        first.load_state_dict(AutoDenseModel.from_pretrained(folder).state_dict())
    if what == "kind":
        first = AutoDenseModel.from_parts(LITE, "dpt", decoder_args={**DPT, "dim": 7})
    first.save_pretrained(folder)
    after = create_backbone(f"model:{folder}").digest
    with pytest.raises(CheckpointError) as error:
        AutoDenseModel.from_pretrained(top)
    message = str(error.value)
    assert f"{top} is built on the model '{folder}' with digest {before[:12]}" in message
    assert f"but {folder} has digest {after[:12]}" in message
    assert "standalone=True" in message


def test_what_is_not_used_of_the_middle_link_may_change(tmp_path):
    first = AutoDenseModel.from_parts(LITE, "dpt", decoder_args=DPT)
    folder = first.save_pretrained(tmp_path / "a", trained_with={"steps": 1})
    top = upon(folder, "b", backbone_args={"maps": "backbone"})
    result = pixels(AutoDenseModel.from_pretrained(top))
    with torch.no_grad():
        first.decoder.head.bias += 1
    first.save_pretrained(folder, trained_with={"steps": 2})
    assert torch.equal(pixels(AutoDenseModel.from_pretrained(top)), result)


def test_a_model_is_not_saved_over_what_it_is_built_on(learned, tmp_path):
    first = tmp_path / "a"
    shutil.copytree(learned, first)
    middle = AutoDenseModel.from_parts(f"model:{first}", "upsample")
    top = AutoDenseModel.from_parts(f"model:{middle.save_pretrained(tmp_path / 'b')}", "upsample")
    for folder in (first, tmp_path / "b"):
        content = (folder / "config.json").read_bytes()
        with pytest.raises(ConfigError, match=r"built on the one in .*refer to itself.*standalone=True"):
            top.save_pretrained(folder)
        assert (folder / "config.json").read_bytes() == content
    top.save_pretrained(first, standalone=True)
    assert torch.equal(pixels(AutoDenseModel.from_pretrained(first)), pixels(top))


def test_a_chain_that_refers_to_itself(learned, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    shutil.copytree(learned, first)
    upon(first, "b")
    third = upon(second, "c")
    shutil.rmtree(first)
    shutil.copytree(second, first)  # a is on a
    with pytest.raises(CheckpointError, match=rf"refers to itself: {first} -> {first}\."):
        AutoDenseModel.from_pretrained(first)
    shutil.rmtree(first)
    shutil.copytree(third, first)  # a is on b, which is on a
    for folder, names in (
        (first, [first, second, first]),
        (second, [second, first, second]),
        (third, [second, first, second]),
    ):
        with pytest.raises(CheckpointError, match=f"refers to itself: {' -> '.join(map(str, names))}") as error:
            AutoDenseModel.from_pretrained(folder)
        assert "standalone=True" in str(error.value)
    with pytest.raises(CheckpointError, match="refers to itself"):
        AutoDenseModel.from_parts(f"model:{first}")
    with pytest.raises(CheckpointError, match="refers to itself"):
        create_backbone(f"model:{first}", weights=None)


@pytest.mark.usefixtures("offline")
def test_a_name_that_is_no_model(tmp_path):
    with pytest.raises(
        UnknownNameError, match=r"Unknown model 'lila-lit0'. Closest: lila-lite0.*Nor is 'lila-lit0' a fol"
    ):
        AutoDenseModel.from_parts("model:lila-lit0")
    with pytest.raises(WeightsError, match="There is no folder runs/dip, and the Hub repository is not in the cache"):
        AutoDenseModel.from_parts("model:runs/dip")
    with pytest.raises(UnknownNameError, match="Unknown backbone 'model:'"):
        AutoDenseModel.from_parts("model:")
    (tmp_path / "run").mkdir()
    with pytest.raises(FileError, match=rf"{tmp_path / 'run'} has no config\.json: is it a model of dense_ctx\?$"):
        AutoDenseModel.from_parts(f"model:{tmp_path / 'run'}")
    AutoDenseModel.from_parts(LITE).save_pretrained(tmp_path / "run" / "model")
    with pytest.raises(FileError, match=rf"model of dense_ctx\? {tmp_path / 'run' / 'model'} is one"):
        AutoDenseModel.from_parts(f"model:{tmp_path / 'run'}")


def test_a_model_on_a_local_folder_is_not_published(learned):
    model = AutoDenseModel.from_parts(f"model:{learned}")
    with pytest.raises(ConfigError, match=rf"built on {learned}, a folder of this machine.*standalone=True"):
        model.push_to_hub("me/model", token="none")
