import pytest
import torch

from dense_ctx.errors import InputError
from dense_ctx.metrics import confusion_matrix, iou


def test_confusion_and_iou_against_the_definition():
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (13, 17), generator=generator)
    prediction = torch.randint(0, 4, (13, 17), generator=generator)
    target[:2] = 255
    counts = confusion_matrix(prediction, target, 5)
    scores = iou(counts)
    seen = target != 255
    for c in range(4):
        p, t = (prediction == c) & seen, target == c
        assert scores[c] == pytest.approx(float((p & t).sum() / (p | t).sum()))
        assert counts[c].sum() == t.sum()
    assert scores[4].isnan()  # a class in neither is not 0 and not 1


def test_ids_out_of_range_are_refused():
    with pytest.raises(InputError, match="run from 0 to 3; expected 0 to 2"):
        confusion_matrix(torch.tensor([0, 3]), torch.tensor([0, 0]), 3)
    with pytest.raises(InputError, match="different shapes"):
        confusion_matrix(torch.zeros(2, 3), torch.zeros(3, 2), 3)
