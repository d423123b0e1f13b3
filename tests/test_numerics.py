"""Closed forms against the recorded references and against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_lila.ridge import ridge_apply, ridge_fit
from dense_ctx_predict.pca import pca
from dense_ctx_probes.knn import soft_knn
from dense_ctx_probes.ridge_stats import RidgeStats

from dense_ctx.errors import InputError, NotFittedError

ORACLES = Path(__file__).parent / "oracles"


def load(name):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(ORACLES / f"{name}.npz").items()}


@pytest.fixture(scope="module")
def lila():
    return load("ridge_lila_eq2")


@pytest.mark.parametrize("number", range(5))
def test_ridge_equals_lila_eq_2(lila, number):
    penalty = float(lila["lambdas"][number])
    context, query = lila["X"].clone().requires_grad_(), lila["X_query"].clone().requires_grad_()
    weight = ridge_fit(context, lila["G"], penalty, bias="none", mean=False)
    torch.testing.assert_close(weight, lila[f"W_{number}"], rtol=0, atol=1e-9)
    loss = (ridge_apply(query, weight) - lila["G_query"]).abs().sum()
    assert loss.item() == pytest.approx(float(lila[f"l1_sum_{number}"]), rel=1e-9)
    loss.backward()
    for value, name in ((context.grad, "grad_X"), (query.grad, "grad_X_query")):
        expected = lila[f"{name}_{number}"].double()
        assert (value - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("number", range(5))
def test_deficient_features(lila, number):
    penalty = float(lila["lambdas"][number])
    weight = ridge_fit(lila["X_deficient"], lila["G"], penalty, bias="none", mean=False)
    torch.testing.assert_close(weight, lila[f"W_deficient_{number}"], rtol=0, atol=1e-5 if number == 0 else 1e-8)
    # float32 input is solved in float64 where it must be: predictions hold, W itself need not
    x = lila["X_deficient"].float()
    predicted = ridge_apply(x, ridge_fit(x, lila["G"].float(), penalty, bias="none", mean=False))
    torch.testing.assert_close(predicted.double(), lila[f"pred_ctx_deficient_{number}"], rtol=0, atol=2e-3)


@pytest.mark.parametrize("number", range(3))
def test_ridge_equals_flowfeat(number):
    oracle = load("ridge_flowfeat")
    penalty = float(oracle["alphas"][number])
    x, y, q = (oracle[key].flatten(2).mT for key in ("features_ctx", "target_ctx", "features_qry"))
    double = ridge_fit(x.double(), y.double(), penalty, bias="penalized")
    torch.testing.assert_close(double, oracle[f"A64_{number}"], rtol=0, atol=1e-10)
    single = ridge_fit(x, y, penalty, bias="penalized")
    torch.testing.assert_close(single, oracle[f"A_{number}"], rtol=0, atol=1e-4)
    predicted = ridge_apply(q, single)
    torch.testing.assert_close(predicted, oracle[f"pred_{number}"].flatten(2).mT, rtol=0, atol=1e-4)


def test_free_bias_makes_the_fit_independent_of_shifts():
    x, y = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 3, dtype=torch.float64)
    base = ridge_apply(x, ridge_fit(x, y, 0.5))
    shifted = ridge_apply(x + 7, ridge_fit(x + 7, y + 100, 0.5))
    torch.testing.assert_close(shifted, base + 100)
    penalised = ridge_apply(x, ridge_fit(x, y + 100, 0.5, bias="penalized"))
    assert (penalised - base - 100).abs().mean() > 1


def test_weights_equal_repeated_rows():
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    times = torch.randint(0, 4, (20,))
    repeated = ridge_fit(x.repeat_interleave(times, 0), y.repeat_interleave(times, 0), 0.1)
    torch.testing.assert_close(ridge_fit(x, y, 0.1, weights=times.double()), repeated)


def test_gradients_pass_gradcheck():
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: ridge_fit(a, b, 0.1), (x, y))


def test_float32_falls_back_and_keeps_its_gradient():
    x = torch.randn(200, 5)
    x = torch.cat([x, x[:, :2] + 1e-4 * torch.randn(200, 2)], 1).requires_grad_()
    y = torch.randn(200, 2)
    weight = ridge_fit(x, y, 1e-8)
    exact = ridge_fit(x.detach().double(), y.double(), 1e-8)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight.double(), exact, rtol=1e-3, atol=1e-3)
    weight.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_ridge_refuses():
    x = torch.randn(20, 3)
    with pytest.raises(InputError, match="singular at penalty=0"):
        ridge_fit(torch.cat([x, x], 1), torch.randn(20, 1), 0.0)
    with pytest.raises(InputError, match=r"\[20, 3\], \[19, 1\]"):
        ridge_fit(x, torch.randn(19, 1))
    with pytest.raises(InputError, match="penalty=-1"):
        ridge_fit(x, torch.randn(20, 1), -1)
    with pytest.raises(InputError, match="do not match"):
        ridge_apply(x, torch.randn(5, 1))


def test_statistics_in_parts_equal_all_rows_at_once():
    x, y = torch.randn(101, 6), torch.randn(101, 2)
    stats = RidgeStats()
    with pytest.raises(NotFittedError):
        stats.solve(0.1)
    for part in (slice(0, 40), slice(40, 41), slice(41, 101)):
        stats.update(x[part], y[part])
    assert stats.count == 101
    torch.testing.assert_close(stats.solve(0.1), ridge_fit(x.double(), y.double(), 0.1).float(), rtol=1e-4, atol=1e-5)
    solutions = []
    for bias in ("free", "penalized", "none"):
        for mean in (True, False):
            expected = ridge_fit(x.double(), y.double(), 0.1, bias=bias, mean=mean).float()
            solutions.append(stats.solve(0.1, bias=bias, mean=mean))
            torch.testing.assert_close(solutions[-1], expected, rtol=1e-4, atol=1e-5)
    assert all(not torch.equal(a[:6], b[:6]) for i, a in enumerate(solutions) for b in solutions[:i])


def test_a_column_added_later_counts_as_zero_before():
    x, y = torch.randn(60, 4), torch.rand(60, 3)
    y[:30, 2] = 0
    stats = RidgeStats()
    stats.update(x[:30], y[:30, :2])
    stats.update(x[30:], y[30:])
    torch.testing.assert_close(stats.solve(0.1), ridge_fit(x.double(), y.double(), 0.1).float(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="earlier ones had 4"):
        stats.update(torch.randn(3, 5), torch.rand(3, 2))


@pytest.mark.parametrize("run", ["full", "bounded"])
def test_soft_knn_equals_hummingbird(run):
    oracle = load("hummingbird")
    keys = oracle["train_features"].flatten(0, 1) if run == "full" else oracle["bounded_feature_memory"]
    queries = oracle["val_features"].flatten(0, 1)
    for budget in (1 << 28, 4096, 1):
        labels, index = soft_knn(queries, keys, oracle[f"{run}_label_memory"], 5, 0.02, max_bytes=budget)
        assert torch.equal(index.int(), oracle[f"{run}_knn_index"])
        torch.testing.assert_close(labels, oracle[f"{run}_label_hat"].flatten(0, 1), rtol=0, atol=1e-5)


def test_soft_knn_in_blocks_of_keys_equals_brute_force():
    generator = torch.Generator().manual_seed(0)
    keys, queries = torch.randn(70_000, 4, generator=generator), torch.randn(9, 4, generator=generator)
    values = torch.randn(70_000, 2, generator=generator)
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], keys[None], dim=2)
    expected = cosine.topk(7, 1)
    got, index = soft_knn(queries, keys, values, 7, 0.1)
    assert torch.equal(index, expected.indices)
    torch.testing.assert_close(
        got,
        ((expected.values / 0.1).softmax(1)[..., None] * values[expected.indices]).sum(1),
        rtol=1e-4,
        atol=1e-5,
    )


def test_soft_knn_refuses_and_takes_few_keys():
    x = torch.randn(3, 4)
    assert soft_knn(x, x[:2], torch.eye(2), 30)[1].shape == (3, 2)
    for keys, values, k, temperature in (
        (x[:0], torch.zeros(0, 1), 3, 0.1),
        (x, torch.zeros(2, 1), 3, 0.1),
        (x, torch.zeros(3, 1), 0, 0.1),
        (x, torch.zeros(3, 1), 3, 0.0),
        (x[:, :3], torch.zeros(3, 1), 3, 0.1),
    ):
        with pytest.raises(InputError):
            soft_knn(x, keys, values, k, temperature)


def test_pca_finds_the_directions_and_is_deterministic():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    rows = torch.randn(4000, 6, generator=generator) * torch.tensor([9.0, 5, 2, 0.1, 0.1, 0.1]) @ basis.T + 3
    mean, axes = pca(rows, 3)
    torch.testing.assert_close((axes.T @ basis[:, :3]).abs(), torch.eye(3), rtol=0, atol=0.05)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()
    again = pca(rows, 3)
    assert torch.equal(mean, again[0])
    assert torch.equal(axes, again[1])


def test_a_penalty_that_is_lost_beside_the_features_is_said():
    with pytest.raises(InputError, match=r"\[40, 4\] reach \de\+20; penalty=0.1 is lost beside"):
        ridge_fit(torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) * 1e20, torch.ones(40, 1))
