"""Retrieval under a protocol: annotations as fine as they are, fractions of the support, modes, depth."""

import numpy as np
import pytest
import tiny_datasets as tiny
import yaml
from evaluation_data import H, W, image_folder, rgbd, same_revision
from tiny_datasets import labels

from dense_ctx import AutoDenseModel
from dense_ctx.data import open_set
from dense_ctx.errors import FileError, InputError
from dense_ctx.evaluate import evaluate, load_protocol


def model():
    return AutoDenseModel.from_parts("rgb-xy", "upsample")


def protocol(tmp_path, name, data, **changes):
    """A shipped protocol on a small folder."""
    values = load_protocol(name).to_dict()
    values |= {"id": "small-v1", "data": data, "image": {}, "grid": 8, **changes}
    values.pop("overrides")
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


@pytest.fixture
def segmentation(tmp_path):
    image_folder(tmp_path / "data", train=8, val=4)
    return protocol(tmp_path, "voc2012-retrieval-v1", {"name": "image-folder", "train": "train", "val": "val"})


def test_colours_find_their_class(tmp_path, segmentation, monkeypatch):
    same_revision(monkeypatch)
    result = evaluate(model(), segmentation, tmp_path / "data", tmp_path / "run")
    assert result.scores["pixel_accuracy"] > 0.5  # four classes in stripes of seven pixels, cells of eight
    again = evaluate(
        model(), segmentation, tmp_path / "data", tmp_path / "run2", overrides=["probe.args.dtype=float32"]
    )
    assert again.value == pytest.approx(result.value, abs=0.01)
    assert again.protocol_id == "small-v1 [probe.args.dtype=float32]"


def test_the_probe_is_given_whole_annotations(tmp_path, segmentation, monkeypatch):
    """One label a cell would make every histogram one-hot; stripes of seven pixels under cells of eight are not."""
    shapes = []
    from dense_ctx_probes.retrieval import RetrievalProbe

    fit = RetrievalProbe.partial_fit
    monkeypatch.setattr(
        RetrievalProbe, "partial_fit", lambda self, f, t: (shapes.append(tuple(t.shape)), fit(self, f, t))[1]
    )
    evaluate(model(), segmentation, tmp_path / "data", tmp_path / "run")
    assert shapes == [(1, 24, 36)] * 8


def test_a_fraction_of_the_support_and_the_official_mode(tmp_path, segmentation):
    few = evaluate(
        model(), segmentation, tmp_path / "data", tmp_path / "few", overrides=["data.fraction=0.125"], seeds=[0, 1]
    )
    assert few.protocol_id == "small-v1 [data.fraction=0.125]"
    assert few.per_seed["0"]["miou"] != few.per_seed["1"]["miou"]
    settings = ["probe.args.mode=official", "scoring.matching=hungarian", "scoring.absent=zero"]
    official = evaluate(model(), segmentation, tmp_path / "data", tmp_path / "official", overrides=settings)
    assert "probe.args.mode=official" in official.protocol_id
    assert official.protocol["probe"]["args"]["mode"] == "official"


def test_depth(tmp_path):
    rgbd(tmp_path / "data")
    file = protocol(
        tmp_path, "nyuv2-retrieval-depth-v1", {"name": "rgbd-folder", "train": "train", "val": "val", "options": {}}
    )
    result = evaluate(model(), file, tmp_path / "data", tmp_path / "run")
    # brightness tells the distance; always the mean would be off by the spread of 1 to 3 metres
    assert result.value < 0.35
    assert result.metric == "rmse"


def test_support_from_one_data_set_queries_from_another(tmp_path):
    tiny.cityscapes(tmp_path / "cityscapes")
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / "cityscapes" / folder / "val").rename(tmp_path / "cityscapes" / folder / "train")
    tiny.acdc(tmp_path / "acdc")
    settings = ["image.size=[16,24]", "grid=8", "data.options.condition=night"]
    result = evaluate(model(), "cityscapes-acdc-retrieval-v1", tmp_path, tmp_path / "run", overrides=settings)
    assert result.n["images"] == 1
    assert result.data["training_samples"] == 2
    with pytest.raises(InputError, match="condition"):
        open_set("cityscapes-acdc", tmp_path, "val", condition="fogg")
    with pytest.raises(FileError, match="cityscapes"):
        open_set("cityscapes-acdc", tmp_path / "acdc", "train")


def test_an_empty_support_set(tmp_path, segmentation):
    for path in (tmp_path / "data/train/labels").iterdir():
        labels(path, np.full((H, W), 255))
    with pytest.raises(InputError, match="8 training images of image-folder have no labelled pixel"):
        evaluate(model(), segmentation, tmp_path / "data", tmp_path / "run")
    assert len(open_set("image-folder", tmp_path / "data", "train")) == 8
