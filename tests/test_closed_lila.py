"""PAMR and LILA's losses where their settings tell: tiny contrasts, single rows, blocks, the caller's memory."""

import pytest
import torch
from dense_ctx_lila import losses
from dense_ctx_lila.losses import edge_loss
from dense_ctx_lila.matching import Matching
from dense_ctx_lila.pamr import affinity, refine
from lila_forms import matching_loss
from torch.nn import functional

from dense_ctx.errors import ConfigError, InputError


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- PAMR


@pytest.mark.parametrize("scale", [1e-23, 1e-12, 1e-9, 1e-8, 3e-8, 1.0, 1e6])
@pytest.mark.parametrize("dilations", [(1,), (1, 2), (2, 3, 5)])
def test_affinities_of_any_contrast(scale, dilations):
    """By definition in float64, with the centre once a dilation in the spread; where float32 underflows, alike."""
    image = scale * noise(2, 3, 6, 7)
    weights = affinity(image, dilations)
    assert weights.shape == (2, 8 * len(dilations), 6, 7)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 6, 7))
    precise = image.double()
    padded = functional.pad(precise, (5, 5, 5, 5), mode="replicate")
    near = {d: [padded[:, :, 5 + d * y : 11 + d * y, 5 + d * x : 12 + d * x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
            for d in dilations}  # fmt: skip
    std = torch.stack([one for d in dilations for one in near[d]]).std(0)
    around = [one for d in dilations for i, one in enumerate(near[d]) if i != 4]
    scores = torch.stack([-((one - precise).abs() / (1e-8 + 0.1 * std)).mean(1) for one in around], 1)
    torch.testing.assert_close(weights.double(), scores.softmax(1), rtol=1e-4, atol=1e-5)


def test_a_contrast_whose_square_is_nothing():
    """One pixel that differs by less than float32 can square, beside neighbours whose sum it can."""
    image = torch.zeros(1, 3, 6, 7)
    image[..., 3, 3] = 2.5e-23
    assert (image.square() == 0).all()
    for dilations in ((1,), (1, 2, 3)):
        weights = affinity(image, dilations)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / (8 * len(dilations))))


def test_refined_features_are_float32_and_the_callers_stay():
    image = noise(1, 3, 8, 12).sigmoid()
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        for features in (noise(1, 2, 4, 6), noise(1, 60, 2, 3)):
            out = refine(features.to(kind), image.to(kind if kind is torch.float64 else torch.float32), (2, 1), (1, 1))
            assert out.dtype == torch.float32
            torch.testing.assert_close(out, refine(features.to(kind).float(), image, (2, 1), (1, 1)))
    single = noise(1, 1, 8, 12)  # one channel: its rows are the caller's own memory
    before = single.clone()
    for count in (1, 2, 3):
        refine(single, image, (1,), (count,))
        assert torch.equal(single, before)
    grown = single.clone().requires_grad_()
    refine(grown, image, (1,), (2,)).sum().backward()
    assert torch.equal(grown.detach(), before)
    torch.testing.assert_close(grown.grad.sum(), torch.tensor(96.0))  # weights of each pixel sum to one


def test_levels_without_iterations_and_below_a_pixel():
    image, features = noise(1, 3, 5, 7).sigmoid(), noise(1, 2, 3, 4)
    plain = functional.interpolate(features, (5, 7), mode="bilinear", align_corners=True)
    assert torch.equal(refine(features, image, (1,), (0,)), plain)
    assert refine(features, image, (8, 2), (1, 0)).shape == (1, 2, 2, 3)
    tiny = refine(features, image, (9,), (1,))  # one pixel: its neighbours are itself
    torch.testing.assert_close(tiny, functional.interpolate(features, (1, 1), mode="bilinear", align_corners=True))
    assert torch.equal(refine(image[:, :2], image, (1,), (0,)), image[:, :2])
    once, twice = refine(features, image, (1,), (1,)), refine(features, image, (1,), (2,))
    torch.testing.assert_close(refine(once, image, (1,), (1,)), twice)


