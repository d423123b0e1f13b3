"""GeoTIFF, OME-Zarr and overlays: round trips, georeferences, windows, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from dense_ctx_labels.annotation import Annotation
from dense_ctx_labels.classes import Classes
from dense_ctx_labels.windows import Window, windows
from label_maps import CLASSES, noise, part
from PIL import Image

from dense_ctx.data.video import Video
from dense_ctx.errors import FileError, InputError

WINDOWED = ["geotiff", "ome-zarr"]
SUFFIX = {"geotiff": ".tif", "ome-zarr": ".zarr"}


@pytest.fixture
def library(request):
    name = request.param
    return name, pytest.importorskip("rasterio" if name == "geotiff" else "zarr")


both = pytest.mark.parametrize("library", WINDOWED, indirect=True)


def scene(path, pixels, **profile):
    """An image as a satellite's: UTM, half a metre a pixel."""
    rasterio = pytest.importorskip("rasterio")
    count, height, width = pixels.shape
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 691000, 0, -0.5, 5334000)}
    options = {"driver": "GTiff", "dtype": pixels.dtype, "count": count, "height": height, "width": width}
    with rasterio.open(path, "w", **{**options, **place, **profile}) as file:
        file.write(pixels)
    return path


def ome(path, pixels, version=3, axes="cyx", **metadata):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(str(path), zarr_format=version)
    scale = [{"type": "scale", "scale": [1.0] * (len(axes) - 2) + [0.5, 0.25]}]
    scales = {
        "axes": [{"name": axis} for axis in axes],
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
    inside = {"multiscales": [{**scales, **metadata}]}
    group.attrs.update({"ome": {"version": "0.5", **inside}} if version == 3 else inside)
    group.create_array("0", data=pixels, chunks=tuple(min(16, side) for side in pixels.shape))
    return path


def image(name, path, pixels, **options):
    return scene(path, pixels, **options) if name == "geotiff" else ome(path, pixels, **options)


# ---------------------------------------------------------------- labels


@both
def test_round_trip_keeps_labels_names_and_colours(tmp_path, library):
    name, _ = library
    maps = [Annotation(noise(seed), CLASSES, f"s/{seed}.jpg") for seed in (1, 2)]
    part(name).write(tmp_path / "out", maps)
    back = part("auto").open(tmp_path / "out")
    assert back.classes == CLASSES
    assert back.images == tuple(f"s/{seed}{SUFFIX[name]}" for seed in (1, 2))
    for annotation, other in zip(maps, back, strict=True):
        assert np.array_equal(annotation.labels, other.labels)
    swapped = part(name).open(tmp_path / "out", classes=["dog", "cat", "background"])
    assert np.array_equal(swapped[0].labels == 0, maps[0].labels == 2)
    assert swapped.classes.colours[0] == (255, 128, 0)
    with pytest.raises(InputError, match="There is no class"):
        part(name).open(tmp_path / "out", classes=["dog", "cow"])[0]
    many = Classes(tuple(f"c{i}" for i in range(300)))
    labels = np.arange(300).reshape(15, 20).copy()
    labels[0, 0] = 65535
    part(name).write(tmp_path / f"m{SUFFIX[name]}", [Annotation(labels, many, "a.jpg")])
    assert np.array_equal(part(name).read(tmp_path / f"m{SUFFIX[name]}").labels, labels)
    part(name).write(tmp_path / "out", [Annotation(np.zeros((3, 4), int), Classes(("x",)), "z.jpg")])
    with pytest.raises(InputError, match=r"(other|different) classes"):
        part(name).open(tmp_path / "out")
    assert not list(tmp_path.rglob("*.partial*"))


def test_geotiff_takes_the_georeference_and_opens_elsewhere(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "scenes").mkdir()
    scene(tmp_path / "scenes" / "a.tif", np.zeros((3, 37, 53), np.uint8))
    annotation = Annotation(noise(1), CLASSES, "a.tif")
    for like in (tmp_path / "scenes", tmp_path / "scenes" / "a.tif"):
        part("geotiff", like=str(like)).write(tmp_path / "out.tif", [annotation])
        with rasterio.open(tmp_path / "out.tif") as file:
            assert file.crs.to_epsg() == 32632
            assert file.transform[:6] == (0.5, 0, 691000, 0, -0.5, 5334000)
            assert (file.nodata, file.count, file.dtypes[0]) == (255, 1, "uint8")
            assert file.colormap(1)[1] == (10, 200, 30, 255)
            assert np.array_equal(file.read(1), annotation.labels)
    part("geotiff").write(tmp_path / "none.tif", [annotation])
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "none.tif") as file:
        assert file.crs is None
    scene(tmp_path / "scenes" / "a.tif", np.zeros((3, 36, 53), np.uint8))
    with pytest.raises(InputError, match=r"labels are 37 x 53 \(H x W\), .*a\.tif is 36 x 53: its georeference"):
        part("geotiff", like=str(tmp_path / "scenes")).write(tmp_path / "new.tif", [annotation])
    assert not (tmp_path / "new.tif").exists()
    points = [rasterio.control.GroundControlPoint(r, c, c, r) for r, c in ((0, 0), (0, 52), (36, 0))]
    scene(tmp_path / "gcp.tif", np.zeros((1, 37, 53), np.uint8), gcps=points, transform=None)
    part("geotiff", like=str(tmp_path / "gcp.tif")).write(tmp_path / "out.tif", [annotation])
    with rasterio.open(tmp_path / "out.tif") as file:
        assert len(file.gcps[0]) == 3


