"""Predictor: what a few examples show and what a head was trained for, kept, published and scored."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_predict import LabelClass, Predictor
from dense_ctx_predict.head import HeadProbe
from evaluation_data import camvid, rgbd
from hubserver import TOKEN, serving
from PIL import Image

import dense_ctx
from dense_ctx import AutoDenseModel, InContext, cli, registry
from dense_ctx.data import open_set
from dense_ctx.data.video import Video, write_video
from dense_ctx.errors import CheckpointError, ConfigError, FileError, InputError, NotFittedError
from dense_ctx.images import resized
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.testing import tiny_model
from dense_ctx.train import TrainConfig, train

SIZE = (24, 40)
NAMES, COLOURS = {0: "sky", 7: "a|b"}, {7: (1, 2, 3)}


def example(seed=0):
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed)) / 4
    mask = torch.zeros(SIZE, dtype=torch.int64)
    mask[:, 15:] = 7
    image[0, mask == 7] += 0.7
    return image, mask


@pytest.fixture(scope="module")
def predictor():
    model = AutoDenseModel.from_parts("rgb-xy", "upsample")
    return Predictor(InContext(model).fit(*example()), names=NAMES, colours=COLOURS)


def test_names_colours_and_task_are_known(predictor):
    assert predictor.task == "segmentation"
    assert predictor.classes == (LabelClass(0, "sky", (0, 0, 0)), LabelClass(7, "a|b", (1, 2, 3)))
    image, mask = example(1)
    assert (predictor.predict(image) == mask).float().mean() > 0.98
    assert predictor.scores(image).shape == (2, *SIZE)
    plain = Predictor(predictor.context)
    assert [item.name for item in plain.classes] == ["background", "class 7"]
    assert plain.classes[1].colour == (128, 128, 128)


def test_values_know_what_they_are():
    model, (image, _) = AutoDenseModel.from_parts("rgb-xy", "upsample"), example()
    depth = InContext(model).fit(image, image[:1] + 1.5)
    assert Predictor(depth).task == "regression"
    assert Predictor(depth, "depth").predict(image).shape == (1, *SIZE)
    with pytest.raises(InputError, match=r"normals has 3 channel\(s\); the context was fitted on 1"):
        Predictor(depth, "normals")
    normals = Predictor(InContext(model).fit(image, image - 0.4), "normals").predict(image)
    torch.testing.assert_close(normals.norm(dim=0), torch.ones(SIZE))


def test_an_image_a_list_a_folder_and_a_video(predictor, tmp_path):
    image, mask = example(1)
    picture = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "in" / "deep" / "a.png")
    Image.fromarray(picture[:8]).save(tmp_path / "in" / "b.png")
    assert [tuple(item.shape) for item in predictor.predict([image, image[:, :9]])] == [SIZE, (9, 40)]
    predictions = dict(predictor.predict(tmp_path / "in"))
    assert {path.name: tuple(labels.shape) for path, labels in predictions.items()} == {"a.png": SIZE, "b.png": (8, 40)}
    assert (predictions[tmp_path / "in" / "deep" / "a.png"] == mask).float().mean() > 0.98
    path = write_video(tmp_path / "v.mp4", [picture] * 2)
    assert len(list(predictor.predict(path))) == len(list(predictor.predict(Video(path)))) == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(FileError, match="hold no image or video"):
        predictor.predict(tmp_path / "none")


def test_saved_and_opened_with_its_model(predictor, tmp_path):
    image, _ = example(1)
    folder = predictor.save(tmp_path / "mine", license="mit")
    again = Predictor.from_pretrained(folder)
    assert again.classes == predictor.classes
    assert torch.equal(again.scores(image), predictor.scores(image))
    assert sorted(str(p.relative_to(folder).as_posix()) for p in folder.rglob("*.*") if p.is_file()) == [
        "README.md", "config.json", "context/manifest.json", "context/probe.json", "context/probe.safetensors",
        "manifest.json", "model/README.md", "model/config.json", "model/manifest.json", "model/model.safetensors",
        "predictor.json",
    ]  # fmt: skip
    (folder / "notes.txt").write_text("mine")
    predictor.save(folder)  # anew: what a person put there stays
    assert (folder / "notes.txt").read_text() == "mine"
    assert Predictor.from_pretrained(folder, dtype=torch.float64).model.dtype == torch.float64


@pytest.mark.parametrize(
    "file", ["predictor.json", "context/manifest.json", "context/probe.safetensors", "model/config.json"]
)
def test_a_changed_file_is_refused(predictor, tmp_path, file):
    path = predictor.save(tmp_path / "mine") / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        Predictor.from_pretrained(tmp_path / "mine")


def test_refusals(predictor, tmp_path):
    model, context = predictor.model, predictor.context
    of_modules = InContext(tiny_model()).fit(*example())
    cases = [
        (lambda: InContext(model, "head").fit(*example()), InputError, "head cannot be fitted to examples"),
        (lambda: Predictor(InContext(model)), NotFittedError, "is not fitted"),
        (lambda: Predictor(model), ConfigError, "has features but no trained head"),
        (lambda: Predictor(context, "depth"), InputError, "the source predicts segmentation"),
        (lambda: Predictor(context, names={1: "x"}), InputError, "No class has the id 1; there are 0, 7"),
        (lambda: Predictor(context, colours={7: (1, 2, 300)}), InputError, "A colour is"),
        (
            lambda: Predictor(of_modules).save(tmp_path / "t"),
            ConfigError,
            "made of modules",
        ),
        (lambda: Predictor.from_pretrained("lila-lite0"), ConfigError, "no trained head"),
        (lambda: Predictor.from_pretrained(tmp_path), FileError, r"has no config\.json"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    assert list(tmp_path.iterdir()) == []


def test_the_card_says_what_it_predicts_and_no_path(predictor, tmp_path):
    card = (predictor.save(tmp_path / "cups") / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card
    assert "| 7 | a\\|b | #010203 |" in card
    assert 'Predictor.from_pretrained("cups")' in card
    for page in (tmp_path / "cups").rglob("*.md"):
        assert str(tmp_path) not in page.read_text()


def test_a_saved_predictor_predicts_on_the_command_line(predictor, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image, mask = example(1)
    Image.fromarray((image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save("q.png")
    Image.fromarray(mask.numpy().astype(np.uint8)).save("m.png")
    words = ["--support", "q.png:m.png", "--classes", "0=sky", "7=cup", "--save", "cups"]
    assert cli.main(["predict", *words, "--model", "rgb-xy", "--device", "cpu"]) == 0
    assert cli.main(["predict", "--model", "cups", "--query", "q.png", "--device", "cpu", "--processes", "2"]) == 0
    assert (np.asarray(Image.open("dense-ctx-predictions/masks/q.png")) == mask.numpy()).mean() > 0.98
    assert json.loads((tmp_path / "dense-ctx-predictions/predictor.json").read_text())["classes"]["7"]["name"] == "cup"
    assert cli.main(["predict", "--model", "cups", "--support", "q.png:m.png", "--query", "q.png"]) == 2
    assert "a predictor that was already fitted to examples" in capsys.readouterr().err


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Models trained for classes and for depth, and their data."""
    root = tmp_path_factory.mktemp("heads")
    camvid(root / "camvid", train=6, val=3)
    rgbd(root / "rgbd", frames=8)
    data = {"semantic": ("camvid", 11), "depth": ("rgbd-folder", 1)}
    for task, (name, channels) in data.items():
        place = root / ("camvid" if task == "semantic" else "rgbd")
        settings = {
            "out": str(root / task), "steps": 30, "batch_size": 2, "model": f"rgb-xy+linear(dim={channels})",
            "objective": {"name": f"maxa-{task}", "args": {"size": [24, 32], "image_size": [48, 64]}},
            "data": {"name": name, "root": str(place)}, "optimizer": {"lr": 0.05}, "save": {"every": 30}, "seed": 0,
        }  # fmt: skip
        train(TrainConfig.from_dict(settings))
    return root


