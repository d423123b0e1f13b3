"""Label formats: the interface, PNG, polygons and strokes as pixels, and what is refused."""

import time

import numpy as np
import pytest
from dense_ctx_labels.annotation import Annotation
from dense_ctx_labels.base import LabelFormat
from dense_ctx_labels.classes import Classes
from dense_ctx_labels.contours import regions
from dense_ctx_labels.raster import draw, ellipse, fill
from label_maps import CLASSES, noise, part
from PIL import Image, ImageDraw
from scipy import ndimage

from dense_ctx import registry
from dense_ctx.errors import FileError, InputError


def painted(pieces, size, start):
    labels = np.full(size, start)
    for value, ring in pieces:
        mask, x, y = fill([ring], size)
        labels[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = value
    return labels


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("skip", [None, 0, 255])
def test_polygons_of_a_label_map_draw_it_again(seed, skip):
    labels = noise(seed)
    pieces = regions(labels, skip)
    for order in (pieces, pieces[::-1]):  # each stands for itself: none hides another
        assert np.array_equal(painted(order, labels.shape, 99 if skip is None else skip), labels)
    assert skip not in [value for value, _ in pieces]


def test_a_ring_with_holes_runs_through_its_own_pixels_alone():
    labels = np.zeros((12, 14), dtype=int)
    labels[1:11, 1:13] = 1
    labels[3:9, 3:6] = 0
    labels[4:6, 8:11] = 2
    labels[7, 9] = 0
    labels[5, 4] = 1
    (_, ring), *others = regions(labels, 0)
    assert [value for value, _ in others] == [2, 1]
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        assert ax == bx or ay == by
        sides = labels[int(min(ay, by)) : int(max(ay, by)), [int(ax) - 1, int(ax)]]
        assert (sides == 1).any(axis=1).all()  # each side of a pixel that it runs along is one of the region's


@pytest.mark.parametrize("seed", range(20))
def test_fill_takes_the_pixels_whose_centres_are_inside(seed):
    rng = np.random.default_rng(seed)
    rings = [rng.uniform(-5, 40, (rng.integers(3, 9), 2)) for _ in range(rng.integers(1, 3))]
    size = (31, 29)
    mask, x, y = fill(rings, size)
    whole = np.zeros(size, dtype=bool)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    py, px = np.mgrid[: size[0], : size[1]] + 0.5
    inside = np.zeros(size, dtype=bool)
    for ring in rings:  # the plain rule: rays to the left
        for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            crosses = (ay > py) != (by > py)
            with np.errstate(divide="ignore", invalid="ignore"):
                inside ^= crosses & (px > ax + (py - ay) * (bx - ax) / (by - ay))
    assert np.array_equal(whole, inside)


def test_fill_in_many_chunks_is_fill_at_once(monkeypatch):
    ring = np.random.default_rng(0).uniform(0, 60, (400, 2))
    whole = fill([ring], (60, 60))[0]
    monkeypatch.setattr("dense_ctx_labels.raster._CHUNK", 50)
    assert np.array_equal(fill([ring], (60, 60))[0], whole)


@pytest.mark.parametrize("width", [1, 3, 7.5])
def test_a_stroke_is_as_wide_as_said_and_connected(width):
    points = np.array([[5.2, 6.9], [40.0, 12.0], [22.5, 33.3]])
    mask = draw(points, width, (40, 50))
    length = np.hypot(*np.diff(points, axis=0).T).sum()
    assert mask.sum() == pytest.approx(length * width, rel=0.15, abs=width * width + length * (width < 2) * 0.3)
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    assert all(mask[int(y), int(x)] for x, y in points)
    assert draw(np.array([[0.0, 0.0]]), 1, (4, 4)).sum() == 1  # thinner than the way to any pixel's centre
    assert draw(np.array([[50.0, 40.0]]), 1, (40, 50))[39, 49]  # on the image's edge


@pytest.mark.parametrize("seed", range(40))
def test_a_stroke_has_the_pixels_within_half_its_width(seed):
    rng = np.random.default_rng(seed)
    size, width = rng.integers(1, 40, 2), float(rng.choice([0.5, 1, 3, 5.5, rng.uniform(0.2, 30)]))
    points = rng.uniform(-10, 45, (rng.integers(1, 6), 2)) if seed % 2 else rng.integers(-20, 90, (3, 2)) / 2
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    distance = np.full(x.shape, np.inf)
    for a, b in zip(points, [*points[1:], points[-1]], strict=True):
        along = np.clip(((x - a[0]) * (b - a)[0] + (y - a[1]) * (b - a)[1]) / max((b - a) @ (b - a), 1e-12), 0, 1)
        distance = np.minimum(distance, np.hypot(x - a[0] - along * (b - a)[0], y - a[1] - along * (b - a)[1]))
    mask = draw(points, width, (size[0], size[1]))
    assert mask[distance < width / 2 - 1e-9].all()
    column, row = np.clip(np.floor(points), 0, size[::-1] - 1).astype(int).T
    mask[row, column] = False  # which always belong to it
    assert not mask[distance > width / 2 + 1e-9].any()


def test_wide_strokes_of_many_points_take_seconds():
    """Each row of a piece is one interval: the pixels of all pieces are not looked at one by one."""
    t = np.linspace(0, 1, 10_000)
    points = np.stack([480 * t, 180 + 180 * np.sin(9 * t)], axis=1)
    begin = time.process_time()
    assert draw(points, 960, (360, 480)).all()
    assert time.process_time() - begin < 20


def test_an_ellipse_has_its_area_and_turns():
    mask, _, _ = fill([ellipse((30, 20), (20, 8))], (40, 60))
    assert mask.sum() == pytest.approx(np.pi * 160, rel=0.01)
    upright = fill([ellipse((30, 30), (20, 8), 90)], (60, 60))[0]
    assert upright.shape[0] > 2 * upright.shape[1]


# ---------------------------------------------------------------- classes and annotations


def test_classes_map_both_ways():
    assert [CLASSES.names[CLASSES.id(name)] for name in CLASSES.names] == list(CLASSES.names)
    assert (CLASSES.id("_background_"), CLASSES.id("__ignore__"), CLASSES.background) == (0, 255, 0)
    assert Classes(("a", "b")).background is None
    many = Classes(tuple(f"c{i}" for i in range(300)))
    assert (many.ignore, many.dtype, CLASSES.ignore, CLASSES.dtype) == (65535, np.uint16, 255, np.uint8)
    from dense_ctx.visualize import palette

    assert np.array_equal(np.array(Classes(tuple(map(str, range(256)))).colours), palette())
    with pytest.raises(InputError, match="no class 'cart'; did you mean cat"):
        CLASSES.id("cart")


@pytest.mark.parametrize(
    ("names", "colours", "message"),
    [
        ((), (), "1 to 65535 classes; got 0"),
        (("a", "a"), (), "'a' occurs twice"),
        (("a", " b"), (), "without spaces around it; got ' b'"),
        (("a\n", "b"), (), "printable"),
        (("a", "x" * 201), (), "at most 200 characters"),
        (("a", "__ignore__"), (), "cannot name a class"),
        (("background", "a", "Background"), (), "'background' and 'Background' both mean background"),
        (("a", "b"), ((0, 0, 0),), "one colour per class; got 1 for 2"),
        (("a",), ((0, 0, 256),), r"\(R, G, B\) in 0 to 255"),
    ],
)
def test_classes_that_are_none(names, colours, message):
    with pytest.raises(InputError, match=message):
        Classes(names, colours)


@pytest.mark.parametrize(
    ("labels", "image", "message"),
    [
        (np.zeros((2, 3, 1), int), "a.png", r"integers \[H, W\]; got int64 \[2, 3, 1\]"),
        (np.zeros((2, 3)), "a.png", "got float64"),
        (np.full((2, 3), 3), "a.png", "6 pixels hold 3; expected ids 0 to 2 of 3 classes, or 255"),
        (np.full((2, 3), -1), "a.png", "6 pixels hold -1"),
        (np.zeros((2, 3), int), "../a.png", "outside"),
        (np.zeros((2, 3), int), "/etc/a.png", "outside"),
        (np.zeros((2, 3), int), "C:\\a.png", "outside"),
        (np.zeros((2, 3), int), "b/../../a.png", "outside"),
        (np.zeros((2, 3), int), "", "printable text"),
    ],
)
def test_annotations_that_are_none(labels, image, message):
    with pytest.raises(InputError, match=message):
        Annotation(labels, CLASSES, image)


# ---------------------------------------------------------------- PNG


@pytest.mark.parametrize("name", ["png", "png-grey"])
def test_png_round_trip_keeps_labels_names_and_colours(tmp_path, name):
    maps = [Annotation(noise(seed), CLASSES, f"sub/{seed}.jpg") for seed in range(3)]
    assert part(name).write(tmp_path / "out", maps) == tmp_path / "out"
    back = part("png").open(tmp_path / "out")
    assert back.images == ("sub/0.png", "sub/1.png", "sub/2.png")
    assert back.classes == CLASSES
    for annotation, other in zip(maps, back, strict=True):
        assert np.array_equal(annotation.labels, other.labels)
    picture = Image.open(tmp_path / "out" / "sub" / "0.png")
    assert picture.mode == ("P" if name == "png" else "L")
    if name == "png":
        assert tuple(picture.getpalette()[3:9]) == (10, 200, 30, 255, 128, 0)
    single = part(name).write(tmp_path / "one.png", maps[:1])
    assert np.array_equal(part("auto").read(single).labels, maps[0].labels)


def test_300_classes_are_16_bits_or_refused(tmp_path):
    many = Classes(tuple(f"c{i}" for i in range(300)))
    labels = np.arange(300).reshape(15, 20)
    labels[0, 0] = 65535
    annotation = Annotation(labels, many, "a.jpg")
    with pytest.raises(InputError, match="got 300: write png-grey"):
        part("png").write(tmp_path / "palette", [annotation])
    assert not (tmp_path / "palette").exists()
    part("png-grey").write(tmp_path / "grey", [annotation])
    assert np.array_equal(part("png").read(tmp_path / "grey").labels, labels)


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode).save(path)
    return path


