"""What a user hands over as an image or a mask: every kind that works, and what fails, with its message."""

import numpy as np
import pytest
import torch
from PIL import Image

from dense_ctx.errors import DenseCtxError, FileError, InputError
from dense_ctx.images import check_batch, load, load_mask, padded_size, prepare
from dense_ctx.interfaces import DenseFeatures, resample

rng = np.random.default_rng(0)
PICTURE = rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)
EXACT = torch.from_numpy(PICTURE.transpose(2, 0, 1) / 255).float()


def same(a, b, tolerance=0.0):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_every_kind_of_image_gives_the_same_tensor(tmp_path):
    path = tmp_path / "grüße 写真.png"
    Image.fromarray(PICTURE).save(path)
    kinds = [
        path,
        str(path),
        Image.fromarray(PICTURE),
        PICTURE,
        PICTURE.astype(np.float64) / 255,
        (PICTURE.astype(np.uint16) * 257),
        torch.from_numpy(PICTURE.transpose(2, 0, 1).copy()),
        EXACT,
        np.asfortranarray(PICTURE),
        PICTURE[::-1][::-1],
    ]
    for kind in kinds:
        tensor = load(kind)
        assert tensor.shape == (3, 7, 5)
        assert tensor.dtype == torch.float32
        same(tensor, EXACT, 1e-6)


def test_grey_is_repeated(tmp_path):
    grey = PICTURE[:, :, 0]
    for kind in (grey, grey[:, :, None], Image.fromarray(grey), torch.from_numpy(grey.copy())[None]):
        tensor = load(kind)
        assert tensor.shape == (3, 7, 5)
        same(tensor[0], torch.from_numpy(grey / 255).float(), 1e-6)
        same(tensor[0], tensor[2])


def test_sixteen_bit_keeps_its_range(tmp_path):
    values = np.array([[0, 1, 32768], [65535, 257, 514]], dtype=np.uint16)
    path = tmp_path / "deep.png"
    Image.fromarray(values).save(path)
    same(load(path)[0], torch.from_numpy(values / 65535).float(), 1e-6)


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.dstack([PICTURE, np.full((7, 5), 255, np.uint8)])
    rgba[0, 0] = (0, 0, 0, 0)
    path = tmp_path / "clear.png"
    Image.fromarray(rgba, "RGBA").save(path)
    for kind in (path, rgba):
        tensor = load(kind)
        same(tensor[:, 0, 0], torch.ones(3))
        same(tensor[:, 1:], EXACT[:, 1:], 1e-6)


def test_palette_image_is_read_as_colours(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0], [1, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    same(load(image)[:, 0, 1] * 255, torch.tensor([200.0, 100.0, 50.0]), 1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.png"
    Image.fromarray(PICTURE).save(path, exif=exif)
    turned = {
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, -1),
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PICTURE),
    }[orientation]
    for kind in (path, Image.open(path)):
        same(load(kind), load(np.ascontiguousarray(turned)))


def test_one_pixel_image():
    assert load(np.zeros((1, 1, 3), np.uint8)).shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("nowhere.png", FileError, "No image at nowhere.png"),
        (".", FileError, "is a folder"),
        (np.zeros((3, 7, 5), np.uint8), InputError, "channels go last in arrays"),
        (np.zeros((7, 5, 2), np.uint8), InputError, r"\[7, 5, 2\]"),
        (np.zeros((0, 5, 3), np.uint8), InputError, "at least one pixel"),
        (np.zeros((7, 5), bool), InputError, "looks like a mask"),
        (np.zeros((7, 5, 3), np.int64), InputError, "got int64"),
        (np.full((7, 5, 3), 200.0), InputError, "divide by 255"),
        (torch.full((3, 7, 5), -2.0), InputError, "undo the normalisation"),
        (torch.full((3, 7, 5), float("nan")), InputError, "NaN"),
        (torch.full((3, 7, 5), float("inf")), InputError, "NaN or infinity"),
        (torch.zeros(7, 5, 3), InputError, r"\[3, H, W\]"),
        (torch.zeros(3, 7, 5, dtype=torch.int64), InputError, "got torch.int64"),
        (None, InputError, "got NoneType"),
        (42, InputError, "got int"),
    ],
)
def test_what_is_not_an_image_says_so(image, error, message):
    with pytest.raises(error, match=message):
        load(image)


