"""Published evaluations: full resolution, augmented supports, fixed lists, whose table a result stands in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dense_ctx_benchmarks import papers
from dense_ctx_benchmarks.compare import compare
from dense_ctx_dpt.dpt import DPT
from evaluation_data import save, scene
from tiny_datasets import labels, text

from dense_ctx import data as datasets
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.evaluate import evaluate, load_protocol, protocols
from dense_ctx.evaluate.result import Result
from dense_ctx.evaluate.samples import extract, training_view
from dense_ctx.model import DenseModel
from dense_ctx.testing import TinyBackbone, tiny_model

SHARES = ("8th", "64th", "128th")
SMALL = ["image.size=[32,32]", "image.stride=null", "probe.args.memory=200", "probe.args.k=3"]


@pytest.mark.parametrize("name", protocols())
def test_a_protocol_that_decodes_on_a_grid_says_so_in_its_name(name):
    protocol = load_protocol(name)
    coarse = protocol.reads != "patches" and protocol.grid > 1 and protocol.decode == "grid"
    assert (f"grid{protocol.grid}" in name) == coarse


def dpt():
    torch.manual_seed(0)
    backbone = TinyBackbone()
    return DenseModel(backbone, DPT(backbone.dims, backbone.strides, dim=6, width=8)).eval()


@pytest.mark.parametrize("reads", ["pixels", "both"])
def test_features_at_full_resolution_are_sampled_not_decoded_anew(reads):
    model, images = dpt(), torch.rand(1, 3, 32, 48)
    full = load_protocol("davis2017-linear-v2", [f"reads={reads}"])
    coarse = load_protocol("davis2017-linear-grid4-v1", [f"reads={reads}"])
    with torch.no_grad():
        every = model(images).pixels
    features = extract(model, images, full).pixels
    assert torch.equal(features[:, :6], every[:, :, 2::4, 2::4])
    assert features.shape == extract(model, images, coarse).pixels.shape
    assert (features - extract(model, images, coarse).pixels)[:, :6].abs().max() > 0.05
    with torch.no_grad():
        assert torch.equal(extract(model, images, full.override(["grid=1"])).pixels[:, :6], every)


def voc(root, count=4):
    """Pascal VOC with the split trainaug, in open-hummingbird's layout, and lists of two seeds."""
    for index in range(count):
        picture, label = scene(index, (40, 60))
        label[:3] = 255
        save(root / f"images/{index}.jpg", picture)
        for folder in ("SegmentationClass", "SegmentationClassAug"):
            labels(root / f"{folder}/{index}.png", label)
    names = [str(index) for index in range(count)]
    text(root / "ImageSets/Segmentation/val.txt", "\n".join(names[:2]))
    text(root / "sets/trainaug.txt", "\n".join(names))
    for seed, chosen in ((42, names[:2]), (400, names[2:])):
        text(root / f"file_sets/voc/1_div_8/trainaug_8_{seed}.txt", "\n".join(chosen))
    return root


def test_trainaug(tmp_path):
    root = voc(tmp_path)
    assert len(datasets.open_set("voc2012", root, "trainaug")) == 4
    with pytest.raises(InputError, match="trainaug has classes only"):
        datasets.open_set("voc2012", root, "trainaug", instances=True)
    (root / "sets/trainaug.txt").unlink()
    with pytest.raises(FileError, match=r"(?s)ImageSets.SegmentationAug.trainaug\.txt is missing.*SBD"):
        datasets.open_set("voc2012", root, "trainaug")
    (root / "SegmentationClassAug").rename(root / "SegmentationClassSBD")
    with pytest.raises(FileError, match="SegmentationClassAug is missing"):
        datasets.open_set("voc2012", root, "trainaug")


def test_an_augmented_support(tmp_path):
    root, model = voc(tmp_path / "voc"), tiny_model()
    result = evaluate(model, "voc2012-dip-v1", root, tmp_path / "out", overrides=SMALL)
    assert 0 < result.value < 1
    again = evaluate(model, "voc2012-dip-v1", root, tmp_path / "again", overrides=SMALL)
    assert again.digest() == result.digest()
    image = datasets.open_set("voc2012", root, "trainaug")[0]
    protocol = load_protocol("voc2012-dip-v1", SMALL)
    first = training_view(image, protocol, "segmentation", 1)
    assert first.image.shape == (3, 32, 32)
    assert first.target.shape == (32, 32)
    assert first.target.dtype == torch.int64
    assert set(first.target.unique().tolist()) <= set(image.target.unique().tolist())
    assert torch.equal(first.image, training_view(image, protocol, "segmentation", 1).image)
    for change in ("scale=[0.5,0.6]", "ratio=[0.9,1.1]", "jitter=0.4"):
        other = training_view(image, protocol.override([f"support.{change}"]), "segmentation", 3)
        assert not torch.equal(other.image, training_view(image, protocol, "segmentation", 3).image), change
    one = evaluate(model, "voc2012-dip-v1", root, tmp_path / "one", overrides=[*SMALL, "support.passes=1"])
    assert one.value != result.value


