"""Windows: they cover, their weights sum to one, their result is the whole's, their memory is bounded."""

import errno
import re

import numpy as np
import pytest
import torch
from dense_ctx_predict.feature_files import write_features

from dense_ctx import AutoDenseModel
from dense_ctx.errors import FileError, InputError, MemoryBudgetError
from dense_ctx.tiling import Axis, map_tiles, parse_memory, plan, settled


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


def test_tiled_equals_untiled_where_it_is_not_refused(model):
    image, size = torch.rand(1, 3, 700, 380), (700, 380)
    windows = plan(model, size, "180MB", model.dim)
    assert len(windows) > 1
    joined = settled(model, image, windows, "180MB")
    assert len(joined) > 1
    with torch.inference_mode():
        whole = model(image).pixels
        tiled = map_tiles(model, image, lambda features: features.pixels, joined)
        blended = map_tiles(model, image, lambda features: features.pixels, windows)
    assert (whole - tiled).abs().max() < 1e-5
    assert (whole - blended).abs().max() > 1e-3  # near borders, which is what joining in the middle leaves out


def test_a_model_that_sees_farther_than_a_window_is_refused_with_what_was_measured():
    deep = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", decoder_args={"layers": [3]})
    image, amount = torch.rand(1, 3, 480, 352), "600MB"
    with pytest.raises(MemoryBudgetError) as refusal:
        deep(image, max_memory=amount)
    cosine = float(
        re.search(r"the cosine between their features is (0\.\d+) \(1 would be the same\)", str(refusal.value))[1]
    )
    assert 0 < cosine < 0.999
    assert f'max_memory="{amount} approximate"' in str(refusal.value)
    accepted, whole = deep(image, max_memory=f"{amount} approximate"), deep(image)
    assert accepted.pixels.shape == whole.pixels.shape
    assert accepted.patches.shape == whole.patches.shape
    assert accepted.cls.shape == whole.cls.shape
    assert torch.nn.functional.cosine_similarity(accepted.pixels, whole.pixels, dim=1).mean() > cosine - 0.1


def test_the_deepest_map_counts_where_it_is_given(model):
    """Pixels of stride 4 alone are equal in windows; the map at stride 32 beside them is not."""
    image = torch.rand(1, 3, 700, 380)
    with pytest.raises(MemoryBudgetError, match="sees farther"):
        model(image, max_memory="180MB")


def test_columns_are_joined_as_rows_are(model):
    image = torch.rand(1, 3, 380, 700)
    windows = settled(model, image, plan(model, (380, 700), "180MB", model.dim), "180MB")
    assert len(windows.columns.starts) > 1
    with torch.inference_mode():
        tiled = map_tiles(model, image, lambda features: features.pixels, windows)
        assert (model(image).pixels - tiled).abs().max() < 1e-5


def test_small_images_are_not_tiled(model):
    image = torch.rand(2, 3, 40, 56)
    with torch.inference_mode():
        torch.testing.assert_close(model(image, max_memory="1GB").pixels, model(image).pixels)
        small = model(torch.rand(1, 3, 500, 380), size=(50, 38), max_memory="50MB approximate")
    assert small.pixels.shape == (1, 24, 50, 38)


@pytest.mark.slow
def test_batch_and_channels_are_counted(model):
    one = plan(model, (700, 380), "350MB", model.dim)
    assert len(one) < len(plan(model, (700, 380), "350MB", model.dim, batch=2))
    assert len(plan(model, (700, 380), "900MB", model.dim)) < len(plan(model, (700, 380), "900MB", 300))
    with pytest.raises(MemoryBudgetError, match=r"2 x 700 x 380 pixels: the images and the result take .* GB"):
        plan(model, (700, 380), "100MB", 300, batch=2)


def test_what_cannot_be_worked_out_beforehand_is_said(monkeypatch):
    from dense_ctx.testing import tiny_model

    odd = tiny_model()
    plain = type(odd.backbone).forward

    def by_value(self, images):
        return plain(self, images if float(images.mean()) < 9 else images - 9)

    monkeypatch.setattr(type(odd.backbone), "forward", by_value)
    with pytest.warns(UserWarning, match="The memory of TinyBackbone cannot be determined in advance"):
        odd(torch.rand(1, 3, 40, 40), max_memory="1GB")


def test_a_budget_below_the_result_says_what_would_do(model):
    with pytest.raises(MemoryBudgetError, match=r"Ask for .* GB or a smaller `size`, or write .*write_features"):
        model(torch.rand(1, 3, 500, 380), max_memory="10MB")


def test_written_features_read_back(tmp_path, model):
    image = torch.rand(3, 300, 210)
    path = write_features(model, image, tmp_path / "new" / "f.npy", max_memory="30MB", dtype="float32")
    array = np.load(path, mmap_mode="r")
    assert array.shape == (300, 210, 24)
    windows = settled(model, image[None], plan(model, (300, 210), "30MB"), "30MB")
    assert len(windows) > 1
    with torch.inference_mode():
        expected = map_tiles(model, image[None], lambda features: features.pixels, windows)[0].movedim(0, -1)
    np.testing.assert_allclose(array, expected.numpy(), rtol=0, atol=1e-5)
    half = np.load(write_features(model, image, tmp_path / "h.npy", max_memory="30MB"))
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