def test_a_trained_head_is_a_predictor_and_agrees_with_its_objective(heads):
    predictor = Predictor.from_pretrained(heads / "semantic" / "model")
    images = open_set("camvid", heads / "camvid", "val")
    assert [item.name for item in predictor.classes] == list(images.classes)
    sample = images[0]
    labels = predictor.predict(sample.image)
    assert labels.shape == sample.image.shape[1:]
    model = predictor.model
    objective = registry().create("objective", "maxa-semantic", size=(24, 32), image_size=(48, 64))
    small = resized(sample.image, (48, 64))[None]
    expected = objective.predict(model, {"image": small})
    expected = torch.nn.functional.interpolate(expected, labels.shape, mode="bilinear", align_corners=False).softmax(1)
    torch.testing.assert_close(predictor.scores(sample.image), expected[0])
    depth = Predictor.from_pretrained(heads / "depth" / "model")
    assert depth.task == "depth"
    sample = open_set("rgbd-folder", heads / "rgbd", "val")[0]
    assert depth.predict(sample.image).shape == (1, *sample.image.shape[1:])


def test_a_head_is_saved_and_predicts_on_the_command_line(heads, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Predictor.from_pretrained(heads / "semantic" / "model").save(tmp_path / "again")
    images = open_set("camvid", heads / "camvid", "val")
    picture = (images[0].image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(picture).save("q.png")
    assert cli.main(["predict", "--model", str(folder), "--query", "q.png", "--device", "cpu"]) == 0
    assert Image.open("dense-ctx-predictions/masks/q.png").size == picture.shape[1::-1]
    assert cli.main(["predict", "--model", str(folder), "--support", "q.png:q.png", "--query", "q.png"]) == 2
    assert "has a trained head, which needs no examples" in capsys.readouterr().err


def test_evaluate_scores_the_head(heads, tmp_path, monkeypatch, capsys):
    """It fitted a probe on the head's logits."""
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(heads / "semantic" / "model"), "--data", str(heads / "camvid"), "--device", "cpu"]
    assert cli.main([*words, "--protocol", "camvid-linear-grid4-v2", "--out", "head"]) == 0
    result = json.loads((tmp_path / "head" / "result.json").read_text())
    assert "probe=head" in result["protocol_id"]
    assert "image.size=[48, 64]" in result["protocol_id"]
    assert not list((tmp_path / "head").rglob("probe-*"))
    predictor, images = (
        Predictor.from_pretrained(heads / "semantic" / "model"),
        open_set("camvid", heads / "camvid", "val"),
    )
    metric = registry().create("metric", "segmentation", classes=images.classes)
    for index in range(len(images)):
        metric.update(predictor.scores(images[index].image), images[index].target)
    assert abs(result["value"] - metric.compute().values["miou"]) < 1e-6
    assert cli.main([*words, "probe=ridge", "--protocol", "camvid-linear-grid4-v2", "--out", "probe"]) == 0
    other = json.loads((tmp_path / "probe" / "result.json").read_text())
    assert "probe=ridge" in other["protocol_id"]
    capsys.readouterr()
    words[1] = str(heads / "depth" / "model")
    assert cli.main([*words, "--protocol", "camvid-linear-grid4-v2", "--out", "no"]) == 2
    assert "is about segmentation; the model's head predicts depth" in capsys.readouterr().err
    words[1] = "rgb-xy"
    assert cli.main([*words, "probe=head", "--protocol", "camvid-linear-grid4-v2", "--out", "no"]) == 2
    assert "probe=head, and the model gives features" in capsys.readouterr().err


PUSH = """
import sys, torch
from dense_ctx_predict import Predictor
predictor = Predictor.from_pretrained(sys.argv[1])
print(predictor.push_to_hub("me/" + sys.argv[2]))
again = Predictor.from_pretrained("me/" + sys.argv[2])
image = torch.rand(3, 24, 40)
assert again.classes == predictor.classes and again.task == predictor.task
assert torch.equal(again.scores(image), predictor.scores(image))
"""


def test_pushed_to_a_hub_and_opened_from_it(predictor, heads, tmp_path):
    cups = predictor.save(tmp_path / "cups")
    with serving() as (hub, address):
        import os

        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN,
                       "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
        for folder, name in ((cups, "cups"), (heads / "semantic" / "model", "street")):
            done = subprocess.run(
                [sys.executable, "-c", PUSH, str(folder), name], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-2000:]
        files = hub.files("me/cups", "main")
        assert {"predictor.json", "context/probe.safetensors", "model/config.json", "README.md"} <= set(files)
        street = hub.files("me/street", "main")
    assert "image-segmentation" in street["README.md"].decode()
    record = json.loads(street["config.json"])["trained_with"]
    assert record["data"]["root"] == "camvid"  # of the training's absolute path
    for content in [*files.values(), *street.values()]:
        assert str(heads).encode() not in content
        assert str(tmp_path).encode() not in content
        assert str(Path(dense_ctx.__file__).parent.parent).encode() not in content


@pytest.mark.parametrize("task", ["segmentation", "regression"])
def test_a_head_in_bfloat16_is_read_in_float32(task):
    """Its maps are made smaller too, for which the CPU has no bfloat16 kernel, and are not rounded once more."""
    channels = torch.randn(1, 3, 20, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    found, wide = (HeadProbe(task).predict(DenseFeatures(x, x), (5, 7)) for x in (channels, channels.float()))
    assert found.dtype == torch.float32
    assert torch.equal(found, wide)
