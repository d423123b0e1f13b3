"""Images under a protocol: what is written, what is refused, data that do not fit."""

import numpy as np
import pytest
import torch
from dense_ctx_metrics.segmentation import Segmentation, confusion_matrix
from evaluation_data import H, W, camvid, fixed_model, image_folder, rgbd, same_revision
from PIL import Image

from dense_ctx.data import open_set
from dense_ctx.errors import ConfigError, FileError, InputError
from dense_ctx.evaluate import Result, evaluate, load_protocol
from dense_ctx.evaluate.samples import extract
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.testing import tiny_model

SHORT = ["train.steps=6", "train.batch=2"]


@pytest.fixture(autouse=True)
def _revision(monkeypatch):
    same_revision(monkeypatch)


@pytest.fixture
def root(tmp_path):
    return camvid(tmp_path / "camvid")


# ---------------------------------------------------------------------- what is written


def test_predictions_are_kept_on_request(root, tmp_path):
    evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT, keep=True)
    counts = torch.zeros(11, 11, dtype=torch.int64)
    for sample in open_set("camvid", root, "val"):
        picture = Image.open(tmp_path / f"out/predictions/{sample.name}.png")
        assert picture.mode == "P"
        counts += confusion_matrix(torch.from_numpy(np.array(picture)).long(), sample.target, 11, ignore_index=-1)
    result = Result.load(tmp_path / "out/result.json")
    assert Segmentation.of(counts).miou == pytest.approx(result.value)
    assert (tmp_path / "out/pictures.png").stat().st_size > 1000


def test_values_are_kept_as_arrays(tmp_path):
    root = rgbd(tmp_path / "walk")
    settings = ["image.short_side=null"]
    evaluate(tiny_model(), "rgbd-normals-grid4-v1", root, tmp_path / "out", overrides=settings, keep=True)
    for sample in open_set("rgbd-folder", root, "val", target="normals"):
        assert np.load(tmp_path / f"out/predictions/{sample.name}.npy").shape == (3, H, W)
    assert len(list((tmp_path / "out/predictions").iterdir())) == len(open_set("rgbd-folder", root, "val"))


def test_predictions_that_were_not_kept_are_made_when_asked_for_later(root, tmp_path):
    arguments = (tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out")
    first = evaluate(*arguments, overrides=SHORT)
    assert not (tmp_path / "out/predictions").exists()
    assert evaluate(*arguments, overrides=SHORT, keep=True).digest() == first.digest()
    assert len(list((tmp_path / "out/predictions").iterdir())) == 4


def test_another_evaluation_in_the_folder_is_refused_with_what_differs(root, tmp_path):
    out = tmp_path / "out"
    evaluate(fixed_model(), "camvid-linear-grid4-v1", root, out, overrides=SHORT)
    with pytest.raises(ConfigError, match=r"holds another evaluation .*protocol: .*steps=6.* there, .*steps=5.* now"):
        evaluate(fixed_model(), "camvid-linear-grid4-v1", root, out, overrides=["train.steps=5", "train.batch=2"])
    with pytest.raises(ConfigError, match="model_digest: "):
        evaluate(fixed_model(1), "camvid-linear-grid4-v1", root, out, overrides=SHORT)
    with pytest.raises(ConfigError, match=r"seeds: \[0\] there, \[0, 1\] now"):
        evaluate(fixed_model(), "camvid-linear-grid4-v1", root, out, overrides=SHORT, seeds=[0, 1])
    with pytest.raises(ConfigError, match=r"data\.limit: None there, 2 now.*Choose another --out or remove it"):
        evaluate(fixed_model(), "camvid-linear-grid4-v1", root, out, overrides=SHORT, limit=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not touch")
    with pytest.raises(FileError, match="exists and holds no evaluation"):
        evaluate(fixed_model(), "camvid-linear-grid4-v1", root, tmp_path / "mine", overrides=SHORT)


def test_other_training_images_are_another_evaluation(root, tmp_path):
    evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)
    for folder, suffix in (("images", "png"), ("labels", "png")):
        (root / f"train/{folder}/0004.{suffix}").rename(root / f"train/{folder}/0009.{suffix}")
    with pytest.raises(ConfigError, match="holds another evaluation"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)


def test_limit_takes_the_first_images_and_is_part_of_the_id(root, tmp_path):
    result = evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT, limit=2)
    assert result.n["images"] == 2
    assert (result.data["samples"], result.data["training_samples"], result.data["limit"]) == (2, 2, 2)
    assert result.protocol_id == "camvid-linear-grid4-v1 [train.batch=2 train.steps=6] [limit=2]"
    with pytest.raises(InputError, match="limit=0 is not at least 1"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "no", limit=0)


# ---------------------------------------------------------------------- data that do not fit


def test_wrong_roots_and_targets(root, tmp_path):
    with pytest.raises(FileError, match=r"CamVid.*Expected under the root"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", tmp_path / "nowhere", tmp_path / "out")
    val = open_set("rgbd-folder", rgbd(tmp_path / "walk"), "val")
    with pytest.raises(ConfigError, match="is about segmentation; the targets of camvid are depth"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", (val, val), tmp_path / "out")
    with pytest.raises(ConfigError, match="is about video; the targets of davis2016 are depth"):
        evaluate(tiny_model(), "davis2016-ridge-grid4-v1", (val, val), tmp_path / "out2")
    with pytest.raises(ConfigError, match="names no split to fit the probe on"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=["data.train=null"])


def test_images_of_several_sizes_need_a_crop(tmp_path):
    from evaluation_data import save, scene
    from tiny_datasets import labels

    root = image_folder(tmp_path / "mine")
    picture, label = scene(7, size=(30, 42))
    save(root / "train/images/9.png", picture)
    labels(root / "train/labels/9.png", label)
    settings = ["train.steps=6", "image.size=null", "train.batch=5"]
    with pytest.raises(InputError, match=r"of one batch differ in size: .*Set train.crop=\[H,W\] or image.size"):
        evaluate(tiny_model(), "image-folder-linear-grid4-v1", root, tmp_path / "out", overrides=settings)
    result = evaluate(tiny_model(), "image-folder-linear-grid4-v1", root, tmp_path / "crop",
                      overrides=[*settings, "train.crop=[26,40]"])  # fmt: skip
    assert 0 <= result.value <= 1


def test_an_unreadable_image_is_named(root, tmp_path):
    (root / "val/images/0002.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(FileError, match=r"0002\.png"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)


def test_a_training_part_without_labels_is_refused(root, tmp_path):
    for path in (root / "train/labels").iterdir():
        Image.fromarray(np.full((H, W), 11, np.uint8)).save(path)
    for protocol in ("camvid-linear-grid4-v1", "camvid-retrieval-grid8-v1"):
        with pytest.raises(InputError, match="training images of camvid have no labelled pixel"):
            evaluate(tiny_model(), protocol, root, tmp_path / protocol, overrides=SHORT if "lin" in protocol else [])


def test_a_validation_image_without_labels_is_left_out(root, tmp_path):
    Image.fromarray(np.full((H, W), 11, np.uint8)).save(root / "val/labels/0001.png")
    result = evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)
    assert result.n["images"] == 3


def test_features_are_read_on_the_grid_asked_for():
    model, image = tiny_model(), torch.rand(1, 3, H, W)
    for grid, size in ((4, (6, 9)), (8, (3, 4)), (1, (H, W))):
        features = extract(model, image, load_protocol("camvid-linear-grid4-v1", [f"grid={grid}"]))
        assert isinstance(features, DenseFeatures)
        assert features.pixels.shape == (1, 5, *size)
