"""COCO, CVAT, Label Studio and YOLO: files of the tools themselves, and round trips."""

import json
from pathlib import Path

import numpy as np
import pytest
from dense_ctx_labels.annotation import Annotation
from dense_ctx_labels.brush import brush_of_mask, mask_of_brush
from dense_ctx_labels.classes import Classes
from dense_ctx_labels.rle import compressed, mask_of_runs, runs, uncompressed
from label_maps import CLASSES, noise, part
from PIL import Image
from scipy import ndimage

from dense_ctx.errors import FileError, InputError

FILES = Path(__file__).parent / "labels"
SIZE = (48, 64)
BLOB = np.zeros(SIZE, dtype=bool)
BLOB[30:40, 40:60] = True
BLOB[33:36, 45:50] = False
NOISE = np.random.default_rng(0).random(SIZE) < 0.5
ONLY = {"coco": "val/a.jpg", "cvat": "a.jpg"}


def near(mask, other):
    """Equal but for pixels on the boundary."""
    return (
        not ((mask ^ other) & ndimage.binary_erosion(other)).any()
        and not ((mask ^ other) & ~ndimage.binary_dilation(other, iterations=2)).any()
    )


def theirs(name):
    return np.asarray(Image.open(FILES / name))


# ---------------------------------------------------------------- the tools' own files


def test_coco_as_pycocotools_encodes_it():
    opened = part("auto").open(FILES / "coco" / "instances.json")
    assert opened.images == ("val/a.jpg", "val/b.jpg")
    assert opened.classes.names == ("background", "dog", "car")
    assert opened.classes.colours[2] == (10, 20, 30)
    polygons = opened[0].labels == 1
    assert near(polygons, theirs("coco_a.png") == 1)
    assert (polygons ^ (theirs("coco_a.png") == 1)).sum() <= 5  # of 500: two ways to sample an outline
    assert np.array_equal(opened[0].labels == 2, BLOB)
    assert np.array_equal(opened[1].labels == 1, NOISE)
    assert np.array_equal(theirs("coco_b.png") == 1, NOISE)
    assert np.array_equal(opened[1].labels == 255, BLOB & ~NOISE)  # a crowd, under what comes later
    whole = part("coco", crowd="class").open(FILES / "coco" / "instances.json")[1]
    assert np.array_equal(whole.labels == 2, BLOB & ~NOISE)


def test_cvat_as_datumaro_writes_it():
    opened = part("auto").open(FILES / "cvat" / "annotations.xml")
    assert opened.images == ("a.jpg", "b.jpg")
    assert opened.classes.names == ("background", "dog", "car")
    areas, strokes = opened[0].labels, opened[1].labels
    assert np.array_equal(
        areas[28:] == 2, (BLOB | (np.indices(SIZE)[0] < 40) & box(20, 28, 40, 40))[28:] & (areas != 1)[28:]
    )
    assert areas[22, 22] == 1  # z_order 1, over the box of z_order 0 that comes later
    assert areas[33, 45] == 0
    assert set(np.unique(strokes)) == {1, 2, 255}
    assert (strokes == 255).mean() > 0.9
    sdk = json.loads((FILES / "cvat" / "cvat_sdk_mask.json").read_text())["encoded"]
    lengths, (left, top, right, bottom) = sdk[:-4], sdk[-4:]
    mask = mask_of_runs(lengths, (bottom - top + 1, right - left + 1), columns=False)
    assert np.array_equal(mask, BLOB[top : bottom + 1, left : right + 1])
    assert runs(mask.ravel()) == lengths