def test_a_black_and_white_mask_is_binary_and_said_so(tmp_path):
    mask = save(tmp_path / "m.png", [[0, 255], [255, 0]])
    with pytest.warns(UserWarning, match="only 0 and 255: read as background and foreground; with binary=false"):
        annotation = part("png").read(mask)
    assert annotation.labels.tolist() == [[0, 1], [1, 0]]
    assert annotation.classes.names == ("background", "foreground")
    assert part("png", binary=False).read(mask).labels.tolist() == [[0, 255], [255, 0]]
    assert part("png", binary=True).read(mask, classes=["rest", "cat"]).labels.tolist() == [[0, 1], [1, 0]]
    save(tmp_path / "other.png", [[0, 1], [2, 255]])
    assert part("png").open(tmp_path)[0].labels.tolist() == [[0, 255], [255, 0]]
    with pytest.raises(InputError, match=r"other\.png: .*values 0 and 255; got the values 1, 2"):
        part("png", binary=True).read(tmp_path / "other.png")


def test_png_names_beside_colours_of_rgb_and_a_palette(tmp_path):
    save(tmp_path / "rgb" / "a.png", [[[0, 0, 0], [128, 0, 0]]])
    with pytest.raises(InputError, match=r"RGB picture, and there is no labelmap\.txt"):
        part("png").read(tmp_path / "rgb")
    (tmp_path / "rgb" / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nsky:0,0,0::\ncat:128,0,0::\n")
    annotation = part("png").read(tmp_path / "rgb")
    assert annotation.labels.tolist() == [[0, 1]]
    assert annotation.classes.names == ("sky", "cat")
    save(tmp_path / "rgb" / "b.png", [[[1, 2, 3], [128, 0, 0]]])
    with pytest.raises(InputError, match=r"1 pixels have colours of no class in labelmap.txt, such as \[1, 2, 3\]"):
        part("png").open(tmp_path / "rgb")[1]
    save(tmp_path / "list" / "a.png", [[0, 1]])
    (tmp_path / "list" / "classes.txt").write_text("sky\ncat\n")
    assert part("png").read(tmp_path / "list").classes.names == ("sky", "cat")
    indexed = Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8))
    indexed.putpalette([1, 2, 3, 4, 5, 6, *[0] * 762])
    (tmp_path / "p").mkdir()
    indexed.save(tmp_path / "p" / "a.png")
    annotation = part("png").read(tmp_path / "p")
    assert annotation.classes == Classes(("class 0", "class 1"), ((1, 2, 3), (4, 5, 6)))
    assert annotation.labels.tolist() == [[0, 1, 255]]


