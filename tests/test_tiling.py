"""Windows: they cover, their weights sum to one, their result is the whole's, their memory is bounded."""

import errno

import numpy as np
import pytest
import torch

from dense_ctx import AutoDenseModel
from dense_ctx.errors import FileError, InputError, MemoryBudgetError
from dense_ctx.tiling import Axis, map_tiles, parse_memory, plan, write_features


@pytest.fixture(scope="module")
def model():
    return AutoDenseModel.from_parts("efficientnet-lite0", "upsample", decoder_args={"layers": [0]})


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GB", 2_000_000_000), ("500 MB", 500_000_000), ("1.5GiB", 1_610_612_736), ("12", 12), (7, 7), ("3kb", 3000)],
)
def test_sizes_are_read(text, count):
    assert parse_memory(text) == count


@pytest.mark.parametrize("text", ["", "two", "2 XB", "-1GB", 0, "0"])
def test_what_is_not_a_size_says_so(text):
    with pytest.raises(InputError, match="max_memory="):
        parse_memory(text)


def test_weights_sum_to_one_on_every_grid_and_windows_start_on_the_stride():
    rng = np.random.default_rng(0)
    for _ in range(200):
        stride = int(rng.choice([1, 8, 14, 32]))
        length = int(rng.integers(1, 900))
        window = stride * int(rng.integers(4, 12))
        axis = Axis.plan(length, window, stride, stride)
        assert all(start % stride == 0 for start in axis.starts)
        for cells in {length, max(1, length // 2), max(1, -(-length // 8)), 2 * length}:
            total = torch.zeros(cells)
            for pixels, place, weights in axis.spans(cells):
                assert 0 <= pixels.start < pixels.stop <= length
                total[place] += weights
            torch.testing.assert_close(total, torch.ones(cells))
        owners = torch.zeros(length)
        for pixels, own in axis.shares():
            assert pixels.start <= own.start < own.stop <= pixels.stop
            owners[own] += 1
        assert (owners == 1).all()


def reach(model, size=352):
    """How far, in pixels, a pixel of the image moves features: the receptive field, by trying.

    Changing one part of the image leaves alone what lies far enough from it, on either side, wherever the border falls.
    """
    far = 0
    for border in range(160, 160 + model.backbone.stride, 5):
        image, other = torch.rand(2, 1, 3, 64, size)
        left, right = image.clone(), image.clone()
        left[..., :border] = other[..., :border]
        right[..., border:] = other[..., border:]
        with torch.inference_mode():
            base = model(image).pixels
            from_left = (model(left).pixels - base).abs().amax((0, 1, 2)).nonzero().max()
            from_right = (model(right).pixels - base).abs().amax((0, 1, 2)).nonzero().min()
        far = max(far, int(from_left) - border + 1, border - int(from_right))
    return far


def test_tiled_equals_untiled_beyond_the_receptive_field(model):
    margin = reach(model)
    assert margin < 100
    image = torch.rand(1, 3, 500, 380)
    size = (500, 380)
    windows = plan(model, size, "105MB")
    assert len(windows) > 2
    with torch.inference_mode():
        whole = model(image).pixels
        tiled = map_tiles(model, image, lambda features: features.pixels, windows)
    far = torch.ones(size, dtype=torch.bool)
    for axis, turn in ((windows.rows, False), (windows.columns, True)):
        line = torch.ones(axis.length, dtype=torch.bool)
        for pixels, _ in axis.shares():
            for edge in (pixels.start, pixels.stop):
                if 0 < edge < axis.length:
                    line[max(0, edge - margin) : edge + margin] = False
        far &= line[None, :] if turn else line[:, None]
    assert far.float().mean() > 0.05
    difference = (whole - tiled).abs().amax(1)[0]
    assert difference[far].max() < 1e-5
    assert difference.mean() < 0.02 * whole.abs().mean() + 0.02
    # patches come on the whole image's grid
    one = model(image)
    many = model(image, max_memory="165MB")
    assert many.patches.shape == one.patches.shape
    assert many.cls.shape == one.cls.shape


def test_small_images_are_not_tiled(model):
    image = torch.rand(2, 3, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(model(image, max_memory="1GB").pixels, model(image).pixels)
        small = model(torch.rand(1, 3, 500, 380), size=(50, 38), max_memory="60MB")
    assert small.pixels.shape == (1, 24, 50, 38)


def test_a_budget_below_the_result_says_what_would_do(model):
    with pytest.raises(MemoryBudgetError, match=r"Ask for .* GB or a smaller `size`, or write .*write_features"):
        model(torch.rand(1, 3, 500, 380), max_memory="10MB")


def test_written_features_read_back(tmp_path, model):
    image = torch.rand(3, 300, 210)
    path = write_features(model, image, tmp_path / "new" / "f.npy", max_memory="60MB", dtype="float32")
    array = np.load(path, mmap_mode="r")
    assert array.shape == (300, 210, 24)
    windows = plan(model, (300, 210), "60MB")
    assert len(windows) > 1
    with torch.inference_mode():
        expected = map_tiles(model, image[None], lambda features: features.pixels, windows)[0].movedim(0, -1)
    np.testing.assert_allclose(array, expected.numpy(), rtol=0, atol=1e-5)
    half = np.load(write_features(model, image, tmp_path / "h.npy", max_memory="60MB"))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, expected.numpy(), rtol=2e-3, atol=2e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.npy", "new"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path, model, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(FileError, match=r"Cannot write .* GB of features .*: the disk has 1e-06 GB free"):
        write_features(model, torch.rand(3, 64, 96), tmp_path / "f.npy")
    monkeypatch.undo()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    with pytest.raises(FileError, match="No space left"):
        write_features(model, torch.rand(3, 64, 96), tmp_path / "f.npy")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="dtype='int8'"):
        write_features(model, torch.rand(3, 64, 96), tmp_path / "f.npy", dtype="int8")