def box(left, top, right, bottom):
    y, x = np.indices(SIZE)
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def test_label_studio_as_its_converter_writes_it():
    file = FILES / "label_studio" / "brush.json"
    with pytest.raises(InputError, match=r"a\.jpg: It has masks painted by brush.*unlabelled=background"):
        part("auto").open(file)[0]
    opened = part("auto", unlabelled="ignore").open(file)
    assert opened.images == ("a.jpg", "val/b.jpg")  # the third task has no annotation
    assert opened.classes.names == ("background", "car", "dog")
    assert np.array_equal(opened[0].labels == 1, BLOB)
    assert (opened[0].labels[~BLOB] == 255).all()
    assert np.array_equal(part("auto", unlabelled="background").open(file)[1].labels == 2, NOISE)  # the ground truth
    polygons = part("label-studio").open(FILES / "label_studio" / "polygons.json")
    assert polygons.images == ("val/a.jpg", "val/b.jpg")
    assert polygons.classes.names == ("background", "car", "dog")
    assert polygons.classes.colours[1:] == ((241, 135, 0), (1, 53, 87))  # of the configuration beside it
    from_coco = part("coco").open(FILES / "coco" / "instances.json")[0].labels == 1
    assert not (from_coco & (polygons[0].labels != 2)).any()  # the converter adds each polygon's box
    with pytest.raises(InputError, match="give images=FOLDER"):
        polygons[1]
    with pytest.warns(UserWarning, match=r"val/b\.jpg has no shapes"):
        sized = part("label-studio").open(FILES / "label_studio" / "polygons.json", size=SIZE)[1]
    assert (sized.labels == 255).all()


def test_yolo_as_label_studios_converter_writes_it():
    folder = FILES / "yolo"
    with pytest.raises(InputError, match=r"a\.txt does not state its image's size"):
        part("yolo").open(folder)
    annotation = part("yolo").read(folder, SIZE)
    assert annotation.classes.names == ("background", "car", "dog")
    assert annotation.image == "a.jpg"
    from_coco = part("coco").open(FILES / "coco" / "instances.json")[0].labels == 1
    assert np.array_equal((annotation.labels == 1)[:, :32], from_coco[:, :32])


# ---------------------------------------------------------------- codecs


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_are_those_of_pycocotools(seed):
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 60, 2).tolist())
    smooth = ndimage.gaussian_filter(rng.normal(size=size), seed % 4)
    for mask in (smooth > 0, smooth > 9, smooth > -9):
        ours = compressed(runs(mask.T.ravel()))
        assert ours == coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        assert np.array_equal(mask_of_runs(uncompressed(ours), size, columns=True), mask)


@pytest.mark.parametrize("seed", range(6))
def test_brush_masks_there_and_back(seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=(41, 300)), seed) > 0
    mask[:, 200:] = seed % 2  # a run above 65,536 values of four channels
    assert np.array_equal(mask_of_brush(brush_of_mask(np.tile(mask, (3, 1))), (123, 300)), np.tile(mask, (3, 1)))


def test_brush_masks_are_bytes_as_label_studio_packs_them():
    tasks = json.loads((FILES / "label_studio" / "brush.json").read_text())
    for task, mask in zip(tasks[:2], (BLOB, NOISE), strict=True):
        assert brush_of_mask(mask) == task["annotations"][0]["result"][0]["value"]["rle"]