# ---------------------------------------------------------------- what every format refuses


def test_images_are_matched_and_sizes_checked(tmp_path):
    save(tmp_path / "labels" / "s" / "a.png", np.zeros((4, 6)))
    save(tmp_path / "images" / "s" / "a.jpg", np.zeros((4, 6)))
    opened = part("png").open(tmp_path / "labels", images=tmp_path / "images")
    assert opened.images == ("s/a.jpg",)
    assert opened[0].picture().shape == (4, 6, 3)
    assert opened[-1].image == "s/a.jpg"
    save(tmp_path / "images" / "s" / "a.jpg", np.zeros((5, 6)))
    with pytest.raises(InputError, match=r"labels of s/a.jpg are 4 x 6 \(H x W\); the image is 5 x 6"):
        opened[0]
    with pytest.raises(InputError, match="the image is 7 x 6"):
        part("png").read(tmp_path / "labels", (7, 6))
    save(tmp_path / "images" / "s" / "a.png", np.zeros((4, 6)))
    with pytest.raises(InputError, match=r"has s/a.jpg and s/a.png; the labels may belong to either"):
        part("png").open(tmp_path / "labels", images=tmp_path / "images")
    save(tmp_path / "labels" / "s" / "b.png", np.zeros((4, 6)))
    (tmp_path / "images" / "s" / "a.png").unlink()
    with pytest.raises(FileError, match="no image s/b"):
        part("png").open(tmp_path / "labels", images=tmp_path / "images")
    with pytest.raises(FileError, match="expected the folder of the images"):
        part("png").open(tmp_path / "labels", images=tmp_path / "gone")


