"""The normalised cut at its limits: Lanczos against dense decompositions, thresholds of one sign, pairs, lone nodes."""

import numpy as np
import pytest
import torch
from dense_ctx_dip import ncut, ncut_batch
from dense_ctx_dip.ncut import affinity, assemble_clusters, best_cut, ncut_segments, paint, recursive_cut
from dense_ctx_dip.ncut_batch import ncut_segments_of, recursive_cuts
from dense_ctx_dip.ncut_lanczos import large_sides
from dense_ctx_dip.ncut_thresholds import thresholds
from torch.nn import functional

from dense_ctx.errors import InputError


def graph(count, parts=2, seed=0, apart=0.1):
    """Weights in (0, 1) of `parts` groups, `apart` between them."""
    draw = np.random.default_rng(seed)
    group = np.arange(count) * parts // count
    weights = np.where(group[:, None] == group, 0.7, apart) * draw.uniform(0.7, 1.3, (count, count))
    return torch.from_numpy((weights + weights.T) / 2).float()


def eigen(weights):
    """D^-1/2 v_2 with its largest entry positive, and the second eigenvalue, by definition in float64."""
    scale = weights.double().sum(1).rsqrt()
    laplacian = torch.eye(len(weights)).double() - scale[:, None] * weights.double() * scale
    values, vectors = torch.linalg.eigh(laplacian)
    vector = vectors[:, 1] * scale
    return vector * vector[vector.abs().argmax()].sign(), float(values[1])


# ---------------------------------------------------------------------- the vector


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("count", [3, 4, 5, 9, 17, 40, 90])
@pytest.mark.parametrize("parts", [2, 3])
def test_the_second_vector_of_any_size(count, parts, dense):
    weights = graph(count, parts, seed=count)
    expected, value = eigen(weights)
    vector, found = ncut._second_vector(weights, weights.sum(1), 2.0, dense)
    assert found == pytest.approx(value, abs=1e-4)
    assert float(functional.cosine_similarity(vector.double(), expected, dim=0)) > 0.9999
    assert vector[vector.abs().argmax()] > 0
    assert float(vector.norm()) == pytest.approx(float(expected.norm()), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_lanczos_stops_early_only_above_tau(seed, monkeypatch):
    """Of a graph without parts, whose eigenvalues lie close together."""
    weights = graph(120, 1, seed) ** 8
    _, value = eigen(weights)
    for tau in (0.2 * value, 0.6 * value, 0.99 * value):
        vector, bound = ncut._second_vector(weights, weights.sum(1), tau, False)
        assert vector is None
        assert tau < bound < 1
    vector, bound = ncut._second_vector(weights, weights.sum(1), 1.05 * value, False)
    assert vector is not None
    assert bound == pytest.approx(value, abs=1e-4)
    steps, true = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda small: steps.append(len(small)) or true(small))
    assert ncut._second_vector(weights, weights.sum(1), 0.2 * value, False)[0] is None
    assert steps == [4, 8, 12, 16]  # the fewest steps after which a part may be left


def test_lanczos_ends_with_its_steps(monkeypatch):
    """Without a vector that has converged the last one counts, and what it says is an upper bound of the eigenvalue."""
    weights = graph(60, 1, seed=1)
    _, value = eigen(weights)
    for steps in (3, 6, 9):
        monkeypatch.setattr(ncut, "STEPS", steps)
        vector, bound = ncut._second_vector(weights, weights.sum(1), 2.0, False)
        assert vector is not None
        assert value - 1e-4 <= bound < 1.2
        assert abs(float((weights.sum(1) * vector).sum())) < 1e-2 * float((weights.sum(1) * vector.abs()).sum())


def test_lanczos_where_the_space_is_exhausted():
    """Few distinct eigenvalues: the iteration ends before its vectors are of rounding alone."""
    for blocks in ([30, 30], [25, 20, 15], [40, 1, 19]):
        weights = torch.block_diag(*(torch.ones(n, n) for n in blocks)) + 0.05
        expected, value = eigen(weights)
        vector, bound = ncut._second_vector(weights, weights.sum(1), 2.0, False)
        assert bound == pytest.approx(value, abs=1e-4)
        assert vector.isfinite().all()
        if len(blocks) == 2:  # else the eigenvalue may be double; of equal halves rounding decides the sign
            assert abs(float(functional.cosine_similarity(vector.double(), expected, dim=0))) > 0.9999