def test_geotiffs_of_other_programs(tmp_path):
    labels = np.array([[[0, 1, 7], [2, 2, 7]]], dtype=np.int16)
    annotation = part("auto").read(scene(tmp_path / "a.tif", labels, nodata=7))
    assert annotation.labels.tolist() == [[0, 1, 255], [2, 2, 255]]
    assert annotation.classes.names == ("class 0", "class 1", "class 2")
    assert part("geotiff").read(tmp_path / "a.tif", classes=["x", "y", "z"]).classes.names == ("x", "y", "z")
    with pytest.raises(InputError, match="2 pixels hold 2; expected ids of 2 classes"):
        part("geotiff").read(tmp_path / "a.tif", classes=["x", "y"])
    cases = [
        (np.zeros((3, 2, 2), np.uint8), "3 bands of uint8"),
        (np.zeros((1, 2, 2), np.float32), "1 bands of float32"),
        (np.full((1, 2, 2), -3, np.int16), "holds -3"),
    ]
    for pixels, message in cases:
        with pytest.raises(InputError, match=rf"b\.tif: .*{message}"):
            part("geotiff").read(scene(tmp_path / "b.tif", pixels))
    for content in (b"", b"II*\x00", b"<VRTDataset/>", (tmp_path / "a.tif").read_bytes()[:150]):
        (tmp_path / "c.tif").write_bytes(content)
        with pytest.raises(FileError, match=r"c\.tif"):
            part("geotiff").read(tmp_path / "c.tif")


