"""Closed forms against naive references, where their settings tell: what mutants of them that survived had changed."""

import math

import numpy as np
import pytest
import torch
from dense_ctx_dip import ncut, ncut_batch
from dense_ctx_dip.projector import Projector
from dense_ctx_dip.soft_labels import classes_in, compact, soft_predict
from dense_ctx_lila.pamr import affinity as neighbours
from dense_ctx_lila.ridge import ridge_fit
from dense_ctx_maxa import attention
from dense_ctx_maxa.attention import CrossAttention, GaussianBias
from dense_ctx_maxa.positions import cell_centres
from dense_ctx_metrics.vos import boundary_f, object_scores, statistics
from dense_ctx_predict import track
from dense_ctx_probes.knn import KnnProbe
from dense_ctx_probes.local_knn import Propagator, upsampled_votes
from dense_ctx_probes.propagation import PropagationProbe
from dense_ctx_probes.ridge import RidgeProbe

from dense_ctx.errors import InputError
from dense_ctx.interfaces import DenseFeatures
from dense_ctx.testing import tiny_model


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- propagation


def test_each_setting_of_track_counts():
    model, frames = tiny_model(), [noise(3, 48, 64, seed=i // 2).sigmoid() * 0.8 + 0.04 * i for i in range(5)]
    mask = (noise(6, 8).repeat_interleave(8, 0).repeat_interleave(8, 1) > 0).long()
    settings = {"stride": 4, "n_last_frames": 2, "size_mask_neighborhood": 3, "topk": 3, "temperature": 0.1}

    def labels(**change):
        return torch.stack(list(track(model, frames, mask, **{**settings, **change})))

    plain = labels()
    for change in (
        {"stride": 8},
        {"n_last_frames": 0},
        {"size_mask_neighborhood": 8},
        {"topk": 9},
        {"temperature": 5.0},
    ):
        assert not torch.equal(labels(**change), plain), change


@pytest.mark.parametrize("stride", [1, 3])
def test_votes_are_min_max_normalised_by_channel_over_the_frame(stride):
    soft = torch.stack([noise(4, 5).sigmoid() * 0.3 + 0.6, noise(4, 5, seed=1).sigmoid() * 0.2, torch.zeros(4, 5),
                        noise(4, 5, seed=2).sigmoid() * 1e-3])  # fmt: skip
    native = (4 * stride, 5 * stride)
    large = torch.nn.functional.interpolate(soft[None], native, mode="bilinear")[0]
    expected = large.clone()
    for channel in (0, 1, 3):
        low, high = large[channel].min(), large[channel].max()
        expected[channel] = (large[channel] - low) / (high - low)
    torch.testing.assert_close(upsampled_votes(soft, native, stride), expected)
    assert not torch.equal(expected.argmax(0), large.argmax(0))  # without it the first channel wins everywhere


@pytest.mark.parametrize(("size", "cell"), [((12, 20), 2), ((6, 20), 1), ((13, 20), 3)])
def test_predictions_of_propagation_are_shares_of_the_votes(size, cell):
    first, second = noise(1, 4, 6, 10), noise(1, 4, 6, 10, seed=1)
    targets = torch.arange(60).view(1, 6, 10) % 3 - 1
    probe = PropagationProbe(topk=3, size_mask_neighborhood=2).partial_fit(DenseFeatures(first, first), targets)
    shares = torch.nn.functional.one_hot(targets[0].clamp_min(0), 2).movedim(-1, 0) * (targets[0] >= 0)
    soft = Propagator(first[0], shares.float(), topk=3, size_mask_neighborhood=2).step(second[0])
    votes = upsampled_votes(soft, size, cell)
    expected = torch.where(votes.sum(0) > 0, votes / votes.sum(0).clamp_min(1e-12), 0.5)
    torch.testing.assert_close(probe.predict(DenseFeatures(second, second), size)[0], expected)


# ---------------------------------------------------------------------- DAVIS, mIoU


@pytest.mark.parametrize(("height", "width"), [(100, 100), (40, 50), (70, 300), (480, 854)])
def test_the_tolerance_of_boundaries_is_rounded_up(height, width):
    radius = math.ceil(0.008 * math.hypot(height, width))
    truth = np.zeros((height, width), bool)
    truth[10] = True
    for away, expected in ((radius, 1.0), (radius + 1, 0.5)):  # of each line's two edges both, or one, is near
        other = np.zeros_like(truth)
        other[10 + away] = True
        assert boundary_f(truth, other) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float64])