# ---------------------------------------------------------------------- affinities and thresholds


@pytest.mark.parametrize("exponent", [-1, 0, 0.5, 1, 2, 2.5, 3, 10, 31, 63, 64, 65])
def test_powers(exponent):
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    before = x.clone()
    torch.testing.assert_close(ncut._power(x, exponent), x.pow(exponent), rtol=1e-5, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("spread", "alike"), [(4e-7, True), (1.5e-6, False), (1e-3, False)])
def test_rows_that_are_nearly_alike(spread, alike):
    angle = (2 * spread) ** 0.5
    rows = torch.tensor([[1.0, 0.0], [np.cos(angle), np.sin(angle)], [1.0, 0.0]])
    weights = affinity(3 * rows, 1.0)
    assert bool((weights == 1).all()) == alike
    if not alike:
        assert weights.min() == 0
        assert weights.max() == 1
    for wrong in (torch.zeros(0, 3), torch.zeros(3), torch.zeros(2, 3, 4), torch.tensor([[0.0, float("inf")]])):
        with pytest.raises(InputError, match="features are finite rows"):
            affinity(wrong)
    assert affinity(torch.ones(1, 3)).tolist() == [[1.0]]


def test_affinities_are_cosines_between_their_extremes():
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 10)[:, None]
    cosines = functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    scaled = (cosines - cosines.min()) / (cosines.max() - cosines.min())
    for alpha in (1.0, 3.0, 10.0):
        torch.testing.assert_close(affinity(rows, alpha), scaled**alpha, rtol=1e-4, atol=1e-5)


def threshold_by_definition(weights, vector):
    best, upper = float("inf"), None
    for level in torch.linspace(0.99 * float(vector.min()), 0.99 * float(vector.max()), 100, dtype=torch.float64):
        side = vector.double() > level
        if side.all() or not side.any():
            continue
        across = weights[side][:, ~side].double().sum()
        value = float(across / weights[side].double().sum() + across / weights[~side].double().sum())
        if value < best:
            best, upper = value, side
    return best, upper


@pytest.mark.parametrize("shift", [0.0, 5.0, -5.0])
@pytest.mark.parametrize("seed", range(3))
def test_thresholds_of_vectors_of_one_sign(seed, shift):
    """Alone and in a batch with padding: where all nodes are above or below a threshold there is no cut."""
    draw = np.random.default_rng(seed)
    graphs, vectors = [graph(n, 2, seed) for n in (6, 9, 12)], []
    for weights in graphs:
        vectors.append(torch.from_numpy(np.sort(draw.standard_normal(len(weights))) + shift).float())
    counts, size = [6, 9, 12], 16
    padded = torch.zeros(3, size, size)
    rows, real = torch.zeros(3, size), torch.zeros(3, size, dtype=torch.bool)
    for index, (weights, vector) in enumerate(zip(graphs, vectors, strict=True)):
        padded[index, : len(weights), : len(weights)], rows[index, : len(vector)] = weights, vector
        real[index, : len(vector)] = True
    values, uppers = thresholds(padded, padded.sum(2), rows, real)
    for index, (weights, vector) in enumerate(zip(graphs, vectors, strict=True)):
        best, upper = threshold_by_definition(weights, vector)
        value, side = ncut._threshold(weights, weights.sum(1), vector)
        assert value == pytest.approx(best, rel=1e-5)
        assert torch.equal(side, upper)
        assert float(values[index]) == pytest.approx(best, rel=1e-5)
        assert torch.equal(uppers[index, : counts[index]], upper)
        assert not uppers[index, counts[index] :].any()


