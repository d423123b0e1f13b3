"""Image sets: each layout made tiny, every mapping of ids read back pixel by pixel."""

import pickle
import sys

import numpy as np
import pytest
import tiny_datasets as tiny
import torch
from dense_ctx_datasets import coco_labels
from dense_ctx_datasets.check import check_root
from tiny_datasets import H, W, stripes

from dense_ctx import data as datasets
from dense_ctx.errors import FileError, InputError, MissingDependencyError


def check(found, count, expected, kind="segmentation"):
    assert isinstance(found, datasets.ImageSet)
    assert len(found) == count == len(set(found.names))
    assert found.kind == kind
    sample = found[count - 1]
    assert sample.name == found.names[-1]
    assert sample.image.shape == (3, H, W)
    assert sample.image.dtype == torch.float32
    assert float(sample.image.min()) >= 0
    assert float(sample.image.max()) <= 1
    if expected is not None:
        assert sample.target.dtype == torch.int64
        assert torch.equal(sample.target, torch.from_numpy(stripes(expected)))
        assert max(expected) < len(found.classes) or not found.classes
    with pytest.raises(IndexError):
        found[count]
    return sample


@pytest.mark.parametrize(
    ("name", "make", "options", "count", "classes", "expected"),
    [
        ("ade20k", tiny.ade20k, {}, 2, 150, [-1, 0, 149]),
        ("voc2012", tiny.voc, {}, 2, 21, [0, 20, -1]),
        ("pascal-context", tiny.pascal_context, {}, 2, 59, [-1, 0, 58]),
        ("pascal-context", tiny.pascal_context, {"background": True}, 2, 60, [0, 1, 59]),
        ("cityscapes", tiny.cityscapes, {}, 2, 19, [-1, 0, 18]),
        ("acdc", tiny.acdc, {}, 4, 19, [-1, 0, 18]),
        ("acdc", tiny.acdc, {"condition": "night"}, 1, 19, [-1, 0, 18]),
        ("camvid", tiny.camvid, {}, 2, 11, [0, 10, -1]),
        ("coco-stuff27", tiny.stuff, {}, 2, 27, [9, 8, 8, 17, 24, -1]),
        ("image-folder", tiny.folder, {"classes": 3}, 2, 3, [0, 1, 2]),
        ("image-folder", tiny.folder, {"classes": "sky,road,car", "ignore": 0}, 2, 3, [-1, 1, 2]),
    ],
)
def test_segmentation_sets(name, make, options, count, classes, expected, tmp_path):
    make(tmp_path)
    dataset = datasets.open_set(name, tmp_path, **options)
    assert len(dataset.classes) == len(set(dataset.classes)) == classes
    check(dataset, count, expected)


def test_stuff_labels_are_the_published_hierarchy():
    assert len(coco_labels.LABELS) == len(set(coco_labels.LABELS)) == 182
    assert len(coco_labels.FINE) == 171
    assert len(coco_labels.THINGS) == 12
    assert len(coco_labels.STUFF) == 15
    assert len(set(coco_labels.COARSE)) == 27
    # ids that COCO never annotated, counted from 1 in its own documents
    gaps = [index + 1 for index, value in enumerate(coco_labels.TO_FINE) if value < 0]
    assert gaps == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
    values = [value for value in coco_labels.TO_FINE if value >= 0]
    assert values == list(range(171))
    assert set(coco_labels.TO_COARSE) == set(range(-1, 27))
    # things lie in the first 91 ids and the first 12 groups, stuff in the rest
    assert max(coco_labels.TO_COARSE[:91]) == 11
    assert min(coco_labels.TO_COARSE[91:]) == 12
    for value, label, group in [
        (0, "person", "person"),
        (2, "car", "vehicle"),
        (61, "chair", "furniture"),
        (89, "toothbrush", "indoor"),
        (91, "banner", "textile"),
        (160, "stairs", "furniture (stuff)"),
        (156, "sky-other", "sky"),
        (100, "carpet", "floor"),
        (119, "fog", "water"),
        (181, "wood", "solid"),
    ]:
        assert coco_labels.LABELS[value] == label
        assert coco_labels.COARSE[coco_labels.TO_COARSE[value]] == group


@pytest.mark.parametrize(("where", "images"), [("stuffthingmaps", ""), ("annotations", "images/")])
def test_stuff171_in_both_places_the_archives_are_unpacked_to(where, images, tmp_path):
    tiny.stuff(tmp_path, where, images)
    fine = np.array([0, 10, 12, 91, 181])
    expected = [*(coco_labels.TO_FINE[value] for value in fine), -1]
    assert expected == [0, 10, 11, 80, 170, -1]
    dataset = datasets.open_set("coco-stuff171", tmp_path)
    check(dataset, 2, expected)
    assert dataset.classes[11] == "stop sign"
    tiny.text(tmp_path / "curated.txt", "000000000285")
    part = datasets.open_set("coco-stuff171", tmp_path, names_file=str(tmp_path / "curated.txt"))
    assert part.names == ["000000000285"]


