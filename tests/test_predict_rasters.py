"""dense-ctx predict --format tif: GeoTIFFs by windows, with the result of the whole raster and its georeference."""

import json

import numpy as np
import pytest
from dense_ctx_predict import rasters
from label_maps import part
from PIL import Image
from test_labels_rasters import scene

from dense_ctx import AutoDenseModel, cli
from dense_ctx.errors import InputError

rasterio = pytest.importorskip("rasterio")
SHALLOW = ["--model", "efficientnet-lite0+upsample(layers=[0])", "--device", "cpu", "--method", "ridge"]
SMALL = "150MB"


def land(height, width, seed=0):
    """uint8 [3, H, W]: fields of two textures, rough and smooth."""
    draw = np.random.default_rng(seed)
    rough = np.hypot(*(np.mgrid[:height, :width] - np.array([height * 0.5, width * 0.45])[:, None, None])) < width / 4
    values = draw.normal(110, 6, (3, height, width))
    values[:, rough] += draw.normal(0, 60, (3, int(rough.sum())))
    return values.clip(0, 255).astype(np.uint8), rough


@pytest.fixture
def fields(tmp_path, monkeypatch):
    """An annotated picture, and a raster of 500 x 700 in a subfolder."""
    monkeypatch.chdir(tmp_path)
    pixels, rough = land(160, 200)
    scene(tmp_path / "a.tif", pixels)
    mask = np.where(rough, 3, 1).astype(np.uint8)
    mask[::2] = 255
    Image.fromarray(mask).save("mask.png")
    (tmp_path / "scenes" / "north").mkdir(parents=True)
    pixels, rough = land(500, 700, 1)
    scene(tmp_path / "scenes" / "north" / "one.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
    return rough


def predict(*words, model=SHALLOW, support="a.tif:mask.png"):
    return cli.main(["predict", "--support", support, "--query", "scenes", "--format", "tif", *model, *words])


def read(path):
    with rasterio.open(path) as file:
        return file.read(1)


def test_windows_give_the_result_of_the_whole_raster_and_keep_its_place(fields, tmp_path, capsys):
    assert predict("--classes", "1=smooth", "3=rough", "--out", "whole") == 0
    assert predict("--classes", "1=smooth", "3=rough", "--out", "parts", "--max-memory", SMALL) == 0
    one, other = (read(tmp_path / name / "masks" / "north" / "one.tif") for name in ("whole", "parts"))
    assert {*np.unique(one)} == {1, 3}
    assert (one == other).mean() > 0.9999  # ties of scores
    assert ((one == 3) == fields).mean() > 0.9
    # the same as a picture, in one piece
    assert cli.main(["predict", "--support", "a.tif:mask.png", "--query", "scenes", "--out", "png", *SHALLOW]) == 0
    assert (np.asarray(Image.open("png/masks/north/one.png")) == one).mean() > 0.9999
    with rasterio.open("parts/masks/north/one.tif") as file, rasterio.open("scenes/north/one.tif") as image:
        assert (file.crs, file.transform) == (image.crs, image.transform)
        assert file.nodata == 255
    labels = part("geotiff").open("parts/masks")
    assert labels.classes.names == ("unused 0", "smooth", "unused 2", "rough")
    assert not (tmp_path / "parts" / "overlays").exists()
    capsys.readouterr()
    assert predict("--classes", "1=smooth", "3=rough", "--out", "parts", "--max-memory", SMALL) == 0
    assert "1 already done" in capsys.readouterr().out


def test_a_small_budget_makes_many_windows(fields):
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", decoder_args={"layers": [0]})
    with rasters.Rasters().form().raster(rasters.Path("scenes/north/one.tif")) as raster:
        side, margin = rasters.windows(model, raster, SMALL, 2)
        assert rasters.windows(model, raster, "2GB", 2) == (704, 0)
    assert 0 < side < 500
    assert 0 < margin < 208  # of windows of 416
    assert side % 32 == margin % 32 == 0


def test_a_model_that_sees_farther_is_refused_or_accepted(fields, tmp_path, capsys):
    deep = ["--model", "efficientnet-lite0+upsample(layers=[3])", "--device", "cpu", "--method", "ridge"]
    assert predict("--max-memory", SMALL, model=deep) == 2
    assert "the model sees farther" in capsys.readouterr().err
    assert predict("--max-memory", f"{SMALL} approximate", model=deep) == 0
    assert {*np.unique(read("dense-ctx-predictions/masks/north/one.tif"))} == {1, 3}


def test_bands_and_values_of_16_bits(fields, tmp_path, capsys):
    """A sensor of four bands, from which the picture above is composed."""
    for path in (tmp_path / "a.tif", tmp_path / "scenes" / "north" / "one.tif"):
        with rasterio.open(path) as file:
            pixels = file.read()
        four = np.concatenate([np.full_like(pixels[:1], 9), pixels[::-1]]).astype(np.uint16) * 4 + 100
        scene(path, four)
    assert predict("--out", "wrong") == 2
    assert "a.tif holds uint16: give the values of black and white" in capsys.readouterr().err
    words = ["--bands", "4", "3", "2", "--span", "100", "1120"]
    assert predict(*words, "--out", "out") == 0
    mask = read("out/masks/north/one.tif")
    assert ((mask == 3) == fields).mean() > 0.9
    assert predict(*words[:4], "--span", "100", "900", "--out", "out") == 2  # not the same folder
    assert json.loads((tmp_path / "out" / "predictor.json").read_text())["rasters"] == [[4, 3, 2], [100.0, 1120.0]]


def test_what_is_no_geotiff_is_skipped_and_said(fields, tmp_path, capsys):
    Image.fromarray(land(64, 64)[0].transpose(1, 2, 0)).save("scenes/photo.jpg")
    whole = (tmp_path / "scenes" / "north" / "one.tif").read_bytes()
    (tmp_path / "scenes" / "cut.tif").write_bytes(whole[: len(whole) // 2])
    assert predict("--max-memory", SMALL) == 1
    said = capsys.readouterr()
    assert "photo.jpg" in said.err
    assert "cut.tif" in said.err
    assert "1 predicted" in said.out
    assert "2 skipped" in said.out
    assert not list((tmp_path / "dense-ctx-predictions").rglob("*cut*"))


def test_options_that_cannot_be_meant_are_refused(fields, capsys):
    for words, message in (
        (["--task", "depth"], "--format tif is of class masks; --task depth"),
        (["--bands", "0"], "bands are one or three numbers from 1"),
        (["--span", "5", "5"], "span is two values"),
        (["--labels-out", "x.json", "--labels-to", "coco"], "--labels-out is for class masks; this writes"),
    ):
        assert predict(*words) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["predict", "--support", "a.tif:mask.png", "--query", "scenes", "--span", "0", "9", *SHALLOW]) == 2
    assert "--span would have no effect without --format tif" in capsys.readouterr().err


def test_a_raster_too_large_for_a_picture_says_what_to_do(fields, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    assert cli.main(["predict", "--support", "a.tif:mask.png", "--query", "scenes", *SHALLOW]) == 1
    assert "one.tif is too large to be read whole: --format tif goes through it by windows" in capsys.readouterr().err


def test_an_example_too_large_to_be_read_whole_is_refused(fields, monkeypatch):
    monkeypatch.setattr(rasters, "_EXAMPLE", 1000)
    with pytest.raises(InputError, match=r"a.tif is 160 x 200 \(H x W\), too large for an example"):
        rasters.Rasters().example(rasters.Path("a.tif"))


@pytest.mark.slow
def test_workers_write_the_same(fields, tmp_path):
    scene(tmp_path / "scenes" / "two.tif", land(120, 140, 2)[0])
    assert predict("--out", "one") == 0
    assert predict("--out", "two", "--processes", "2") == 0
    for name in ("north/one.tif", "two.tif"):
        np.testing.assert_array_equal(*(read(tmp_path / out / "masks" / name) for out in ("one", "two")))
