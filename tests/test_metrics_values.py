"""Depth, normals and partitions against their formulas written out again."""

import itertools
import math

import numpy as np
import pytest
import torch
from dense_ctx_maxa.measures import adjusted_rand_index
from dense_ctx_metrics.depth import DepthErrors, align_depth
from dense_ctx_metrics.normals import NormalErrors

from dense_ctx.errors import InputError


def depths(seed=0, size=(11, 17)):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0.5, 9.0, size)
    return torch.from_numpy(target * np.exp(rng.normal(0, 0.3, size)) + 0.1), torch.from_numpy(target)


def test_depth_errors_against_the_formulas():
    prediction, target = depths()
    target[0, :5] = torch.nan
    target[1, :3] = 0.0
    target[2, :4] = 12.0
    errors = DepthErrors.of(prediction[None], target[None]).to_dict()
    p, t = prediction.numpy(), target.numpy()
    valid = np.isfinite(t) & (t >= 1e-3) & (t <= 10)
    assert valid.sum() == 11 * 17 - 12
    p, t = p[valid].clip(1e-3, 10), t[valid]
    ratio, log = np.maximum(p / t, t / p), np.log(p) - np.log(t)
    expected = {
        "rmse": math.sqrt(((p - t) ** 2).mean()),
        "abs_rel": (abs(p - t) / t).mean(),
        "log10": abs(np.log10(p / t)).mean(),
        "silog": log.std(),
        "delta1": (ratio < 1.25).mean(),
        "delta2": (ratio < 1.5625).mean(),
        "delta3": (ratio < 1.953125).mean(),
    }
    assert errors == pytest.approx(expected, abs=1e-12)


def test_perfect_depth_and_a_factor():
    _, target = depths()
    perfect = DepthErrors.of(target, target)
    assert (perfect.rmse, perfect.abs_rel, perfect.delta1) == (0, 0, 1)
    half = DepthErrors.of(target / 2, target)
    assert half.silog == pytest.approx(0, abs=1e-7)
    assert half.abs_rel == pytest.approx(0.5)
    assert (half.delta1, half.delta3) == (0, 0)
    assert DepthErrors.of(target / 2, target, align="median").rmse == pytest.approx(0, abs=1e-9)
    shifted = DepthErrors.of(target * 0.3 - 5, target, align="scale_shift")
    assert shifted.rmse == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [9, 10])
def test_median_is_that_of_numpy(count):
    """With an even number of values the two in the middle are averaged, as evaluators in NumPy do."""
    rng = np.random.default_rng(count)
    p, t = rng.uniform(1, 5, count), rng.uniform(1, 5, count)
    ours = align_depth(torch.from_numpy(p), torch.from_numpy(t), "median")
    np.testing.assert_allclose(ours, p * np.median(t) / np.median(p))


def test_scale_and_shift_are_the_least_squares_ones():
    p, t = (each.flatten() for each in depths(3))
    slope, shift = np.polyfit(p.numpy(), t.numpy(), 1)
    np.testing.assert_allclose(align_depth(p, t, "scale_shift"), slope * p + shift)
    assert torch.equal(align_depth(p, t, "none"), p)


def test_depth_input_is_checked():
    prediction, target = depths()
    assert DepthErrors.of(prediction, torch.full_like(target, torch.nan)) is None
    with pytest.raises(InputError, match=r"\[H, W\] of equal size; got \[17, 11\], \[11, 17\]"):
        DepthErrors.of(prediction.T, target)
    with pytest.raises(InputError, match="NaN or infinity"):
        DepthErrors.of(prediction * torch.inf, target)
    with pytest.raises(InputError, match="needs predictions above 0"):
        DepthErrors.of(-prediction, target, align="median")
    with pytest.raises(InputError, match="one value everywhere"):
        DepthErrors.of(torch.ones_like(target), target, align="scale_shift")
    with pytest.raises(InputError, match="align='best': expected"):
        DepthErrors.of(prediction, target, align="best")