def test_ids_of_every_type_and_above_what_a_byte_holds(kind):
    truth = np.zeros((20, 30), kind)
    truth[2:9, 3:11], truth[12:18, 15:28] = 1, 3
    shifted = np.roll(truth, 2, 1)
    for count in (3, 300):
        j, f = object_scores(truth, shifted, count)
        assert len(j) == len(f) == count
        assert j[0] == pytest.approx(6 / 10)
        assert j[2] == pytest.approx(11 / 15)
        assert j[1] == f[1] == 1


def test_statistics_take_a_list():
    assert statistics([0.0, 1.0, 1.0, 1.0]) == statistics(np.array([0.0, 1.0, 1.0, 1.0]))


# ---------------------------------------------------------------------- ncut, DIP


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_are_a_hundred_between_099_of_the_extremes(seed):
    draw = np.random.default_rng(seed)
    weights = torch.from_numpy(draw.random((40, 40)) ** 3).float()
    weights = (weights + weights.T) / 2
    vector = torch.from_numpy(np.sort(draw.standard_t(1.5, 40))).float()
    degree = weights.sum(1)
    best, upper = float("inf"), None
    for level in torch.linspace(0.99 * float(vector.min()), 0.99 * float(vector.max()), 100, dtype=torch.float64):
        side = vector > level
        across = weights[side][:, ~side].double().sum()
        value = float(across / degree[side].double().sum() + across / degree[~side].double().sum())
        if value < best:
            best, upper = value, side
    value, side = ncut._threshold(weights, degree, vector)
    assert value == pytest.approx(best, rel=1e-6)
    assert torch.equal(side, upper)
    # the extremes themselves are thresholds at 1: the lowest node alone could never be cut off
    far = torch.cat([torch.full((1,), -1.0), torch.linspace(-0.993, 1, 39)])
    assert int(ncut._threshold(torch.eye(40) + 1e-3, torch.ones(40), far)[1].sum()) < 40


def test_a_node_without_neighbours_is_a_part():
    weights = torch.ones(6, 6) * 0.4
    weights[2], weights[:, 2] = 0, 0
    value, side = ncut.best_cut(weights, 0.1)
    assert value == 0
    assert side.tolist() == [True, True, False, True, True, True]
    assert ncut.best_cut(weights / 10, 0.1)[1].tolist() == side.tolist()  # the others' degree is 0.2


def test_a_cut_of_a_batch_is_below_tau_and_not_at_it(monkeypatch):
    values, thresholds = [], ncut_batch.thresholds
    monkeypatch.setattr(ncut_batch, "thresholds", lambda *args: values.append(thresholds(*args)) or values[-1])
    graph = (noise(9, 9) / 3).exp()
    (side,) = ncut_batch._cut([graph + graph.T], 16, 2.0)
    value = float(values[0][0])
    assert ncut_batch._cut([graph + graph.T], 16, value) == [None]
    assert torch.equal(ncut_batch._cut([graph + graph.T], 16, math.nextafter(value, 3))[0], side)


@pytest.mark.parametrize("count", [5, 15, 16])
def test_padding_is_below_the_second_eigenvalue_where_that_is_negative(count):
    """Of nodes without an edge to themselves that are all alike but for a little, it is near -1 / (n - 1)."""
    graph = 1 + 0.1 * noise(count, count).sigmoid()
    graph = (graph + graph.T) * (1 - torch.eye(count))
    value, side = ncut.best_cut(graph, 2.0)
    assert value > 1
    assert torch.equal(ncut_batch._cut([graph], 16, 2.0)[0], side)


