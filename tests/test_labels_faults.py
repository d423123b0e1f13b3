"""Files of labels that are not right: one line of one of our errors, with the file, the place and what is wrong."""

import copy
import json

import pytest
from label_maps import part

from dense_ctx.errors import FileError, InputError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 4, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
}
TASK = {
    "id": 7,
    "data": {"image": "a.jpg"},
    "annotations": [{"result": [{"id": "r", "type": "polygonlabels", "original_width": 30, "original_height": 20,
                                 "value": {"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["cat"]}}]}],
}  # fmt: skip
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><meta><task><labels><label><name>cat</name></label></labels></task></meta>
<image id="0" name="a.jpg" width="30" height="20">SHAPE</image></annotations>"""
POLYGON = '<polygon label="cat" points="1,1;9,1;9,9"/>'
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]>'


def changed(data, path, value):
    data = copy.deepcopy(data)
    *places, last = path
    target = data
    for place in places:
        target = target[place]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return data


def refused(name, path, error, message, **options):
    """Opened and read to the end, it raises one line of the error."""
    with pytest.raises(error, match=message) as caught:
        list(part(name, **options).open(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


SEGMENTATION = ("annotations", 0, "segmentation")


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        (("images",), KeyError, FileError, "'images' must be a list; it is missing"),
        (("categories",), {"1": "cat"}, FileError, "'categories' must be a list"),
        (("categories", 0, "name"), 3, FileError, "'name' must be text; got '3'"),
        (("categories", 0, "name"), "__ignore__\t", InputError, "printable"),
        (
            ("categories",),
            [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
            FileError,
            r"category 1 \(b\) occurs twice",
        ),
        (
            ("categories",),
            [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}],
            FileError,
            r"category 2 \(a\) occurs twice",
        ),
        (("images", 0, "id"), 2, FileError, "annotations name the image 1, which occurs never"),
        (("images", 0, "id"), True, FileError, "'id' must be a whole number; got 'True'"),
        (("images", 0, "height"), KeyError, FileError, "'height' must be a whole number; it is missing"),
        (("images", 0, "height"), 0, InputError, "above 0"),
        (("images", 0, "height"), 10**9, InputError, "1000000000 x 30"),
        (("images", 0, "file_name"), "../../x.png", InputError, r"image '\.\./\.\./x\.png' is outside"),
        (("images", 0, "file_name"), "/etc/passwd", InputError, "outside"),
        (("images", 0, "file_name"), "a\x00.jpg", InputError, "printable text"),
        (("annotations", 0, "image_id"), KeyError, FileError, "annotation 0: 'image_id'"),
        (("annotations", 0, "category_id"), 9, FileError, r"a\.jpg: annotation 4: there is no category 9"),
        (SEGMENTATION, [], InputError, "annotation 4: it has no segmentation"),
        (SEGMENTATION, KeyError, InputError, "it has no segmentation"),
        (SEGMENTATION, [[1, 1, 2, 2]], FileError, "at least 3 pairs"),
        (SEGMENTATION, [[1, 1, 2, 2, 3]], FileError, "pairs of numbers"),
        (SEGMENTATION, [[1, 1, 90, 2, 3, 3]], InputError, r"point at \(90, 2\), outside the image of 30 x 20"),
        (SEGMENTATION, [[1, 1, float("nan"), 2, 3, 3]], InputError, "NaN"),
        (SEGMENTATION, "mask", FileError, "expected a mapping with 'size'"),
        (SEGMENTATION, {"size": [20, 31], "counts": "0"}, InputError, r"mask is \[20, 31\].*image is \[20, 30\]"),
        (SEGMENTATION, {"size": [20, 30], "counts": [5, 6]}, FileError, "fill 11 pixels of 20 x 30 = 600"),
        (SEGMENTATION, {"size": [20, 30], "counts": [601, -1]}, FileError, "not whole numbers of at least 0"),
        (SEGMENTATION, {"size": [20, 30], "counts": [10**30]}, FileError, "fill 1,000,0"),
        (SEGMENTATION, {"size": [20, 30], "counts": "5!"}, FileError, "not in COCO's compressed form: '!'"),
        (SEGMENTATION, {"size": [20, 30], "counts": "o" * 99}, FileError, "not in COCO's compressed form"),
        (SEGMENTATION, {"size": [20, 30], "counts": "o"}, FileError, "are truncated"),
        (SEGMENTATION, {"size": [20, 30], "counts": None}, FileError, "'counts' must be a list"),
    ],
)
def test_coco(tmp_path, path, value, error, message):
    (tmp_path / "a.json").write_text(json.dumps(changed(COCO, path, value)))
    refused("coco", tmp_path / "a.json", error, message)


VALUE = ("annotations", 0, "result", 0, "value")
REGION = VALUE[:-1]


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        (("data",), KeyError, FileError, "a list of tasks with data"),
        (("data",), {"text": 3}, FileError, "task 7: its data has no image"),
        (("data",), {"a": "a.jpg", "b": "b.jpg"}, FileError, "task 7: its data has no image"),
        (("data", "image"), "../../x.png", InputError, "outside"),
        (("data", "image"), "/data/local-files/?d=../x.png", InputError, "outside"),
        (("data", "image"), "https://example.org/", InputError, "printable"),
        (("annotations",), [], FileError, "no annotated task among its 1"),
        (("annotations",), [{"result": [], "was_cancelled": True}], FileError, "no annotated task"),
        (("annotations",), [{"result": []}] * 2, InputError, "2 annotations; choose one: choice=first"),
        (("annotations", 0, "result"), ["a"], FileError, "not a list of regions"),
        (("annotations", 0), ["a"], FileError, "not a list of mappings"),
        ((*REGION, "type"), "vectorlabels", InputError, "a region of type 'vectorlabels' is not supported"),
        ((*REGION, "image_rotation"), 90, InputError, "rotated by 90 degrees"),
        ((*REGION, "original_width"), 0, InputError, "above 0"),
        ((*REGION, "original_width"), None, FileError, "'original_width' must be a whole number"),
        (VALUE, 3, FileError, "has no name"),
        ((*VALUE, "polygonlabels"), [], FileError, r"region 0 \(polygon\) has no name"),
        ((*VALUE, "polygonlabels"), ["cat", "dog"], InputError, "has the names cat and dog; expected one name"),
        ((*VALUE, "points"), [[1, 1], [101, 1], [120, 9]], InputError, r"point at \(36, 1.8\), outside"),
        ((*VALUE, "points"), [[1, 1], [1, None], [20, 9]], FileError, "pairs of numbers"),
        ((*VALUE, "points"), [[1, 1], [1, float("inf")], [20, 9]], InputError, "NaN or infinite"),
    ],
)
def test_label_studio(tmp_path, path, value, error, message):
    (tmp_path / "a.json").write_text(json.dumps([changed(TASK, path, value)]))
    refused("label-studio", tmp_path / "a.json", error, message)


@pytest.mark.parametrize("value", [[], {}, 7, None])
def test_label_studio_ids_of_regions_are_whatever_they_are(tmp_path, value):
    (tmp_path / "a.json").write_text(json.dumps([changed(TASK, ("annotations", 0, "result", 0, "id"), value)]))
    assert part("label-studio").open(tmp_path / "a.json")[0].labels.any()


@pytest.mark.parametrize(
    ("kind", "value", "error", "message"),
    [
        ("brush", {"rle": [0, 0, 9, 96]}, FileError, "cut short"),
        ("brush", {"rle": [0, 0, 9, 96, 0, 0, 0, 0]}, FileError, "values of 1 bits"),
        ("brush", {"rle": [0, 0, 9, 97] + [0] * 20}, InputError, r"has 2,401 values; an image of 20 x 30"),
        ("brush", {"rle": "abc"}, FileError, "'rle' must be a list"),
        ("brush", {"format": "png", "rle": []}, FileError, "its format is 'png'"),
        ("rectangle", {"x": 1, "y": 1, "width": 5}, FileError, "'height' must be a number; it is missing"),
        ("rectangle", {"x": 1, "y": 1, "width": 5, "height": float("nan")}, InputError, "NaN"),
        ("rectangle", {"x": 90, "y": 1, "width": 50, "height": 5}, InputError, "outside"),
        ("ellipse", {"x": 50, "y": 50, "radiusX": 10**400, "radiusY": 5}, InputError, "NaN or infinite"),
        ("keypoint", {"x": 50, "y": 500}, InputError, "outside"),
    ],
)
def test_label_studio_regions(tmp_path, kind, value, error, message):
    task = changed(TASK, (*REGION, "type"), f"{kind}labels")
    task = changed(task, VALUE, {**value, f"{kind}labels": ["cat"]})
    (tmp_path / "a.json").write_text(json.dumps([task]))
    refused("label-studio", tmp_path / "a.json", error, message)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ("<polygon points='1,1;9,1;9,9'/>", FileError, r"a\.jpg: polygon 0 \(None\): it has no label"),
        ("<polygon label='cat' points='1,1;9,1'/>", FileError, "at least 3 pairs"),
        ("<polygon label='cat' points='1,1;9;9,9'/>", FileError, "pairs of numbers"),
        ("<polygon label='cat' points='a,b'/>", FileError, "not x,y;x,y; got 'a,b'"),
        ("<polygon label='cat'/>", FileError, "not x,y;x,y; got ''"),
        ("<polygon label='cat' points='1,1;nan,1;9,9'/>", InputError, "NaN"),
        ("<polygon label='cat' points='1,1;99,1;9,9'/>", InputError, r"point at \(99, 1\), outside"),
        ("<mask label='cat' rle='3, 4' left='0' top='0' width='3' height='3'/>", FileError, "fill 7 pixels of 3 x 3"),
        ("<mask label='cat' rle='3, x' left='0' top='0' width='3' height='3'/>", FileError, "not whole numbers"),
        ("<mask label='cat' left='0' top='0' width='3' height='3'/>", FileError, "not whole numbers"),
        ("<mask label='cat' rle='9' left='-1' top='0' width='3' height='3'/>", FileError, "left is a whole number"),
        ("<mask label='cat' rle='9' left='29' top='0' width='3' height='3'/>", InputError, r"extends to \(32, 3\)"),
        ("<mask label='cat' rle='9' left='1e99' top='0' width='3' height='3'/>", InputError, "extends to"),
        ("<box label='cat' xtl='1' ytl='1' xbr='5'/>", FileError, "ybr is a number; got None"),
        ("<box label='cat' xtl='1' ytl='1' xbr='5' ybr='5' rotation='inf'/>", InputError, "rotation is NaN or inf"),
        ("<ellipse label='cat' cx='1' cy='1' rx='50' ry='5'/>", InputError, "outside"),
        ("<cuboid label='cat' xtl1='1'/>", InputError, "a cuboid does not label pixels"),
        ("<skeleton label='cat'><points/></skeleton>", InputError, "a skeleton does not label"),
    ],
)
def test_cvat_shapes(tmp_path, shape, error, message):
    (tmp_path / "a.xml").write_text(CVAT.replace("SHAPE", shape))
    refused("cvat", tmp_path / "a.xml", error, message)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("<annotations>", "<annotation>", FileError, "is not XML: mismatched tag"),
        ("annotations>", "boxes>", FileError, "its root is 'boxes'"),
        ("<annotations>", BOMB + "<annotations>", FileError, "declares a document type or entities"),
        ("<annotations>", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations>', FileError, "document type"),
        ("cat</name>", "&b;</name>", FileError, "undefined entity"),
        ('name="a.jpg"', 'name="../../x.png"', InputError, "outside"),
        ('name="a.jpg"', "", InputError, "printable"),
        ('width="30"', 'width="3e9"', InputError, "20 x 3000000000"),
        ('width="30"', 'width="0"', InputError, "20 x 0"),
        ('width="30"', 'width="wide"', FileError, "width is a number; got 'wide'"),
        ('width="30"', "", FileError, r"a\.jpg: its width is a number; got None"),
        ("<image", '<track label="cat"><polygon frame="0" points="1,1;9,1;9,9"/></track><image', FileError, "original"),
    ],
)
def test_cvat(tmp_path, old, new, error, message):
    text = CVAT.replace("SHAPE", POLYGON)
    assert old in text
    (tmp_path / "a.xml").write_text(text.replace(old, new))
    refused("cvat", tmp_path / "a.xml", error, message)
    (tmp_path / "a.xml").write_bytes(BOMB.encode("utf-16"))
    refused("cvat", tmp_path / "a.xml", FileError, "Cannot read|document type|not XML")


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("2 .1 .1 .5 .1 .5 .5", FileError, r"a\.txt: line 1: the class is a number from 0 to 1; got '2'"),
        ("cat .1 .1 .5 .1 .5 .5", FileError, "got 'cat'"),
        ("0 .1 .1 .5 .1", InputError, "it is a box"),
        ("0 .1 .1 .5 .1 .5", FileError, "pairs of numbers"),
        ("0 .1 .1 .5 x .5 .5", FileError, "expected numbers"),
        ("0 .1 .1 .5 nan .5 .5", InputError, "NaN"),
        ("0 10 10 50 10 50 50", InputError, "outside the image of 30 x 20"),
    ],
)
def test_yolo(tmp_path, line, error, message):
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(line + "\n")
    with pytest.raises(error, match=message):
        part("yolo").read(tmp_path, (20, 30))


@pytest.mark.parametrize("text", ["names: {1: cat}", "nc: 3", "names: [", "names: {}", "names: [[1]]", "- a"])
def test_yolo_names(tmp_path, text):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("")
    with pytest.raises(FileError, match=r"no data\.yaml or classes\.txt"):
        part("yolo").open(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(FileError, match=r"data\.yaml"):
        part("yolo").open(tmp_path)


@pytest.mark.parametrize(("name", "suffix"), [("coco", "json"), ("label-studio", "json"), ("cvat", "xml")])
def test_files_that_are_none(tmp_path, name, suffix):
    file = tmp_path / f"a.{suffix}"
    for content in (b"", b"\xff\xfe\x00", b"[" * 100_000, b"<a>" * 100_000, b"null", b"[null]", b'{"images": 1}'):
        file.write_bytes(content)
        refused(name, file, FileError, ".")
    with file.open("wb") as stream:
        stream.truncate(2 << 30)
    refused(name, file, FileError, "2,147,483,648 bytes; no more than")
    refused("auto", file, FileError, "2,147,483,648 bytes; no more than")
    file.unlink()
    with pytest.raises(FileError, match="No labels at"):
        part(name).open(file)
    (tmp_path / "empty").mkdir()
    refused(name, tmp_path / "empty", FileError, "empty")