def test_ome_zarr_adds_labels_to_an_image_in_its_version(tmp_path):
    zarr = pytest.importorskip("zarr")
    for version in (2, 3):
        path = ome(tmp_path / f"{version}.zarr", np.zeros((3, 37, 53), np.uint8), version)
        annotation = Annotation(noise(1), CLASSES, f"{version}.jpg")
        part("ome-zarr").write(path, [annotation])
        part("ome-zarr", name="second").write(path, [Annotation(noise(2), CLASSES, "a.jpg")])
        group = zarr.open_group(str(path), mode="r")
        assert group["0"].shape == (3, 37, 53)
        attributes = dict(group["labels"].attrs)
        assert attributes.get("ome", attributes)["labels"] == ["classes", "second"]
        inner = dict(group["labels/classes"].attrs)
        inner = inner.get("ome", inner)
        assert inner["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == [0.5, 0.25]
        assert {"label-value": 1, "name": "cat"} in inner["image-label"]["properties"]
        assert group.metadata.zarr_format == group["labels/classes/0"].metadata.zarr_format == version
        assert np.array_equal(part("ome-zarr", name="second").read(path).labels, noise(2))
        with pytest.raises(InputError, match="has the labels classes, second; choose one, such as name=classes"):
            part("ome-zarr").read(path)
        with pytest.raises(InputError, match="has no labels 'third'"):
            part("ome-zarr", name="third").read(path)
        with pytest.raises(InputError, match="already has labels 'classes'"):
            part("ome-zarr").write(path, [annotation])
        with pytest.raises(InputError, match=r"labels are \[4, 5\].*is \[37, 53\]"):
            part("ome-zarr", name="small").write(path, [Annotation(np.zeros((4, 5), int), CLASSES, "a.jpg")])
        assert sorted(one.name for one in (path / "labels").iterdir() if one.is_dir()) == ["classes", "second"]


def test_plain_arrays_and_labels_of_others(tmp_path):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(str(tmp_path / "a.zarr"), data=np.array([[0, 2], [1, 1]], np.int32))
    annotation = part("auto").read(tmp_path / "a.zarr")
    assert annotation.labels.tolist() == [[0, 2], [1, 1]]
    assert annotation.classes.names == ("class 0", "class 1", "class 2")
    ome(tmp_path / "five.zarr", np.ones((1, 1, 1, 4, 5), np.uint16), axes="tczyx")
    assert part("ome-zarr").read(tmp_path / "five.zarr").labels.shape == (4, 5)
    ome(tmp_path / "times.zarr", np.ones((2, 1, 1, 4, 5), np.uint16), axes="tczyx")
    with pytest.raises(InputError, match="expected one image: a single time and depth"):
        part("ome-zarr").read(tmp_path / "times.zarr")
    ome(tmp_path / "cells.zarr", np.full((4, 5), 70_000, np.uint32), axes="yx")
    with pytest.raises(InputError, match="not instance ids"):
        part("ome-zarr").read(tmp_path / "cells.zarr")
    with pytest.raises(InputError, match="holds 3 channels of uint8"):
        part("ome-zarr").read(ome(tmp_path / "rgb.zarr", np.zeros((3, 4, 5), np.uint8)))


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        ("0/zarr.json", ("codecs", 1, "name"), "numcodecs.pickle", "uses the codec 'numcodecs.pickle', which is not"),
        ("0/zarr.json", ("shape", 0), -1, "has an invalid shape"),
        ("0/zarr.json", ("shape", 0), 10**9, "1000000000 x 5"),
        ("0/zarr.json", ("chunk_grid", "configuration", "chunk_shape", 0), 10**12, "chunks of .* values; at most"),
        ("0/zarr.json", ("data_type",), "object", "values of type 'object'"),
        ("0/zarr.json", ("data_type",), 3, "values of type"),
        ("0/zarr.json", ("codecs",), None, "damaged zarr metadata"),
        ("zarr.json", ("attributes", "ome", "multiscales", 0, "datasets", 0, "path"), "../../x", "outside"),
        ("zarr.json", ("attributes", "ome", "multiscales"), [], "is not an OME-Zarr image"),
        (
            "zarr.json",
            ("attributes", "ome", "multiscales", 0, "axes"),
            [{"name": "x"}, {"name": "y"}],
            "end in y and x",
        ),
        ("zarr.json", ("attributes", "ome", "image-label"), {"properties": 3}, "damaged image-label"),
        ("zarr.json", ("attributes",), 3, "is not an OME-Zarr image|damaged"),
    ],
)
def test_zarr_metadata_that_is_not_right(tmp_path, file, path, value, message):
    root = ome(tmp_path / "a.zarr", np.zeros((4, 5), np.uint8), axes="yx")
    data = json.loads((root / file).read_text())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (root / file).write_text(json.dumps(data))
    with pytest.raises((FileError, InputError), match=message) as caught:
        part("ome-zarr").read(root)
    assert "\n" not in str(caught.value)