def test_brush_masks_with_values_one_by_one():
    """As the page packs what is painted: the pixels' own colours, and alpha."""
    rgba = np.array([[7, 8, 9, 255], [0, 0, 0, 0], [7, 8, 9, 20]], dtype=np.uint8)
    bits = f"{12:032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "0" + "01" + f"{11:04b}" + "".join(f"{v:08b}" for v in rgba.ravel())
    data = list(int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big"))
    assert mask_of_brush(data, (1, 3)).tolist() == [[True, False, True]]
    with pytest.raises(FileError, match="cut short"):
        mask_of_brush(data[:-3], (1, 3))
    with pytest.raises(InputError, match=r"12 values; an image of 2 x 3 \(H x W\) has 24"):
        mask_of_brush(data, (2, 3))
    for wrong in ([256], [-1], ["a"], [1.5]):
        with pytest.raises(FileError, match="not a list of bytes"):
            mask_of_brush(wrong, (1, 3))
    with pytest.raises(FileError, match="cut short"):
        mask_of_brush([], (1, 3))


# ---------------------------------------------------------------- round trips


def maps(classes=CLASSES, ignored=True):
    result = [Annotation(noise(seed, classes=classes, ignored=ignored), classes, f"s/{seed}.jpg") for seed in (1, 2, 3)]
    return [*result, Annotation(np.zeros((4, 5), int), classes, "empty.jpg")]


def check(annotations, back):
    by_image = {annotation.image: annotation for annotation in back}
    assert set(by_image) == {annotation.image for annotation in annotations}
    for annotation in annotations:
        other = by_image[annotation.image]
        assert other.classes.names == annotation.classes.names
        assert np.array_equal(other.labels, annotation.labels)


SHAPES = [
    ("coco", "a.json", "rle"),
    ("coco", "a.json", "polygon"),
    ("cvat", "a.xml", "mask"),
    ("cvat", "a.xml", "polygon"),
    ("label-studio", "a.json", "polygon"),
]


@pytest.mark.parametrize(("name", "file", "shape"), SHAPES)
@pytest.mark.parametrize("unlabelled", [None, "background", "ignore"])
def test_round_trip(tmp_path, name, file, shape, unlabelled):
    paths = part(name, shape=shape, unlabelled=unlabelled).write(tmp_path / file, maps())
    back = part("auto", unlabelled=unlabelled).open(paths)
    check(maps(), back)
    assert back.classes.colours == CLASSES.colours


@pytest.mark.parametrize("unlabelled", ["background", "ignore"])
def test_round_trip_by_brush(tmp_path, unlabelled):
    paths = part("label-studio", unlabelled=unlabelled).write(tmp_path / "a.json", maps())
    check(maps(), part("auto", unlabelled=unlabelled).open(paths))
    with pytest.raises(InputError, match="masks painted by brush"):
        part("auto").open(paths)[0]


def test_yolo_round_trip_and_what_it_has_no_place_for(tmp_path):
    with pytest.raises(InputError, match="cannot represent both background and pixels"):
        part("yolo").write(tmp_path / "a", maps())
    plain = maps(ignored=False)
    for annotation in plain:
        Image.fromarray(annotation.labels).convert("RGB").save(below(tmp_path / "photos" / annotation.image))
    part("yolo").write(tmp_path / "b", plain)
    assert (tmp_path / "b" / "labels" / "empty.txt").read_text() == ""
    assert "names" in (tmp_path / "b" / "data.yaml").read_text()
    check(plain, part("yolo", unlabelled="background").open(tmp_path / "b", images=tmp_path / "photos"))
    part("yolo", unlabelled="ignore").write(tmp_path / "c", maps())
    check(maps(), part("auto", unlabelled="ignore").open(tmp_path / "c", images=tmp_path / "photos"))
    with pytest.raises(InputError, match="is a file; YOLO labels are a folder"):
        part("yolo").write(tmp_path / "a.txt", plain)


def below(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize(("name", "file", "shape"), [*SHAPES, ("label-studio", "a.json", "brush")])
def test_300_classes_go_through(tmp_path, name, file, shape):
    many = Classes(("background", *(f"c{i:03d}" for i in range(300))))
    labels = (np.arange(301).reshape(7, 43).repeat(2, 0).repeat(2, 1)).copy()
    labels[0, 0] = many.ignore
    paths = part(name, shape=shape).write(tmp_path / file, [Annotation(labels, many, "a.jpg")])
    back = part("auto", unlabelled="background").read(paths)
    assert np.array_equal(back.labels, labels)
    assert back.classes.names == many.names


def test_label_studio_urls_and_predictions(tmp_path):
    writer = part("label-studio", url="/data/local-files/?d=photos/", target="predictions", shape="polygon")
    file = writer.write(tmp_path / "a.json", maps()[:1])
    (task,) = json.loads(file.read_text())
    assert task["data"] == {"image": "/data/local-files/?d=photos/s/1.jpg"}
    assert task["predictions"][0]["model_version"]
    assert "annotations" not in task
    with pytest.raises(FileError, match="'annotations' must be a list; it is missing"):
        part("label-studio").open(file)
    task["annotations"] = task.pop("predictions")
    file.write_text(json.dumps([task]))
    assert part("label-studio").open(file).images == ("photos/s/1.jpg",)


@pytest.mark.parametrize("url", ["", "/data/local-files/?d=photos/", "https://host/"])
@pytest.mark.parametrize("image", ["photo #1.jpg", "100%20.png", "what?.png", "a&d=b+c.png", "day 1/Zürich.png"])
def test_label_studio_names_that_end_a_url(tmp_path, url, image):
    annotation = Annotation(maps()[0].labels, CLASSES, image)
    file = part("label-studio", url=url, shape="polygon").write(tmp_path / "a.json", [annotation])
    (name,) = part("label-studio").open(file).images
    assert (f"photos/{image}" if "d=" in url else image).endswith(name)
    assert name.endswith(image.split("/")[-1])


@pytest.mark.parametrize("name", ["coco", "cvat", "label-studio"])
def test_one_file_is_written_whole_or_not_at_all(tmp_path, name):
    suffix = "xml" if name == "cvat" else "json"
    with pytest.raises(InputError, match=rf"this format is one \.{suffix} file"):
        part(name).write(tmp_path / "folder", maps())
    file = tmp_path / f"a.{suffix}"
    file.write_text("before")

    def stops():
        yield maps()[0]
        raise FileError("the disk is full")

    with pytest.raises(FileError, match="the disk is full"):
        part(name).write(file, stops())
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


# ---------------------------------------------------------------- shapes of one tool alone


def cvat(folder, body):
    file = folder / "a.xml"
    file.write_text(f"<annotations><meta><task><original_size><width>30</width><height>20</height></original_size></task>"
                    f"</meta>{body}</annotations>")  # fmt: skip
    return file


def image(*shapes):
    return f'<image id="0" name="a.jpg" width="30" height="20">{"".join(shapes)}</image>'


def test_cvat_turns_boxes_and_ellipses_about_their_centres(tmp_path):
    whole = '<box label="{}" xtl="5" ytl="8" xbr="25" ybr="12" rotation="{}"/>'
    upright = part("cvat").read(cvat(tmp_path, image(whole.format("cat", 0)))).labels == 1
    assert upright.sum() == 80
    assert upright[8:12, 5:25].all()
    turned = part("cvat").read(cvat(tmp_path, image(whole.format("cat", 90)))).labels == 1
    assert turned[0:20, 13:17].all()
    assert turned.sum() == 80
    diagonal = part("cvat").read(cvat(tmp_path, image(whole.format("cat", 30)))).labels == 1
    assert diagonal[13, 21]  # clockwise: the right end goes down
    assert not diagonal[6, 21]
    ellipse = '<ellipse label="cat" cx="15" cy="10" rx="10" ry="4" rotation="90"/>'
    tall = part("cvat").read(cvat(tmp_path, image(ellipse))).labels == 1
    assert tall[:, 15].all()
    assert not tall[:, 25].any()


def test_cvat_frames_of_tracks(tmp_path):
    track = """<track label="cat">
    <polygon frame="0" outside="0" points="1,1;9,1;9,9;1,9"/><polygon frame="7" outside="0" points="2,1;9,1;9,9;2,9"/>
    <polygon frame="8" outside="1" points="2,1;9,1;9,9;2,9"/></track>"""
    opened = part("cvat", unlabelled="background").open(cvat(tmp_path, track))
    assert opened.images == ("frame_000000.png", "frame_000007.png", "frame_000008.png")
    assert [int((annotation.labels == 1).sum()) for annotation in opened] == [64, 56, 0]
    (tmp_path / "frames").mkdir()
    for frame in (0, 7, 8):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "frames" / f"frame_{frame:06d}.jpg")
    assert part("cvat").open(tmp_path / "a.xml", images=tmp_path / "frames").images[1] == "frame_000007.jpg"


def task(*regions, **more):
    common = {"original_width": 30, "original_height": 20}
    return {
        "data": {"image": "a.jpg"},
        "annotations": [{"result": [{**common, **region} for region in regions]}],
        **more,
    }


def region(kind, value, name="cat"):
    return {"id": name, "type": f"{kind}labels", "value": {**value, f"{kind}labels": [name]}}


def label_studio(folder, *tasks):
    (folder / "a.json").write_text(json.dumps(list(tasks)))
    return folder / "a.json"


def test_label_studio_rectangles_ellipses_keypoints_and_names_apart(tmp_path):
    shape = {"x": 50, "y": 25, "width": 20, "height": 40}
    square = region("rectangle", shape)
    labels = part("label-studio").read(label_studio(tmp_path, task(square))).labels
    assert labels[5:13, 15:21].all()
    assert labels.sum() == 48
    quarter = region("rectangle", {**shape, "rotation": 90})  # about its left upper corner, clockwise
    labels = part("label-studio").read(label_studio(tmp_path, task(quarter))).labels
    assert labels[5:11, 7:15].all()
    assert labels.sum() == 48
    ellipse = region("ellipse", {"x": 50, "y": 50, "radiusX": 30, "radiusY": 20, "rotation": 0})
    labels = part("label-studio").read(label_studio(tmp_path, task(ellipse))).labels
    assert labels[10, 7:23].all()
    assert labels.sum() == pytest.approx(np.pi * 36, rel=0.05)
    keypoint = region("keypoint", {"x": 50, "y": 50, "width": 1})
    labels = part("label-studio").read(label_studio(tmp_path, task(keypoint))).labels
    assert set(np.unique(labels)) == {1, 255}
    assert labels[10, 15] == 1
    apart = [
        {"id": "r", "type": "rectangle", "value": shape},
        {"id": "r", "type": "labels", "value": {"labels": ["dog"]}},
        {"id": "r", "type": "choices", "value": {"choices": ["clear"]}},
    ]
    annotation = part("label-studio").read(label_studio(tmp_path, task(*apart)))
    assert (annotation.classes.names, int(annotation.labels.sum())) == (("background", "dog"), 48)


def test_label_studio_annotations_of_several_people(tmp_path):
    first, second = (task(region("rectangle", {"x": 0, "y": 0, "width": w, "height": 50})) for w in (10, 20))
    both = [*first["annotations"], *second["annotations"]]
    file = label_studio(tmp_path, {**first, "annotations": both})
    assert part("label-studio", choice="first").read(file).labels.sum() == 30
    assert part("label-studio", choice="last").read(file).labels.sum() == 60
    file = label_studio(tmp_path, {**first, "annotations": [{**both[0], "ground_truth": True}, both[1]]})
    assert part("label-studio").read(file).labels.sum() == 30
    file = label_studio(tmp_path, {**first, "annotations": [both[0], {**both[1], "was_cancelled": True}]})
    assert part("label-studio").read(file).labels.sum() == 30
    for options in ({"choice": "best"}, {"shape": "mask"}, {"target": "labels"}):
        with pytest.raises(InputError, match=next(iter(options))):
            part("label-studio", **options)
    for name, options in (("coco", {"crowd": "one"}), ("coco", {"shape": "mask"}), ("cvat", {"shape": "rle"})):
        with pytest.raises(InputError, match=next(iter(options))):
            part(name, **options)


def test_label_studio_finds_uploaded_images_with_and_without_what_it_adds(tmp_path):
    square = region("rectangle", {"x": 0, "y": 0, "width": 50, "height": 50})
    file = label_studio(tmp_path, task(square) | {"data": {"image": "/data/upload/3/0a1b2c3d-a%20b.jpg"}})
    assert part("label-studio").open(file).images == ("a b.jpg",)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "0a1b2c3d-a b.jpg")
    assert part("label-studio").open(file, images=tmp_path).images == ("0a1b2c3d-a b.jpg",)
    file = label_studio(tmp_path, task(square) | {"data": {"image": "s3://bucket/dir/c.jpg?version=2"}})
    assert part("label-studio").open(file).images == ("c.jpg",)