def test_missing_file_offers_its_neighbours(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "cat.png")
    with pytest.raises(FileError, match=r"Did you mean cat\.png"):
        load(tmp_path / "cat.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_corrupt_files_name_themselves(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)).save(whole)
    data = whole.read_bytes()
    for name, content in {"empty": b"", "text": b"not a picture", "cut": data[: len(data) // 2]}.items():
        path = tmp_path / f"{name}.{suffix}"
        path.write_bytes(content)
        with pytest.raises(FileError, match=path.name):
            load(path)


def test_batches_are_checked_the_same_way():
    assert check_batch(torch.zeros(2, 1, 7, 5)).shape == (2, 3, 7, 5)
    assert check_batch(torch.full((2, 3, 7, 5), 255, dtype=torch.uint8)).max() == 1
    for bad in (torch.zeros(3, 7, 5), torch.zeros(2, 7, 5, 3), torch.full((1, 3, 2, 2), 9.0)):
        with pytest.raises(InputError):
            check_batch(bad)


def test_masks_keep_their_indices(tmp_path):
    labels = np.array([[0, 1, 255], [3, 2, 7]], dtype=np.uint8)
    palette = Image.fromarray(labels, "P")
    palette.putpalette(list(range(256)) * 3)
    palette.save(tmp_path / "p.png")
    Image.fromarray(labels).save(tmp_path / "l.png")
    deep = labels.astype(np.uint16) * 100
    Image.fromarray(deep).save(tmp_path / "i16.png")
    expected = torch.from_numpy(labels.astype(np.int64))
    for kind in (
        tmp_path / "p.png",
        tmp_path / "l.png",
        labels,
        labels[..., None],
        labels.astype(float),
        expected,
    ):
        assert torch.equal(load_mask(kind), expected)
    assert torch.equal(load_mask(tmp_path / "i16.png"), torch.from_numpy(deep.astype(np.int64)))
    assert torch.equal(load_mask(labels > 1), (expected > 1).long())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("RGB", (5, 7)), "RGB picture; expected class indices"),
        (np.zeros((7, 5, 3), np.uint8), r"\[H, W\]"),
        (np.full((7, 5), 0.5), "not whole numbers"),
        (np.full((7, 5), np.nan), "not whole numbers"),
        (np.zeros((5, 7), np.uint8), "5 x 7 .* the image is 7 x 5"),
        (np.zeros((0, 7), np.uint8), r"got \[0, 7\]"),
        (3.5, "got float"),
    ],
)
def test_what_is_not_a_mask_says_so(mask, message):
    with pytest.raises(InputError, match=message):
        load_mask(mask, size=(7, 5))


def test_padding_repeats_the_border_and_keeps_the_corner():
    images = torch.rand(2, 3, 5, 9)
    padded = prepare(images, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), stride=4)
    assert padded.shape == (2, 3, 8, 12)
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(padded[:, :, :5, :9], (images - mean) / std)
    assert torch.equal(padded[:, :, 5:, :9], padded[:, :, 4:5, :9].expand(-1, -1, 3, -1))
    assert padded_size((8, 12), 4) == (8, 12)


def test_all_errors_share_one_base():
    assert issubclass(InputError, DenseCtxError)
    assert issubclass(InputError, ValueError)
    assert issubclass(FileError, DenseCtxError)
    assert issubclass(FileError, OSError)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_maps_of_any_type_are_made_smaller_and_larger(dtype):
    """The antialiased filter has no bfloat16 kernel on the CPU."""
    maps = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    features = DenseFeatures(maps[..., :4, :4].to(dtype), maps.to(dtype))
    for size in ((4, 4), (8, 12), (16, 6), (19, 23)):
        small = resample(maps.to(dtype), size)
        assert small.dtype == dtype
        torch.testing.assert_close(small.float(), resample(maps, size), rtol=0, atol=1e-2)
    assert torch.equal(features.on_pixels(features.patches), resample(maps.to(dtype), (4, 4)))
    means = maps.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert (resample(maps, (4, 6)) - means).abs().mean() < (maps[..., ::2, ::2] - means).abs().mean() / 2
