"""Boundary quality on label maps whose boundaries are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dense_ctx_measures.boundary import boundary_quality, edge_strength, label_boundaries
from torch.nn import functional

from dense_ctx.errors import InputError, NonFiniteError
from dense_ctx.testing import tiny_model

SIZE = (60, 84)


def regions(dx=0):
    labels = torch.zeros(SIZE, dtype=torch.int64)
    labels[15:45, 20 + dx : 50 + dx] = 1
    ys, xs = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    labels[(ys - 30) ** 2 + (xs - 66 - dx) ** 2 < 11**2] = 2
    return labels


def one_hot(labels):
    return functional.one_hot(labels, 3).permute(2, 0, 1).float()[None]


def fixed(*maps):
    """A model that answers with these features, one after the other."""
    queue = list(maps)
    return lambda images, size: SimpleNamespace(pixels=queue.pop(0))


def blank(labels):
    return torch.zeros(3, *labels.shape), labels


def quality(features, labels, **options):
    return boundary_quality(fixed(features), [blank(labels)], **options)


def test_one_hot_labels_are_nearly_perfect():
    labels = regions()
    result = quality(one_hot(labels), labels)
    assert result.ods > 0.99
    assert result.ois == result.ods == result.per_image[0]
    assert result.precision == 1
    assert result.boundary == label_boundaries(labels.numpy()).sum()
    assert (result.n, result.images, result.tolerance) == (SIZE[0] * SIZE[1], 1, 2)
    assert 0 < result.floor < 0.6
    assert result.threshold in result.thresholds


def test_constant_features_have_no_edges():
    result = quality(torch.full((1, 5, *SIZE), 0.3), regions())
    assert (result.ods, result.ois, result.recall, result.per_image) == (0, 0, 0, (0.0,))
    assert math.isnan(result.precision)


def test_a_shift_within_the_tolerance_matches_and_a_larger_one_does_not():
    labels = torch.zeros(SIZE, dtype=torch.int64)
    labels[:, 40:] = 1  # one straight boundary, so that nothing matches along it
    moved = [one_hot(torch.roll(labels, shift, dims=1).index_fill(1, torch.arange(6), 0)) for shift in (1, 2, 3, 5)]
    scores = [quality(features, labels).ods for features in moved]
    assert scores == [1, 1, 0, 0]
    assert quality(moved[3], labels, tolerance=5).ods == 1
    assert quality(one_hot(regions(1)), regions()).ods > 0.99
    assert quality(one_hot(regions(5)), regions()).ods < 0.7


def test_scale_of_the_features_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    features = one_hot(regions()) + 2 * torch.rand(1, 3, *SIZE, generator=generator)
    reference = quality(features, regions())
    assert 0.2 < reference.ods < 1
    per_pixel = features * torch.rand(1, 1, *SIZE, generator=generator).add(0.1)
    for changed in (features * 1e4, features * 1e-4, per_pixel):
        assert quality(changed, regions()).ods == pytest.approx(reference.ods, abs=1e-3)


def test_counts_equal_a_distance_transform_at_every_threshold():
    from scipy import ndimage

    generator = torch.Generator().manual_seed(1)
    features = one_hot(regions())[0] + 2 * torch.rand(3, *SIZE, generator=generator)
    labels, best = regions(), 0.0
    levels = np.geomspace(0.05, 1.2, 12)
    strength, boundary = edge_strength(features).numpy(), label_boundaries(labels.numpy())
    for level in levels:
        edges = strength >= level
        if not edges.any():
            continue
        precision = (ndimage.distance_transform_edt(~boundary)[edges] <= 2).mean()
        recall = (ndimage.distance_transform_edt(~edges)[boundary] <= 2).mean()
        best = max(best, 2 * precision * recall / max(precision + recall, 1e-9))
    assert 0.3 < best < 0.9
    assert quality(features[None], labels, thresholds=levels).ods == pytest.approx(best)


def test_an_edge_as_strong_as_the_threshold_counts():
    features = one_hot(regions())
    level = float(edge_strength(features[0]).max())
    assert quality(features, regions(), thresholds=[level]).recall > 0.3
    assert quality(features, regions(), thresholds=[level * 1.001]).recall == 0


def test_one_threshold_for_the_set_is_no_better_than_one_for_each_image():
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(1, 3, *SIZE, generator=generator)
    easy, hard = one_hot(regions()) + 0.1 * noise, 1 + 0.15 * one_hot(regions()) + 0.05 * noise
    both = boundary_quality(fixed(easy, hard), [blank(regions()), blank(regions())])
    assert both.ods < both.ois - 0.01
    assert both.per_image == (
        pytest.approx(quality(easy, regions()).ods),
        pytest.approx(quality(hard, regions()).ods),
    )
    assert both.images == 2


def test_edges_of_an_image_without_boundaries_are_false():
    flat = torch.zeros(SIZE, dtype=torch.int64)
    both = boundary_quality(fixed(one_hot(regions()), one_hot(regions())), [blank(regions()), blank(flat)])
    assert both.precision == pytest.approx(0.5)
    assert both.recall > 0.99
    assert math.isnan(both.per_image[1])


def test_void_is_left_out():
    labels = regions()
    features = one_hot(labels)
    labels[:, 52:] = 255  # the disc is not annotated
    result = quality(features, labels)
    assert result.precision == 1  # the disc's edges are not false
    assert result.boundary == 4 * 30 - 1  # the rectangle's alone (one corner counts for two sides); none against void
    assert result.n == SIZE[0] * (52 - 3)
    scores = quality(features, labels, ignore_index=None)
    assert scores.boundary > result.boundary
    assert quality(features, torch.where(labels == 255, -1, labels)) == result


def test_edge_strength_is_thin_and_bounded():
    labels = torch.zeros(SIZE, dtype=torch.int64)
    labels[:, 40:] = 1
    thick, thin = (edge_strength(one_hot(labels)[0], thin=flag) for flag in (False, True))
    assert thick.max() == pytest.approx(math.sqrt(2) / 2)
    assert (thick[10] > 0).nonzero().flatten().tolist() == [39, 40]
    assert (thin > 0).nonzero()[:, 1].unique().tolist() == [39]
    checker = torch.stack([torch.arange(SIZE[1]) % 4 < 2] * SIZE[0]).float() * 2 - 1
    assert edge_strength(checker[None], thin=False).max() <= math.sqrt(2)
    ramp = torch.linspace(0, 3, SIZE[1]).expand(*SIZE)  # unit vectors turning at an even rate: no maximum
    turning = torch.stack([ramp.cos(), ramp.sin()])
    expected = math.sin(3 / (SIZE[1] - 1))
    assert edge_strength(turning, thin=False)[:, 1:-1] == pytest.approx(expected, abs=1e-5)


def test_a_slanted_edge_is_one_pixel_wide():
    ys, xs = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    distance = (0.6 * (xs - 42) + 0.8 * (ys - 30)).float()
    side = torch.sigmoid(distance / 2)
    thin = edge_strength(torch.stack([side, 1 - side])) > 0.02
    inner = torch.zeros(SIZE, dtype=torch.bool)
    inner[2:-2, 2:-2] = True  # differences are one-sided on the border
    assert (distance[thin & inner].abs() <= 0.8).all()
    assert (thin & inner & (distance.abs() < 3)).any(dim=1)[2:-2].all()


def test_samples_of_a_data_set_and_a_dense_model():
    torch.manual_seed(0)
    sample = SimpleNamespace(image=one_hot(regions())[0], target=regions())
    result = boundary_quality(tiny_model(), [sample])
    assert 0 < result.ods < 1
    assert boundary_quality(tiny_model(), [(sample.image.permute(1, 2, 0).numpy(), regions().numpy())]).n == result.n


def test_bad_input_is_refused():
    flat = torch.zeros(SIZE, dtype=torch.int64)
    with pytest.raises(InputError, match="No boundary in any of the 1 masks"):
        quality(one_hot(regions()), flat)
    with pytest.raises(InputError, match="No samples"):
        boundary_quality(fixed(), [])
    with pytest.raises(InputError, match="at least 8 a side"):
        boundary_quality(fixed(one_hot(flat[:7])), [blank(flat[:7])])
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        quality(one_hot(regions()) / 0, regions())
    with pytest.raises(InputError, match="expected a tensor"):
        quality(one_hot(regions())[..., :-1], regions())
    for levels in ([], [0.0, 1.0], [0.2, 0.1]):
        with pytest.raises(InputError, match="thresholds"):
            quality(one_hot(regions()), regions(), thresholds=levels)
    with pytest.raises(InputError, match="tolerance"):
        quality(one_hot(regions()), regions(), tolerance=-1)
