"""Depth in OpenEXR files: read as examples, written as predictions, and what is refused."""

import numpy as np
import pytest
from dense_ctx_predict import exr
from test_predict_cli import MODEL, photo

from dense_ctx import cli
from dense_ctx.errors import FileError, InputError

OpenEXR = pytest.importorskip("OpenEXR")


def write(path, **channels):
    OpenEXR.File({"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}, channels).write(str(path))
    return path


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A photo whose disc is at 1 m, its ground at 4 m, and other photos."""
    monkeypatch.chdir(tmp_path)
    depth = np.where(photo(tmp_path / "a.png") == 1, 1.0, 4.0).astype(np.float32)
    truth = np.where(photo(tmp_path / "photos" / "x.png", 1) == 1, 1.0, 4.0)
    return depth, truth


def predict(*words, target="a.exr"):
    return cli.main(["predict", "--task", "depth", "--support", f"a.png:{target}", "--query", "photos", *MODEL, *words])


def test_depth_goes_in_and_out_in_metres(room, tmp_path):
    depth, truth = room
    write("a.exr", Z=depth)
    np.save("a.npy", depth)
    assert predict("--format", "exr", "--out", "one") == 0
    assert predict("--format", "npy", "--out", "two", target="a.npy") == 0
    values = exr.read_depth_values(tmp_path / "one" / "depth" / "x.exr")
    np.testing.assert_array_equal(values, np.load("two/depth/x.npy"))
    assert np.abs(values - truth).mean() < 0.5
    with OpenEXR.File("one/depth/x.exr", separate_channels=True) as file:
        assert list(file.channels()) == ["Z"]
        assert file.channels()["Z"].pixels.dtype == np.float32


def test_where_there_is_no_depth(room, tmp_path):
    """0, NaN, infinity, below 0 and Blender's 1e10 are unknown; the rest decides."""
    depth, _ = room
    whole = depth.copy()
    depth[0, :5] = 0, np.nan, np.inf, -1, 1e10
    write("a.exr", V=depth)
    void = whole.copy()
    void[0, :5] = np.nan
    np.save("a.npy", void)
    assert predict("--format", "npy", "--out", "one") == 0
    assert predict("--format", "npy", "--out", "two", target="a.npy") == 0
    np.testing.assert_array_equal(np.load("one/depth/x.npy"), np.load("two/depth/x.npy"))


def test_which_channel_is_depth(room, tmp_path):
    depth, _ = room
    other = np.ones_like(depth)
    half = depth.astype(np.float16)
    for channels in ({"Depth.Z": depth, "Combined.R": other}, {"Y": half}, {"R": depth, "G": depth, "B": depth}):
        np.testing.assert_array_equal(exr.read_depth_values(write(tmp_path / "x.exr", **channels)), depth)
    for channels in ({"R": depth, "G": depth, "B": other}, {"A.Z": depth, "B.Z": other}, {"X": depth, "Y": other}):
        with pytest.raises(InputError, match="expected one, or one named Z: depth"):
            exr.read_depth_values(write(tmp_path / "x.exr", **channels))


def test_files_that_cannot_be_read_and_options_that_cannot_be_meant(room, tmp_path, capsys):
    depth, _ = room
    content = write(tmp_path / "a.exr", Z=depth).read_bytes()
    (tmp_path / "cut.exr").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.exr").write_text("no picture")
    for name in ("cut", "text"):
        with pytest.raises(FileError, match=f"{name}.exr cannot be read as OpenEXR"):
            exr.read_depth_values(tmp_path / f"{name}.exr")
    with pytest.raises(FileError, match="No depth at"):
        exr.read_depth_values(tmp_path / "gone.exr")
    assert predict(target="cut.exr") == 2
    mask = tmp_path / "m.png"
    photo_mask = (depth == 1).astype(np.uint8)
    from PIL import Image

    Image.fromarray(photo_mask).save(mask)
    words = ["predict", "--support", "a.png:m.png", "--query", "photos", *MODEL, "--format", "exr"]
    assert cli.main(words) == 2
    assert "--format exr is of depth; this predicts segmentation" in capsys.readouterr().err


def test_without_the_library_the_command_names_it(room, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    np.save("a.npy", room[0])
    assert predict("--format", "exr", target="a.npy") == 2
    assert 'pip install "dense-ctx[exr]"' in capsys.readouterr().err