def test_thresholds_of_a_batch_are_a_hundred_between_099_of_the_extremes():
    """Of graphs on which a few more, or the extremes themselves, would choose another cut."""
    graphs, vectors = [], []
    for seed in range(6):
        draw = np.random.default_rng(seed)
        weights = torch.from_numpy(draw.random((40, 40)) ** 3).float()
        graphs.append((weights + weights.T) / 2)
        vectors.append(torch.from_numpy(np.sort(draw.standard_t(1.5, 40))).float())
    for sign in (1, -1):  # the outermost node alone could be cut off at the extreme itself
        graphs.append(torch.eye(40) + 1e-3)
        vectors.append(sign * torch.cat([torch.full((1,), -1.0), torch.linspace(-0.993, 1, 39)]))
    weights, rows = torch.stack(graphs), torch.stack(vectors)
    real = torch.ones(len(rows), 40, dtype=torch.bool)
    values, uppers = thresholds(weights, weights.sum(2), rows, real)
    for index, (graph, vector) in enumerate(zip(graphs, vectors, strict=True)):
        best, _ = threshold_by_definition(graph, vector)
        assert float(values[index]) == pytest.approx(best, rel=1e-6)
        assert bool(uppers[index][vector > 0.995 * vector.max()].all())
        assert not uppers[index][vector < 0.995 * vector.min()].any()


def test_a_cut_is_below_tau_and_not_at_it():
    weights = graph(12, 2)
    value, side = best_cut(weights, 2.0)
    assert side.tolist() in ([True] * 6 + [False] * 6, [False] * 6 + [True] * 6)
    inside, outside = weights[side][:, side].sum(), weights[side][:, ~side].sum()
    other = weights[~side][:, ~side].sum()
    assert value == pytest.approx(float(outside / (inside + outside) + outside / (other + outside)), rel=1e-5)
    for exact in (True, False):
        assert best_cut(weights, value, exact)[1] is None
        assert best_cut(weights, value + 1e-6, exact)[1] is not None
    lonely = weights.clone()
    lonely[4], lonely[:, 4] = 0, 0
    assert best_cut(lonely, 0.1)[0] == 0
    assert best_cut(lonely, 0.1)[1].tolist() == [index != 4 for index in range(12)]
    assert best_cut(lonely, 0.0) == (0.0, None)
    assert best_cut(torch.zeros(3, 3), 0.5) == (0.0, None)


# ---------------------------------------------------------------------- recursion


@pytest.mark.parametrize("together", [False, True])
def test_the_least_parts(together):
    """Three nodes may be cut, two in DiffCut's way alone, one never."""

    def cut(weights, quirk):
        return recursive_cuts([weights], 0.5, quirk)[0] if together else recursive_cut(weights, 0.5, quirk)[0]

    pair = torch.tensor([[1.0, 0.01], [0.01, 1.0]])
    assert cut(pair, False).tolist() == [0, 0]
    assert sorted(cut(pair, True).tolist()) == [0, 1]
    three = torch.block_diag(torch.ones(2, 2), torch.ones(1, 1)) + 0.01
    assert len(cut(three, False).unique()) == 2
    assert len(cut(three, True).unique()) == 2
    four = torch.eye(4) + 0.01
    assert len(cut(four, True).unique()) == 4
    assert cut(torch.ones(1, 1), True).tolist() == [0]
    for wrong in (torch.ones(2, 3), torch.ones(3), torch.ones(0, 0), -torch.ones(2, 2), torch.ones(2, 2, 2)):
        with pytest.raises(InputError, match=r"weights are \[N, N\]"):
            cut(wrong, False)
    assert cut(torch.zeros(2, 2), False).tolist() == [0, 0]  # a weight of 0 is one


@pytest.mark.parametrize("quirk", [False, True])
@pytest.mark.parametrize(("sizes", "batch"), [((4, 9, 20), 1), ((64,), 9 * 64**2), ((2,), 1), ((7, 8, 30), 1 << 20)])
def test_padding_and_batches_change_no_partition(monkeypatch, quirk, sizes, batch):
    graphs = [
        graph(n, parts, seed=n) for n, parts in ((40, 5), (23, 3), (9, 3), (8, 2), (5, 2), (3, 1), (2, 1), (1, 1))
    ]
    lonely = graph(12, 3)
    lonely[4], lonely[:, 4] = 0, 0
    graphs.append(lonely)
    expected = [recursive_cut(weights, 0.6, quirk)[0] for weights in graphs]
    assert max(int(labels.max()) for labels in expected) >= 4
    monkeypatch.setattr(ncut_batch, "SIZES", sizes)
    monkeypatch.setattr(ncut_batch, "_BATCH", batch)
    for found, labels in zip(recursive_cuts(graphs, 0.6, quirk), expected, strict=True):
        assert torch.equal(found, labels)


