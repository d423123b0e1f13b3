"""DIP's prediction, losses and settings at their limits, and the joint batch of two pretended processes."""

import math

import pytest
import torch
from dense_ctx_dip import distributed
from dense_ctx_dip.distributed import draw_distractors, gather, total, world
from dense_ctx_dip.objective import DipObjective
from dense_ctx_dip.soft_labels import blocks_of, label_counts, pixels_of, prediction_loss, soft_predict
from dip_data import tasks
from torch.nn import functional

from dense_ctx.errors import ConfigError, InputError
from dense_ctx.testing import tiny_model


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- prediction


def test_counts_at_their_limits():
    labels = torch.tensor([[[0, 0, 1, 2], [-1, 0, 2, 2]]])
    assert label_counts(labels, (1, 2), 3).tolist() == [[[3, 0, 0], [0, 1, 3]]]
    assert label_counts(labels, (2, 2), 4).shape == (1, 4, 4)
    assert label_counts(labels, (2, 2), 4).dtype == torch.float32
    assert label_counts(labels[:0], (1, 2), 3).shape == (0, 2, 3)
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
    given = torch.tensor([[4, 5, 0, 1, 2, 3], [1, 0, 3, 2, 5, 4]])
    assert blocks_of(0, 2, given).tolist() == [[0, 4, 1], [1, 5, 0]]
    assert blocks_of(2, 2, given).tolist() == [[4, 2, 5], [5, 3, 4]]
    assert blocks_of(1, 3, given[:0]).tolist() == [[3], [4], [5]]


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
    kept = weights.clone()
    (gradient,) = torch.autograd.grad(joint, local, weights)
    torch.testing.assert_close(gradient, weights[3 * rank : 3 * rank + 3] + 10)
    assert torch.equal(weights, kept)
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
    assert drawn(0, 1).shape == drawn(0, 1, True).shape == (0, batch)
    assert drawn(0, 1).dtype == drawn(0, 1, True).dtype == torch.int64
    counts = torch.bincount(drawn(2 * (batch - 1), 5)[:, 0], minlength=batch)
    assert counts.tolist() == [0] + [2] * (batch - 1)  # each other image twice
    firsts = {tuple(drawn(1, seed)[0].tolist()) for seed in range(40)}
    assert len(firsts) == {2: 1, 3: 2}.get(batch, len(firsts))
    assert batch < 8 or len(firsts) > 30


# ---------------------------------------------------------------------- the objective


