import numpy as np
import pytest
import torch
from dense_ctx_maxa.losses import cosine_distance, cross_entropy
from dense_ctx_maxa.measures import adjusted_rand_index, boundary_f, cluster
from dense_ctx_maxa.scoring import (
    BoundaryScores,
    ClusterScores,
    DepthScores,
    NormalScores,
    SemanticScores,
    SquaredErrors,
)
from dense_ctx_maxa.targets import boundaries, check_depth, distances
from dense_ctx_maxa.tasks import create_task, make_target
from scipy import ndimage

from dense_ctx.errors import InputError


def values(scores, prediction, target):
    scores.update(prediction, target)
    return scores.compute().values


def instances(size=(20, 30), seed=0):
    dice = np.random.default_rng(seed)
    ids = np.zeros(size, dtype=np.int64)
    for number in (3, 7, 8, 40):
        top, left = dice.integers(0, size[0] - 6), dice.integers(0, size[1] - 9)
        ids[top : top + 6, left : left + 9] = number
    return torch.from_numpy(ids)


def test_boundaries_are_where_a_cross_neighbour_differs():
    for seed in range(5):
        ids = instances(seed=seed)
        cross = ndimage.generate_binary_structure(2, 1)
        grown, shrunk = (
            f(ids.numpy(), footprint=cross, mode="nearest") for f in (ndimage.grey_dilation, ndimage.grey_erosion)
        )
        assert torch.equal(boundaries(ids)[0].bool(), torch.from_numpy(grown != shrunk))


def test_unknown_pixels_make_no_boundary():
    ids = torch.tensor([[1, 1, -1, 2, 2, 0]])
    got = boundaries(ids)[0, 0]
    assert got.isnan().tolist() == [False, False, True, False, False, False]
    assert got.nan_to_num(9).tolist() == [0, 0, 9, 0, 1, 1]


def test_distances_of_each_instance_reach_one_at_its_deepest():
    ids = instances()
    got = distances(ids)[0]
    assert not bool(got[ids == 0].any())
    for number in torch.unique(ids[ids > 0]):
        mask = np.pad((ids == number).numpy(), 1)
        expected = ndimage.distance_transform_edt(mask)[1:-1, 1:-1]
        expected = torch.from_numpy(expected / expected.max()).float()
        assert torch.allclose(got[ids == number], expected[ids == number])
        assert float(got[ids == number].max()) == 1


def test_small_and_whole_and_missing_instances():
    one = torch.zeros(5, 7, dtype=torch.int64)
    assert not bool(boundaries(one).any())
    assert not bool(distances(one).any())
    one[2, 3] = 9  # one pixel
    assert float(distances(one)[0, 2, 3]) == 1
    assert int(boundaries(one).sum()) == 5
    whole = torch.full((5, 7), 4)
    assert not bool(boundaries(whole).any())
    assert float(distances(whole)[0, 2, 3]) == 1
    assert float(distances(whole)[0, 0, 0]) == pytest.approx(1 / 3)
    void = torch.full((5, 7), -1)
    assert bool(boundaries(void).isnan().all())
    assert bool(distances(void).isnan().all())


def test_targets_at_another_size_invent_no_label():
    ids = instances()
    small = make_target(create_task("instances"), ids, (7, 11), (), "x")
    assert small.shape == (7, 11)
    assert set(small.unique().tolist()) <= set(ids.unique().tolist())
    with pytest.raises(InputError, match="x: an instance map is integers"):
        make_target(create_task("instances"), ids.float(), (7, 11), (), "x")


def test_depth_that_is_not_above_zero_is_unknown():
    got = check_depth(torch.tensor([[[1.0, 0.0, -2.0, float("inf"), float("nan")]]]), "x")
    assert got.isnan().tolist() == [[[False, True, True, True, True]]]
    with pytest.raises(InputError, match=r"expected floats \[1, H, W\]"):
        check_depth(torch.zeros(3, 4), "x")


def test_losses_leave_unknown_pixels_out():
    prediction = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    truth = torch.nn.functional.normalize(torch.randn(2, 3, 4, 5), dim=1)
    hidden = truth.clone()
    hidden[0, :, :2] = float("nan")
    expected = 1 - (torch.nn.functional.normalize(prediction, dim=1) * truth).sum(1)
    got = cosine_distance(prediction, hidden)
    assert torch.allclose(got, torch.cat([expected[0, 2:].flatten(), expected[1].flatten()]).mean(), atol=1e-6)
    got.backward()
    assert bool(prediction.grad.isfinite().all())
    assert not bool(prediction.grad[0, :, :2].any())
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = -1
    reference = torch.nn.functional.cross_entropy(prediction, labels, ignore_index=-1)
    assert torch.allclose(cross_entropy(prediction, labels), reference)