def test_cuts_are_listed_in_order_with_their_nodes():
    weights = graph(30, 3, apart=0.05)
    labels, cuts = recursive_cut(weights, 0.5)
    assert cuts[0].nodes == 30
    accepted = [cut for cut in cuts if cut.side is not None]
    assert len(accepted) == 2
    assert len(cuts) == 2 * len(accepted) + 1
    assert all(cut.value < 0.5 for cut in accepted)
    assert all(cut.value >= 0.5 for cut in cuts if cut.side is None)
    upper = int(accepted[0].side.sum())
    assert cuts[1].nodes == upper  # the upper side first
    assert labels.unique().tolist() == [0, 1, 2]
    assert bool(accepted[0].side[labels == 0].all())
    dense, listed = recursive_cut(weights, 0.5, exact=True)
    assert torch.equal(dense, labels)
    assert [cut.nodes for cut in listed] == [cut.nodes for cut in cuts]


def test_clusters_are_numbered_by_the_sides_that_hold_them():
    sides = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]).bool()
    assert assemble_clusters(list(sides), 6).tolist() == [2, 1, 1, 3, 0, 0]
    assert assemble_clusters([], 4).tolist() == [0] * 4


# ---------------------------------------------------------------------- pixels


@pytest.mark.parametrize("size", [(9, 13), (4, 6), (3, 2)])
def test_pixels_take_the_part_whose_mean_is_nearest(size):
    features, parts = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4
    parts = torch.where(parts == 2, 0, parts)  # a number that no patch has
    parts = torch.unique(parts, return_inverse=True)[1]
    unit = functional.normalize(features, dim=0)
    means = torch.stack([unit.flatten(1)[:, parts == index].mean(1) for index in range(3)])
    large = functional.interpolate(unit[None], size, mode="bilinear")[0]
    winners = torch.einsum("kc,chw->khw", means, large).argmax(0)
    assert torch.equal(paint(features, parts, size), torch.unique(winners, return_inverse=True)[1])
    whole = paint(features, torch.zeros(24, dtype=torch.int64), size)
    assert whole.dtype == torch.int64
    assert whole.tolist() == [[0] * size[1]] * size[0]


def test_segments_alone_and_together():
    features = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    features[0, :, :, :3] += 4
    features[1, :, 2:] -= 3
    for settings in ({"tau": 0.9, "alpha": 3.0}, {"tau": 0.9, "alpha": 3.0, "official_quirk": True}):
        alone = [ncut_segments(one, (11, 15), **settings) for one in features]
        together = ncut_segments_of(list(features), [(11, 15)] * 2, **settings)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
        assert all(int(labels.max()) > 0 for labels in alone)
    for wrong in (features, features[0, 0]):
        with pytest.raises(InputError, match=r"features are \[C, h, w\]"):
            ncut_segments(wrong, (8, 8))
        with pytest.raises(InputError, match=r"features are \[C, h, w\]"):
            ncut_segments_of([wrong], [(8, 8)])
    assert torch.equal(ncut_segments(features[0].double(), (5, 7)), ncut_segments(features[0], (5, 7)))


def lone(count):
    weights = graph(count)
    weights[3], weights[:, 3] = 0, 0
    return weights


@pytest.mark.parametrize("tau", [0.3, 0.6, 2.0])
def test_large_parts_together_are_cut_as_one_by_one(tau):
    graphs = [
        graph(n, parts, seed, apart)
        for n, parts, seed, apart in ((200, 2, 0, 0.01), (231, 3, 1, 0.1), (260, 5, 2, 0.7))
    ]
    graphs += [lone(205), torch.ones(200, 200)]
    sides = large_sides(graphs, tau)
    for weights, side in zip(graphs, sides, strict=True):
        expected = best_cut(weights, tau)[1]
        assert (side is None) == (expected is None)
        if side is not None and not bool((weights == 1).all()):
            assert float((side == expected).float().mean()) > 0.99
    assert any(side is None for side in sides) == (tau < 1)
    assert large_sides([], tau) == []


def test_a_vector_that_does_not_converge_is_as_far_as_it_came(monkeypatch):
    monkeypatch.setattr("dense_ctx_dip.ncut.STEPS", 12)
    monkeypatch.setattr("dense_ctx_dip.ncut_lanczos.STEPS", 12)
    weights = graph(240, 7, 3, 0.6)
    side = large_sides([weights], 2.0)[0]
    assert float((side == best_cut(weights, 2.0)[1]).float().mean()) > 0.99