def test_zarr_2_filters_that_open_pickles_and_damaged_chunks(tmp_path):
    root = ome(tmp_path / "a.zarr", np.ones((40, 5), np.uint8), version=2, axes="yx")
    data = json.loads((root / "0" / ".zarray").read_text())
    (root / "0" / ".zarray").write_text(json.dumps({**data, "filters": [{"id": "pickle"}]}))
    with pytest.raises(FileError, match="uses the codec 'pickle'"):
        part("ome-zarr").read(root)
    (root / "0" / ".zarray").write_text(json.dumps(data))
    for chunk in (root / "0").iterdir():
        if chunk.name[0] != ".":
            chunk.write_bytes(b"damaged")
    with pytest.raises(FileError, match="cannot be read"):
        part("ome-zarr").read(root)
    shutil.rmtree(root / "0")
    with pytest.raises(FileError, match="is not a zarr group or array"):
        part("ome-zarr").read(root)


# ---------------------------------------------------------------- windows


def test_windows_cover_a_raster_once():
    count = np.zeros((50, 70), int)
    for window in windows((50, 70), 32):
        outer = window.grown(5, (50, 70))
        assert (outer.height, outer.width) <= (42, 42)
        count[window.top : window.top + window.height, window.left : window.left + window.width] += 1
        part_ = count[outer.top : outer.top + outer.height, outer.left : outer.left + outer.width]
        assert part_[window.inside(outer)].shape == (window.height, window.width)
    assert (count == 1).all()
    assert Window(0, 0, 10, 10).grown(5, (12, 10)) == Window(0, 0, 12, 10)


def brightness(picture):
    """A prediction that sees 3 pixels around: whether the mean is above 100."""
    from scipy import ndimage

    return (ndimage.uniform_filter(picture[..., 0].astype(float), 7, mode="nearest") > 100).astype(np.int64)


@both
def test_labels_by_windows_are_those_of_the_whole_image(tmp_path, library):
    name, _ = library
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 90, 110)).astype(np.uint8)
    raster = image(name, tmp_path / f"a{SUFFIX[name]}", pixels)
    whole = brightness(np.moveaxis(pixels, 0, 2))
    counts = []

    def progress(parts):
        counts.append(len(parts))
        return iter(parts)

    for window, margin, equal in ((32, 3, True), (500, 0, True), (32, 0, False)):
        out = tmp_path / f"{window}-{margin}{SUFFIX[name]}"
        classes = Classes(("dark", "bright"))
        part(name).label(raster, out, classes, brightness, window=window, margin=margin, progress=progress)
        back = part(name).read(out)
        assert (back.classes, np.array_equal(back.labels, whole)) == (classes, equal)
    assert counts == [12, 1, 12]
    if name == "geotiff":
        import rasterio

        with rasterio.open(out) as file:
            assert file.crs.to_epsg() == 32632


@both
def test_bands_and_values_of_images(tmp_path, library):
    name, _ = library
    pixels = np.zeros((5, 8, 9), np.uint16)
    pixels[3] = 5000
    raster = image(name, tmp_path / f"a{SUFFIX[name]}", pixels)

    def seen(**options):
        pictures = []
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}{SUFFIX[name]}"
        part(name, **options).label(raster, out, CLASSES, lambda p: pictures.append(p) or np.zeros(p.shape[:2], int))
        return pictures[0]

    assert seen(bands=[4, 1, 2], span=[0, 10000])[0, 0].tolist() == [128, 0, 0]
    assert seen(bands=[4], span=[4000, 5000])[0, 0].tolist() == [255, 255, 255]
    for options, message in (
        ({"span": [0, 10000]}, "name those of red, green and blue"),
        ({"bands": [4, 1, 6], "span": [0, 1]}, "name those of red, green and blue"),
        ({"bands": [4, 1, 2]}, "holds uint16: give the values of black and white"),
    ):
        with pytest.raises(InputError, match=message):
            seen(**options)
    for options in ({"bands": [1, 2]}, {"bands": [0]}, {"span": [3, 3]}, {"span": [0, float("nan")]}, {"span": [1]}):
        with pytest.raises(InputError, match=r"(bands|span) (is|are)"):
            part(name, **options)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [SUFFIX[name]] * 3  # nothing half-written


