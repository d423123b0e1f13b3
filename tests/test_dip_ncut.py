"""The recursive normalised cut against DiffCut's records, against dense decompositions, and on odd graphs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_dip import ncut
from dense_ctx_dip.ncut import affinity, ncut_segments, recursive_cut
from dense_ctx_dip.ncut_batch import ncut_segments_of, recursive_cuts
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from dense_ctx.errors import InputError

ORACLE = Path(__file__).parent / "oracles/ncut.npz"


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def agreement(one, two):
    """Share of places that agree after the best relabelling."""
    table = np.zeros((int(one.max()) + 2, int(two.max()) + 2))
    np.add.at(table, (one.flatten().numpy() + 1, two.flatten().numpy() + 1), 1)
    return table[linear_sum_assignment(table, maximize=True)].sum() / one.numel()


@pytest.mark.parametrize("lanczos", [False, True])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_published_code(oracle, case, lanczos, monkeypatch):
    if lanczos:
        monkeypatch.setattr(ncut, "_DENSE", 8)
    tau, alpha = float(oracle["taus"][case]), float(oracle["alphas"][case])
    weights = affinity(oracle["features"].view(256, 32), alpha)
    labels, cuts = recursive_cut(weights, tau, official_quirk=True)
    assert [cut.nodes for cut in cuts] == oracle[f"sizes_{case}"].tolist()
    for cut, value in zip(cuts, oracle[f"ncut_values_{case}"].tolist(), strict=True):
        assert (cut.side is not None) == (value < tau)
        if value < tau:
            assert cut.value == pytest.approx(value, rel=1e-3)
    sides = [cut.side.view(16, 16) for cut in cuts if cut.side is not None]
    for mine, theirs in zip(sides, oracle[f"clusters_{case}"].bool(), strict=True):
        # ours marks a part's upper side, theirs too, each over the whole image
        assert float((mine == theirs).float().mean()) >= 0.999
    assert int((~ncut.zero_free(weights)).sum()) == int(oracle[f"n_zero_affinity_rows_{case}"])
    assert agreement(labels.view(16, 16), oracle[f"segments_{case}"].long()) >= 0.999
    sound, _ = recursive_cut(weights, tau)
    assert int(sound.min()) == 0
    assert agreement(sound.view(16, 16), oracle[f"segments_{case}"].long()) >= 0.98


@pytest.mark.parametrize("case", [0, 1, 2])
def test_segments_at_full_resolution(oracle, case):
    features = oracle["features"].permute(2, 0, 1)
    segments = ncut_segments(
        features, (64, 64), float(oracle["taus"][case]), float(oracle["alphas"][case]), official_quirk=True
    )
    assert agreement(segments, oracle[f"segments_hires_{case}"].long()) >= 0.999


def diffcut(weights, tau):
    """DiffCut's recursion in float64, written from its description: (upper sides in order, labels by membership)."""
    free, sides = ~(weights == 0).any(1), []

    def cut(nodes):
        if len(nodes) < 2:
            return
        within = weights[nodes][:, nodes].double()
        degree = within.sum(1)
        scale = degree.rsqrt()
        laplacian = torch.eye(len(nodes)) - scale[:, None] * within * scale
        vector = torch.linalg.eigh(laplacian)[1][:, 1] * scale
        vector = vector * vector[vector.abs().argmax()].sign()
        best, upper = float("inf"), None
        for level in torch.linspace(0.99 * vector.min(), 0.99 * vector.max(), 100, dtype=torch.float64):
            side = vector > level
            across = within[side][:, ~side].sum()
            value = float(across / degree[side].sum() + across / degree[~side].sum())
            if value < best:
                best, upper = value, side
        if best < tau:
            sides.append(nodes[upper])
            cut(nodes[upper & free[nodes]])
            cut(nodes[~upper & free[nodes]])

    cut(torch.arange(len(weights)))
    member = torch.stack([torch.isin(torch.arange(len(weights)), side) for side in sides])
    return sides, torch.unique(member, dim=1, return_inverse=True)[1]


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_zeros_anywhere_in_the_image_leave_the_cuts_below_the_top(seed):
    """Weights of zero between parts, as a high power underflows to; with nodes that share a part with none of them."""
    weights = affinity(regions(12, 14, 5, seed)[0].flatten(1).T, 10.0)
    weights = torch.where(weights < weights.quantile(0.002), 0, weights)
    left_out = int((weights == 0).any(1).sum())
    assert 10 < left_out < 150
    sides, labels = diffcut(weights, 0.6)
    assert len(sides) > 3
    mine, cuts = recursive_cut(weights, 0.6, official_quirk=True)
    accepted = [cut.side for cut in cuts if cut.side is not None]
    assert [int(side.sum()) for side in accepted] == [len(side) for side in sides]
    assert agreement(mine, labels) >= 0.999
    assert agreement(recursive_cuts([weights], 0.6, True)[0], labels) >= 0.999
    assert agreement(recursive_cut(weights, 0.6)[0], labels) < 0.999


