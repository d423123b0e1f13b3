"""Ridge regression: its systems at their limits, LILA's regression by definition, and the sums of the probe."""

import pytest
import torch
from dense_ctx_lila.regression import Regression
from dense_ctx_lila.ridge import ridge_apply, ridge_fit
from dense_ctx_probes.knn import KnnProbe
from dense_ctx_probes.propagation import PropagationProbe
from dense_ctx_probes.retrieval import RetrievalProbe
from dense_ctx_probes.ridge import RidgeProbe
from dense_ctx_probes.ridge_stats import RidgeStats
from lila_forms import predict

from dense_ctx.errors import CheckpointError, ConfigError, InputError, NonFiniteError, NotFittedError
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.numerics import IllConditioned, solve


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("dtype", "span", "fine"),
    [
        (torch.float32, 999.5, True), (torch.float32, 1000.0, False), (torch.float32, 1000.5, False),
        (torch.float64, 9_999_999.5, True), (torch.float64, 1e7, False), (torch.float64, 10_000_000.5, False),
    ],
)  # fmt: skip
def test_a_system_is_solved_up_to_a_span_of_its_factors_diagonal(dtype, span, fine):
    """Half of float32's digits and all of float64's are what a factor with this span may cost."""
    for diagonal in ((1.0, span**2), (span**2, 1.0), (4.0, 4 * span**2)):
        system, right = torch.tensor(diagonal, dtype=dtype).diag(), torch.ones(2, 1, dtype=dtype)
        for batch in (system, torch.stack([torch.eye(2, dtype=dtype), system])):
            if fine:
                torch.testing.assert_close(solve(batch, right), 1 / batch.diagonal(dim1=-2, dim2=-1)[..., None])
            else:
                with pytest.raises(IllConditioned):
                    solve(batch, right)


def test_a_system_that_is_not_positive_is_not_solved():
    """Its factor stops half-way, at numbers of modest size."""
    late, early = torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    for batch in (late, early, torch.stack([torch.eye(2), late]), torch.stack([early, torch.eye(2)])):
        with pytest.raises(IllConditioned):
            solve(batch, torch.ones(2, 1))


def test_what_ridge_fit_refuses():
    x, y = noise(20, 3), noise(20, 2)
    with pytest.raises(InputError, match="do not match"):
        ridge_fit(noise(4), noise(3))
    lost = torch.full((20, 3), float("nan"))
    partly = y.clone()
    partly[3, 1] = float("inf")
    cases = [
        ((x, lost), "targets"), ((x, partly), "targets"), ((lost, y), "features"), ((lost, lost), "features, targets"),
        ((torch.cat([x, x], 1), lost), "targets"), ((x.double(), lost.double()), "targets"),
    ]  # fmt: skip
    for given, names in cases:
        with pytest.raises(NonFiniteError, match=f"NaN or infinity in {names}$"):
            ridge_fit(*given, 0.1 if given[0].shape[1] == 3 else 0.0)
    assert ridge_apply(x, ridge_fit(x, y, 0.0)).shape == (20, 2)  # a penalty of 0 is one


def test_weights_of_an_ill_system_and_of_a_batch():
    x = torch.cat([noise(60, 3), noise(60, 1)], 1)
    x[:, 3] = x[:, 0] + 1e-4 * noise(60, seed=2)
    y, weights = noise(60, 2, seed=3), noise(60, seed=4).abs()
    for mean in (True, False):
        expected = ridge_fit(x.double(), y.double(), 1e-7, mean=mean, weights=weights.double())
        output = ridge_apply(x, ridge_fit(x, y, 1e-7, mean=mean, weights=weights))
        torch.testing.assert_close(output, ridge_apply(x.double(), expected).float(), rtol=0, atol=2e-3)


