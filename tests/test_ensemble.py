"""The ensemble of k-NN and kernel ridge: its parts against naive formulas, each argument's effect, what it forgets."""

import pytest
import torch
from dense_ctx_probes.ensemble import EnsembleProbe
from torch.nn import functional

from dense_ctx.errors import CheckpointError, InputError
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.testing import check_probe


def scene(seed=0, batch=1, classes=3, height=12, width=16):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 6, height, width, generator=generator)
    return DenseFeatures(pixels, pixels[:, :, ::4, ::4]), torch.randint(
        0, classes, (batch, height, width), generator=generator
    )


def test_the_contract_holds():
    check_probe("ensemble")


def rows(features):
    return features.pixels[0].flatten(1).T.double()


def exact_kernel_ridge(keys, targets, weights, query, gamma, penalty):
    """Every cell a landmark: (K + penalty / weights) alpha + b = Y, alpha sums to 0."""
    unit, other = functional.normalize(keys, dim=1), functional.normalize(query, dim=1)
    gram = (gamma * (unit @ unit.T - 1)).exp()
    ones = torch.ones(len(keys), 1, dtype=keys.dtype)
    top = torch.cat([gram + torch.diag(penalty / weights), ones], 1)
    bottom = torch.cat([ones.T, torch.zeros(1, 1, dtype=keys.dtype)], 1)
    right = torch.cat([targets, torch.zeros(1, targets.shape[1], dtype=keys.dtype)])
    solution = torch.linalg.solve(torch.cat([top, bottom]), right)
    return (gamma * (other @ unit.T - 1)).exp() @ solution[:-1] + solution[-1]


def test_the_regression_alone_is_exact_kernel_ridge():
    (features, _), (query, _) = scene(0), scene(1)
    values = torch.randn(1, 2, 12, 16, generator=torch.Generator().manual_seed(2))
    probe = EnsembleProbe("regression", weight=1.0, landmarks=500, penalty=1e-2)
    predicted = probe.partial_fit(features, values).predict(query)[0].flatten(1).T
    weights = torch.full((192,), 1 / 192, dtype=torch.float64)
    targets = values[0].flatten(1).T.double()
    expected = exact_kernel_ridge(rows(features), targets, weights, rows(query), 1.0, 1e-2)
    torch.testing.assert_close(predicted.double(), expected, rtol=1e-3, atol=1e-3)


def test_classes_weigh_by_the_square_root_of_their_size():
    (features, labels), (query, _) = scene(0), scene(1)
    labels[:, 2:] = 0
    one_hot = functional.one_hot(labels[0].flatten(), 3).double()
    size = one_hot.sum(0)
    weights = (one_hot / size.sqrt()).sum(1)
    weights = weights / weights.sum()
    expected = exact_kernel_ridge(rows(features), one_hot, weights, rows(query), 2.0, 1e-2).clamp_min(0)
    expected = (expected / expected.sum(1, keepdim=True)).clamp_min(1e-3)
    probe = EnsembleProbe(weight=1.0, uniform=0.0, landmarks=1000, gamma=2.0, penalty=1e-2)
    predicted = probe.partial_fit(features, labels).predict(query)[0].flatten(1).T
    torch.testing.assert_close(predicted.double(), expected / expected.sum(1, keepdim=True), rtol=1e-3, atol=1e-3)


def test_the_neighbours_alone_are_k_nn_with_the_prior_moved():
    (features, labels), (query, _) = scene(0), scene(1)
    labels[:, 2:] = 0
    plain = EnsembleProbe(weight=0.0, area=0.0, uniform=0.0).partial_fit(features, labels).predict(query)
    moved = EnsembleProbe(weight=0.0, area=0.0, uniform=0.4).partial_fit(features, labels).predict(query)
    prior = functional.one_hot(labels.flatten(), 3).float().mean(0)
    expected = plain * ((0.6 * prior + 0.4 / 3) / prior)[:, None, None]
    torch.testing.assert_close(moved, expected / expected.sum(1, keepdim=True))


