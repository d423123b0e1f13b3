"""LILA's losses: the recorded edge values, and the one-pass form against the composition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_lila.losses import edge_loss, matching_loss

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
    wanted = torch.from_numpy(ORACLE[f"l1_grad_{number}"])  # FlowFeat's "l1" is the same mean
    assert (prediction.grad - wanted).abs().max() < 1e-6 * wanted.abs().max().clamp_min(1) + 1e-8


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
