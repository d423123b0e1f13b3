"""Objective.setup under the shipped objectives: published weights stay, a fresh run's end is exact, adapters train."""

import numpy as np
import pytest
import torch
from dense_ctx_demo import demo
from dense_ctx_metrics.segmentation import confusion_matrix, iou
from dip_data import tasks
from evaluation_data import rgbd
from maxa_scenes import Boxes
from PIL import Image

from dense_ctx import AutoDenseModel, InContext, SeededDataset, registry
from dense_ctx.data.video import Video
from dense_ctx.errors import ConfigError
from dense_ctx.train import TrainConfig, TrainStep, train
from dense_ctx.train.data import mix, seed_all

LILA = {
    "cues": ["features"], "centre": 4, "regression": {"stride": 4},
    "sampling": {"size": 64, "frame_side": 64, "cue_side": 64, "gap": [1, 2]},
}  # fmt: skip
DIP = {"size": 64, "out": 16, "train": "decoder"}
MAXA = {"size": [40, 56], "image_size": [64, 64]}
VIT = {"weights": None, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
DPT = {"dim": 8, "width": 8}


@pytest.fixture(autouse=True)
def processor(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


def clips(root):
    (root / "clips" / "one").mkdir(parents=True)
    x, y = np.meshgrid(np.arange(96), np.arange(72))
    for shift in range(5):
        picture = np.stack([np.sin((x - shift) / 9 + y / 7), np.cos((x - 2 * shift) / 5), np.sin(y / 4)], -1)
        Image.fromarray((127 + 100 * picture).astype(np.uint8)).save(root / "clips" / "one" / f"{shift:03d}.png")
    return str(root / "clips")


def settings(name, root):
    """Arguments of an objective, and data for it."""
    if name == "lila":
        return LILA, clips(root)
    return (DIP, tasks(root)) if name == "dip" else (MAXA, None)


def configuration(out, model, name, args, data, **more):
    return TrainConfig.from_dict({
        "out": str(out), "model": model, "objective": {"name": name, "args": args}, "data": data, "batch_size": 2,
        "steps": 1, "log": 1, **more,
    })  # fmt: skip


@pytest.fixture(scope="module")
def published():
    return AutoDenseModel.from_pretrained("lila-lite0")


def scores(model):
    """Mean IoU of the demo's annotated frames, in context from the first of the three."""
    frames = dict(enumerate(Video(demo.clip_path())))
    first, *later = demo.ANNOTATED
    context = InContext(model).fit(demo.enlarge(frames[first]), demo.enlarge_labels(demo.annotation(first)))
    truth = {number: demo.enlarge_labels(demo.annotation(number)) for number in later}
    labels = {number: context.predict(demo.enlarge(frames[number])) for number in later}
    return [float(iou(confusion_matrix(labels[n], truth[n], len(demo.CLASSES))).nanmean()) for n in later]


@pytest.mark.parametrize(
    "name", ["lila", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dip", "maxa-instances"))]
)
def test_a_published_model_that_is_trained_starts_as_it_is(tmp_path, published, name):
    """One step at a rate of 1e-12: no start from data, no centring of features that were centred."""
    args, data = settings(name, tmp_path)
    objective = registry().create("objective", name, **args)
    dataset = objective.dataset(Boxes() if data is None else data)
    config = configuration(tmp_path / "run", "lila-lite0", name, args, data, optimizer={"lr": 1e-12})
    again = AutoDenseModel.from_pretrained(train(config, objective=objective, dataset=dataset))
    before, after = published.state_dict(), again.state_dict()
    assert set(before) == set(after)
    gaps = {key: float((before[key].double() - after[key].double()).abs().max()) for key in before}
    assert max(gaps.values()) < 1e-6, max(gaps, key=gaps.get)
    assert scores(again) == pytest.approx(scores(published), abs=1e-3)


def test_start_on_a_published_model_is_refused_by_the_run(tmp_path):
    config = configuration(tmp_path / "run", "lila-lite0", "lila", {**LILA, "start": 4}, clips(tmp_path))
    with pytest.raises(ConfigError, match=r"start=4 .*published weights would be overwritten. Leave out start"):
        train(config)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_fresh_run_that_is_stopped_starts_once_and_is_centred_all_the_same(tmp_path, in_memory):
    """Bitwise the run that was never stopped, also where the model in memory has been trained by the first part."""
    data = clips(tmp_path)
    decoder = {"name": "dpt", "args": {**DPT, "shortcut": True}}
    parts = {"backbone": {"name": "efficientnet-lite0"}, "decoder": decoder}
    args = {**LILA, "start": 4}
    straight = train(configuration(tmp_path / "a", parts, "lila", args, data, steps=3))
    runs = [configuration(tmp_path / "b", parts, "lila", args, data, steps=steps) for steps in (2, 3)]
    model = None
    if in_memory:  # the same first weights as the run makes
        seed_all(mix(runs[0].seed, "model"))
        model = AutoDenseModel.from_parts("efficientnet-lite0", "dpt", decoder_args=decoder["args"])
    train(runs[0], model=model)
    resumed = train(runs[1], model=model)
    one, two = (AutoDenseModel.from_pretrained(folder).state_dict() for folder in (straight, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)
    uncentred = train(configuration(tmp_path / "c", parts, "lila", {**args, "centre": 0}, data, steps=3))
    other = AutoDenseModel.from_pretrained(uncentred).state_dict()
    assert [key for key in one if not torch.equal(one[key], other[key])] == ["decoder.norm.bias"]


def first_weights(config):
    seed_all(mix(config.seed, "model"))
    return AutoDenseModel.from_parts(config.model.backbone, config.model.decoder).state_dict()


@pytest.mark.parametrize("name", ["lila", "dip", "maxa-depth"])
def test_adapters_of_any_backbone_train_under_any_objective(tmp_path, name):
    args, data = settings(name, tmp_path)
    head, more = (
        ("upsample", {}) if name == "dip" else ("dpt", {**DPT, "dim": 1, "norm": False} if "maxa" in name else DPT)
    )
    backbone = {"name": "lora:timm:vit_tiny_patch16_224", "args": {"args": VIT, "rank": 2}}
    if name == "dip":
        args = {**args, "train": "adapters"}
    config = configuration(
        tmp_path / "run", {"backbone": backbone, "decoder": {"name": head, "args": more}}, name, args,
        data or {"name": "rgbd-folder", "root": str(rgbd(tmp_path / "rgbd")), "split": "train"},
        steps=3, optimizer={"lr": 0.01},
    )  # fmt: skip
    objective = registry().create("objective", name, **args)
    dataset = objective.dataset(config.data)
    assert isinstance(dataset, SeededDataset)
    torch.manual_seed(0)
    model = AutoDenseModel.from_parts(config.model.backbone, config.model.decoder)
    step = TrainStep(model, objective, dataset).train()
    step(objective.collate([dataset.sample(index, index) for index in (0, 1)])).total.backward()
    gradients = {n: p.grad for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert set(gradients) == set(model.backbone.adapters())
    assert all(grad is not None for grad in gradients.values())
    assert all(bool(grad.any()) for key, grad in gradients.items() if ".lora_B." in key)  # A's is 0 while B is
    folder = train(config)
    again = AutoDenseModel.from_pretrained(folder)
    start = first_weights(config)
    moved = {n for n, value in again.backbone.named_parameters() if not torch.equal(value, start[f"backbone.{n}"])}
    assert moved == set(again.backbone.adapters())


def test_the_features_cue_does_not_follow_the_adapters(tmp_path):
    objective = registry().create("objective", "lila", **LILA)
    data = objective.dataset(clips(tmp_path))
    torch.manual_seed(0)
    model = AutoDenseModel.from_parts(
        "lora:timm:vit_tiny_patch16_224", "dpt", backbone_args={"args": VIT}, decoder_args=DPT
    )
    step = TrainStep(model, objective, data)
    batch = objective.collate([data.sample(0, 0)])
    pixels = []
    objective.cues.register_forward_hook(lambda module, args, cues: pixels.append(cues[1].pixels()))
    step(batch)
    with torch.no_grad():
        for key, value in model.backbone.named_parameters():
            if ".lora_B." in key:
                value.add_(0.5)
    step(batch)
    assert torch.equal(*pixels)
    maps, padded = model.encode(batch["context"])
    assert not torch.allclose(maps.maps[-1], objective.original(padded).maps[-1], atol=1e-2)