def test_perfect_predictions_have_perfect_scores():
    ids = instances()
    edges, depth = boundaries(ids), torch.rand(1, 20, 30) + 1
    perfect = values(BoundaryScores(), edges * 20 - 10, edges)
    assert perfect == pytest.approx({"iou": 1, "f": 1, "ce": 0}, abs=1e-4)
    assert values(SquaredErrors(), distances(ids), distances(ids)) == {"mse": 0}
    perfect = values(DepthScores(), depth, depth)
    assert (perfect["mse"], perfect["rmse"], perfect["delta1"]) == (0, 0, 1)
    latent = torch.nn.functional.one_hot(ids, 41).movedim(-1, 0).float()
    assert values(ClusterScores(), latent, ids) == {"ari": 1}
    labels = ids % 3
    logits = torch.nn.functional.one_hot(labels, 3).movedim(-1, 0).float() * 100
    perfect = values(SemanticScores(("a", "b", "c")), logits, labels)
    assert perfect == pytest.approx({"miou": 1, "pixel_accuracy": 1, "mean_accuracy": 1, "ce": 0}, abs=1e-6)
    towards = torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(3, 20, 30)
    perfect = values(NormalScores(), 7 * towards, towards)
    assert (perfect["mean"], perfect["delta1"]) == (pytest.approx(0, abs=1e-5), 1)


def test_iou_is_pooled_and_leaves_unknown_pixels_out():
    truth = torch.tensor([[[1.0, 1.0, 0.0, float("nan")]]])
    scores = BoundaryScores()
    scores.update(torch.tensor([[[5.0, -5.0, 5.0, 5.0]]]), truth)
    assert values(scores, torch.tensor([[[5.0, 5.0]]]), torch.tensor([[[1.0, 1.0]]]))["iou"] == (1 + 2) / (3 + 2)


def test_images_without_what_is_scored_are_left_out():
    scores, ids = ClusterScores(least=3), instances()
    scores.update(torch.randn(4, 20, 30), torch.zeros(20, 30, dtype=torch.int64))  # no instance
    scores.update(torch.randn(4, 20, 30), torch.where(ids == 3, ids, 0))  # one
    with pytest.raises(InputError, match="none of 2 images has what ClusterScores needs"):
        scores.compute()
    scores.update(torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0)), ids)
    assert abs(scores.compute().values["ari"]) < 0.1
    assert scores.compute().counts == {"images": 1, "images_skipped": 2}
    unknown = torch.full((3, 4, 5), float("nan"))
    for scores, target in ((DepthScores(), unknown[:1]), (NormalScores(), unknown)):
        scores.update(torch.rand(target.shape), target)
        with pytest.raises(InputError, match=r"none of 1|every target is unknown"):
            scores.compute()
    with pytest.raises(InputError, match="NaN or infinity"):
        DepthScores().update(torch.full((1, 4, 5), float("nan")), torch.ones(1, 4, 5))


def test_clusters_are_found_whatever_their_order():
    dice = np.random.default_rng(0)
    labels = dice.integers(0, 5, 600)
    latents = torch.from_numpy(8 * np.eye(5)[labels] + dice.normal(size=(600, 5))).float()
    assert adjusted_rand_index(cluster(latents, 5), torch.from_numpy(labels)) > 0.98
    assert cluster(torch.ones(20, 3), 4).tolist() == [0] * 20  # all alike: one group
    assert cluster(torch.tensor([[0.0], [1.0]]), 4).unique().numel() == 2


def test_boundary_f_by_hand():
    truth = np.zeros((100, 100), dtype=bool)
    truth[:, 50] = True
    assert boundary_f(truth, truth) == 1
    assert boundary_f(np.roll(truth, 2, axis=1), truth) == 1  # within 0.008 * 141.4, rounded up: 2 pixels
    assert boundary_f(np.roll(truth, 3, axis=1), truth) == 0
    half = truth.copy()
    half[48:] = False  # recall is 50 of 100: rows up to 47 and two more
    assert boundary_f(half, truth) == pytest.approx(2 * 0.5 / 1.5)
    nothing = np.zeros_like(truth)
    assert boundary_f(nothing, nothing) == 1
    assert boundary_f(nothing, truth) == boundary_f(truth, nothing) == 0
