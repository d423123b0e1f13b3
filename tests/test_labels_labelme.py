"""labelme: its own files, strokes, round trips, and files that are none of its."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from dense_ctx_labels.annotation import Annotation
from dense_ctx_labels.classes import Classes
from label_maps import CLASSES, noise, part
from PIL import Image
from scipy import ndimage

from dense_ctx.errors import FileError, InputError

FILES = Path(__file__).parent / "labels" / "labelme"


def test_areas_are_those_that_labelme_draws_but_for_outlines():
    annotation = part("auto").read(FILES / "areas.json", images=FILES)
    assert annotation.classes.names == ("background", "fruit", "leaf", "stem")
    assert annotation.image == "areas.png"
    assert annotation.picture().shape == (48, 64, 3)
    theirs = np.asarray(Image.open(FILES.parent / "labelme_areas.png"))
    for value in (1, 2, 3, 255):
        ours, other = annotation.labels == value, theirs == value
        assert (ours & other).sum() / (ours | other).sum() > (0.7 if value == 255 else 0.85)
        assert not (ours & ~ndimage.binary_dilation(other)).any()
    assert np.array_equal(annotation.labels[30:40, 45:57] == 1, theirs[30:40, 45:57] == 1)  # the mask, to the pixel


def test_strokes_leave_the_rest_unannotated():
    annotation = part("labelme").read(FILES / "strokes.json", images=FILES)
    assert annotation.classes.names == ("_background_", "fruit", "leaf", "stem")
    assert (annotation.labels == 255).mean() > 0.85
    assert set(np.unique(annotation.labels)) == {0, 1, 2, 3, 255}
    assert annotation.labels[44, 60] == 0
    assert annotation.labels[22, 34] == annotation.labels[20, 30] == 1
    assert annotation.labels[21, 32] == 255  # points are not joined
    thick = part("labelme", stroke_width=6).read(FILES / "strokes.json")
    assert (thick.labels == 3).sum() > 1.6 * (annotation.labels == 3).sum()
    whole = part("labelme", unlabelled="background").read(FILES / "strokes.json")
    assert not (whole.labels == 255).any()


def test_a_folder_has_one_table_of_classes_in_the_order_of_labels_txt(tmp_path):
    opened = part("labelme").open(FILES)
    assert opened.images == ("areas.png", "strokes.jpg")
    assert opened.classes.names == ("_background_", "fruit", "leaf", "stem")
    for file in FILES.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nstem\nleaf\n")
    again = part("labelme").open(tmp_path)
    assert again.classes.names == ("_background_", "stem", "leaf", "fruit")
    assert np.array_equal(again[0].labels == 1, opened[0].labels == 3)
    annotations = part("labelme").open(tmp_path, classes=["fruit", "leaf", "stem", "background", "more"])
    assert np.array_equal(annotations[0].labels == 3, opened[0].labels == 0)
    with pytest.raises(InputError, match=r"areas\.json: There is no class 'stem'; did you mean"):
        part("labelme").open(tmp_path, classes=["fruit", "leaf", "stems", "background"])[0]
    with pytest.raises(InputError, match="no class background"):
        part("labelme").open(FILES, classes=["fruit", "leaf", "stem"])[0]
    only = part("labelme", unlabelled="ignore").open(FILES, classes=["fruit", "leaf", "stem"])[0]
    assert (only.labels == 255).sum() > 1000


@pytest.mark.parametrize("shape", ["polygon", "mask"])
@pytest.mark.parametrize("unlabelled", [None, "background", "ignore"])
def test_round_trip(tmp_path, shape, unlabelled):
    maps = [Annotation(noise(seed), CLASSES, f"sub/{seed}.jpg") for seed in (1, 2, 3)]
    maps.append(Annotation(np.zeros((4, 5), int), CLASSES, "empty.jpg"))
    part("labelme", shape=shape, unlabelled=unlabelled).write(tmp_path, maps)
    back = part("labelme", unlabelled=unlabelled).open(tmp_path)
    assert back.classes.names == CLASSES.names
    by_image = {annotation.image: annotation for annotation in back}
    assert set(by_image) == {annotation.image for annotation in maps}
    for annotation in maps:
        assert np.array_equal(by_image[annotation.image].labels, annotation.labels)
    shapes = json.loads((tmp_path / "sub" / "1.json").read_text())["shapes"]
    assert {one["shape_type"] for one in shapes} == {shape}
    assert ("__ignore__" in {one["label"] for one in shapes}) == (unlabelled != "ignore")


def test_the_files_say_where_the_images_are(tmp_path):
    annotation = Annotation(noise(1), CLASSES, "s/a.jpg")
    (tmp_path / "photos" / "s").mkdir(parents=True)
    Image.fromarray(np.zeros((37, 53), np.uint8)).save(tmp_path / "photos" / "s" / "a.jpg")
    part("labelme", images=str(tmp_path / "photos")).write(tmp_path / "out", [annotation])
    assert json.loads((tmp_path / "out" / "s" / "a.json").read_text())["imagePath"] == "../../photos/s/a.jpg"
    back = part("labelme").read(tmp_path / "out", images=tmp_path / "photos")
    assert back.image == "s/a.jpg"
    part("labelme").write(tmp_path / "out", [annotation])
    assert json.loads((tmp_path / "out" / "s" / "a.json").read_text())["imagePath"] == "a.jpg"


def test_where_shapes_overlap_the_order_is_said(tmp_path):
    small, large = square("cat", 4, 8), square("dog", 2, 12)
    file = labelme(tmp_path, [small, large])
    assert (part("labelme").read(file).labels == 1).sum() == 0
    assert (part("labelme", order="area").read(file).labels == 1).sum() == 16


def square(label, low, high, **more):
    return {
        "label": label,
        "points": [[low, low], [high, low], [high, high], [low, high]],
        "shape_type": "polygon",
        **more,
    }


def labelme(folder, shapes, **more):
    data = {"imagePath": "a.jpg", "imageData": None, "imageHeight": 20, "imageWidth": 30, "shapes": shapes, **more}
    file = folder / "a.json"
    file.write_text(json.dumps(data))
    return file


def png(size):
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def mask(points, data):
    return {"label": "cat", "points": points, "shape_type": "mask", "mask": data}


def test_areas_and_strokes_in_one_file_must_be_told_apart(tmp_path):
    line = {"label": "dog", "points": [[1, 1], [9, 1]], "shape_type": "linestrip"}
    file = labelme(tmp_path, [square("cat", 4, 8), line])
    with pytest.raises(InputError, match=r"areas and strokes, and pixels without a shape.*unlabelled=background or"):
        part("labelme").read(file)
    assert (part("labelme", unlabelled="ignore").read(file).labels == 255).sum() > 500
    with pytest.warns(UserWarning, match=r"a\.jpg has no shapes, so all of it is treated as not annotated"):
        assert (part("labelme").read(labelme(tmp_path, [])).labels == 255).all()
    assert (part("labelme", unlabelled="background").read(labelme(tmp_path, [])).labels == 0).all()


@pytest.mark.parametrize(
    ("shapes", "more", "error", "message"),
    [
        ([square("cat", 4, 50)], {}, InputError, r"point at \(50, 50\), outside the image of 30 x 20"),
        ([square("cat", -4, 5)], {}, InputError, r"point at \(-4, -4\), outside"),
        ([square("cat", 4, float("nan"))], {}, InputError, "NaN or infinite"),
        ([square("cat", 4, 10**400)], {}, FileError, "pairs of numbers"),
        ([{**square("cat", 4, 8), "points": [[1, 2], [3]]}], {}, FileError, r"shape 0 \(cat\): points are at least 1"),
        ([{**square("cat", 4, 8), "points": [[1, 2], ["3", 4]]}], {}, FileError, "pairs of numbers"),
        ([{**square("cat", 4, 8), "points": [[1, 2], [3, 4]]}], {}, FileError, "at least 3 pairs"),
        ([{**square("cat", 4, 8), "points": []}], {}, FileError, "at least 1 pairs"),
        ([{**square("cat", 4, 8), "points": "many"}], {}, FileError, "'points' must be a list; got 'many'"),
        ([{**square("cat", 4, 8), "label": 3}], {}, FileError, "'label' must be text; got '3'"),
        ([{**square("cat", 4, 8), "shape_type": "cube"}], {}, FileError, "shape_type 'cube' is unknown"),
        ([{**square("cat", 4, 8), "shape_type": ["cube"]}], {}, FileError, r"shape_type \"\['cube'\]\" is unknown"),
        ([{**square("cat", 4, 8), "label": "a\nb"}], {}, InputError, "printable text"),
        (["square"], {}, FileError, "expected a mapping with 'label'; got square"),
        ({"a": 1}, {}, FileError, "'shapes' must be a list"),
        ([mask([[1, 1], [4, 4]], "?")], {}, FileError, "not a PNG in base64"),
        ([mask([[1, 1], [4, 4]], base64.b64encode(b"GIF89a").decode())], {}, FileError, "not a PNG in base64"),
        ([mask([[1, 1], [4, 4]], png((4, 3)))], {}, InputError, r"mask is 3 x 4 \(H x W\), by its points it is 4 x 4"),
        (
            [mask([[28, 1], [31, 4]], png((4, 4)))],
            {},
            InputError,
            r"extends from \(28, 1\) to \(32, 5\); the image is 30",
        ),
        ([mask([[0, 0], [1e9, 1e9]], png((4, 4)))], {}, InputError, "1000000001 x 1000000001"),
        ([], {"imageHeight": 10**6, "imageWidth": 10**6}, InputError, "1000000 x 1000000"),
        ([], {"imageHeight": None}, FileError, "'imageHeight' must be a whole number"),
        ([], {"imageHeight": None, "imageWidth": None}, InputError, r"give images=FOLDER or size=\(H, W\)"),
        ([], {"imageHeight": 0}, InputError, "above 0; got 0 and 30"),
        ([], {"imagePath": "../../x.png"}, InputError, r"image '\.\./\.\./x\.png' is outside the labels' folder"),
        ([], {"imagePath": "/etc/passwd"}, InputError, "outside"),
        ([], {"imagePath": "..\\x.png"}, InputError, "outside"),
        ([], {"imagePath": 3}, FileError, "'imagePath' must be text"),
    ],
)
def test_files_that_are_not_right(tmp_path, shapes, more, error, message):
    file = labelme(tmp_path, shapes, **more)
    with pytest.raises(error, match=message) as caught:
        part("labelme").open(file)[0]
    assert "\n" not in str(caught.value)
    assert "a.json" in str(caught.value)


def test_files_of_another_kind(tmp_path):
    for text, message in (("[1]", "not a labelme file"), ("{", "not JSON"), ("\x00", "not JSON")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(FileError, match=message):
            part("labelme").open(tmp_path / "a.json")
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2 << 30)
    for name in ("labelme", "auto"):
        with pytest.raises(FileError, match="2,147,483,648 bytes; no more than"):
            part(name).open(tmp_path / "a.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"holds no \.json file"):
        part("labelme").open(tmp_path / "empty")
    outside = tmp_path / "labels"
    outside.mkdir()
    file = labelme(outside, [], imagePath="../x.png")
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"'\.\./x\.png' is not below .*images, the folder of the images"):
        part("labelme").open(file, images=tmp_path / "images")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "box"}, "shape"),
        ({"unlabelled": "void"}, "unlabelled"),
        ({"stroke_width": 0}, "stroke_width is above 0"),
        ({"stroke_width": float("nan")}, "stroke_width is above 0"),
        ({"order": "colour"}, "order"),
        ({"width": 3}, "width"),
    ],
)
def test_options_that_are_none(options, message):
    with pytest.raises(InputError, match=message):
        part("labelme", **options)
    with pytest.raises(InputError, match=message):
        part("auto", **options).open(FILES)


def test_classes_of_a_file_beyond_8_bits(tmp_path):
    file = labelme(tmp_path, [square(f"c{i:03d}", 1, 5) for i in range(300)])
    annotation = part("labelme").read(file)
    assert annotation.labels.dtype == np.uint16
    assert (len(annotation.classes), annotation.classes.ignore, annotation.labels.max()) == (301, 65535, 300)
    assert Classes(annotation.classes.names) == annotation.classes
