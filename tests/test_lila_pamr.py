"""PAMR: equal to the official module, linear, adjoint in backward, coarse to fine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_lila.pamr import affinity, refine
from torch.nn import functional

from dense_ctx.errors import InputError

ORACLE = np.load(Path(__file__).parent / "oracles" / "pamr.npz")
DILATIONS = [int(d) for d in ORACLE["dilations"]]
COUNT = int(ORACLE["num_iter"])


def oracle(name):
    return torch.from_numpy(ORACLE[name])


@pytest.mark.parametrize(
    ("mask", "image", "count", "expected"),
    [
        ("mask_lowres", "image", COUNT, "out_lowres"),
        ("mask_lowres", "image", 1, "out_lowres_iter1"),
        ("mask_fullres", "image", COUNT, "out_fullres"),
        ("const_mask", "const_image", COUNT, "const_out"),
    ],
)
def test_equals_the_official_module(mask, image, count, expected):
    features, picture, wanted = oracle(mask), oracle(image), oracle(expected)
    out = refine(features, picture[: len(features)], (1,), (count,), DILATIONS)
    assert (out - wanted).abs().max() < 1e-5


def test_affinity_equals_the_official_one():
    rows = affinity(oracle("image")[:1], DILATIONS)[0, :, ::8, ::8]
    assert (rows - oracle("affinity_rows").reshape(rows.shape)).abs().max() < 1e-6


def plain(features, image, dilations, count):
    """The definition, pixel by pixel: the mean over neighbours with the weights of `affinity`."""
    weights = affinity(image, dilations)
    height, width = image.shape[-2:]
    for _ in range(count):
        out = torch.zeros_like(features)
        for y in range(height):
            for x in range(width):
                k = 0
                for d in dilations:
                    for dy in (-1, 0, 1):
                        for dx in (-1, 0, 1):
                            if dy == dx == 0:
                                continue
                            ny, nx = min(max(y + dy * d, 0), height - 1), min(max(x + dx * d, 0), width - 1)
                            out[:, :, y, x] += weights[:, k, y, x, None] * features[:, :, ny, nx]
                            k += 1
        features = out
    return features


def test_each_level_is_the_definition():
    torch.manual_seed(0)
    image, features = torch.rand(2, 3, 10, 14), torch.rand(2, 2, 5, 7)
    small = functional.interpolate(image, size=(5, 7), mode="bilinear", antialias=True)
    coarse = plain(features, small, (1, 2), 2)
    fine = functional.interpolate(coarse, size=(10, 14), mode="bilinear", align_corners=True)
    expected = plain(fine, image, (1, 2), 1)
    assert torch.allclose(refine(features, image, (2, 1), (2, 1), (1, 2)), expected, atol=1e-6)


def test_linear_in_the_features_and_keeps_constants():
    torch.manual_seed(1)
    image, a, b = torch.rand(1, 3, 12, 20), torch.randn(1, 4, 3, 5), torch.randn(1, 4, 3, 5)
    both = refine(2 * a - b, image)
    assert torch.allclose(both, 2 * refine(a, image) - refine(b, image), atol=1e-4)
    assert torch.allclose(refine(torch.ones(1, 1, 3, 5), image), torch.ones(1, 1, 12, 20), atol=1e-5)


def test_more_channels_than_cells():
    torch.manual_seed(4)
    image, a = torch.rand(2, 3, 12, 20), torch.randn(2, 40, 3, 5, requires_grad=True)
    b = a.detach().clone().requires_grad_(True)
    joined = refine(a, image)  # 15 cells: they are refined, and mixed by the 40 channels
    parts = torch.cat([refine(part, image) for part in b.split(4, 1)], 1)  # 4 channels: themselves
    assert torch.allclose(joined, parts, atol=1e-5)
    weight = torch.randn_like(joined)
    (joined * weight).sum().backward()
    (parts * weight).sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-4)


def test_the_callers_features_stay():
    torch.manual_seed(5)
    image, x = torch.rand(1, 3, 12, 20), torch.randn(1, 2, 12, 20).to(memory_format=torch.channels_last)
    before = x.clone()
    refine(x, image, (1,), (3,))
    assert torch.equal(x, before)


def test_backward_is_the_transpose():
    torch.manual_seed(2)
    image, x = torch.rand(2, 3, 12, 20), torch.randn(2, 3, 6, 10, requires_grad=True)
    weight = torch.randn(2, 3, 12, 20)
    (gradient,) = torch.autograd.grad((refine(x, image, (2, 1), (3, 2)) * weight).sum(), x)
    step = torch.randn_like(x)
    exact = (refine(step, image, (2, 1), (3, 2)) * weight).sum()  # linear: the derivative along `step` is its image
    assert torch.allclose((gradient * step).sum(), exact, rtol=1e-4)


def test_follows_an_edge_of_the_image():
    image = torch.zeros(1, 3, 16, 24)
    image[..., 10:] = 1
    image += 0.01 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    coarse = torch.tensor([[[[0.0, 0.0, 1.0]] * 2]])  # the edge lies inside the second cell
    out = refine(coarse, image)[0, 0]
    jump = (out[:, 10] - out[:, 9]).mean()
    blurred = functional.interpolate(coarse, size=(16, 24), mode="bilinear", align_corners=True)[0, 0]
    assert jump > 3 * (blurred[:, 10] - blurred[:, 9]).mean()


def test_images_of_a_batch_do_not_mix():
    torch.manual_seed(3)
    image, x = torch.rand(2, 3, 12, 20), torch.randn(2, 3, 3, 5)
    assert torch.allclose(refine(x, image)[1:], refine(x[1:], image[1:]), atol=1e-6)


def test_bad_input():
    image, x = torch.rand(1, 3, 8, 12), torch.rand(1, 2, 4, 6)
    for arguments, message in (
        ((x[0], image), "one batch"),
        ((x, image, (2, 1), (1,)), "one number of each a level"),
        ((x, image, (1,), (1,), ()), "at least one"),
        ((x, image, (0,), (1,)), "one number of each a level"),
    ):
        with pytest.raises(InputError, match=message):
            refine(*arguments)
