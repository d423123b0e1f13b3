"""DIP's prediction and losses at their limits, and the joint batch of two pretended processes."""

import math

import pytest
import torch
from dense_ctx_dip import distributed
from dense_ctx_dip.distributed import draw_distractors, gather, total, world
from dense_ctx_dip.soft_labels import blocks_of, label_counts, pixels_of, prediction_loss, soft_predict
from torch.nn import functional

from dense_ctx.errors import InputError


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- prediction


def test_counts_at_their_limits():
    labels = torch.tensor([[[0, 0, 1, 2], [-1, 0, 2, 2]]])
    assert label_counts(labels, (1, 2), 3).tolist() == [[[3, 0, 0], [0, 1, 3]]]
    assert label_counts(labels, (2, 2), 4).shape == (1, 4, 4)
    assert label_counts(labels, (2, 2), 4).dtype == torch.float32
    assert label_counts(labels[:0], (1, 2), 3).shape == (0, 2, 3)
    assert label_counts(labels[:0], (1, 2), 1).shape == (0, 2, 1)
    for wrong in (labels - 1, labels + 1):
        with pytest.raises(InputError, match="label ids run from"):
            label_counts(wrong, (1, 2), 3)
    for given, grid in ((labels[0], (1, 2)), (labels, (3, 2)), (labels, (2, 3)), (labels[None], (1, 1))):
        with pytest.raises(InputError, match="multiples of the grid"):
            label_counts(given, grid, 3)
    assert pixels_of(labels[0], (1, 2)).tolist() == [[3, 0], [0, 1], [0, 3]]
    assert pixels_of(torch.full((2, 2), -1), (1, 1)).tolist() == [[0]]


@pytest.mark.parametrize("images", [2, 3, 9])  # at most as many as support a query: all together; else one by one
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_predictions_by_definition(images, temperature):
    queries, keys = noise(2, 5, 4), noise(images, 6, 4, seed=1)
    counts = (2 * noise(images, 6, 3, seed=2)).round().clamp_min(0)
    counts[0, :3] = 0  # patches without a label
    support = torch.tensor([[0, images - 1, 0], [1, 1, 1]])
    predicted, supported = soft_predict(queries, keys, counts, support, temperature)
    assert supported.tolist() == [True, True]
    for query in range(2):
        rows, shares = [], []
        for image in support[query].tolist():
            for patch in range(6):
                if counts[image, patch].sum() > 0:
                    rows.append(functional.normalize(keys[image, patch], dim=0))
                    shares.append(counts[image, patch] / counts[image, patch].sum())
        scores = functional.normalize(queries[query], dim=1) @ torch.stack(rows).T / temperature
        torch.testing.assert_close(predicted[query], scores.softmax(1) @ torch.stack(shares), rtol=1e-4, atol=1e-5)
    lone, supported = soft_predict(queries, keys, counts * 0, support, temperature)
    assert lone.eq(0).all()
    assert not supported.any()
    half = counts.clone()
    half[1] = 0
    assert soft_predict(queries, keys, half, support)[1].tolist() == [True, False]


def test_what_a_prediction_refuses():
    queries, keys, counts, support = noise(2, 3, 4), noise(5, 6, 4), torch.ones(5, 6, 3), torch.zeros(2, 1).long()
    assert soft_predict(queries, keys, counts, support)[0].shape == (2, 3, 3)
    for wrong in (support[0], support[:, :0], support[:1], support[None]):
        with pytest.raises(InputError, match="support is"):
            soft_predict(queries, keys, counts, wrong)
    for one, other, values in (
        (queries[..., :3], keys, counts),
        (queries, keys[:4], counts),
        (queries, keys, counts[:, :5]),
    ):
        with pytest.raises(InputError, match="do not match"):
            soft_predict(one, other, values, support)


def test_who_supports_whom():
    ids = torch.tensor([[4, 5, 0, 1, 2, 3], [1, 0, 3, 2, 5, 4]])
    assert blocks_of(0, 2, ids).tolist() == [[0, 4, 1], [1, 5, 0]]
    assert blocks_of(2, 2, ids).tolist() == [[4, 2, 5], [5, 3, 4]]
    assert blocks_of(1, 3, ids[:0]).tolist() == [[3], [4], [5]]


