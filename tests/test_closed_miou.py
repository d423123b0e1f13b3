"""mIoU at its edges: nothing ignored, one cluster, counts that do not fit, words and directions."""

import math
from itertools import permutations

import pytest
import torch
from dense_ctx_metrics.segmentation import (
    Segmentation,
    SegmentationMetric,
    ZeroShotMetric,
    confusion_matrix,
    harmonic,
    iou,
    match,
)

from dense_ctx.errors import InputError

NAMES = ("ground", "red", "blue")


def test_without_an_ignored_id_every_pixel_counts():
    target = torch.tensor([[0, 1, 2], [2, 255, 1]])
    prediction = torch.tensor([[0, 1, 0], [2, 0, 2]])
    assert confusion_matrix(prediction, target, 3).tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    with pytest.raises(InputError, match="Target ids run from 0 to 255; expected 0 to 2"):
        confusion_matrix(prediction, target, 3, None)
    whole = confusion_matrix(prediction, target.clamp_max(2), 3, None)
    assert whole.tolist() == [[1, 0, 0], [0, 1, 1], [2, 0, 1]]
    assert confusion_matrix(prediction, target.clamp_max(2), 3, 2).sum() == 3
    assert confusion_matrix(prediction, torch.full_like(target, 255), 3).tolist() == [[0] * 3] * 3
    for wrong in (-1, 3):
        with pytest.raises(InputError, match="Target ids run"):
            confusion_matrix(prediction, torch.full_like(target, wrong), 3, 5)
    mixed = target.clamp_max(2)
    mixed[0, 0] = -1
    for pair in ((prediction, mixed), (mixed, prediction)):
        with pytest.raises(InputError, match="ids run from -1 to 2; expected 0 to 2"):
            confusion_matrix(*pair, 3)
    with pytest.raises(InputError, match="Prediction ids run from 0 to 2; expected 0 to 1"):
        confusion_matrix(prediction, target.clamp_max(2), 3, None, clusters=2)
    assert confusion_matrix(prediction, target.clamp_max(2), 3, None, clusters=5).shape == (3, 5)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_relabelled_maps(seed):
    """After a matching the counts are the ones that relabelling the prediction gives."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 4, (40, 50), generator=draw)
    shuffled = torch.tensor([4, 2, 0, 3, 1])[target]
    prediction = torch.where(torch.rand(40, 50, generator=draw) < 0.6, shuffled, torch.randint(
        0, 5, (40, 50), generator=draw))  # fmt: skip
    counts = confusion_matrix(prediction, target, 4, clusters=5)
    for matching in ("hungarian", "many_to_one"):
        matched = match(counts, matching)
        relabelled = matched.classes[prediction]
        for index in range(4):
            own, true = relabelled == index, target == index
            assert (matched.tp[index], matched.fp[index], matched.fn[index]) == (
                (own & true).sum(), (own & ~true).sum(), (~own & true).sum())  # fmt: skip
        scores = Segmentation.of(counts, matching)
        assert scores.pixel_accuracy == pytest.approx(float((relabelled == target).double().mean()), rel=1e-12)
        recall = [float((relabelled[target == i] == i).double().mean()) for i in range(4)]
        assert scores.mean_accuracy == pytest.approx(sum(recall) / 4, rel=1e-12)
        assert scores.miou == pytest.approx(float(matched.iou.mean()))
        assert scores.per_class == tuple(matched.iou.tolist())


def test_a_matching_has_the_largest_sum_of_ious():
    """Against all permutations of many small tables; sums of counts, or of other shares, go other ways in some."""
    draw, ways = torch.Generator().manual_seed(0), [torch.tensor(way) for way in permutations(range(3))]
    for _ in range(150):
        table = torch.randint(0, 30, (3, 3), generator=draw) ** torch.randint(1, 3, (3, 3), generator=draw)
        ious = table.double() / (table.sum(1)[:, None] + table.sum(0)[None] - table).double()
        best = max(float(ious[way, torch.arange(3)].sum()) for way in ways)
        matched = match(table, "hungarian").classes
        assert float(ious[matched, torch.arange(3)].sum()) == pytest.approx(best, rel=1e-12)
        assert match(table, "many_to_one").classes.tolist() == ious.argmax(0).tolist()


def test_matching_tells_counts_apart_that_single_precision_cannot():
    assert match(torch.tensor([[10**8], [10**8 + 1]]), "many_to_one").classes.tolist() == [1]


def test_a_class_in_neither_is_matched_to_nothing_that_counts():
    counts = torch.tensor([[5, 0, 0], [0, 0, 3], [0, 0, 0]])
    assignment = match(counts, "hungarian")
    assert assignment.classes[:1].tolist() + assignment.classes[2:].tolist() == [0, 1]
    assert assignment.tp.tolist() == [5, 3, 0]
    assert Segmentation.of(counts, "hungarian").miou == 1
    assert Segmentation.of(counts, "hungarian", "zero").miou == pytest.approx(2 / 3)
    assert iou(torch.zeros(2, 2)).isnan().all()
    single = torch.tensor([[0, 1], [1, 0]])  # unions of one pixel
    assert match(single, "hungarian").classes.tolist() == [1, 0]


def test_counts_are_added_and_handed_on():
    metric, other = SegmentationMetric(NAMES), SegmentationMetric(NAMES)
    one_hot = torch.nn.functional.one_hot
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        target = torch.randint(-1, 3, (7, 9), generator=draw)
        prediction = one_hot(torch.randint(0, 3, (7, 9), generator=draw), 3).movedim(-1, 0).float()
        (metric if seed else other).update(prediction, target)
    state = other.state()
    assert state["images"] == 1
    metric.merge(state)
    assert metric.state()["images"] == 3
    assert metric.confusion.dtype == torch.int64
    assert all(type(count) is int for row in SegmentationMetric(NAMES).state()["confusion"] for count in row)
    scores = metric.compute()
    assert scores.counts == {"images": 3, "pixels": int(metric.confusion.sum())}
    expected = Segmentation.of(metric.confusion)
    assert (scores.values["miou"], scores.values["pixel_accuracy"], scores.values["mean_accuracy"]) == (
        expected.miou, expected.pixel_accuracy, expected.mean_accuracy)  # fmt: skip
    with pytest.raises(InputError, match=r"Counts \[2, 2\] are not \[3, 3\]: other classes"):
        metric.merge(SegmentationMetric(NAMES[:2]).state())


def test_settings_of_the_metric():
    assert SegmentationMetric(NAMES, "hungarian", clusters=1).confusion.shape == (3, 1)
    for wrong, words in (({"clusters": 0, "matching": "hungarian"}, "clusters=0: at least 1"),
                         ({"clusters": 4}, "clusters=4: .* with matching"),
                         ({"matching": "best"}, "matching='best'"), ({"absent": "one"}, "absent='one'")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            SegmentationMetric(NAMES, **wrong)
    with pytest.raises(InputError, match="the data set names none"):
        SegmentationMetric()
    for kind, more in ((SegmentationMetric, ()), (ZeroShotMetric, ("seen", "unseen", "harmonic"))):
        assert kind.higher_is_better == dict.fromkeys(("miou", "pixel_accuracy", "mean_accuracy", *more), True)


@pytest.mark.parametrize(
    ("seen", "unseen", "expected"), [(0.2, 0.6, 0.3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0, 0)]
)
def test_harmonic_means(seen, unseen, expected):
    assert harmonic(seen, unseen) == pytest.approx(expected)


def test_zero_shot_scores_leave_out_what_is_absent():
    metric = ZeroShotMetric((*NAMES, "sky"), unseen=("blue", "sky"))
    target = torch.tensor([[0, 0, 1, 1, 2, 2]])
    metric.update(torch.nn.functional.one_hot(torch.tensor([[0, 0, 1, 0, 2, 1]]), 4).movedim(-1, 0).float(), target)
    values = metric.compute().values
    assert values["seen"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert values["unseen"] == pytest.approx(1 / 2)  # sky is in neither
    assert values["miou"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    nothing = ZeroShotMetric(NAMES)
    nothing.update(torch.eye(3)[:, None], torch.tensor([[0, 1, 2]]))
    assert math.isnan(nothing.compute().values["unseen"])
    assert math.isnan(nothing.compute().values["harmonic"])


def test_matching_is_by_iou_and_not_by_counts():
    confusion = torch.tensor([[30, 10, 0], [60, 14, 2], [0, 6, 3]])  # the commonest pair has not the best IoUs
    from itertools import permutations

    table = confusion.double()
    ious = table / (table.sum(1)[:, None] + table.sum(0)[None] - table)
    best = max(permutations(range(3)), key=lambda order: sum(ious[true, k] for k, true in enumerate(order)))
    assert match(confusion, "hungarian").classes.tolist() == list(best)
    assert match(confusion, "many_to_one").classes.tolist() == ious.argmax(0).tolist()
    lopsided = torch.tensor([[50, 9], [40, 1]])  # counts sum to more one way, IoUs the other
    table = lopsided.double()
    ious = table / (table.sum(1)[:, None] + table.sum(0)[None] - table)
    straight, crossed = ious[0, 0] + ious[1, 1], ious[0, 1] + ious[1, 0]
    assert (match(lopsided, "hungarian").classes.tolist() == [0, 1]) == bool(straight > crossed)


def test_scores_of_two_images_together_and_merged():
    names = ("ground", "red", "blue", "sky")
    draw = torch.Generator().manual_seed(0)
    whole, parts = ZeroShotMetric(names, unseen=("blue",)), [ZeroShotMetric(names, unseen=("blue",)) for _ in range(2)]
    for seed in range(2):
        prediction, target = (
            torch.randn(3, 9, 8, generator=draw).softmax(0),
            (torch.randn(9, 8, generator=draw) * 2).long().clamp(-1, 2),
        )
        whole.update(prediction, target)
        parts[seed].update(prediction, target)
    parts[0].merge(parts[1].state())
    scores = whole.compute()
    assert parts[0].compute() == scores
    assert scores.counts["images"] == 2
    table = whole.confusion.double()
    ious = table.diag() / (table.sum(0) + table.sum(1) - table.diag())
    assert scores.parts == {**dict(zip(names, ious.tolist(), strict=True)), "sky": None}
    seen, unseen = float((ious[0] + ious[1]) / 2), float(ious[2])
    assert scores.values["seen"] == pytest.approx(seen)
    assert scores.values["unseen"] == pytest.approx(unseen)
    assert scores.values["harmonic"] == pytest.approx(2 * seen * unseen / (seen + unseen))
    with pytest.raises(InputError, match="the data set lacks: sea"):
        ZeroShotMetric(names, unseen=("sea", "blue"))
    with pytest.raises(InputError, match="ids run from -1"):
        confusion_matrix(torch.tensor([[-1]]), torch.tensor([[0]]), 2)
    assert SegmentationMetric(names, "many_to_one", clusters=6).confusion.shape == (4, 6)