def test_what_refine_refuses():
    image, features = noise(2, 3, 8, 12), noise(2, 2, 4, 6)
    for pair in ((features[:1], image), (features, image[:1]), (features[0], image), (features, image[0])):
        with pytest.raises(InputError, match="have one batch"):
            refine(*pair)
    levels = [
        ((), ()),
        ((1,), (1, 1)),
        ((1, 1), (1,)),
        ((0,), (1,)),
        ((2, 0), (1, 1)),
        ((1,), (-1,)),
        ((2, 1), (1, -1)),
    ]
    for pyramid, iterations in levels:
        with pytest.raises(InputError, match="one number of each a level"):
            refine(features, image, pyramid, iterations)
    for dilations in ((), (0,), (1, 0), (-1,)):
        with pytest.raises(InputError, match="at least one, each at least 1"):
            refine(features, image, (1,), (1,), dilations)
    assert refine(features, image, (1,), (1,), (2, 3)).shape == (2, 2, 8, 12)


# ---------------------------------------------------------------------- losses


def by_definition(prediction, target, weights, sigma, gamma):
    total = prediction.new_zeros(())
    for channel, weight in enumerate(weights):
        p, t = prediction[:, channel : channel + 1], target[:, channel : channel + 1]
        total = total + weight * ((p - t).abs().mean() + gamma * edge_loss(p, t, sigma))
    return total