def test_losses_at_their_limits():
    predicted = torch.tensor([[[1.0, 0.0], [0.25, 0.75], [1e-9, 1.0]]])
    counts = torch.tensor([[[2.0, 3.0], [4.0, 0.0], [5.0, 0.0]]])
    loss, pixels = prediction_loss(predicted, counts, "nll", 2)
    assert float(pixels) == 14
    expected = -(3 * math.log(1e-8) + 4 * math.log(0.25) + 5 * math.log(1e-8))
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    for classes in (2, 5, 1000):
        loss, _ = prediction_loss(predicted, counts, "official", classes)
        wide = functional.pad(predicted[0], (0, classes - 2)).log_softmax(1)[:, :2]
        assert float(loss) == pytest.approx(-float((wide * counts[0]).sum()), rel=1e-5)


# ---------------------------------------------------------------------- the joint batch


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_gather_and_add(monkeypatch, rank):
    """The other has this one's numbers plus 100, and adds 10 to what is summed."""
    joined = distributed.distributed
    for name, value in (("is_available", True), ("is_initialized", True), ("get_rank", rank), ("get_world_size", 2)):
        monkeypatch.setattr(joined, name, lambda value=value: value)

    def all_gather(parts, local):
        assert local.is_contiguous()
        assert len(parts) == 2
        parts[rank].copy_(local)
        parts[1 - rank].copy_(local + 100)

    def all_reduce(tensor):
        assert tensor.is_contiguous()
        tensor.add_(10)

    monkeypatch.setattr(joined, "all_gather", all_gather)
    monkeypatch.setattr(joined, "all_reduce", all_reduce)
    assert world() == (rank, 2)
    local = noise(4, 3).T.requires_grad_()  # not contiguous
    joint = gather(local)
    torch.testing.assert_close(joint, torch.cat([local, local + 100] if rank == 0 else [local + 100, local]))
    weights = noise(6, 4, seed=1)
    before = weights.clone()
    (gradient,) = torch.autograd.grad(joint, local, weights)
    torch.testing.assert_close(gradient, weights[3 * rank : 3 * rank + 3] + 10)
    assert torch.equal(weights, before)
    value = torch.tensor(3.0, requires_grad=True)
    assert total(value).item() == 13
    assert not total(value).requires_grad
    assert value.item() == 3


def test_one_process_is_the_joint_batch(monkeypatch):
    local = noise(2, 3).requires_grad_()
    assert world() == (0, 1)
    assert gather(local) is local
    assert torch.equal(total(local), local)
    assert not total(local).requires_grad
    for name in ("is_available", "is_initialized"):
        with monkeypatch.context() as patch:
            patch.setattr(distributed.distributed, "is_available", lambda: True)
            patch.setattr(distributed.distributed, "is_initialized", lambda: True)
            patch.setattr(distributed.distributed, name, lambda: False)
            assert world() == (0, 1)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_draws_follow_the_generator(batch):
    def drawn(count, seed, official=False):
        return draw_distractors(batch, count, torch.Generator().manual_seed(seed), official)

    assert torch.equal(drawn(3, 1), drawn(3, 1))
    assert torch.equal(drawn(9, 1)[:3], drawn(3, 1)) or batch == 3
    assert torch.equal(drawn(9, 1, True), drawn(9, 1, True))
    assert drawn(0, 1).shape == drawn(0, 1, True).shape == (0, batch)
    assert drawn(0, 1).dtype == drawn(0, 1, True).dtype == torch.int64
    counts = torch.bincount(drawn(2 * (batch - 1), 5)[:, 0], minlength=batch)
    assert counts.tolist() == [0] + [2] * (batch - 1)  # each other image twice
    firsts = {tuple(drawn(1, seed)[0].tolist()) for seed in range(40)}
    assert len(firsts) == {2: 1, 3: 2}.get(batch, len(firsts))
    assert batch < 8 or len(firsts) > 30
