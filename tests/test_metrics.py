"""Segmentation: confusion matrix, IoU, matching, and the conventions of the official evaluators."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_metrics.segmentation import Segmentation, SegmentationMetric, confusion_matrix, harmonic, iou, match

from dense_ctx.errors import InputError

ORACLES = Path(__file__).parent / "oracles"


def test_confusion_and_iou_against_the_definition():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (13, 17), generator=generator)
    prediction = torch.randint(0, 4, (13, 17), generator=generator)
    target[:2] = 255
    counts = confusion_matrix(prediction, target, 5)
    scores = iou(counts)
    valid = target != 255
    for c in range(4):
        p, t = (prediction == c) & valid, target == c
        assert scores[c] == pytest.approx(float((p & t).sum() / (p | t).sum()))
        assert counts[c].sum() == t.sum()
    assert scores[4].isnan()  # a class in neither is not 0 and not 1


def test_ids_out_of_range_are_refused():
    with pytest.raises(InputError, match="run from 0 to 3; expected 0 to 2"):
        confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 0]), 3)
    with pytest.raises(InputError, match="different shapes"):
        confusion_matrix(torch.zeros(2, 3), torch.zeros(3, 2), 3)


@pytest.mark.parametrize("case", ["plain", "swapped"])
def test_miou_of_the_official_evaluators(case):
    """open-hummingbird's three modes, in which absent classes count 0, and DIP's own, which leaves them out."""
    data = np.load(ORACLES / "miou_metric.npz")
    classes = int(data["num_classes"])
    prediction, target = (torch.from_numpy(data[key]).long() for key in (f"{case}_pred", "gt"))
    counts = confusion_matrix(prediction, target, classes)
    np.testing.assert_array_equal(counts, data[f"{case}_confusion"])
    np.testing.assert_allclose(iou(counts), data[f"{case}_iou_direct"], rtol=0, atol=1e-9)
    for mode, ours in (("hungarian", "hungarian"), ("linear_probe", "none"), ("many_to_one", "many_to_one")):
        scores = Segmentation.of(counts, ours, "zero")
        assert scores.miou == pytest.approx(float(data[f"{case}_{mode}_miou"]), abs=1e-9), mode
        tp, fp, fn = torch.from_numpy(data[f"{case}_{mode}_tp_fp_fn"]).double()
        for mine, theirs in zip((scores.matched.tp, scores.matched.fp, scores.matched.fn), (tp, fp, fn), strict=True):
            assert torch.equal(mine.double(), theirs), mode
        assert scores.pixel_accuracy == pytest.approx(float(tp.sum() / counts.sum()))
        expected = tp / (tp + fp + fn)
        np.testing.assert_allclose(scores.per_class, expected, rtol=0, atol=1e-9, err_msg=mode)
    assert Segmentation.of(counts).miou == pytest.approx(float(data[f"{case}_miou_nanmean"]), abs=1e-9)


def test_matching_undoes_a_permutation():
    target = torch.arange(4).repeat(30).reshape(10, 12)
    permuted = torch.tensor([2, 0, 3, 1])[target]
    counts = confusion_matrix(permuted, target, 4)
    assert Segmentation.of(counts).miou == 0
    assert Segmentation.of(counts, "hungarian").miou == 1
    assert Segmentation.of(counts, "many_to_one").miou == 1


def test_many_to_one_joins_split_classes_and_hungarian_does_not():
    target = torch.tensor([0] * 60 + [1] * 40)
    split = torch.tensor([0] * 40 + [2] * 20 + [1] * 40)
    counts = confusion_matrix(split, target, 3)
    joined = Segmentation.of(counts, "many_to_one")
    assert joined.miou == 1
    assert np.isnan(joined.per_class[2])
    np.testing.assert_allclose(match(counts, "hungarian").iou, [2 / 3, 1, 0])


def test_more_clusters_than_classes():
    """Over-segmented: 2 classes in 5 clusters; by definition, from relabelled maps."""
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (3, 20, 30), generator=draw)
    clusters = torch.where(torch.rand(3, 20, 30, generator=draw) < 0.8, 2 * target + torch.randint(
        0, 2, target.shape, generator=draw), 4)  # fmt: skip
    counts = confusion_matrix(clusters, target, 2, clusters=5)
    assert counts.shape == (2, 5)
    scores = Segmentation.of(counts, "many_to_one")
    mapping = scores.matched.classes
    assert mapping[:4].tolist() == [0, 0, 1, 1]
    plain = Segmentation.of(confusion_matrix(mapping[clusters], target, 2))
    assert (scores.miou, scores.pixel_accuracy) == pytest.approx((plain.miou, plain.pixel_accuracy))
    one = Segmentation.of(counts, "hungarian").matched
    assert sorted(one.classes.tolist()) == [-1, -1, -1, 0, 1]
    assert torch.equal(one.tp + one.fn, counts.sum(1))
    assert int((one.tp + one.fp).sum()) == int(counts[:, one.classes >= 0].sum())
    metric = SegmentationMetric(("a", "b"), matching="many_to_one", clusters=5)
    for prediction, truth in zip(clusters, target, strict=True):
        metric.update(torch.nn.functional.one_hot(prediction, 5).movedim(-1, 0).float(), truth)
    assert metric.compute().values["miou"] == pytest.approx(scores.miou)
    for wrong in ({}, {"matching": "hungarian", "clusters": 0}):
        with pytest.raises(InputError, match=r"clusters=\d: at least 1, with matching"):
            SegmentationMetric(("a", "b"), **{"clusters": 5, **wrong})
    with pytest.raises(InputError, match="5 clusters are not 2 classes"):
        match(counts)


def test_accuracies():
    counts = torch.tensor([[8, 2, 0], [1, 4, 0], [0, 0, 0]])
    scores = Segmentation.of(counts)
    assert scores.pixel_accuracy == 12 / 15
    assert scores.mean_accuracy == pytest.approx((0.8 + 0.8) / 2)  # classes that do not occur are left out
    assert scores.miou == pytest.approx((8 / 11 + 4 / 7) / 2)
    assert Segmentation.of(counts, absent="zero").miou == pytest.approx((8 / 11 + 4 / 7) / 3)


def test_nothing_to_score_and_unknown_matching():
    with pytest.raises(InputError, match="every target is ignored"):
        Segmentation.of(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="matching='best': expected"):
        match(torch.ones(2, 2, dtype=torch.int64), "best")


def test_harmonic_mean():
    assert harmonic(0.6, 0.3) == pytest.approx(0.4)
    assert harmonic(0.0, 0.0) == harmonic(0.7, 0.0) == 0
    assert np.isnan(harmonic(0.5, float("nan")))  # no unseen class occurs: there is no score, rather than a bad one