def test_pixels_go_by_directions_not_lengths():
    """A part with long features must not spread over its neighbour."""
    features = torch.zeros(2, 4, 8)
    features[0, :, :4], features[1, :, 4:] = 100.0, 1.0
    parts = torch.arange(8).ge(4).long().expand(4, 8).flatten()
    segments = ncut.paint(features, parts, (16, 32))
    assert torch.equal(segments, torch.arange(32).ge(16).long().expand(16, 32))


def test_the_second_vector(oracle, monkeypatch):
    weights = affinity(oracle["features"].view(256, 32), 10.0)
    for nodes in (512, 8):
        monkeypatch.setattr(ncut, "_DENSE", nodes)
        vector, _ = ncut._second_vector(weights, weights.sum(1), 0.5, nodes > 256)
        cosine = functional.cosine_similarity(vector, oracle["fiedler_0"].float(), dim=0)
        assert float(cosine) > 0.9999


def regions(height, width, count, seed=0, noise=0.6, dim=48):
    """Features of vertical bands with noise; (features [C, h, w], bands [h, w])."""
    draw = torch.Generator().manual_seed(seed)
    edges = torch.linspace(0, width, count + 1).round().long()
    bands = torch.bucketize(torch.arange(width), edges[1:-1], right=True).expand(height, width)
    smooth = functional.interpolate(torch.randn(1, dim, 5, 7, generator=draw), (height, width), mode="bicubic")[0]
    centres = torch.randn(count, dim, generator=draw)
    return (centres[bands] + noise * torch.randn(height, width, dim, generator=draw)).permute(
        2, 0, 1
    ) + 0.2 * smooth, bands


@pytest.mark.parametrize("seed", [0, 1])
def test_as_with_dense_decompositions(seed):
    features, bands = regions(20, 28, 5, seed)
    weights = affinity(features.flatten(1).T, 10.0)
    dense, slow = recursive_cut(weights, 0.5, exact=True)
    fast, quick = recursive_cut(weights, 0.5)
    assert agreement(fast, dense) >= 0.98
    assert len(slow) == len(quick)
    assert int(dense.max()) >= 2
    assert agreement(fast.view(20, 28), bands) > 0.7


@pytest.mark.parametrize("quirk", [False, True])
def test_several_images_at_once(oracle, quirk):
    """Of different sizes and settings: each as it is by itself, numbers and all."""
    graphs = [affinity(oracle["features"].view(256, 32), 10.0)]
    graphs += [affinity(regions(h, w, n, seed)[0].flatten(1).T, 10.0) for seed, (h, w, n) in
               enumerate([(20, 28, 5), (9, 14, 3), (7, 5, 2), (4, 6, 4)])]  # fmt: skip
    graphs += [torch.ones(5, 5), torch.ones(1, 1), torch.block_diag(torch.ones(4, 4), torch.ones(9, 9))]
    cuts = recursive_cuts(graphs, 0.5, quirk)
    for graph, labels in zip(graphs, cuts, strict=True):
        alone, _ = recursive_cut(graph, 0.5, quirk)
        assert torch.equal(labels, alone)
    assert max(int(labels.max()) for labels in cuts) > 3
    pictures = [regions(9, 14, 3, 7)[0], regions(7, 5, 2, 8)[0]]
    sizes = [(27, 42), (28, 20)]
    for features, size, segments in zip(pictures, sizes, ncut_segments_of(pictures, sizes, alpha=4), strict=True):
        assert torch.equal(segments, ncut_segments(features, size, alpha=4))
    with pytest.raises(InputError, match=r"weights are \[N, N\]"):
        recursive_cuts([torch.ones(2, 3)])
    with pytest.raises(InputError, match=r"features are \[C, h, w\]"):
        ncut_segments_of([torch.ones(4, 4)], [(8, 8)])


def test_odd_graphs():
    assert recursive_cut(torch.ones(40, 40))[0].unique().tolist() == [0]  # all alike: one part
    assert ncut_segments(torch.ones(8, 5, 7), (20, 28)).unique().tolist() == [0]
    assert recursive_cut(torch.ones(1, 1))[0].tolist() == [0]
    apart = torch.block_diag(torch.ones(210, 210), torch.ones(150, 150))
    labels, cuts = recursive_cut(apart, 0.1)
    assert cuts[0].value == pytest.approx(0.0, abs=1e-6)
    assert [len(labels[labels == i]) for i in labels.unique()] in ([210, 150], [150, 210])
    lonely = torch.ones(20, 20)
    lonely[3], lonely[:, 3] = 0, 0
    assert int(recursive_cut(lonely, 0.1)[0].max()) == 1
    with pytest.raises(InputError, match="NaN or infinity"):
        affinity(torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(InputError, match=r"weights are \[N, N\]"):
        recursive_cut(-torch.ones(3, 3))
    with pytest.raises(InputError, match=r"features are \[C, h, w\]"):
        ncut_segments(torch.ones(4, 4), (8, 8))
