"""Bad roots and bad files, the report, the verb."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_datasets as tiny
from dense_ctx_datasets.check import check_root
from PIL import Image
from tiny_datasets import H, W

from dense_ctx import cli
from dense_ctx import data as datasets
from dense_ctx.errors import FileError, InputError, UnknownNameError

NAMES = datasets.names()


def test_listing_loads_no_torch():
    code = (
        "import sys; from dense_ctx import data; [data.layout(n) for n in data.names()];"
        "from dense_ctx import cli; assert cli.main(['datasets']) == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_layouts_are_whole(name, capsys):
    layout = datasets.layout(name)
    assert layout.name == name
    assert set(layout.counts) <= set(layout.splits)
    assert layout.title
    assert layout.url
    assert layout.licence
    assert cli.main(["datasets", name]) == 0
    printout = capsys.readouterr().out
    assert all(path in printout and what in printout for path, what in layout.expected)
    assert all(str(count) in printout for count in layout.counts.values())
    assert all(f"option   {key}: " in printout for key, _ in layout.options)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_or_empty_root_shows_the_layout(name, tmp_path):
    options = {"classes": 2} if name == "image-folder" else {}
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileError) as caught:
            datasets.open_set(name, root, **options)
        assert datasets.layout(name).describe() in str(caught.value)
        report = check_root(name, root, **options)
        assert report.count == 0
        assert report.problems == [str(caught.value)]


@pytest.mark.parametrize("name", NAMES)
def test_unknown_splits_and_options(name, tmp_path):
    tiny.folder(tmp_path)
    with pytest.raises(InputError, match=rf"{name}.*has no option 'sizes'"):
        datasets.open_set(name, tmp_path, sizes=3)
    with pytest.raises(InputError, match=rf"{name}.* has no split 'valida'"):
        datasets.open_set(name, tmp_path, "valida")
    with pytest.raises(InputError, match=r"limit is 1 or more; got 0"):
        check_root(name, tmp_path, limit=0)


@pytest.mark.parametrize("split", [None, "train"])
def test_splits_inside_images_are_told_from_a_folder_without_images(split, tmp_path):
    tiny.folder(tmp_path / "train")
    (tmp_path / "images").mkdir()
    (tmp_path / "train" / "images").rename(tmp_path / "images" / "train")
    with pytest.raises(FileError, match=r"has images/train where train/images is expected"):
        datasets.open_set("image-folder", tmp_path, split, classes=3)
    tiny.folder(tmp_path / "val")  # what else lies in images is nobody's business then
    assert len(datasets.open_set("image-folder", tmp_path, "val", classes=3)) > 0


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(UnknownNameError, match=r"Closest: davis201"):
        datasets.layout("davis")
    assert cli.main(["datasets", "coco-stuf27"]) == 2


@pytest.mark.parametrize("empty", ["images/validation", "annotations/validation"])
def test_an_emptied_folder(empty, tmp_path):
    tiny.ade20k(tmp_path)
    for path in (tmp_path / empty).iterdir():
        path.unlink()
    message = "no images found" if "images" in empty else r"ADE_val_00000001\.jpg has no annotation"
    with pytest.raises(FileError, match=message):
        datasets.open_set("ade20k", tmp_path)


def camvid_of(root, count=5):
    for index in range(count):
        tiny.image(root / f"val/images/{index}.jpg")
        tiny.labels(root / f"val/labels/{index}.png", [0, 1, 2])
    return root


def damage(root):
    """Five images; all but the first are spoilt, each in its own way."""
    camvid_of(root, 6)
    picture = root / "val/images/1.jpg"
    picture.write_bytes(picture.read_bytes()[:200])
    Image.fromarray(np.zeros((H, W, 3), dtype=np.uint8)).save(root / "val/labels/2.png")
    tiny.labels(root / "val/labels/3.png", [0, 700, 65535], dtype=np.uint16)
    tiny.labels(root / "val/labels/4.png", np.zeros((W, H)))
    (root / "val/labels/5.png").unlink()
    return root


def test_every_damaged_file_is_named_and_the_rest_is_read(tmp_path):
    report = check_root("camvid", damage(tmp_path))
    assert (report.count, report.checked) == (5, 5)
    assert report.sizes == {(H, W): 1}
    expected = {
        "images/5.jpg": "has no annotation; expected",
        "images/1.jpg": "is damaged or truncated",
        "labels/2.png": "is a RGB picture; expected class indices",
        "labels/3.png": "holds the values 700, 65535 in 144 pixels; expected 0 to 10, and 11, 255 for pixels",
        "labels/4.png": f"the image is {H} x {W} (H x W), its annotation {W} x {H}",
    }
    assert len(report.problems) == len(expected)
    for problem, (file, words) in zip(report.problems, expected.items(), strict=True):
        assert file in problem.replace(os.sep, "/")
        assert words in problem
    text = report.text()
    assert "problems  5" in text
    assert all(problem in text for problem in report.problems)
    assert "... and 3 more" in report.text(limit=2)


def test_reading_a_damaged_sample_raises_and_others_do_not(tmp_path):
    damage(tmp_path)
    with pytest.raises(FileError, match=r"is incomplete:\n .*5\.jpg has no annotation"):
        datasets.open_set("camvid", tmp_path)
    (tmp_path / "val/images/5.jpg").unlink()
    dataset = datasets.open_set("camvid", tmp_path)
    assert dataset[0].target.unique().tolist() == [0, 1, 2]
    with pytest.raises(FileError, match=r"1\.jpg is damaged"):
        dataset[1]
    for index in (2, 3, 4):
        with pytest.raises(InputError, match=rf"{index}\.png"):
            dataset[index]


@pytest.mark.parametrize(
    ("name", "make", "file", "value"),
    [
        ("voc2012", tiny.voc, "SegmentationClass/2007_000033.png", 21),
        ("ade20k", tiny.ade20k, "annotations/validation/ADE_val_00000001.png", 151),
        ("pascal-context", tiny.pascal_context, "SegmentationClassContext/2008_000002.png", 60),
        ("cityscapes", tiny.cityscapes, "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png", 34),
        ("coco-stuff27", tiny.stuff, "stuffthingmaps/val2017/000000000139.png", 182),
        ("coco-stuff171", tiny.stuff, "stuffthingmaps/val2017/000000000139.png", 182),
    ],
)
def test_ids_just_beyond_the_classes_are_refused(name, make, file, value, tmp_path):
    make(tmp_path)
    tiny.labels(tmp_path / file, [0, value])
    with pytest.raises(InputError, match=rf"holds the values {value} in {H * W // 2} pixels"):
        datasets.open_set(name, tmp_path)[0]


def test_lists_that_name_what_is_not_there(tmp_path):
    tiny.davis(tmp_path / "davis")
    shutil.rmtree(tmp_path / "davis/JPEGImages/480p/goat")
    with pytest.raises(FileError, match=r"val\.txt names the sequence 'goat', but .*goat is missing"):
        datasets.open_set("davis2016", tmp_path / "davis")
    (tmp_path / "davis/JPEGImages/480p/goat").mkdir()
    with pytest.raises(FileError, match=r"the clip 'goat' has no frames in .*goat"):
        datasets.open_set("davis2016", tmp_path / "davis")
    shutil.rmtree(tmp_path / "davis/Annotations/480p/camel")
    report = check_root("davis2016", tmp_path / "davis")
    assert len(report.problems) == 2
    assert "the clip 'camel' has no masks" in report.problems[0]
    (tmp_path / "davis/ImageSets/2016/val.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(FileError, match=r"val\.txt is empty"):
        datasets.open_set("davis2016", tmp_path / "davis")
    tiny.voc(tmp_path / "voc")
    tiny.text(tmp_path / "voc/ImageSets/Segmentation/val.txt", "2007_000033", "2011_000001")
    with pytest.raises(FileError, match=r"2011_000001 has no image; expected .*2011_000001\.jpg"):
        datasets.open_set("voc2012", tmp_path / "voc")
    tiny.folder(tmp_path / "empty-clip")
    shutil.rmtree(tmp_path / "empty-clip/labels")
    (tmp_path / "empty-clip/nothing").mkdir()
    with pytest.raises(FileError, match=r"the clip 'nothing' has no frames"):
        datasets.open_set("clips", tmp_path / "empty-clip")


def test_clips_are_read_frame_by_frame(tmp_path):
    tiny.davis(tmp_path, "2017", (0, 1, 2))
    assert not check_root("davis2017", tmp_path).problems
    frames, masks = tmp_path / "JPEGImages/480p/camel", tmp_path / "Annotations/480p/camel"
    (frames / "00001.jpg").write_bytes(b"not a picture")
    tiny.image(frames / "00002.jpg", (H, H))
    Image.fromarray(np.zeros((H, W, 3), dtype=np.uint8)).save(masks / "00000.png")
    tiny.labels(tmp_path / "Annotations/480p/goat/00001.png", np.zeros((W, H)))
    for index in (0, 2):
        tiny.labels(tmp_path / f"Annotations/480p/goat/0000{index}.png", [0])
    problems = check_root("davis2017", tmp_path).problems
    assert len(problems) == 5
    for problem, words in zip(
        problems,
        [
            "camel/00000.png is a RGB picture; expected object ids",
            "camel/00001.jpg is not an image",
            f"camel/00002.jpg is {H} x {H} (H x W), the first frame {H} x {W}",
            f"goat/00001.png is {W} x {H} (H x W), its frame {H} x {W}",
            "'goat' has no object in any mask",
        ],
        strict=True,
    ):
        assert words in problem.replace(os.sep, "/")


def test_damaged_helper_files(tmp_path):
    tiny.rgbd(tmp_path / "rgbd")
    tiny.text(tmp_path / "rgbd/camera-intrinsics.txt", "585 0 9 0 585 6")
    with pytest.raises(FileError, match=r"not a 3 x 3 camera matrix"):
        datasets.open_set("rgbd-folder", tmp_path / "rgbd")
    tiny.text(tmp_path / "rgbd/camera-intrinsics.txt", "585 0 9", "0 585 6", "0 0 1")
    tiny.labels(tmp_path / "rgbd/frame-000004.depth.png", [1, 2])
    with pytest.raises(InputError, match=r"frame-000004\.depth\.png is a L picture; expected depth as a 16-bit"):
        datasets.open_set("rgbd-folder", tmp_path / "rgbd")[1]
    tiny.labels(tmp_path / "rgbd/frame-000004.depth.png", [0], dtype=np.uint16)
    assert "frame-000004: no pixel has a value" in check_root("rgbd-folder", tmp_path / "rgbd").problems
    tiny.folder(tmp_path / "own")
    (tmp_path / "own/labels/a.npy").write_bytes(b"x")
    with pytest.raises(FileError, match=r"a\.npy is not an array file"):
        datasets.open_set("image-folder", tmp_path / "own", kind="depth")[0]
    with pytest.raises(InputError, match=r"signs are three of"):
        datasets.open_set("image-folder", tmp_path / "own", kind="normals", signs="+-")
    tiny.nyu_mat(tmp_path / "nyu")
    mat = tmp_path / "nyu/nyu_depth_v2_labeled.mat"
    (tmp_path / "nyu/classMapping40.mat").write_bytes(b"x")
    with pytest.raises(FileError, match=r"classMapping40\.mat is not a MATLAB file"):
        datasets.open_set("nyuv2", tmp_path / "nyu", target="segmentation")
    mat.write_bytes(mat.read_bytes()[:1000])
    with pytest.raises(FileError, match=r"labeled\.mat is not a MATLAB 7\.3 \(HDF5\) file, or cut short"):
        datasets.open_set("nyuv2", tmp_path / "nyu")


def test_a_report_counts_labels_sizes_and_the_published_number(tmp_path):
    camvid_of(tmp_path)
    tiny.image(tmp_path / "val/images/9.jpg", (W, H))
    tiny.labels(tmp_path / "val/labels/9.png", np.full((W, H), 11))
    report = check_root("camvid", tmp_path)
    assert report.sizes == {(H, W): 5, (W, H): 1}
    assert report.ids == {0: 5, 1: 5, 2: 5, -1: 1}
    assert (report.count, report.official, report.complete) == (6, 101, False)
    assert report.problems == ["9: every pixel is ignored"]
    text = report.text()
    assert "6, official 101: incomplete; 6 read" in text
    assert "3 of 11 classes, 0 to 2; absent: road, pavement, tree, sign, fence, car, pedestrian, bicyclist" in text


def test_a_limit_reads_evenly_spread_samples(tmp_path):
    camvid_of(tmp_path, 6)
    for index in (1, 2, 4, 5):  # a limit of two reads the first and the fourth
        (tmp_path / f"val/images/{index}.jpg").write_bytes(b"damaged")
    report = check_root("camvid", tmp_path, limit=2)
    assert (report.count, report.checked, report.problems) == (6, 2, [])
    assert len(check_root("camvid", tmp_path, limit=3).problems) == 2
    assert len(check_root("camvid", tmp_path, limit=99).problems) == 4


def test_more_than_published_is_said(tmp_path):
    report = check_root("camvid", camvid_of(tmp_path, 102), limit=1)
    assert "102, official 101: more; 1 read" in report.text()
    assert not report.complete


def test_the_verb_checks_a_root_and_writes_a_picture(tmp_path, capsys):
    root = camvid_of(tmp_path / "camvid")
    picture = tmp_path / "sample.png"
    assert cli.main(["datasets", "camvid", str(root), "--limit", "3", "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "5, official 101: incomplete; 3 read" in printed
    assert str(picture) in printed
    with Image.open(picture) as written:
        assert written.size == (2 * W, H)
        pixels = np.asarray(written)
    with Image.open(root / "val/images/0.jpg") as first:
        assert (pixels[:, :W] == np.asarray(first)).all()
    assert (pixels[:, W:] != pixels[:, :W]).any()
    assert cli.main(["datasets", "camvid", str(root), "--complete"]) == 1
    (root / "val/labels/3.png").unlink()
    assert cli.main(["datasets", "camvid", str(root)]) == 1
    assert cli.main(["datasets", "camvid", str(tmp_path / "nowhere"), "--picture", str(picture)]) == 1
    assert "none: no sample could be read" in capsys.readouterr().out
    assert cli.main(["datasets", "camvid", str(root), "--split", "valid"]) == 2
    assert "camvid has no split 'valid'; it has val, train, test" in capsys.readouterr().err


def test_the_verb_passes_options(tmp_path, capsys):
    tiny.folder(tmp_path)
    assert cli.main(["datasets", "image-folder", str(tmp_path), "classes=2"]) == 1
    assert "holds the values 2 in 72 pixels; expected 0 to 1" in capsys.readouterr().out
    options = ["classes=sky,road,car", "ignore=0"]
    assert cli.main(["datasets", "image-folder", str(tmp_path), *options]) == 0
    assert "2 of 3 classes, 1 to 2; absent: sky; some pixels ignored" in capsys.readouterr().out
    assert cli.main(["datasets", "image-folder", str(tmp_path), "classes"]) == 2
    assert "'classes' is not KEY=VALUE" in capsys.readouterr().err
    for words, message in {
        ("--limit", "3"): "--limit would have no effect without ROOT",
        ("--split", "val", "--complete"): "--split, --complete would have no effect without ROOT",
        ("classes=2",): "KEY=VALUE would have no effect without ROOT",
    }.items():
        assert cli.main(["datasets", "image-folder", *words]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["datasets", "nyuv2", str(tmp_path), "target=boxes"]) == 2


@pytest.mark.parametrize("kind", ["depth", "normals", "instances"])
def test_pictures_of_every_kind(kind, tmp_path):
    tiny.nyu_folder(tmp_path / "nyu")
    tiny.voc(tmp_path / "voc")
    name, options = ("voc2012", {"instances": True}) if kind == "instances" else ("nyuv2", {"target": kind})
    report = check_root(name, tmp_path / name[:3], **options)
    assert not report.problems
    assert report.picture.shape == (H, 2 * W, 3)
    assert report.picture.dtype == np.uint8
    if kind == "depth":
        assert (report.low, report.high) == (2, 2)
        assert "2.000 to 2.000 metres" in report.text()


DATA = os.environ.get("DENSE_CTX_TEST_DATA")


@pytest.mark.skipif(not DATA, reason="DENSE_CTX_TEST_DATA names no folder of real data")
@pytest.mark.parametrize(
    ("name", "folder", "options", "limit", "count", "size"),
    [
        ("davis2016", "davis2016", {}, 1, 8, (480, 854)),
        ("camvid", "camvid", {}, 25, 101, (360, 480)),
        ("camvid", "camvid", {"split": "train"}, 10, 367, (360, 480)),
        ("rgbd-folder", "rgbd/kitchen", {}, 4, 16, (480, 640)),
        ("rgbd-folder", "rgbd/kitchen", {"target": "normals"}, 1, 16, (480, 640)),
        ("vos-folder", "vos_multi", {}, None, 1, (240, 432)),
        ("clips", "clips", {}, 3, 20, None),
    ],
)
def test_real_pieces(name, folder, options, limit, count, size):
    root = Path(DATA or "") / folder
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    report = check_root(name, root, limit=limit, **options)
    assert report.problems == []
    assert report.count == count
    assert size is None or set(report.sizes) == {size}
    if name == "camvid":
        assert set(report.ids) >= {0, 1, 3, 4, 5, 8}
        assert max(report.ids) <= 10
    if name == "rgbd-folder" and not options:
        assert 0.3 < report.low < report.high < 10  # metres in a room


PAGE = Path(__file__).parent.parent / "docs" / "datasets.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="not a source tree")
@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_every_set_its_home_and_counts(name):
    layout = datasets.layout(name)
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|") and f"`{name}`" in line
    ]
    assert len(rows) == 1
    assert layout.url.split()[0] in rows[0]
    assert all(str(count) in rows[0] for split, count in layout.counts.items() if split != "trainval")