def test_the_projector_is_its_layers_in_double_precision_where_its_norm_hardly_varies():
    torch.manual_seed(0)
    projector = Projector(4, hidden=2, out=5)
    with torch.no_grad():
        projector.fc2.weight.mul_(1e-3)
        projector.fc2.bias.mul_(1e-3)
    rows = noise(3, 4)
    own = {key: value.double() for key, value in projector.state_dict().items()}
    inner = torch.nn.functional.gelu(rows.double() @ own["fc1.weight"].T + own["fc1.bias"])
    out = inner @ own["fc2.weight"].T + own["fc2.bias"]
    variance = out.var(1, correction=0, keepdim=True)
    assert 1e-8 < float(variance.mean()) < 1e-5  # where 1e-6 and 1e-5 are far apart
    expected = (out - out.mean(1, keepdim=True)) / (variance + 1e-6).sqrt()
    torch.testing.assert_close(projector(rows).double(), expected, rtol=1e-4, atol=1e-5)


def test_classes_are_numbered_without_the_ignored():
    labels = torch.tensor([[-1, 7], [3, 3]]), torch.tensor([[9, -1], [-1, 7]])
    present = classes_in(*labels)
    assert present.tolist() == [3, 7, 9]
    first, second = compact(*labels, present=present)
    assert (first.tolist(), second.tolist()) == ([[-1, 1], [0, 0]], [[2, -1], [-1, 1]])
    none = torch.full((1, 2), -1)
    assert classes_in(none).tolist() == []
    assert compact(none, present=classes_in(none))[0].tolist() == [[-1, -1]]


@pytest.mark.parametrize("temperature", [0.03, 0.07, 1.0])
def test_soft_labels_at_other_temperatures(temperature):
    queries, keys, counts = noise(2, 3, 5), noise(2, 4, 5, seed=1), noise(2, 4, 3, seed=2).abs().round() + 1
    predicted, _ = soft_predict(queries, keys, counts, torch.tensor([[0, 1], [1, 0]]), temperature)
    unit = torch.nn.functional.normalize
    cosines = unit(queries, dim=-1).flatten(0, 1) @ unit(keys, dim=-1).flatten(0, 1).T
    shares = (counts / counts.sum(-1, keepdim=True)).flatten(0, 1)
    torch.testing.assert_close(predicted.flatten(0, 1), (cosines / temperature).softmax(1) @ shares)


# ---------------------------------------------------------------------- ridge, PAMR, k-NN, MAXA


def test_one_ill_system_of_a_batch_is_enough_for_double_precision():
    good, y = noise(60, 4), noise(2, 60, 1)
    bad = torch.cat([good[:, :3], good[:, :1] + 1e-4 * noise(60, 1, seed=3)], 1)
    both = torch.stack([good, bad])
    exact = ridge_fit(both.double(), y.double(), 1e-9)
    torch.testing.assert_close(ridge_fit(both, y, 1e-9).double(), exact, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match=r"penalty=-0\.5 is not at least 0"):
        ridge_fit(good, y[0], -0.5)
    weights = torch.rand(2, 60, generator=torch.Generator().manual_seed(1))
    each = torch.stack([ridge_fit(good, y[i], 0.1, weights=weights[i]) for i in range(2)])
    torch.testing.assert_close(ridge_fit(torch.stack([good, good]), y, 0.1, weights=weights), each)


def test_a_ridge_probe_gives_shares_of_its_classes():
    features, targets = DenseFeatures(noise(2, 5, 6, 8), noise(2, 5, 3, 4)), torch.arange(96).view(2, 6, 8) % 4 - 1
    predicted = RidgeProbe().partial_fit(features, targets).predict(features)
    assert predicted.min() >= 0
    torch.testing.assert_close(predicted.sum(1), torch.ones(2, 6, 8))


