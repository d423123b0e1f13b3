"""What the three measures share, and invariance: values that follow from the definition."""

import math
from types import SimpleNamespace

import pytest
import torch
from dense_ctx_measures.invariance import Crop, Flip, Scale, feature_invariance
from dense_ctx_measures.similarity import Centre, PairSums, sample
from torch.nn import functional

from dense_ctx.errors import InputError, NonFiniteError
from dense_ctx.testing import tiny_model


def as_model(function):
    def model(images, size):
        return SimpleNamespace(pixels=functional.interpolate(function(images), size=size, mode="nearest"))

    return model


def smooth(height, width, seed=0, cells=6):
    coarse = torch.rand(1, 3, cells, cells + 1, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def colour(images):
    return torch.cat([images, images.square(), images[:, :1] * images[:, 1:2] + 3], dim=1)


def position(images):
    height, width = images.shape[-2:]
    x = torch.linspace(-1, 1, width).expand(height, width)
    y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    return torch.stack([x, 0.01 * y])[None]


def constant(images):
    return torch.full((1, 5, *images.shape[-2:]), 0.3)


def pooled(stride):
    def function(images):
        cells = functional.avg_pool2d(images, stride)
        return functional.interpolate(cells, scale_factor=stride, mode="nearest")

    return function


def test_the_random_baseline_is_the_mean_over_all_pairs_that_do_not_correspond():
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(7, 4, generator=generator) for _ in range(2))
    centre = Centre.of(torch.rand(4, 5, 6, generator=generator))
    sums = PairSums()
    sums.add(first, second, centre)
    cosines = functional.cosine_similarity((first - centre.mean)[:, None], (second - centre.mean)[None], dim=2)
    direct = cosines.diagonal().mean()
    random = (cosines.sum() - cosines.diagonal().sum()) / 42
    value, cos, cos_random, reason = sums.score("")
    assert (cos, cos_random) == (pytest.approx(float(direct), abs=1e-6), pytest.approx(float(random), abs=1e-6))
    assert value == pytest.approx(float((direct - random) / (1 - random)), abs=1e-6)
    assert reason is None


def test_sampling_equals_grid_sample_and_is_exact_at_pixels():
    generator = torch.Generator().manual_seed(2)
    field = torch.rand(3, 9, 13, generator=generator)
    xy = torch.rand(50, 2, generator=generator, dtype=torch.float64) * torch.tensor([14.0, 10.0]) - 1
    grid = (2 * xy + 1) / torch.tensor([13.0, 9.0]) - 1
    expected = functional.grid_sample(field[None], grid[None, None].float(), padding_mode="border", align_corners=False)
    assert torch.allclose(sample(field, xy), expected[0, :, 0].T, atol=1e-5)
    mixed = torch.tensor([[4.0, 7.0], [0.5, 0.0]], dtype=torch.float64)
    assert torch.equal(sample(field, mixed)[0], field[:, 7, 4])


def test_a_pointwise_feature_is_invariant_to_flips_and_crops_and_nearly_to_scale():
    images = [smooth(40, 56), smooth(33, 47, seed=1)]
    result = feature_invariance(as_model(colour), images)
    assert [s.transform for s in result.settings] == ["flip", "scale 0.5", "scale 0.75", "scale 1.5", "crop 0.5"]
    assert result.at("flip").invariance == pytest.approx(1, abs=1e-6)
    assert result.at("crop 0.5").invariance == pytest.approx(1, abs=1e-6)
    for name in ("scale 0.5", "scale 0.75", "scale 1.5"):
        assert 0.97 < result.at(name).invariance < 1
    assert result.at("flip").n == 40 * 56 + 33 * 47
    assert result.at("crop 0.5").n == 20 * 28 + 16 * 24  # Python's round: halves to even
    assert all(s.images == 2 and s.reason is None for s in result.settings)


def test_a_feature_of_position_is_not_invariant():
    result = feature_invariance(as_model(position), [smooth(40, 56)], transforms=[Flip(), Scale(0.5), Crop(0.5)])
    assert result.at("flip").invariance < -0.9  # left and right change places
    assert result.at("scale 0.5").invariance > 0.9  # relative position survives resizing
    assert result.at("crop 0.5").invariance < 0.9


