"""`model:NAME` wherever a backbone stands: evaluation, pseudo-labels, training under the shipped configurations."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from chained_models import IMAGE, LITE, learned_model, state
from dense_ctx_dip.task_settings import TaskSettings
from dense_ctx_dip.tasks import make_tasks
from dense_ctx_predict.context_files import load_context, save_context
from dip_data import tasks
from evaluation_data import image_folder
from safetensors.torch import load_file

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.config import Part
from dense_ctx.data.video import write_video
from dense_ctx.errors import ConfigError
from dense_ctx.evaluate import evaluate
from dense_ctx.evaluate.result import describe_model
from dense_ctx.train import TrainConfig, train

FEW = ["train.steps=2", "image.size=[32,48]"]  # of the protocol
SMALL = ["steps=2", "batch_size=2", "mixed_precision=no", "average.start=0", "save.every=0"]
CLIPS = [
    "objective.args.cues=[features]",
    "objective.args.sampling={size: 64, map_size: 32, frame_side: 48, cue_side: 48, gap: [1, 2]}",
    "objective.args.start=2",
    "model.decoder.args={dim: 8, width: 8, shortcut: true}",
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return learned_model(tmp_path_factory.mktemp("learned") / "a")


def scene(shift):
    """A smooth random picture [48, 80, 3], moved right by `shift` pixels."""
    picture = torch.rand(1, 3, 8, 20, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(picture, size=(48, 120), mode="bicubic").clamp(0, 1)[0]
    return (large[:, :, 20 - shift : 100 - shift] * 255).byte().permute(1, 2, 0).numpy()


def test_evaluate(tmp_path):
    image_folder(tmp_path / "data")
    model = AutoDenseModel.from_parts("model:lila-lite0", "upsample")
    values = {}
    for name, subject in (
        ("made", model),
        ("reopened", AutoDenseModel.from_pretrained(model.save_pretrained(tmp_path / "m"))),
        ("lila", AutoDenseModel.from_pretrained("lila-lite0")),
    ):
        values[name] = evaluate(
            subject, "image-folder-linear-grid4-v1", tmp_path / "data", tmp_path / name, overrides=FEW
        )
    assert values["made"].digest() == values["reopened"].digest()
    assert values["made"].model["backbone"]["args"]["digest"]
    assert values["made"].digest() != values["lila"].digest()


def test_pseudo_label(tmp_path):
    tasks(tmp_path)
    model = AutoDenseModel.from_parts("model:lila-lite0", "upsample", backbone_args={"stride": 8})
    make_tasks(tmp_path / "images", tmp_path / "tasks", model, TaskSettings(Part("patches"), side=32, classes=2))
    assert describe_model(model, "model")["digest"] in (tmp_path / "tasks" / "manifest.json").read_text()


def test_in_context(learned, tmp_path):
    folder = AutoDenseModel.from_parts(f"model:{learned}", "upsample").save_pretrained(tmp_path / "b")
    model = AutoDenseModel.from_parts(f"model:{folder}", "upsample")
    image, mask = IMAGE[0], np.arange(45 * 61).reshape(45, 61) * 3 // (45 * 61)
    context = InContext(model).fit(image, mask)
    saved = save_context(context, tmp_path / "context")
    again = AutoDenseModel.from_pretrained(model.save_pretrained(tmp_path / "c", standalone=True))
    assert torch.equal(load_context(saved, again).predict_proba(image), context.predict_proba(image))


# ---------------------------------------------------------------------- training, configurations as shipped


def shipped(name, tmp_path, data, *settings):
    config = TrainConfig.load(name, [*SMALL, f"out={tmp_path / name}", *settings])
    return train(dataclasses.replace(config, data=data))


def test_dip_then_lila_on_it_then_evaluate(tmp_path):
    write_video(tmp_path / "clips" / "film.mp4", [scene(shift) for shift in range(4)])
    image_folder(tmp_path / "images")
    pairs = tasks(tmp_path / "tasks")
    base = state(AutoDenseModel.from_parts(LITE, backbone_args={"layers": [2, 3]}).backbone)
    dip = shipped("dip-lite0", tmp_path, pairs, "objective.args.size=32")
    trained = load_file(dip / "model.safetensors")
    assert any(not torch.equal(value, base[key.removeprefix("backbone.")]) for key, value in trained.items())
    name = f"model.backbone.name='model:{dip}'"
    lila = shipped("lila-on-dip", tmp_path, str(tmp_path / "clips"), name, *CLIPS)
    assert not [key for key in load_file(lila / "model.safetensors") if key.startswith("backbone.")]
    model = AutoDenseModel.from_pretrained(lila)
    assert all(torch.equal(model.backbone.state_dict()[f"backbone.{k[9:]}"], value) for k, value in trained.items())
    again = AutoDenseModel.from_pretrained(model.save_pretrained(tmp_path / "again"))
    digests = [
        evaluate(
            one, "image-folder-linear-grid4-v1", tmp_path / "images", tmp_path / out, overrides=["train.steps=2"]
        ).digest()
        for one, out in ((model, "one"), (again, "two"))
    ]
    assert digests[0] == digests[1]


def test_dip_on_lila(tmp_path):
    before = state(AutoDenseModel.from_pretrained("lila-lite0"))
    folder = shipped("dip-on-lila", tmp_path, tasks(tmp_path / "tasks"), "objective.args.size=32")
    stored = load_file(folder / "model.safetensors")
    assert stored
    assert all(key.startswith("backbone.decoder.") for key in stored)
    assert any(not torch.equal(value, before[key.removeprefix("backbone.")]) for key, value in stored.items())
    after = AutoDenseModel.from_pretrained(folder).backbone.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("backbone."))
    assert all(torch.equal(after[key.removeprefix("backbone.")], value) for key, value in stored.items())


def test_a_run_that_would_end_in_its_own_link_does_not_begin(learned, tmp_path):
    shutil.copytree(learned, tmp_path / "dip-on-lila" / "model")
    name = f"model.backbone.name='model:{tmp_path / 'dip-on-lila' / 'model'}'"
    with pytest.raises(ConfigError, match="refer to itself"):
        shipped("dip-on-lila", tmp_path, tasks(tmp_path / "tasks"), name)
    assert not (tmp_path / "dip-on-lila" / "state").exists()