def test_lists_of_a_share_of_the_support(tmp_path):
    root, model = voc(tmp_path / "voc"), tiny_model()
    run = {"overrides": SMALL, "seeds": (42, 400)}
    result = evaluate(model, "voc2012-dip-8th-v1", root, tmp_path / "out", **run)
    assert result.per_seed["42"] != result.per_seed["400"]
    assert set(result.data["files"]) == {"support, seed 42", "support, seed 400"}
    with pytest.raises(
        FileError,
        match=r"trainaug_8_0\.txt is missing; its folder has trainaug_8_400\.txt, train.*a share of 0\.125 by seed, "
        "which is another evaluation: voc2012-dip-8th-seeded-v1",
    ):
        evaluate(model, "voc2012-dip-8th-v1", root, tmp_path / "none", overrides=SMALL)
    drawn = evaluate(model, "voc2012-dip-8th-seeded-v1", root, tmp_path / "drawn", overrides=SMALL, seeds=(0, 1))
    assert drawn.data["listed_samples"] == {}
    with pytest.raises(InputError, match="has no column measured by voc2012-dip-8th-seeded-v1"):
        compare([as_published(drawn)], "dip:table1")
    text(root / "file_sets/voc/1_div_8/trainaug_8_42.txt", "1\n2\n")
    with pytest.raises(ConfigError, match="holds another evaluation"):  # the list decides the number
        evaluate(model, "voc2012-dip-8th-v1", root, tmp_path / "out", **run)
    text(root / "file_sets/voc/1_div_8/trainaug_8_42.txt", "1\nghost\n")
    with pytest.raises(InputError, match=r"names 2 images, 1 not in the data set: .*ghost"):
        evaluate(model, "voc2012-dip-8th-v1", root, tmp_path / "ghost", overrides=SMALL, seeds=(42,))


def test_scores_at_the_size_of_the_input(tmp_path):
    root, model = voc(tmp_path / "voc"), tiny_model()
    pixels = [
        evaluate(
            model, "voc2012-dip-v1", root, tmp_path / str(side), overrides=[*SMALL, f"scoring.mask_side={side}"]
        ).n["pixels"]
        for side in ("-1", "null")
    ]
    assert pixels[0] == 2 * 32 * (32 - round(3 * 32 / 40))
    assert pixels[1] == 2 * 60 * 37


def test_parts_of_coco_and_the_other_of_ade20k(tmp_path):
    save(tmp_path / "val2017/a.jpg", np.zeros((4, 4, 3), np.uint8))
    labels(tmp_path / "stuffthingmaps/val2017/a.png", np.array([[0, 1, 15, 255], [181, 156, 92, 91]] * 2, np.uint8))
    things = datasets.open_set("coco-stuff27", tmp_path, "val", part="things")
    stuff = datasets.open_set("coco-stuff27", tmp_path, "val", part="stuff")
    assert (len(things.classes), len(stuff.classes)) == (12, 15)
    assert list(things.classes) == sorted(things.classes)
    names = [things.classes[k] if k >= 0 else None for k in things[0].target[:2].flatten().tolist()]
    assert names[:4] == ["person", "vehicle", "animal", None]
    assert set(names[4:]) == {None}
    assert (stuff[0].target[0] == -1).all()
    assert (stuff[0].target[1] >= 0).all()
    with pytest.raises(InputError, match="part must be one of all, things, stuff"):
        datasets.open_set("coco-stuff27", tmp_path, "val", part="thing")
    for split in ("training", "validation"):
        save(tmp_path / f"ade/images/{split}/a.jpg", np.zeros((1, 2, 3), np.uint8))
        labels(tmp_path / f"ade/annotations/{split}/a.png", np.array([[0, 150]], np.uint8))
    for other, expected in (("ignored", [[-1, 149]] * 2), ("class", [[0, 150]] * 2), ("train", [[0, 150], [-1, 150]])):
        samples = [datasets.open_set("ade20k", tmp_path / "ade", split, other=other)[0] for split in ("train", "val")]
        assert [sample.target[0].tolist() for sample in samples] == expected