# ---------------------------------------------------------------------- LILA's regression


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("relative", [True, False])
def test_the_regression_is_its_definition(relative, stride):
    """Penalty in units of the mean over channels of the context's variance; every stride-th pixel from the middle."""
    context, query, maps = (noise(2, *shape, seed=seed).double() for seed, shape in
                            enumerate([(4, 9, 11), (4, 7, 10), (3, 9, 11)]))  # fmt: skip
    context[1] *= 5  # each image has its own unit
    output = predict(Regression(0.3, relative, stride=stride), context, query, maps)
    assert output.shape == (2, 3, 7, 10)
    for index in range(2):
        picked = [item[index, :, stride // 2 :: stride, stride // 2 :: stride].flatten(1).T
                  for item in (context, maps)]  # fmt: skip
        unit = picked[0].var(0, correction=0).mean() if relative else 1.0
        weights = ridge_fit(*picked, 0.3 * unit)
        expected = ridge_apply(query[index].flatten(1).T, weights).T.view(3, 7, 10)
        torch.testing.assert_close(output[index], expected, rtol=1e-8, atol=1e-9)


def test_the_regression_of_small_features_and_of_none():
    context, query, maps = noise(1, 4, 8, 9), noise(1, 4, 8, 9, seed=1), noise(1, 2, 8, 9, seed=2)
    plain = Regression(stride=1)
    small = (1.2e-12 / context.var((0, 2, 3), correction=0).mean()).sqrt()  # above the least variance by a fifth
    torch.testing.assert_close(
        predict(plain, context * small, query * small, maps), predict(plain, context, query, maps), rtol=1e-3, atol=1e-4
    )
    flat = predict(plain, torch.zeros_like(context), torch.zeros_like(query), maps)
    torch.testing.assert_close(flat, maps.mean((2, 3), keepdim=True).expand_as(flat), rtol=1e-3, atol=1e-4)


def test_settings_of_the_regression():
    Regression(1e-9, stride=1)
    for wrong in ({"penalty": 0.0}, {"penalty": -0.5}, {"stride": 0}, {"penalty": float("nan")}):
        with pytest.raises(ConfigError, match="expected above 0 and at least 1"):
            Regression(**wrong)
    with pytest.raises(ConfigError, match="products='fp8': expected one of float32, tf32, bf16x3, or null"):
        Regression(products="fp8")
    context, maps = noise(1, 3, 8, 9).double(), noise(1, 2, 8, 9, seed=2).double()
    base = {"penalty": 0.5, "relative": True, "bias": "free", "mean": True, "stride": 2}
    changes = [{}, {"penalty": 0.1}, {"relative": False}, {"bias": "none"}, {"bias": "penalized"}, {"mean": False},
               {"stride": 3}]  # fmt: skip
    results = [predict(Regression(**{**base, **change}), 4 * context, context, maps) for change in changes]
    assert all(not torch.allclose(a, b, rtol=1e-3, atol=1e-4) for i, a in enumerate(results) for b in results[:i])


# ---------------------------------------------------------------------- the probe's sums


def test_sums_of_more_rows_than_a_block():
    """Blocks are of 32,768 rows: of features and of targets alike."""
    x, y = noise(70_000, 2), noise(70_000, 3, seed=1)
    stats = RidgeStats()
    assert stats.count == 0
    stats.update(x, y)
    assert stats.count == 70_000
    assert stats.gram.dtype == stats.cross.dtype == torch.float64
    rows = torch.cat([x, torch.ones(70_000, 1)], 1).double()
    torch.testing.assert_close(stats.gram, rows.T @ rows, rtol=1e-5, atol=0.05)
    torch.testing.assert_close(stats.cross, rows.T @ y.double(), rtol=1e-5, atol=0.05)


def test_what_the_sums_refuse():
    stats = RidgeStats()
    for features, targets in ((noise(4), noise(4)), (noise(4, 2), noise(3, 2))):
        with pytest.raises(InputError, match="do not match"):
            stats.update(features, targets)
    stats.update(noise(0, 2), noise(0, 1))
    with pytest.raises(NotFittedError, match="No data yet"):
        stats.solve(0.1)
    stats.update(torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0]]))
    torch.testing.assert_close(stats.solve(0.1), torch.tensor([[0.0], [0.0], [3.0]]))  # one row: its value, by the bias
    with pytest.raises(InputError, match=r"singular at penalty=0\.0; ask for a larger one"):
        stats.solve(0.0)
    with pytest.raises(InputError, match="features have 3 dimensions; earlier ones had 2"):
        stats.update(noise(2, 3), noise(2, 1))
    before = stats.solve(0.1)
    for features, targets, name in ((float("nan"), 1.0, "features"), (1.0, float("inf"), "targets")):
        with pytest.raises(NonFiniteError, match=f"NaN or infinity in {name}"):
            stats.update(torch.full((2, 2), features), torch.full((2, 1), targets))
        assert torch.equal(stats.solve(0.1), before)