@both
def test_a_prediction_that_fails_leaves_nothing(tmp_path, library):
    name, _ = library
    raster = image(name, tmp_path / f"a{SUFFIX[name]}", np.zeros((3, 20, 20), np.uint8))
    out = tmp_path / f"out{SUFFIX[name]}"

    def stops(picture):
        raise InputError("no room")

    cases = [
        (stops, {}, "no room"),
        (lambda p: np.zeros((2, 2), int), {}, r"predict gave \[2, 2\] for \[20, 20\]"),
        (lambda p: np.full(p.shape[:2], 3), {}, "400 pixels hold 3; expected ids of 3 classes"),
        (lambda p: np.full(p.shape[:2], -1), {}, "pixels hold -1"),
        (lambda p: np.zeros(p.shape[:2]), {}, "integers; got float64"),
        (brightness, {"window": 0}, "A window has at least 1"),
        (brightness, {"margin": -1}, "a margin 0; got 1024 and -1"),
    ]
    for predict, options, message in cases:
        with pytest.raises(InputError, match=message):
            part(name).label(raster, out, CLASSES, predict, **options)
        assert [path.name for path in tmp_path.iterdir()] == [raster.name]


# ---------------------------------------------------------------- overlays


@pytest.mark.parametrize("name", ["overlay-mp4", "overlay-gif"])
def test_overlays_are_clips_of_the_images_with_their_labels(tmp_path, name):
    grey = np.full((37, 53, 3), 100, np.uint8)
    maps = [Annotation(noise(seed), CLASSES, f"{seed}.jpg", lambda: grey) for seed in (1, 2, 3)]
    path = part(name, fps=5, alpha=1.0).write(tmp_path / f"a.{name[-3:]}", maps)
    frames = list(Video(path))
    assert len(frames) == 3
    assert Video(path).fps == 5
    if name == "overlay-gif":
        inner = noise(1)[1:-1, 1:-1]
        cat = np.median(frames[0][1:37, 1:53][:35, :51][inner == 1], axis=0)
        assert np.abs(cat - (10, 200, 30)).max() < 30
        for value in (0, 255):
            assert np.abs(np.median(frames[0][1:36, 1:52][inner == value], axis=0) - 100).max() < 12
        fainter = part(name, alpha=0.1).write(tmp_path / "b.gif", maps)
        assert np.abs(next(iter(Video(fainter))).astype(int) - 100).mean() < np.abs(frames[0].astype(int) - 100).mean()
    with pytest.raises(InputError, match=r"needs the image 1\.jpg: give its folder"):
        part(name).write(tmp_path / f"c.{name[-3:]}", [Annotation(noise(1), CLASSES, "1.jpg")])
    small = Annotation(np.zeros((4, 5), int), CLASSES, "s.jpg", lambda: np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(InputError, match="one size"):
        part(name).write(tmp_path / f"c.{name[-3:]}", [maps[0], small])
    with pytest.raises(InputError, match="different sizes"):
        part(name).write(tmp_path / f"c.{name[-3:]}", [Annotation(noise(1), CLASSES, "a.jpg", small.picture)])
    with pytest.raises(InputError, match="can be written but not read"):
        part(name).open(path)
    for options in ({"fps": 0}, {"fps": 1000}, {"alpha": 0}, {"alpha": 2}):
        with pytest.raises(InputError, match="fps is above 0"):
            part(name, **options)
    assert not (tmp_path / f"c.{name[-3:]}").exists()


def test_overlays_of_files_take_the_images_folder(tmp_path):
    Image.fromarray(np.full((37, 53, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    part("labelme").write(tmp_path / "l", [Annotation(noise(1), CLASSES, "a.jpg")])
    opened = part("labelme").open(tmp_path / "l", images=tmp_path)
    assert len(list(Video(part("overlay-gif").write(tmp_path / "a.gif", opened)))) == 1