def turned(degrees, size=(4, 6)):
    """Unit vectors at an angle from (0, 0, -1), in a random direction."""
    azimuth = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 * math.pi
    angle = torch.full(size, math.radians(degrees), dtype=torch.float64)
    return torch.stack([angle.sin() * azimuth.cos(), angle.sin() * azimuth.sin(), -angle.cos()])


def test_angles_are_what_they_are():
    target = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)[:, None, None].expand(3, 4, 6).clone()
    for degrees, shares in ((0, (1, 1, 1)), (11, (1, 1, 1)), (20, (0, 1, 1)), (25, (0, 0, 1)), (60, (0, 0, 0))):
        errors = NormalErrors().update(3.5 * turned(degrees), target).scores()  # any length
        assert errors["rmse"] == pytest.approx(degrees, abs=1e-5)
        assert errors["mean"] == pytest.approx(degrees, abs=1e-5)
        assert tuple(errors[f"delta{i}"] for i in (1, 2, 3)) == shares


def test_normals_are_pooled_over_pixels_and_unknown_ones_left_out():
    target = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)[:, None, None].expand(3, 4, 6).clone()
    partly = target.clone()
    partly[:, :3] = torch.nan
    both = NormalErrors().update(turned(10), target).update(turned(50), partly)  # 24 pixels and 6
    assert both.scores()["mean"] == pytest.approx((24 * 10 + 6 * 50) / 30, abs=1e-5)
    assert both.scores()["rmse"] == pytest.approx(math.sqrt((24 * 100 + 6 * 2500) / 30), abs=1e-5)
    apart = NormalErrors().update(turned(10), target).add(NormalErrors().update(turned(50), partly))
    assert apart.scores() == pytest.approx(both.scores())
    assert apart.count == 30


def test_normals_input_is_checked():
    with pytest.raises(InputError, match="every target is unknown"):
        NormalErrors().update(turned(1), torch.full((3, 4, 6), torch.nan)).scores()
    with pytest.raises(InputError, match=r"\[3, H, W\] of equal size"):
        NormalErrors().update(turned(1)[:2], turned(1)[:2])
    with pytest.raises(InputError, match="NaN or infinity"):
        NormalErrors().update(turned(1) * torch.nan, turned(1))


def rand_index(a, b):
    """Hubert and Arabie's index by counting pairs of pixels."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    same_a, same_b = (np.array([part[i] == part[j] for i, j in pairs]) for part in (a, b))
    together, expected = (same_a & same_b).sum(), same_a.sum() * same_b.sum() / len(pairs)
    return (together - expected) / ((same_a.sum() + same_b.sum()) / 2 - expected)


@pytest.mark.parametrize("seed", range(4))
def test_rand_index_against_pair_counts(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 3 + seed, 42)
    b = np.where(rng.random(42) < 0.4, rng.integers(0, 5, 42), a)
    ours = adjusted_rand_index(torch.from_numpy(a).view(6, 7), torch.from_numpy(b).view(6, 7))
    assert ours == pytest.approx(rand_index(a, b), abs=1e-12)


def test_rand_index_of_equal_unrelated_and_trivial_partitions():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 4, (2, 60, 70), generator=generator)
    assert adjusted_rand_index(7 - 2 * a, a) == pytest.approx(1)
    assert abs(adjusted_rand_index(a, b)) < 0.01
    assert adjusted_rand_index(torch.zeros(5), torch.zeros(5)) == 1
    assert adjusted_rand_index(torch.tensor([3]), torch.tensor([1])) == 1
    only = torch.zeros(60, 70, dtype=torch.bool)
    only[:30] = True
    assert adjusted_rand_index(torch.where(only, a, b), a, only) == pytest.approx(1)
    with pytest.raises(InputError, match="different shapes"):
        adjusted_rand_index(a, b[:3])
    with pytest.raises(InputError, match="No pixel"):
        adjusted_rand_index(a, b, torch.zeros_like(only))