def test_a_crop_is_exact_on_the_stride_and_not_beside_it():
    model, images = as_model(pooled(4)), [torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(3))]
    beside = []
    for seed in range(4):
        result = feature_invariance(model, images, transforms=[Crop(0.5, align=4), Crop(0.5)], seed=seed)
        assert result.at("crop 0.5 align 4").invariance == pytest.approx(1, abs=1e-6)
        beside.append(result.at("crop 0.5").invariance)
    assert min(beside) < 0.9


def test_scale_maps_back_by_the_half_pixel_convention():
    shapes = {}

    def model(images, size):
        shapes[size] = images.shape
        height, width = size
        x = (torch.arange(width) + 0.5) / width  # a feature of the position in the scene, whatever the resolution
        y = (torch.arange(height) + 0.5) / height
        wave = [torch.stack([torch.sin(3 * a), torch.cos(3 * a)]) for a in torch.meshgrid(y, x, indexing="ij")]
        return SimpleNamespace(pixels=torch.cat(wave)[None])

    result = feature_invariance(model, [smooth(40, 60)], transforms=[Scale(0.5), Scale(1.5)])
    assert set(shapes) == {(40, 60), (20, 30), (60, 90)}
    assert all(s.invariance > 0.9995 for s in result.settings)


def test_random_features_score_zero_and_constant_ones_are_undefined():
    generator = torch.Generator().manual_seed(4)
    noise = feature_invariance(
        as_model(lambda images: torch.randn(1, 16, *images.shape[-2:], generator=generator) + 5), [smooth(40, 56)]
    )
    assert all(abs(s.invariance) < 0.02 for s in noise.settings)
    flat = feature_invariance(as_model(constant), [smooth(40, 56)])
    assert all(math.isnan(s.invariance) and "constant" in s.reason and s.n == 0 for s in flat.settings)


def test_neither_offset_nor_scale_of_the_features_matter():
    images, reference = [smooth(40, 56)], None
    for gain, offset in ((1, 0), (1000, 0), (1, 20)):
        result = feature_invariance(as_model(lambda i, g=gain, o=offset: g * pooled(4)(i) + o), images, points=500)
        values = [s.invariance for s in result.settings]
        reference = reference or values
        assert values == pytest.approx(reference, abs=1e-3)


def test_bad_input_is_refused():
    model = as_model(colour)
    with pytest.raises(InputError, match="at least 8"):
        feature_invariance(model, [smooth(7, 30)])
    with pytest.raises(InputError, match=r"scale 0.5 is 7 x 20"):
        feature_invariance(model, [smooth(14, 40)])
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        feature_invariance(as_model(lambda i: i / 0), [smooth(40, 56)])
    with pytest.raises(InputError, match=r"expected a tensor \[1, D, 40, 56\]"):
        feature_invariance(lambda images, size: SimpleNamespace(pixels=images[..., :-1]), [smooth(40, 56)])
    with pytest.raises(InputError, match="No images"):
        feature_invariance(model, [])
    with pytest.raises(InputError, match="different names"):
        feature_invariance(model, [smooth(40, 56)], transforms=[Scale(0.5), Scale(0.5)])
    with pytest.raises(InputError, match="above 0"):
        Scale(0)
    with pytest.raises(InputError, match="fraction"):
        Crop(1.2)
    with pytest.raises(InputError, match="was not measured; measured: flip"):
        feature_invariance(model, [smooth(40, 56)], transforms=[Flip()]).at("flop")


def test_a_dense_model_is_measured():
    torch.manual_seed(0)
    model = tiny_model()
    result = feature_invariance(model, [smooth(45, 62)], transforms=[Scale(1.5), Crop(0.5, align=8), Crop(1.0)])
    assert result.at("crop 1").invariance == pytest.approx(1, abs=1e-5)  # the same image
    assert all(s.n > 100 and -1 < s.invariance < 1.001 for s in result.settings)
    assert not model.training