def test_what_is_opened_wrongly(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(FileError, match=r"empty holds no \.png file"):
        part("png").open(tmp_path / "empty")
    with pytest.raises(FileError, match="No labels at"):
        part("png").open(tmp_path / "gone")
    with pytest.raises(FileError, match=r"a\.png is not an image"):
        part("png").open(tmp_path / "a.png")
    with pytest.raises(FileError, match="No label format recognises"):
        part("auto").open(tmp_path / "empty")
    with pytest.raises(InputError, match="got one text 'a,b'"):
        part("png").open(tmp_path / "a.png", classes="a,b")
    for seed in range(2):
        save(tmp_path / "two" / f"{seed}.png", np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"labels of 2 images \(0\.png, 1\.png\); expected one"):
        part("png").read(tmp_path / "two")


def test_what_is_written_wrongly(tmp_path):
    one = Annotation(noise(1), CLASSES, "a.jpg")
    with pytest.raises(InputError, match="No annotations to write"):
        part("png").write(tmp_path / "o", [])
    with pytest.raises(InputError, match=r"a\.jpg occurs twice"):
        part("png").write(tmp_path / "o", [one, one])
    with pytest.raises(InputError, match=r"other classes than a\.jpg"):
        part("png").write(tmp_path / "o", [one, Annotation(noise(1), Classes(("x", "y", "z")), "b.jpg")])
    with pytest.raises(InputError, match=r"a\.jpg and a\.png would both be .*a\.png: rename one"):
        part("png").write(tmp_path / "o", [one, Annotation(noise(1), CLASSES, "a.png")])
    with pytest.raises(InputError, match="can be read but not written"):
        part("auto").write(tmp_path / "o", [one])
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="Cannot write"):
        part("png").write(tmp_path / "file", [one])


def test_every_format_says_what_it_is():
    names = registry().names("label-format")
    assert {"auto", "png", "png-grey", "labelme", "coco", "cvat", "label-studio", "yolo"} <= set(names)
    for name in names:
        kind = registry().resolve(registry().get("label-format", name)[0])
        assert issubclass(kind, LabelFormat)
        assert kind.title
        assert kind.scope in ("image", "data set")
        assert kind.reads or kind.writes


def test_ours_differs_from_pillows_polygon_by_the_outline_alone():
    """Pillow, and labelme with it, adds the pixels that the outline runs through."""
    points = [(5.5, 4.25), (30.0, 6.0), (27.5, 30.75), (12.0, 26.0)]
    image = Image.new("1", (40, 40))
    ImageDraw.Draw(image).polygon(points, fill=1, outline=1)
    mask, x, y = fill([np.array(points)], (40, 40))
    whole = np.zeros((40, 40), dtype=bool)
    whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    difference = whole ^ np.asarray(image)
    assert not (difference & ndimage.binary_erosion(whole, iterations=2)).any()
    assert not (difference & ~ndimage.binary_dilation(whole, iterations=2)).any()
