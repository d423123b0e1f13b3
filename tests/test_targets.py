"""What annotated examples say: a mask or an array that could mean two things is read aloud, or refused."""

import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dense_ctx import InContext
from dense_ctx.errors import InputError
from dense_ctx.testing import tiny_model

SIZE = (24, 40)


@pytest.fixture
def image():
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))


def painted(path, values, mode="L"):
    """A mask as painting programs write it: one value at the left, another at the right."""
    mask = Image.new(mode, (SIZE[1], SIZE[0]), values[0])
    for index, value in enumerate(values[1:], start=1):
        ImageDraw.Draw(mask).rectangle((index * SIZE[1] // len(values), 0, SIZE[1], SIZE[0]), fill=value)
    mask.save(path)
    return path


def test_black_and_white_is_background_and_foreground_and_said(tmp_path, image):
    """It predicted the background alone, without a word: 255 was ignored."""
    mask = painted(tmp_path / "m.png", [0, 255])
    with pytest.warns(UserWarning, match=r"m\.png holds 0 and 255 alone: read as background \(0\) and fore"):
        context = InContext(tiny_model()).fit(image, mask)
    assert context.classes_ == [0, 1]
    assert set(context.predict(image).unique().tolist()) == {0, 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context.partial_fit(image, mask)  # it is said once
        context.partial_fit(image, torch.full(SIZE, 255))  # all foreground
        context.partial_fit(image, torch.zeros(SIZE, dtype=torch.int64))
    assert context.classes_ == [0, 1]


def test_what_255_means_is_one_thing_in_a_fit(tmp_path, image):
    white, strokes = painted(tmp_path / "w.png", [0, 255]), painted(tmp_path / "s.png", [0, 1, 255])
    for masks in ([white, strokes], [strokes, white]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(InputError, match=r"in another mask 255 means .*Say which you mean: ignore_index=255"):
                InContext(tiny_model()).fit([image, image], masks)
    context = InContext(tiny_model(), ignore_index=255).fit([image, image], [white, strokes])
    assert context.classes_ == [0, 1]
    assert InContext(tiny_model(), ignore_index=None).fit(image, white).classes_ == [0, 255]


@pytest.mark.parametrize(
    ("values", "ignore_index", "message"),
    [
        ([0], "auto", "one class, 0: they hold 0. Annotate a second class (the background is one), or add an image"),
        ([0, 255], 255, "they hold 0, 255, and 255 means not annotated. If it is a class, leave ignore_index out"),
        (
            [3, 255],
            "auto",
            "they hold 3, 255, and 255 means not annotated. If it is a class, say so: ignore_index=None",
        ),
        ([0, 7], 0, "one class, 7: they hold 0, 7, and 0 means not annotated. If it is a class, say so"),
        ([255], "auto", "is empty: every pixel is 255"),
    ],
)
def test_a_single_class_names_the_values_and_the_ways_out(tmp_path, image, values, ignore_index, message):
    mask = painted(tmp_path / "m.png", values)
    with pytest.raises(InputError, match=re.escape(message)):
        InContext(tiny_model(), ignore_index=ignore_index).fit(image, mask)


def test_stroke_by_stroke_a_prediction_waits_for_the_second_class(image):
    strokes = torch.full(SIZE, 255)
    strokes[3:5, 2:30] = 3
    context = InContext(tiny_model()).partial_fit(image, strokes)
    with pytest.raises(InputError, match="one class, 3"):
        context.predict(image)
    strokes = torch.full(SIZE, 255)
    strokes[20, 5:12] = 4
    assert context.partial_fit(image, strokes).predict(image).shape == SIZE


def test_a_float_mask_does_not_become_a_regression_unasked(image):
    mask = torch.zeros(SIZE)
    mask[:, 20:] = 1
    with pytest.warns(UserWarning, match="floats 0 and 1 alone: read as classes"):
        context = InContext(tiny_model()).fit(image, mask)
    assert context.task_ == "segmentation"
    assert InContext(tiny_model(), task="regression").fit(image, mask).task_ == "regression"
    with pytest.raises(InputError, match=r"whole numbers \(0, 3\): classes or values\? Say task='segmentation' or"):
        InContext(tiny_model()).fit(image, mask * 3)
    assert InContext(tiny_model(), task="segmentation").fit(image, mask * 3).classes_ == [0, 3]
    assert InContext(tiny_model()).fit(image, mask + 0.5).task_ == "regression"


def test_a_16_bit_depth_picture_does_not_become_classes(tmp_path, image):
    depth = np.linspace(400, 4000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    Image.fromarray(depth).save(tmp_path / "d.png")
    for target in (tmp_path / "d.png", depth, Image.open(tmp_path / "d.png")):
        with pytest.raises(InputError, match=r"16-bit picture of 960 values up to 4000: depth, or classes\? Depth"):
            InContext(tiny_model()).fit(image, target)
    Image.fromarray((depth // 1000).astype(np.uint16)).save(tmp_path / "ids.png")
    assert InContext(tiny_model()).fit(image, tmp_path / "ids.png").classes_ == [0, 1, 2, 3, 4]
    Image.fromarray((depth // 1000 * 300).astype(np.uint16)).save(tmp_path / "far.png")
    context = InContext(tiny_model(), task="segmentation").fit(image, tmp_path / "far.png")
    assert context.classes_ == [0, 300, 600, 900, 1200]


def test_soft_edges_and_jpeg_are_no_masks(tmp_path, image):
    soft = Image.fromarray(np.linspace(0, 255, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8))
    soft.save(tmp_path / "soft.png")
    with pytest.raises(InputError, match="8-bit picture of 256 values: a photo, or a mask with soft or compressed"):
        InContext(tiny_model()).fit(image, tmp_path / "soft.png")
    soft.save(tmp_path / "m.jpg")
    with pytest.raises(InputError, match="is a JPEG, which changes values: save the mask as PNG"):
        InContext(tiny_model(), task="segmentation").fit(image, tmp_path / "m.jpg")


def test_bad_arguments(image):
    for value in ("255", 1.5, True):
        with pytest.raises(InputError, match="ignore_index"):
            InContext(tiny_model(), ignore_index=value)


@pytest.mark.parametrize(
    ("spoil", "advice"),
    [
        (lambda x: (x - 0.45) / 0.225, "undo the normalisation"),
        (lambda x: x * 2 - 1, "undo the normalisation"),
        (lambda x: x * 2.64, "undo the normalisation"),
        (lambda x: x * 255, "divide by 255"),
        (lambda x: x * 65535, "divide by 65535"),
    ],
)
def test_a_tensor_of_another_range_gets_the_right_advice(image, spoil, advice):
    """ImageNet's normalisation puts white at 2.64, and was told to divide by 255."""
    with pytest.raises(InputError, match=advice):
        tiny_model()(spoil(image))