@pytest.mark.parametrize("evaluator", ["dip", "hummingbird"])
def test_protocols_of_one_evaluator_differ_in_their_data_alone(evaluator):
    settings = [load_protocol(name).to_dict() for name in protocols() if f"-{evaluator}-" in name]
    assert len(settings) == {"dip": 27, "hummingbird": 22}[evaluator]
    for one in settings:
        words = one["id"].split("-")
        listed = set(words) & set(SHARES) and "seeded" not in words
        assert (one["support"]["names"] is not None) == bool(listed)
        share = next((int(word.removesuffix("th")) for word in words if word in SHARES), 1)
        assert one["data"]["fraction"] == 1 / share
        side, stride = (512, 16) if "p16" in words else (504, 14)
        assert one.pop("image") == {"short_side": None, "size": [side, side], "stride": stride}
        assert one.pop("grid") == stride
        memory = {"100k": 102_400, "1m": 1_024_000}
        assert one["probe"]["args"].pop("memory") == next((memory[w] for w in words if w in memory), 10_240_000)
        depth = one["task"] == "depth"
        one["support"].pop("names")
        for key in ("id", "title", "notes", "source", "data", "task", "metric"):
            one.pop(key)
        one["probe"]["args"]["sampling"] = "balanced" if depth else one["probe"]["args"]["sampling"]
    assert all(one == settings[0] for one in settings)
    assert settings[0]["probe"]["args"]["temperature"] == {"dip": 0.07, "hummingbird": 0.02}[evaluator]


def result_of(name, value=0.5, digest="abc"):
    protocol = load_protocol(name)
    count = {"name": protocol.data.name, "samples": 1, "published_samples": 1}
    return Result(name, protocol.metric, True, value, None, {}, {"miou": value}, {}, {}, {}, protocol.to_dict(),
                  protocol.digest(), {"name": "mine", "digest": digest}, count, {})  # fmt: skip


@pytest.fixture
def result_on_voc(tmp_path):
    """A whole run, on 4 and 2 images of a folder that is laid out as Pascal VOC."""
    return evaluate(
        tiny_model(), "voc2012-dip-v1", voc(tmp_path / "voc"), tmp_path / "run", overrides=SMALL, name="mine"
    )


def as_published(result, data=()):
    """The result as if it had been measured under the protocol itself."""
    protocol = load_protocol(result.protocol["id"])
    values = {"protocol_id": protocol.id, "protocol": protocol.to_dict(), "protocol_digest": protocol.digest()}
    return replace(result, **values, data={**result.data, **dict(data)})


def test_a_part_of_a_data_set_does_not_stand_beside_the_papers_number(result_on_voc):
    result = as_published(result_on_voc)
    assert (result.data["samples"], result.data["published_samples"]) == (2, 1449)
    assert (result.data["training_samples"], result.data["published_training_samples"]) == (4, 10582)
    with pytest.raises(InputError, match=r"mine under voc2012-dip-v1 scored 2 of the 1,449 published samples of voc20"):
        compare([result], "dip:table1")
    with pytest.raises(InputError, match="learnt from 4 of the 10,582 published samples"):
        compare([as_published(result, {"samples": 1449})], "dip:table1")
    whole = {"samples": 1449, "training_samples": 10582}
    assert "mine (ours" in compare([as_published(result, whole)], "dip:table1").splitlines()[-1]
    assert "voc2012-dip-v1" in compare([as_published(result)])  # beside others of the same part it is what it says


def test_a_data_set_of_unknown_size_is_said_to_be_unchecked(result_on_voc):
    result = as_published(result_on_voc, {"published_samples": None, "training_samples": 10582})
    line = compare([result], "dip:table1").splitlines()[-1]
    assert line == "mine under voc2012-dip-v1: scored an unchecked number of samples of voc2012"


def test_a_part_of_a_list_does_not_stand_beside_the_papers_number(tmp_path):
    run = evaluate(
        tiny_model(), "voc2012-dip-8th-v1", voc(tmp_path / "voc"), tmp_path / "run", overrides=SMALL, seeds=(42,)
    )
    assert run.data["listed_samples"] == {"42": 2}
    whole = {"samples": 1449, "training_samples": 10582}
    with pytest.raises(InputError, match=r"learnt from 2 listed samples of voc2012 with seed 42; the share is 1,323"):
        compare([as_published(run, whole)], "dip:table1")
    assert "ours" in compare([as_published(run, {**whole, "listed_samples": {"42": 1280}})], "dip:table1")