def test_the_street_sign_id_is_ignored(tmp_path):
    tiny.stuff(tmp_path)
    tiny.labels(tmp_path / "stuffthingmaps/val2017/000000000139.png", [11, 2])
    assert datasets.open_set("coco-stuff27", tmp_path)[0].target.unique().tolist() == [-1, 11]


def test_coco_instances_small_objects_lie_on_top(tmp_path):
    tiny.instances(tmp_path)
    dataset = datasets.open_set("coco-instances", tmp_path)
    check(dataset, 2, None, "instances")
    target = dataset[0].target
    assert target.unique().tolist() == [1, 2]
    assert (target == 2).nonzero().min(dim=0).values.tolist() == [0, 6]
    assert int((target == 2).sum()) == 36
    crowd = dataset[1].target
    assert bool((crowd[:, 0] == -1).all())
    assert bool((crowd[:, 1:] == 0).all())


def test_optional_packages_are_named_when_missing(tmp_path, monkeypatch):
    tiny.nyu_mat(tmp_path / "nyu")
    tiny.instances(tmp_path / "coco")
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    for name, root in (("nyuv2", "nyu"), ("coco-instances", "coco")):
        with pytest.raises(MissingDependencyError, match=r'pip install "dense-ctx\[datasets\]"'):
            datasets.open_set(name, tmp_path / root)


def test_voc_instances_and_the_folder_above(tmp_path):
    tiny.voc(tmp_path / "VOCdevkit" / "VOC2012")
    dataset = datasets.open_set("voc2012", tmp_path, instances=True)
    check(dataset, 2, [1, 2, -1], "instances")
    assert dataset.classes == ()


def test_camvid_classic_layout_and_ade_inside_its_archive_folder(tmp_path):
    tiny.camvid(tmp_path / "camvid", classic=True)
    check(datasets.open_set("camvid", tmp_path / "camvid", "val"), 2, [0, 10, -1])
    tiny.ade20k(tmp_path / "ADEChallengeData2016", "training")
    check(datasets.open_set("ade20k", tmp_path, "train"), 2, [-1, 0, 149])


def test_cityscapes_ids_follow_the_official_train_ids(tmp_path):
    tiny.cityscapes(tmp_path)
    values = np.zeros((H, W), dtype=np.uint8)
    values.flat[:34] = range(34)
    tiny.labels(tmp_path / "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", values)
    dataset = datasets.open_set("cityscapes", tmp_path)
    ids = dataset[0].target.flatten()[:34].tolist()
    assert [value for value in ids if value >= 0] == list(range(19))
    for value, name in ((7, "road"), (17, "pole"), (23, "sky"), (24, "person"), (31, "train"), (33, "bicycle")):
        assert dataset.classes[ids[value]] == name
    assert [ids[value] for value in (0, 9, 10, 14, 15, 16, 18, 29, 30)] == [-1] * 9


def test_rgbd_depth_in_metres_and_split_by_position(tmp_path):
    tiny.rgbd(tmp_path)
    parts = {split: datasets.open_set("rgbd-folder", tmp_path, split) for split in ("train", "val", "all")}
    assert [len(parts[split]) for split in ("train", "val", "all")] == [3, 2, 5]
    assert [*parts["train"].names, *parts["val"].names] == parts["all"].names
    target = check(parts["val"], 2, None, "depth").target
    assert target.shape == (1, H, W)
    assert bool(target[0, :, :6].isnan().all())
    assert bool((target[0, :, 6:12] == 1.5).all())
    assert bool(target[0, :, 12:].isnan().all())


def test_rgbd_normals_of_a_wall_seen_head_on(tmp_path):
    tiny.rgbd(tmp_path)
    for path in tmp_path.glob("*.depth.png"):
        tiny.labels(path, [2000], dtype=np.uint16)
    target = check(datasets.open_set("rgbd-folder", tmp_path, target="normals"), 2, None, "normals").target
    assert target.shape == (3, H, W)
    assert torch.allclose(target[:, 4:-4, 4:-4], torch.tensor([0.0, 0.0, -1.0])[:, None, None], atol=1e-4)