def test_columns_that_are_missing_count_as_zero():
    x, y = noise(40, 3), noise(40, 4, seed=1)
    y[10:20, 2:] = y[20:, 3] = 0
    stats = RidgeStats()
    for rows, columns in ((slice(10), 4), (slice(10, 20), 2), (slice(20, 40), 3)):
        stats.update(x[rows], y[rows, :columns])
    torch.testing.assert_close(stats.solve(0.1), ridge_fit(x.double(), y.double(), 0.1).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [RidgeProbe, KnnProbe, PropagationProbe, RetrievalProbe])
def test_a_state_of_another_kind_is_refused_and_nothing_changes(kind):
    features = DenseFeatures(noise(1, 3, 4, 5), noise(1, 3, 4, 5))
    probe = kind().partial_fit(features, torch.arange(20).view(1, 4, 5) % 3)
    state = {key: value.clone() for key, value in probe.state_dict().items()}
    for key in state:
        for wrong in ({key: state[key].half()}, {key: state[key][None]}, {"more": state[key]}):
            with pytest.raises(CheckpointError, match="The state is not that of a"):
                probe.load_state_dict({**state, **wrong})
        with pytest.raises(CheckpointError, match="The state is not that of a"):
            probe.load_state_dict({name: value for name, value in state.items() if name != key})
    assert all(torch.equal(value, state[key]) for key, value in probe.state_dict().items())


def test_a_ridge_probe_keeps_saves_and_continues():
    first, second = (DenseFeatures(noise(1, 3, 4, 5, seed=s), noise(1, 3, 4, 5, seed=s)) for s in (0, 1))
    labels = torch.arange(20).view(1, 4, 5) % 3
    probe, fresh = RidgeProbe(), RidgeProbe(penalty=0.0)
    with pytest.raises(NotFittedError, match="Nothing to save"):
        fresh.state_dict()
    for penalty in (-0.5, float("nan")):
        with pytest.raises(InputError, match="is not at least 0"):
            RidgeProbe(penalty=penalty)
    probe.partial_fit(first, labels)
    assert probe.coef_ is probe.coef_  # solved once
    before, state = probe.coef_, {key: value.clone() for key, value in probe.state_dict().items()}
    saved = {key: value.clone() for key, value in state.items()}
    loaded = RidgeProbe().partial_fit(second, labels)
    loaded.coef_  # noqa: B018
    loaded.load_state_dict(state)
    torch.testing.assert_close(loaded.coef_, before, rtol=0, atol=0)
    loaded.partial_fit(second, labels)
    probe.partial_fit(second, labels)
    assert torch.equal(loaded.coef_, probe.coef_)
    assert not torch.equal(probe.coef_, before)
    assert all(torch.equal(state[key], saved[key]) for key in saved)  # what was loaded from is left as it was


def test_classes_of_earlier_images_stay():
    features = DenseFeatures(noise(1, 3, 4, 5), noise(1, 3, 4, 5))
    probe = RidgeProbe().partial_fit(features, torch.arange(20).view(1, 4, 5) % 4)
    probe.partial_fit(features, torch.zeros(1, 4, 5, dtype=torch.int64))
    assert probe.predict(features).shape == (1, 4, 4, 5)
    assert probe.predict(features, (8, 15)).shape == (1, 4, 8, 15)
    none = RidgeProbe(bias="none").partial_fit(features, torch.arange(20).view(1, 4, 5) % 4)
    assert none.coef_.shape == (3, 4)
    assert probe.coef_.shape == (4, 4)