def test_neighbours_of_an_image_of_one_value_weigh_alike_and_nearly_so_of_small_changes():
    assert torch.allclose(neighbours(torch.full((1, 3, 5, 6), 0.3), (1, 2)), torch.tensor(1 / 16))
    small = neighbours(1e-8 * noise(1, 3, 5, 6).double(), (1,))  # 1e-8 beside a tenth of the spread
    picture = 1e-8 * noise(1, 3, 5, 6).double()
    padded = torch.nn.functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    near = torch.stack([padded[:, :, y : y + 5, x : x + 6] for y in range(3) for x in range(3)])
    std = near.std(0)
    scores = -((near - picture).abs() / (1e-8 + 0.1 * std)).mean(2)
    expected = scores[[0, 1, 2, 3, 5, 6, 7, 8]].softmax(0)[:, 0]
    torch.testing.assert_close(small[0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("task", ["segmentation", "regression"])
def test_cells_of_k_nn_are_means_of_what_is_labelled_and_inside(task):
    pixels, step = noise(1, 3, 5, 7), 2
    targets = (noise(1, 5, 7, seed=1) * 2).long().clamp(-1, 2) if task == "segmentation" else noise(1, 2, 5, 7) + 3
    if task == "regression":
        targets[:, :, 0, :3] = torch.nan
    probe = KnnProbe(task, k=1, stride=step).partial_fit(DenseFeatures(pixels, pixels), targets)
    keys, values = [], []
    for top in range(0, 5, step):
        for left in range(0, 7, step):
            part = targets[0, ..., top : top + step, left : left + step]
            if task == "segmentation":
                shares = torch.nn.functional.one_hot(part[part >= 0], 3).float()
            else:
                shares = part.flatten(1).T[part.flatten(1).isfinite().all(0)]
            if len(shares):
                keys.append(pixels[0, :, top : top + step, left : left + step].mean((1, 2)))
                values.append(shares.mean(0))
    torch.testing.assert_close(probe.keys_, torch.stack(keys))
    torch.testing.assert_close(probe.values_, torch.stack(values))
    large = KnnProbe(k=1).partial_fit(
        DenseFeatures(torch.zeros(1, 1, 200, 300), pixels), torch.zeros(1, 200, 300).long()
    )
    assert len(large.keys_) == 100 * 150  # the least stride that gives an image at most 16,384 cells


def test_sigmas_start_spread_from_4_to_16_hundredths():
    spread = GaussianBias(5, (3, 4), "head").log_sigma.exp()
    torch.testing.assert_close(spread, torch.tensor([0.04, 0.0565685, 0.08, 0.1131371, 0.16]))
    torch.testing.assert_close(GaussianBias(5, (3, 4), "shared").log_sigma.exp(), torch.tensor([0.08]))


@pytest.mark.parametrize("sigma", ["head", "shared", "none"])
def test_attention_without_gradients_is_that_with_them(sigma, monkeypatch):
    torch.manual_seed(0)
    bias = GaussianBias(2, (3, 4), sigma)
    torch.nn.init.normal_(bias.cells)
    layer = CrossAttention(6, 8, 2, first=True, bias=bias)
    points, cells = cell_centres((4, 5)), cell_centres((6, 8))  # another grid than the learned numbers'
    read = tuple(noise(2, 2, 48, 4, seed=seed) for seed in range(2))
    query = noise(2, 20, 16)
    expected = layer(query, points, cells, (6, 8), read)
    with torch.no_grad():
        for room in (1 << 30, 4 * 2 * 2 * 48 * 3):  # all queries at once, three at a time
            monkeypatch.setattr(attention, "CHUNK_BYTES", room)
            torch.testing.assert_close(layer(query, points, cells, (6, 8), read), expected.detach())