def test_nyu_folder(tmp_path):
    tiny.nyu_folder(tmp_path)
    depth = check(datasets.open_set("nyuv2", tmp_path), 2, None, "depth").target
    assert bool(depth[0, :, :6].isnan().all())
    assert bool((depth[0, :, 6:] == 2).all())
    dataset = datasets.open_set("nyuv2", tmp_path, target="segmentation")
    assert len(dataset.classes) == len(set(dataset.classes)) == 40
    check(dataset, 2, [-1, 0, 39])
    normals = check(datasets.open_set("nyuv2", tmp_path, target="normals"), 2, None, "normals").target
    assert torch.allclose(normals[:, 6, 12], torch.tensor([0.0, 0.0, -1.0]), atol=1e-3)
    tiny.nyu_folder(tmp_path, normals=True)
    stored = check(datasets.open_set("nyuv2", tmp_path, target="normals"), 2, None, "normals").target
    assert bool(stored[:, :, : W // 2].isnan().all())
    assert torch.allclose(stored[:, 6, 12], torch.tensor([0.0, 0.0, -1.0]), atol=1e-2)
    assert torch.allclose(stored[:, :, W // 2 :].norm(dim=0), torch.ones(H, W // 2), atol=1e-6)
    turned = datasets.open_set("nyuv2", tmp_path, target="normals", signs="--+")[0].target
    assert torch.allclose(turned[:, 6, 12], torch.tensor([0.0, 0.0, 1.0]), atol=1e-2)


def test_nyu_mat(tmp_path):
    pictures = tiny.nyu_mat(tmp_path)
    dataset = datasets.open_set("nyuv2", tmp_path)
    sample = check(dataset, 2, None, "depth")
    assert dataset.names == ["0001", "0003"]  # the files count from 1
    assert torch.allclose(sample.image, torch.from_numpy(pictures[3].transpose(2, 0, 1).copy()).float() / 255)
    assert bool((sample.target == 4).all())
    raw = datasets.open_set("nyuv2", tmp_path, raw=True)[0].target
    assert raw.isnan().nonzero().tolist() == [[0, 0, 5]]
    train = datasets.open_set("nyuv2", tmp_path, "train", target="segmentation")
    assert [train[index].target.unique().tolist() for index in range(2)] == [[-1], [4]]  # label 0; 2 -> class 5
    test = datasets.open_set("nyuv2", tmp_path, target="segmentation")
    assert [test[index].target.unique().tolist() for index in range(2)] == [[39], [0]]
    again = pickle.loads(pickle.dumps(dataset))  # as a data loader's workers take it
    assert torch.equal(again[0].target, dataset[0].target)


def test_nyu_mat_normals_agree_with_depth_or_are_a_problem(tmp_path):
    tiny.nyu_mat(tmp_path)
    normals = datasets.open_set("nyuv2", tmp_path, target="normals")[0].target
    assert torch.allclose(normals[:, 6, 9], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4)
    for name in ("0001", "0003"):
        tiny.normal_pictures(tmp_path / "normals_gt", name)
    stored = datasets.open_set("nyuv2", tmp_path, target="normals")[0].target
    assert torch.allclose(stored[:, 6, 12], torch.tensor([0.0, 0.0, -1.0]), atol=1e-2)
    assert not check_root("nyuv2", tmp_path, target="normals").problems
    wrong = check_root("nyuv2", tmp_path, target="normals", signs="--+").problems
    assert len(wrong) == 1
    assert "the normals' z is opposite" in wrong[0]
    (tmp_path / "normals_gt/normals/0003.png").unlink()
    with pytest.raises(FileError, match=r"normals/0003\.png are missing"):
        datasets.open_set("nyuv2", tmp_path, target="normals")


def test_image_folder_of_depth_normals_and_objects(tmp_path):
    tiny.folder(tmp_path / "objects", values=(0, 300, 65535), palette=False)
    for path in (tmp_path / "objects/labels").iterdir():
        tiny.labels(path, [0, 300, 65535], dtype=np.uint16)
    objects = datasets.open_set("image-folder", tmp_path / "objects", kind="instances", ignore=65535)
    check(objects, 2, [0, 300, -1], "instances")

    tiny.folder(tmp_path / "depth", "train")
    np.save(tmp_path / "depth/train/labels/a.npy", np.full((H, W), 2.5))
    tiny.labels(tmp_path / "depth/train/labels/b.png", [0, 512], dtype=np.uint16)
    dataset = datasets.open_set("image-folder", tmp_path / "depth", "train", kind="depth")
    assert bool((dataset[0].target == 2.5).all())
    assert dataset[1].target[0, 0, -1] == pytest.approx(0.512)
    scaled = datasets.open_set("image-folder", tmp_path / "depth", kind="depth", scale=256)
    assert scaled[1].target[0, 0, -1] == 2
    assert "values    0.512 to 2.500 metres" in check_root("image-folder", tmp_path / "depth", kind="depth").text()

    tiny.folder(tmp_path / "normals")
    for name in ("a", "b"):
        np.save(tmp_path / f"normals/labels/{name}.npy", np.full((H, W, 3), (0, 3, -4.0)))
    normals = datasets.open_set("image-folder", tmp_path / "normals", kind="normals")[0].target
    assert torch.allclose(normals[:, 0, 0], torch.tensor([0, 0.6, -0.8]))


def test_image_folder_classes_from_a_file_and_needed(tmp_path):
    tiny.folder(tmp_path)
    with pytest.raises(InputError, match=r"needs classes=NUMBER"):
        datasets.open_set("image-folder", tmp_path)
    tiny.text(tmp_path / "classes.txt", "sky", "road", "car")
    assert datasets.open_set("image-folder", tmp_path).classes == ("sky", "road", "car")
    tiny.folder(tmp_path / "two", "train")
    with pytest.raises(InputError, match=r"has no split 'extra'"):
        datasets.open_set("image-folder", tmp_path / "two", "extra", classes=3)
