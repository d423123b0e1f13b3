"""LILA's losses: the recorded edge values, and the one-pass form against the composition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_lila.losses import edge_loss
from dense_ctx_lila.matching import Matching
from lila_forms import matching_loss

from dense_ctx.errors import ConfigError, InputError

ORACLE = np.load(Path(__file__).parent / "oracles" / "edge_loss.npz")


@pytest.mark.parametrize("number", [0, 1])
def test_edge_loss_equals_the_records(number):
    truth, prediction = (torch.from_numpy(ORACLE[name]).double() for name in ("gt", "pred"))
    sigma = float(ORACLE["sigmas"][number])
    assert float(edge_loss(prediction, truth, sigma, "sum")) == pytest.approx(
        float(ORACLE[f"lila_sum_{number}"]), rel=1e-6
    )
    assert float(edge_loss(prediction, truth, sigma)) == pytest.approx(float(ORACLE[f"lila_mean_{number}"]), rel=1e-6)
    prediction.requires_grad_(True)
    edge_loss(prediction, truth, sigma).backward()
    reference = torch.from_numpy(ORACLE[f"l1_grad_{number}"])  # FlowFeat's "l1" is the same mean
    assert (prediction.grad - reference).abs().max() < 1e-6 * reference.abs().max()


@pytest.mark.parametrize("gamma", [0.0, 0.7])
@pytest.mark.parametrize("shape", [(2, 7, 13, 17), (1, 3, 1, 9), (1, 2, 9, 1), (2, 40, 90, 100)])  # the last in chunks
def test_one_pass_is_the_composition(shape, gamma):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    target = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    weights = torch.rand(shape[1], generator=generator, dtype=torch.float64)
    total, fit, edges = matching_loss(prediction, target, weights, 0.1, gamma)
    each = [prediction[:, i : i + 1] for i in range(shape[1])]
    true = [target[:, i : i + 1] for i in range(shape[1])]
    expected_fit = torch.stack([(p - t).abs().mean() for p, t in zip(each, true, strict=True)])
    expected_edges = torch.stack([edge_loss(p, t, 0.1) for p, t in zip(each, true, strict=True)])
    expected = (weights * (expected_fit + gamma * expected_edges)).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(fit.double(), expected_fit, rtol=1e-5)
    if gamma:
        assert torch.allclose(edges.double(), expected_edges, rtol=1e-4)
    (ours,) = torch.autograd.grad(3 * total, prediction)
    (reference,) = torch.autograd.grad(3 * expected, prediction)
    assert (ours - reference).abs().max() < 1e-9


def test_a_second_derivative_is_refused_beside_other_terms_too():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(1, 2, 5, 6, generator=generator, requires_grad=True)
    total, *_ = matching_loss(prediction, torch.zeros(1, 2, 5, 6), torch.ones(2), 0.1, 1.0)
    with pytest.raises(InputError, match=r"LILA's loss is differentiated once.*create_graph"):
        torch.autograd.grad(total + prediction.square().sum(), prediction, create_graph=True)


def records():
    return (torch.from_numpy(ORACLE[name]).double() for name in ("gt", "pred"))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("edges", "official"),
    [("l1", "l1"), ("l1norm", "l1norm"), ("l2norm", "l2norm"), ("smooth", "l1smooth"), ("huber", "l1huber")],
)
def test_the_edge_losses_of_flowfeat(edges, official, number):
    truth, prediction = records()
    prediction.requires_grad_(True)
    shares = torch.full((4,), 0.25, dtype=torch.float64)
    sigma = float(ORACLE["sigmas"][number])
    loss = Matching(edges=edges, fit="l2", weight=1e-12)
    total, _, parts = loss(prediction, truth, shares, sigma, 1.0)
    assert float(parts.mean()) == pytest.approx(float(ORACLE[f"{official}_{number}"]), rel=1e-6)
    assert float(total) == pytest.approx(float(ORACLE[f"{official}_{number}"]), rel=1e-6)
    if f"{official}_grad_{number}" in ORACLE:
        (gradient,) = torch.autograd.grad(total, prediction)
        reference = torch.from_numpy(ORACLE[f"{official}_grad_{number}"])
        assert (gradient - reference).abs().max() < 1e-6 * reference.abs().max()


@pytest.mark.parametrize(
    ("fit", "official", "factor"),
    [
        ("l1", "flow_l1", 4),
        ("l2", "flow_l2", 1),
        ("smooth", "flow_l1smooth_beta1", 1),
        ("huber", "flow_l1huber_beta1", 1),
    ],
)
def test_the_data_terms_of_flowfeat(fit, official, factor):
    """Its L1 is summed over the channels, the others are means."""
    truth, prediction = records()
    shares = torch.full((4,), 0.25, dtype=torch.float64)
    total, parts, _ = Matching(fit=fit, weight=0.5)(prediction, truth, shares, 0.1, 0.0)
    assert factor * float(parts.mean()) == pytest.approx(float(ORACLE[official]), rel=1e-6)
    assert factor * float(total) == pytest.approx(0.5 * float(ORACLE[official]), rel=1e-6)


def test_each_setting_of_the_loss_changes_it():
    truth, prediction = records()
    shares = torch.full((4,), 0.25, dtype=torch.float64)
    forms = [Matching(), Matching(weight=0.2), Matching(fit="huber"), Matching(fit="huber", beta=0.3),
             Matching(fit="smooth", beta=0.3), Matching(edges="l1norm"), Matching(edges="l2norm")]  # fmt: skip
    totals = [float(form(prediction, truth, shares, 0.1, 1.0)[0]) for form in forms]
    assert len({round(value, 6) for value in totals}) == len(totals)
    flat = torch.zeros(1, 1, 5, 5, dtype=torch.float64)  # no edge: nothing to match, and no NaN
    assert float(Matching(edges="l1norm")(prediction[:1, :1, :5, :5], flat, shares[:1], 0.1, 1.0)[2]) == 0
    for wrong in ({"fit": "l3"}, {"edges": "l2"}, {"weight": 0}, {"beta": 0.5}, {"fit": "huber", "beta": -1}):
        with pytest.raises(ConfigError, match=rf"loss\.{'|loss.'.join(wrong)}"):
            Matching(**wrong)
