"""Attention in parts against softmax(Q K / sqrt(d) + M) V written out, with autograd's gradients."""

import math

import pytest
import torch
from dense_ctx_maxa import fused_attention as attending
from dense_ctx_maxa.fused_attention import attend
from dense_ctx_maxa.positions import cell_centres

NAMES = ("query", "key", "value", "log_sigma", "cell_bias")


def inputs(sigmas, shared=False, dtype=torch.float32):
    """3 images, 4 heads, 5 x 7 queries, 4 x 6 cells; `shared`: one set of queries for all images."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    tensors = [noise(1 if shared else 3, 4, 35, 2), noise(3, 4, 24, 2), noise(3, 4, 24, 2), None, noise(1, 4, 1, 24)]
    if sigmas:
        tensors[3] = torch.linspace(math.log(0.05), math.log(0.3), sigmas).requires_grad_()
    return tensors, cell_centres((5, 7)), cell_centres((4, 6))


def plain(query, key, value, points, cells, log_sigma, cell_bias):
    bias = cell_bias
    if log_sigma is not None:
        sigma = log_sigma.exp()[:, None, None]
        distance = torch.cdist(points, cells, compute_mode="donot_use_mm_for_euclid_dist")
        bias = bias + torch.exp(-distance.square() / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
    return logits.softmax(-1) @ value


def results(function, arguments, points, cells):
    """The result and the gradients of a weighted sum of it."""
    query, key, value, log_sigma, cell_bias = arguments
    out = function(query, key, value, points, cells, log_sigma, cell_bias)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    tensors = [tensor for tensor in arguments if tensor is not None]
    return [out, *torch.autograd.grad((out.float() * weights).sum(), tensors)]


@pytest.mark.parametrize(
    "room", [4 * 4 * 24, 4 * 4 * 24 * 8, 4 * 4 * 24 * 35 * 2, 1 << 30]
)  # 1, 8 queries; 2, 3 images
@pytest.mark.parametrize("sigmas", [4, 1, 0])
@pytest.mark.parametrize("shared", [False, True])
def test_values_and_gradients_are_those_of_the_formula(monkeypatch, room, sigmas, shared):
    monkeypatch.setattr(attending, "CPU_BYTES", room)
    arguments = inputs(sigmas, shared)
    for ours, theirs in zip(results(attend, *arguments), results(plain, *arguments), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=0, atol=2e-5 * float(theirs.detach().abs().max()))


def test_finite_differences_of_the_sigmas(monkeypatch):
    """Not through autograd at all."""
    monkeypatch.setattr(attending, "CPU_BYTES", 4 * 4 * 24 * 8)
    given, points, cells = inputs(4)
    gradient = results(attend, given, points, cells)[4]
    weights = torch.randn(3, 4, 35, 2, generator=torch.Generator().manual_seed(1)).double()
    query, key, value, log_sigma, cell_bias = (tensor.detach().double() for tensor in given)
    for head in range(4):
        moved = []
        for step in (1e-4, -1e-4):
            changed = log_sigma.clone()
            changed[head] += step
            output = plain(query, key, value, points.double(), cells.double(), changed, cell_bias)
            moved.append(float((output * weights).sum()))
        assert float(gradient[head]) == pytest.approx((moved[0] - moved[1]) / 2e-4, rel=1e-3, abs=1e-3)


def test_large_logits_do_not_overflow():
    given, points, cells = inputs(4)
    given[0] = (given[0] * 1e4).detach().requires_grad_()
    values = results(attend, given, points, cells)
    assert all(bool(tensor.isfinite().all()) for tensor in values)
    assert torch.allclose(values[0], results(plain, given, points, cells)[0], atol=1e-4)


def test_half_precision_comes_back_as_it_went_in():
    given, points, cells = inputs(4, dtype=torch.bfloat16)
    exact, _, _ = inputs(4)
    with torch.autocast("cpu", torch.bfloat16):
        values = results(attend, given, points, cells)
    assert values[0].dtype == values[1].dtype == torch.bfloat16
    assert torch.allclose(values[0].float(), results(plain, exact, points, cells)[0], atol=0.05)


def test_frozen_inputs_get_no_gradient_and_do_not_fail():
    given, points, cells = inputs(4)
    for index in (0, 1, 3):
        given[index] = given[index].detach()
    query, key, value, log_sigma, cell_bias = given
    attend(query, key, value, points, cells, log_sigma, cell_bias).sum().backward()
    assert value.grad is not None
    assert log_sigma.grad is None
