"""DIP's prediction and losses against the published code's records and against their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_dip.distributed import draw_distractors
from dense_ctx_dip.projector import Projector
from dense_ctx_dip.soft_labels import blocks_of, classes_in, compact, label_counts, prediction_loss, soft_predict
from torch.nn import functional

from dense_ctx.errors import InputError

ORACLE = Path(__file__).parent / "oracles/dip.npz"


@pytest.fixture(scope="module")
def oracle():
    with np.load(ORACLE) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def run(oracle, case, kind="official"):
    """Prediction, loss and everything it depends on, by the parts the objective uses."""
    target, reference = (oracle[f"feat_{name}"].clone().requires_grad_() for name in ("target", "ref"))
    inputs = {"feat_target": target, "feat_ref": reference}
    rows = [x.flatten(2).transpose(1, 2) for x in (target, reference)]
    if case != "noproj":
        projector = Projector(24, hidden=7, out=40)
        names = {"fc1": "projector.fc1", "fc2": "projector.fc2", "norm": "enc_norm"}
        projector.load_state_dict(
            {f"{own}.{k}": oracle[f"{theirs}.{k}"] for own, theirs in names.items() for k in ("weight", "bias")}
        )
        inputs |= {name.replace(own, theirs, 1): p for name, p in projector.named_parameters()
                   for own, theirs in names.items() if name.startswith(own + ".")}  # fmt: skip
        rows = [projector(x) for x in rows]
    permutations = torch.empty(0, 4, dtype=torch.int64) if case == "nodistract" else oracle[f"{case}_perms"]
    labels, (wanted, known) = 12, (oracle[f"labels_{name}"].long() for name in ("target", "ref"))
    values, counts = label_counts(known, (4, 4), labels), label_counts(wanted, (4, 4), labels)
    predicted, supported = soft_predict(*rows, values, blocks_of(0, 4, permutations), 0.07)
    assert bool(supported.all())
    loss, pixels = prediction_loss(predicted, counts, kind, labels)
    return predicted, loss / pixels, inputs


@pytest.mark.parametrize("case", ["full", "nodistract", "noproj"])
def test_published_code(oracle, case):
    predicted, loss, inputs = run(oracle, case)
    expected = oracle[f"{case}_label_hat"].flatten(2).transpose(1, 2)
    assert (predicted - expected).abs().max() < 1e-5
    assert float(loss.detach()) == pytest.approx(float(oracle[f"{case}_loss"]), abs=1e-5)
    loss.backward()
    for name, tensor in inputs.items():
        reference = oracle[f"{case}_grad_{name}"]
        assert (tensor.grad - reference).abs().max() < 1e-4 * reference.abs().max(), name
    _, nll, _ = run(oracle, case, "nll")
    assert float(nll.detach()) == pytest.approx(float(oracle[f"{case}_nll_paper_eps1e-8"]), abs=1e-5)


def test_counts_are_the_mean_one_hot_of_the_published_code(oracle):
    counts = label_counts(oracle["labels_ref"].long(), (4, 4), 12)
    assert torch.allclose(counts / counts.sum(-1, keepdim=True), oracle["patch_labels_ref"].float(), atol=1e-6)


def test_counts_by_definition_with_unequal_sides_and_ignored_pixels():
    labels = torch.randint(-1, 5, (2, 12, 20), generator=torch.Generator().manual_seed(0))
    counts = label_counts(labels, (3, 4), 5)
    one_hot = functional.one_hot(labels.clamp_min(0), 5) * (labels >= 0)[..., None]
    expected = one_hot.view(2, 3, 4, 4, 5, 5).sum((2, 4)).view(2, 12, 5)
    assert torch.equal(counts, expected.float())


def random_case(seed=0, classes=6):
    draw = torch.Generator().manual_seed(seed)
    queries, keys = (torch.randn(3, 6, 8, generator=draw) for _ in range(2))
    labels = torch.randint(0, classes, (2, 3, 8, 12), generator=draw)
    return queries, keys, labels, torch.tensor([[0, 1, 1, 2, 1], [1, 0, 0, 2, 2], [2, 1, 0, 1, 0]])


def test_an_image_drawn_twice_weighs_twice():
    queries, keys, labels, support = random_case()
    values = label_counts(labels[0], (2, 3), 6)
    predicted, _ = soft_predict(queries, keys, values, support, 0.5)
    q, k = functional.normalize(queries, dim=-1), functional.normalize(keys, dim=-1)
    for index in range(3):  # the plain way: copies laid side by side
        rows, shares = k[support[index]].flatten(0, 1), (values / 16)[support[index]].flatten(0, 1)
        expected = ((q[index] @ rows.T) / 0.5).softmax(-1) @ shares
        assert torch.allclose(predicted[index], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["nll", "official"])
def test_losses_are_the_pixelwise_ones(kind):
    """Upsample, then cross-entropy over pixels with an ignored label, as the text has it."""
    queries, keys, labels, support = random_case()
    before = labels[1].clone()
    before[0, :5] = -1
    predicted, _ = soft_predict(queries, keys, label_counts(labels[0], (2, 3), 6), support, 0.5)
    loss, pixels = prediction_loss(predicted, label_counts(before, (2, 3), 6), kind, 6)
    large = functional.interpolate(predicted.transpose(1, 2).reshape(3, 6, 2, 3), size=(8, 12), mode="nearest")
    if kind == "nll":
        expected = functional.nll_loss(large.clamp_min(1e-8).log(), before, ignore_index=-1)
    else:
        expected = functional.cross_entropy(large, before, ignore_index=-1)
    assert float(pixels) == (before >= 0).sum()
    assert torch.allclose(loss / pixels, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["nll", "official"])
def test_leaving_out_absent_classes_changes_nothing(kind):
    queries, keys, labels, support = random_case()
    sparse = labels * 100 + 7  # 7, 107 ... of 1000 classes
    present = classes_in(sparse[0], sparse[1])
    known, wanted = compact(sparse[0], sparse[1], present=present)
    assert torch.equal(present[known], sparse[0])
    for few, many in ((known, sparse[0]), (wanted, sparse[1])):
        assert int(few.max()) < 6 < int(many.max())
    losses = []
    for support_labels, query_labels, count in ((known, wanted, 6), (sparse[0], sparse[1], 1000)):
        predicted, _ = soft_predict(queries, keys, label_counts(support_labels, (2, 3), count), support, 0.5)
        losses.append(prediction_loss(predicted, label_counts(query_labels, (2, 3), count), kind, 1000)[0])
    assert torch.allclose(*losses, rtol=1e-6)


def test_unlabelled_support():
    queries, keys, labels, support = random_case()
    hidden = labels[0].clone()
    hidden[1] = -1
    values = label_counts(hidden, (2, 3), 6)
    predicted, supported = soft_predict(queries, keys, values, support)
    assert torch.allclose(predicted.sum(-1), torch.ones(3, 6))
    assert bool(supported.all())
    alone, supported = soft_predict(queries.requires_grad_(), keys, values, torch.tensor([[0], [1], [2]]))
    assert supported.tolist() == [True, False, True]
    assert not bool(alone[1].any())
    alone.sum().backward()
    assert bool(queries.grad.isfinite().all())


def test_bad_input():
    queries, keys, labels, support = random_case()
    with pytest.raises(InputError, match=r"label ids run from 0 to 5; expected 0 to 3, or -1"):
        label_counts(labels[0], (2, 3), 4)
    with pytest.raises(InputError, match="multiples of the grid"):
        label_counts(labels[0], (3, 3), 6)
    with pytest.raises(InputError, match="with S at least 1"):
        soft_predict(queries, keys, label_counts(labels[0], (2, 3), 6), support[:, :0])
    with pytest.raises(InputError, match="expected 'nll' or 'official'"):
        prediction_loss(queries, queries, "l2", 6)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match=r"joint batch of all processes has 1 sample\(s\): raise batch_size"):
        draw_distractors(1, 7, generator)
    assert draw_distractors(1, 7, generator, official=True).tolist() == [[0]] * 7
    assert draw_distractors(1, 0, generator).shape == (0, 1)


@pytest.mark.parametrize("batch", [2, 4, 8, 20])
def test_distractors_are_others_and_differ_while_they_can(batch):
    for seed in range(20):
        rows = draw_distractors(batch, 7, torch.Generator().manual_seed(seed))
        assert rows.shape == (7, batch)
        assert bool((rows != torch.arange(batch)).all())
        assert all(sorted(row) == list(range(batch)) for row in rows.tolist())  # permutations
        assert all(len(set(column)) == min(7, batch - 1) for column in rows.T.tolist())
    official = torch.stack([draw_distractors(batch, 7, torch.Generator().manual_seed(s), True) for s in range(20)])
    assert bool((official == torch.arange(batch)).any())