@pytest.mark.parametrize("block", [0, 1, 1 << 4, 1 << 6, 1 << 20])
@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 2, 1, 6), (2, 2, 6, 1), (1, 2, 3, 2), (2, 1, 2, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize(("sigma", "gamma"), [(0.1, 0.0), (0.3, 1.0), (1.0, 0.5)])
def test_a_block_of_any_size_gives_the_same(monkeypatch, block, shape, sigma, gamma):
    monkeypatch.setattr(losses, "_CHUNK", block)
    prediction, target = noise(*shape).double().requires_grad_(), 0.3 * noise(*shape, seed=1).double()
    weights = torch.tensor([0.5, 1.5, 2.0][: shape[1]], dtype=torch.float64)
    before = target.clone(), prediction.detach().clone()
    total, fit, edges = matching_loss(prediction, target, weights, sigma, gamma)
    expected = by_definition(prediction, target, weights, sigma, gamma)
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(fit.double(), (prediction - target).abs().mean((0, 2, 3)).detach(), rtol=1e-6, atol=1e-7)
    assert fit.dtype == edges.dtype == torch.float32
    assert not fit.requires_grad
    each = [edge_loss(prediction[:, c : c + 1], target[:, c : c + 1], sigma).item() for c in range(shape[1])]
    assert edges.tolist() == pytest.approx(each if gamma else [0.0] * shape[1], rel=1e-5, abs=1e-7)
    (ours,) = torch.autograd.grad(2 * total, prediction)
    (theirs,) = torch.autograd.grad(2 * expected, prediction)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    assert torch.equal(target, before[0])
    assert torch.equal(prediction.detach(), before[1])
    with torch.no_grad():
        assert torch.equal(matching_loss(prediction, target, weights, sigma, gamma)[0], total)


def test_a_wide_map_is_worked_on_a_row_at_a_time():
    """Of more values a row than a block has."""
    prediction, target = noise(1, 2, 3, 40_000).requires_grad_(), noise(1, 2, 3, 40_000, seed=1)
    total, _, _ = matching_loss(prediction, target, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(total, by_definition(prediction, target, [1.0, 0.5], 0.1, 1.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(1, 2, 4, 5), (1, 1, 1, 5), (1, 1, 4, 1), (1, 1, 1, 1)])
def test_edges_by_definition(reduction, shape):
    prediction, target, total = noise(*shape).double(), noise(*shape, seed=1).double(), 0.0
    for axis in (2, 3):
        terms = []
        for index in range(shape[axis] - 1):
            change, edge = ((x.select(axis, index + 1) - x.select(axis, index)).abs() for x in (prediction, target))
            terms.append(((1 - (-edge / 0.4).exp()) * (change - edge).abs()).flatten())
        if terms:
            every = torch.cat(terms)
            total += float(every.mean() if reduction == "mean" else every.sum())
    assert float(edge_loss(prediction, target, 0.4, reduction)) == pytest.approx(total, rel=1e-9, abs=1e-12)


# ---------------------------------------------------------------------- forms of the loss


def bent(one, two, form, beta):
    off = (one - two).abs()
    if form in ("smooth", "huber"):
        loss = torch.where(off < beta, off.square() / 2, beta * (off - beta / 2))
        return loss / beta if form == "smooth" else loss
    return off.square() if form == "l2" else off


@pytest.mark.parametrize("edges", ["l1", "l1norm", "l2norm", "smooth", "huber"])
@pytest.mark.parametrize(
    ("fit", "beta"), [("l1", None), ("l2", None), ("smooth", None), ("huber", 0.4), ("smooth", 2.0)]
)
def test_each_form_is_its_definition(fit, beta, edges):
    """Maps with no edge at all, one row high and with several channels; gradients too."""
    target, prediction = noise(2, 3, 4, 6).double(), noise(2, 3, 4, 6, seed=1).double().requires_grad_()
    target[1, 2] = 0.5
    shares, sigma, gamma, weight = torch.tensor([0.2, 0.3, 0.9], dtype=torch.float64), 0.3, 0.7, 0.6
    for height in (4, 1):
        p, t = prediction[:, :, :height], target[:, :, :height]
        wanted_fit = bent(p, t, fit, beta or 1.0).mean((0, 2, 3))
        wanted_edges = torch.zeros(3, dtype=torch.float64)
        for axis in (-1, -2):
            change, true = p.diff(dim=axis).abs(), t.diff(dim=axis).abs()
            if not change.numel():
                continue
            if edges in ("smooth", "huber"):
                wanted_edges = wanted_edges + bent(change, true, edges, sigma).mean((0, 2, 3))
                continue
            terms = 1 - (-true / sigma).exp()
            if edges != "l1":
                whole = terms.sum((2, 3), keepdim=True)
                terms = torch.where(whole > 0, terms / whole, 0) * true[0, 0].numel()
            off = change - true
            wanted_edges = wanted_edges + (terms * (off.square() if edges == "l2norm" else off.abs())).mean((0, 2, 3))
        loss = Matching(fit, beta, weight, edges)
        total, found_fit, found_edges = loss(p, t, shares, sigma, gamma)
        expected = (shares * (weight * wanted_fit + gamma * wanted_edges)).sum()
        torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found_fit.double(), wanted_fit.detach(), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found_edges.double(), wanted_edges.detach(), rtol=1e-5, atol=1e-7)
        assert not found_fit.requires_grad
        assert not found_edges.requires_grad
        ours, theirs = (torch.autograd.grad(x, prediction, retain_graph=True)[0] for x in (total, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)
        alone = loss(p, t, shares, sigma, 0.0)
        torch.testing.assert_close(alone[0].double(), (shares * weight * wanted_fit).sum(), rtol=1e-6, atol=1e-7)
        assert alone[2].eq(0).all()


def test_settings_of_the_forms():
    assert Matching() == Matching("l1", None, 1.0, "l1")
    Matching("huber", 1e-3, 1e-3)
    wrong = [
        ({"weight": 0.0}, "expected above 0"), ({"weight": -0.5}, "expected above 0"), ({"fit": "l3"}, "loss.fit='l3'"),
        ({"fit": "huber", "beta": 0.0}, "expected above 0"), ({"edges": "l2"}, "loss.edges='l2'"),
        ({"fit": "l2", "beta": 0.5}, "no effect with loss.fit=l2"),
        ({"fit": "smooth", "beta": float("nan")}, "expected above 0"),
    ]  # fmt: skip
    for args, words in wrong:
        with pytest.raises(ConfigError, match=words):
            Matching(**args)