def test_the_neighbours_weigh_by_how_much_is_annotated():
    (features, labels), (query, _) = scene(0), scene(1)
    few = torch.full_like(labels, -1)
    few[:, ::4, ::4] = labels[:, ::4, ::4]  # 12 pixels of 192, so 0.75 of 12 patches
    for given, annotated in ((labels, 12.0), (few, 0.75)):
        alone = [
            EnsembleProbe(weight=w, area=0.0).partial_fit(features, given).predict(query).log() for w in (0.0, 1.0)
        ]
        share = 0.6 * annotated**2 / (annotated**2 + 3.0**2)
        both = EnsembleProbe(area=3.0).partial_fit(features, given).predict(query)
        expected = (share * alone[0] + (1 - share) * alone[1]).softmax(1)
        torch.testing.assert_close(both, expected, rtol=1e-3, atol=1e-4)


def test_cells_under_strokes_are_single_pixels():
    features, labels = scene(0, height=120, width=160)
    strokes = torch.full_like(labels, -1)
    strokes[:, 7, 10:50] = labels[:, 7, 10:50]
    probe = EnsembleProbe().partial_fit(features, strokes)
    torch.testing.assert_close(probe.keys_, functional.normalize(features.pixels[0, :, 7, 10:50].T, dim=1))
    assert len(EnsembleProbe().partial_fit(features, labels).keys_) == 60 * 80  # of 2 x 2 pixels


@pytest.mark.parametrize(
    "change",
    [{"k": 3}, {"temperature": 0.5}, {"stride": 2}, {"memory": 40}, {"weight": 0.9}, {"area": 3.0}, {"uniform": 0.5},
     {"landmarks": 9}, {"gamma": 4.0}, {"penalty": 1.0}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_each_argument_counts(change):
    (features, labels), (query, _) = scene(0), scene(1)
    base = {"area": 0.0} if "area" not in change else {}  # few pixels, of which the neighbours would say little
    plain = EnsembleProbe(**base).partial_fit(features, labels).predict(query)
    other = EnsembleProbe(**base, **change).partial_fit(features, labels).predict(query)
    assert not torch.allclose(plain, other, atol=1e-4)
    if change == {"memory": 40}:
        seeded = EnsembleProbe(**base, memory=40, seed=1).partial_fit(features, labels).predict(query)
        assert not torch.allclose(other, seeded, atol=1e-4)


def test_what_was_solved_is_solved_again_after_more_examples_or_another_state():
    first, second, (query, _) = scene(0), scene(2), scene(1)
    apart = EnsembleProbe().partial_fit(*first)
    apart.predict(query)
    apart.partial_fit(*second)
    together = EnsembleProbe().partial_fit(*first).partial_fit(*second)
    assert torch.equal(apart.predict(query), together.predict(query))
    state = EnsembleProbe().partial_fit(*first).state_dict()
    apart.load_state_dict(state)
    assert torch.equal(apart.predict(query), EnsembleProbe().partial_fit(*first).predict(query))


def test_images_of_a_batch_are_predicted_apart():
    (features, labels), (query, _) = scene(0), scene(1, batch=3)
    probe = EnsembleProbe().partial_fit(features, labels)
    whole = probe.predict(query)
    for number in range(3):
        one = DenseFeatures(query.pixels[number : number + 1], query.patches[number : number + 1])
        torch.testing.assert_close(probe.predict(one), whole[number : number + 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "args",
    [{"weight": 1.1}, {"uniform": -0.1}, {"gamma": 0}, {"penalty": 0}, {"landmarks": 0}, {"weight": float("nan")}],
)
def test_arguments_out_of_range_are_refused(args):
    with pytest.raises(InputError, match=next(iter(args))):
        EnsembleProbe(**args)


@pytest.mark.parametrize("area", [0.0, -1.0, float("nan"), float("inf")])
def test_a_state_of_no_annotated_area_is_refused(area):
    features = DenseFeatures(torch.randn(1, 3, 4, 5), torch.randn(1, 3, 2, 3))
    probe = EnsembleProbe().partial_fit(features, torch.arange(20).view(1, 4, 5) % 3)
    state = {**probe.state_dict(), "annotated": torch.tensor(area, dtype=torch.float64)}
    before = probe.predict(features)
    with pytest.raises(CheckpointError, match=r"annotated area is|annotated holds NaN or infinity"):
        probe.load_state_dict(state)
    assert torch.equal(probe.predict(features), before)