def batch(count=3, size=32, classes=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    cells = torch.randint(-1, classes, (2, count, size // 8, size // 8), generator=draw)
    labels = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = torch.rand(2, count, 3, size, size, generator=draw)
    return {"query": images[0], "positive": images[1], "query_labels": labels[0], "positive_labels": labels[1],
            "seed": torch.arange(count)}  # fmt: skip


def objective(**args):
    torch.manual_seed(0)
    made = DipObjective(**{"size": 32, "out": 6, "hidden": 2, "classes": 4, **args})
    model = tiny_model()
    made.setup(model, (), fresh=True)
    return made, model


@pytest.mark.parametrize("loss", ["nll", "official"])
@pytest.mark.parametrize(("temperature", "classes"), [(0.07, 4), (0.5, 4), (0.3, 9), (0.3, None)])
def test_the_loss_of_a_batch_by_definition(loss, temperature, classes):
    made, model = objective(loss=loss, temperature=temperature, classes=classes)
    given, supports = batch(), torch.tensor([[1, 2, 0], [1, 0, 0]])
    given["positive_labels"][0] = -1  # the first query's own positive says nothing
    given["query_labels"][2] = -1
    found = made(model, {**given, "distractors": supports})
    rows, grid, _ = made._rows(model, torch.cat([given["query"], given["positive"]]))
    rows = made.projector(rows)
    counts = [label_counts(given[key], grid, 4) for key in ("query_labels", "positive_labels")]
    predicted, valid = soft_predict(rows[:3], rows[3:], counts[1], blocks_of(0, 3, supports), temperature)
    each = [prediction_loss(predicted[i : i + 1], counts[0][i : i + 1], loss, classes or 4) for i in range(3)]
    pixels = sum(number for _, number in each)
    torch.testing.assert_close(found.total, sum(value for value, _ in each) / pixels)
    right = counts[0].gather(-1, predicted.argmax(-1, keepdim=True)).sum() / pixels
    torch.testing.assert_close(found.logs["accuracy"], right)
    assert float(found.logs["unsupported"]) == 0
    assert bool(valid.all())
    alone = made(model, {**given, "distractors": supports[:0]})  # the first query has no labelled support
    assert float(alone.logs["unsupported"]) == pytest.approx(1 / 3)
    predicted, _ = soft_predict(rows[:3], rows[3:], counts[1], blocks_of(0, 3, supports[:0]), temperature)
    only, number = prediction_loss(predicted[1:2], counts[0][1:2], loss, classes or 4)
    torch.testing.assert_close(alone.total, only / number)
    given["query_labels"][:] = -1
    nothing = made(model, {**given, "distractors": supports})
    assert nothing.total.item() == nothing.logs["accuracy"].item() == 0


def test_the_loss_of_two_processes_is_of_the_joint_batch(monkeypatch):
    """This one has half of 2,000 pixels beside another's: its loss is scaled to half the joint number."""
    made, model = objective(distractors=0)
    alone = made(model, batch())
    pixels = float((batch()["query_labels"] >= 0).sum())
    monkeypatch.setattr("dense_ctx_dip.objective.world", lambda: (0, 2))
    monkeypatch.setattr("dense_ctx_dip.objective.total", lambda value: value + 500)
    joint = made(model, batch())
    torch.testing.assert_close(joint.total, alone.total * pixels / ((pixels + 500) / 2))
    direct, model = objective(direct=True, out=6144, hidden=7)
    scaled = direct(model, batch()).total
    monkeypatch.undo()
    both = pixels + float((batch()["positive_labels"] >= 0).sum())  # it classifies the positives too
    torch.testing.assert_close(scaled, direct(model, batch()).total * both / ((both + 500) / 2))


def test_accuracy_of_a_single_pixel():
    for args in ({}, {"direct": True, "out": 6144, "hidden": 7}):
        made, model = objective(**args)
        given = batch()
        given["query_labels"][:] = given["positive_labels"][:] = -1
        given["query_labels"][1, 3, 3] = 2
        if not args:
            given["positive_labels"][:, 3, 3] = 2
        logs = made(model, given).logs
        assert float(logs["accuracy"]) in ((0.0, 1.0) if args else (1.0,))
    right = set()
    for seed in range(12):
        torch.nn.init.normal_(made.projector[1].bias, generator=torch.Generator().manual_seed(seed))
        right.add(float(made(model, given).logs["accuracy"]))
    assert right == {0.0, 1.0}


def test_the_decoder_is_what_is_compared_where_it_trains():
    made, model = objective(train="decoder")
    given = batch()
    images = torch.cat([given["query"], given["positive"]])
    features, padded = model.encode(images)
    grid = tuple(features.maps[-1].shape[-2:])
    rows, found, full = made._rows(model, images)
    assert (found, full) == (grid, (32, 32))
    torch.testing.assert_close(rows, model.decoder(features, padded, grid).flatten(2).mT)
    plain, model = objective()
    torch.testing.assert_close(plain._rows(model, images)[0], model.encode(images)[0].maps[-1].flatten(2).mT)


def test_classes_of_the_data_and_ones_own(tmp_path):
    data = tasks(tmp_path)
    made = DipObjective(size=32)
    made.dataset(data)
    assert made.classes == 4
    for classes in (4, 5):
        made = DipObjective(size=32, classes=classes)
        made.dataset(data)
        assert made.classes == classes
    with pytest.raises(ConfigError, match="classes=3, but"):
        DipObjective(size=32, classes=3).dataset(data)


def test_drawn_distractors_follow_all_seeds_in_order():
    made, _ = objective()

    def drawn(*seeds):
        return made._distractors({"seed": torch.tensor(seeds)} if seeds else {}, 8).tolist()

    assert drawn(*range(8)) == drawn(*range(8))
    assert (
        len({str(drawn(*seeds)) for seeds in ([0] * 8, [1] + [0] * 7, [0] * 7 + [1], range(8), range(7, -1, -1))}) == 5
    )
    assert drawn() == drawn(*[0] * 8)
    assert len(drawn()) == 7
    assert drawn(*[(1 << 62) - 1] * 8) != drawn(*[3] * 8)
    for wrong in (torch.zeros(8), torch.zeros(2, 7).long(), torch.zeros(8).long(), torch.full((1, 8), -1),
                  torch.full((1, 8), 8)):  # fmt: skip
        with pytest.raises(InputError, match=r"distractors are int64 \[n, 8\]"):
            made._distractors({"distractors": wrong}, 8)
    assert made._distractors({"distractors": torch.full((1, 8), 7)}, 8).tolist() == [[7] * 8]


def test_settings_at_their_limits():
    fine = [
        {"distractors": 0}, {"temperature": 1e-6}, {"hidden": 1}, {"out": 0}, {"size": 1}, {"classes": 1},
        {"scale": [0.5, 0.5]}, {"scale": [1, 1]}, {"scale": (1e-6, 1.0)}, {"resize": 224}, {"resize": 256},
        {"train": "blocks", "blocks": 1}, {"blocks": 3}, {"direct": True}, {"projector_lr": 0.1},
        {"direct": True, "projector_lr": 0.1},
    ]  # fmt: skip
    wrong = [
        {"distractors": -1}, {"temperature": 0.0}, {"hidden": 0}, {"out": -1}, {"size": 0}, {"classes": 0},
        {"scale": [0.0, 1.0]}, {"scale": [0.5, 1.01]}, {"scale": [0.6, 0.5]}, {"scale": [0.5]},
        {"scale": [0.2, 0.5, 1.0]}, {"resize": 223}, {"resize": 256, "positives": "crops"},
        {"resize": 256, "scale": [0.4, 1.0]}, {"direct": True, "loss": "official"}, {"direct": True, "hidden": 6},
        {"direct": True, "official_distractors": True}, {"train": "adapters", "blocks": 1}, {"loss": "l1"},
        {"positives": "all"}, {"train": "every"}, {"direct": True, "out": 5}, {"direct": True, "distractors": 6},
        {"out": 0, "hidden": 6}, {"out": 0, "projector_lr": 0.1}, {"direct": True, "temperature": 0.08},
    ]  # fmt: skip
    for args in fine:
        DipObjective(**args)
    for args in wrong:
        with pytest.raises(ConfigError):
            DipObjective(**args)
    plain = DipObjective()
    assert (plain.distractors, plain.temperature, plain.hidden, plain.out, plain.size) == (7, 0.07, 7, 6144, 224)
    assert (plain.loss, plain.official_distractors, plain.direct, plain.scale) == ("nll", False, False, (0.4, 1.0))
    with pytest.raises(ConfigError, match="direct=true needs the number of pseudo-classes"):
        DipObjective(direct=True).setup(tiny_model(), (), fresh=True)


def test_heads_and_groups():
    made, _ = objective()
    assert [tuple(p.shape) for p in made.projector.parameters() if p.ndim == 2][1][0] == 6
    direct, _ = objective(direct=True, out=6144, hidden=7)
    assert direct.projector[1].out_features == 4
    bare, model = objective(out=0, hidden=7)
    assert bare.projector is None
    groups = bare.setup(model, (), fresh=True)
    assert all("lr" not in group for group in groups)
    rated = DipObjective(size=32, out=6, hidden=2, projector_lr=0.5)
    groups = rated.setup(tiny_model(), (), fresh=True)
    assert [group.get("lr") for group in groups][-2:] == [0.5, 0.5]
    first = rated.projector
    rated.setup(tiny_model(), (), fresh=True)
    assert rated.projector is first  # of a run that goes on
    decoder = DipObjective(size=32, out=6, hidden=2, train="decoder")
    model = tiny_model()
    decoder.setup(model, (), fresh=True)
    assert decoder.projector.fc1.in_features == model.dim