@pytest.mark.parametrize("name", [name for name in protocols() if "-dip-" in name or "-hummingbird-" in name])
def test_a_protocol_of_the_published_evaluators_fills_a_column_or_says_that_none_is_its_own(name):
    columns = {one for table in papers.names() for c in papers.table(table).columns.values() for one in c.protocols}
    assert (name in columns) == ("no published table uses" not in " ".join(load_protocol(name).notes).lower())


def test_a_backbone_of_another_stride_is_sent_to_its_protocol(tmp_path):
    root, model = voc(tmp_path / "voc"), tiny_model()
    model.backbone.deep = torch.nn.Conv2d(6, 10, 4, stride=4)
    model.backbone.strides, model.backbone.stride = (4, 16), 16
    small = [word for word in SMALL if "stride" not in word]
    for name, other in (
        ("voc2012-dip-v1", "use voc2012-dip-p16-v1"),
        ("voc2012-dip-8th-v1", "use voc2012-dip-8th-p16-v1"),
        ("voc2012-hummingbird-v1", "use voc2012-hummingbird-p16-v1"),
        ("voc2012-dip-8th-seeded-v1", "image.stride=null makes it another evaluation"),
    ):
        with pytest.raises(ConfigError, match=rf"{name} encodes images of .* of stride 14; this one has 16: {other}$"):
            evaluate(model, name, root, tmp_path / name, seeds=(42,))
    with pytest.raises(ConfigError, match=r"image\.stride is 0; expected whole pixels, or null"):
        load_protocol("voc2012-dip-v1", ["image.stride=0"])
    assert evaluate(model, "voc2012-dip-p16-v1", root, tmp_path / "fits", overrides=small).value > 0
    plain, free = load_protocol("voc2012-dip-v1"), load_protocol("voc2012-dip-v1", ["image.stride=null"])
    assert free.resolved_id != plain.resolved_id


def test_one_row_holds_one_model_and_one_value_a_column():
    first = result_of("voc2012-dip-v1")
    for second in (result_of("voc2012-dip-128th-v1", digest="other"), result_of("voc2012-dip-v1", 0.9)):
        with pytest.raises(InputError, match="two results are of a model called mine"):
            compare([first, second], "dip:table1")


def test_a_result_stands_in_the_columns_of_its_own_evaluator():
    shown_rows = compare([result_of("voc2012-dip-v1", 0.821), result_of("voc2012-dip-128th-v1", 0.701)], "dip:table1")
    (ours,) = [line for line in shown_rows.splitlines() if "ours" in line]
    assert [cell.strip() for cell in ours.split("|")[3:7]] == ["82.1", "-", "-", "70.1"]
    assert "76.0" in compare([result_of("coco-things-dip-v1", 0.76)], "dip:table2").splitlines()[-1]
    for name, place in (("", 5), ("-p16", 5), ("-1m", 4), ("-1m-p16", 4), ("-100k", 3), ("-100k-p16", 3)):
        ours = compare([result_of(f"voc2012-hummingbird{name}-v1", 0.769)], "hummingbird:voc").splitlines()[-1]
        assert [index for index, cell in enumerate(ours.split("|")) if "76.9" in cell] == [place], name
    assert "73.8" in compare([result_of("ade20k-dip-p16-v1", 0.738)], "dip:table4").splitlines()[-1]
    for other, table in (
        ("voc2012-retrieval-v1", "dip:table1"),
        ("voc2012-hummingbird-v1", "dip:table1"),
        ("voc2012-dip-v1", "hummingbird:voc"),
        ("ade20k-linear-grid4-v1", "lila:table3"),
    ):
        with pytest.raises(InputError, match="has no column measured by"):
            compare([result_of(other)], table)


def test_a_support_that_makes_no_sense():
    for change, message in (
        ("support.passes=-1", "support.passes is -1"),
        ("support.scale=[2,1]", "support.scale is"),
        ("support.jitter=2", "support.jitter is 2"),
        ("support.names=3", "support.names is 3"),
        ("image.size=null", "image.size is None; expected .height, width. of the crops"),
        ("train={steps: 3}", "support is .*; expected null beside train"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_protocol("voc2012-dip-v1", [change])
