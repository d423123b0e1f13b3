"""Positions and attention of MAXA by definition: waves, centres, distances, densities, sizes of blocks."""

import math

import pytest
import torch
from dense_ctx_maxa import fused_attention
from dense_ctx_maxa.attention import CrossAttention, GaussianBias
from dense_ctx_maxa.fused_attention import attend, gaussian
from dense_ctx_maxa.positions import CHANNELS, cell_centres, encode, squared_distances


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_positions_are_waves_of_half_to_four_turns():
    points = torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    encoding = encode(points)
    assert encoding.shape == (5, CHANNELS)
    for row, (y, x) in zip(encoding.tolist(), points.tolist(), strict=True):
        angles = [math.pi * wave * axis for axis in (y, x) for wave in (1, 2, 4, 8)]
        assert row == pytest.approx([math.sin(a) for a in angles] + [math.cos(a) for a in angles], abs=1e-5)


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (4, 3)])
def test_centres_and_distances(grid):
    centres = cell_centres(grid)
    expected = [((y + 0.5) / grid[0], (x + 0.5) / grid[1]) for y in range(grid[0]) for x in range(grid[1])]
    torch.testing.assert_close(centres, torch.tensor(expected))
    points = noise(4, 2)
    distances = squared_distances(points, centres)
    assert distances.shape == (4, len(centres))
    for i in range(4):
        for j in range(len(centres)):
            assert float(distances[i, j]) == pytest.approx(math.dist(points[i].tolist(), expected[j]) ** 2, rel=1e-5)


def test_densities_are_normal():
    squared, log_sigma = noise(3, 4).abs(), torch.tensor([-2.0, 0.0, 0.5])
    weights = gaussian(squared, log_sigma)
    for head, sigma in enumerate(log_sigma.exp().tolist()):
        normal = torch.distributions.Normal(0.0, sigma).log_prob(squared.sqrt()).exp()
        torch.testing.assert_close(weights[head], normal)
    assert gaussian(squared, log_sigma[:1]).shape == (1, 3, 4)


@pytest.mark.parametrize(
    ("cpu", "parts"), [(1, 30), (4 * 3 * 20 * 2, 15), (4 * 3 * 20 * 6 * 2, 3), (4 * 3 * 20 * 6 * 5, 1), (1 << 30, 1)]
)
def test_parts_cover_every_query_of_every_image_once(monkeypatch, cpu, parts):
    """As many queries, then images, as fit; each part's weights fit where one query's do."""
    monkeypatch.setattr(fused_attention, "CPU_BYTES", cpu)
    monkeypatch.setattr(fused_attention, "BYTES", 1)
    seen, number = torch.zeros(5, 6), 0
    for images, part in fused_attention._parts(torch.empty(5, 3, 6, 2), 20):
        seen[images, part] += 1
        number += 1
        count = len(range(5)[images]) * len(range(6)[part])
        assert count == 1 or count * 4 * 3 * 20 <= cpu
    assert seen.eq(1).all()
    assert number == parts


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_of_any_type_is_float32_inside(kind):
    query, key, value = (noise(2, 2, n, 3, seed=n).to(kind) for n in (4, 6, 6))
    points, cells, bias = cell_centres((2, 2)), cell_centres((2, 3)), noise(1, 2, 1, 6)
    out = attend(query, key, value, points, cells, torch.tensor([-1.0]), bias)
    assert out.dtype == kind
    exact = [x.float().double() for x in (query, key, value)]
    logits = exact[0] @ exact[1].transpose(-1, -2) / 3**0.5 + bias.double()
    logits = logits + gaussian(squared_distances(points, cells), torch.tensor([-1.0])).double()
    near = 1e-2 if kind is torch.bfloat16 else 1e-5
    torch.testing.assert_close(out.double(), logits.softmax(-1) @ exact[2], rtol=near, atol=near)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("sigma", ["head", "shared", "none", None])
def test_a_layer_by_definition(first, sigma):
    """Keys and values of normalised features beside their positions; the residual of all but a first layer."""
    torch.manual_seed(0)
    bias = None if sigma is None else GaussianBias(2, (2, 3), sigma)
    layer = CrossAttention(5, 8, 2, first, bias).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    features, points, cells = noise(3, 6, 5).double(), cell_centres((2, 2)), cell_centres((2, 3))
    encoded = encode(cells).double()
    x = noise(1, 4, CHANNELS if first else 8, seed=1).double()
    whitened = torch.nn.functional.layer_norm(features, (5,))
    output = layer(x, points, cells, (2, 3), layer.read(whitened, encoded))
    inner = layer.project(torch.cat([layer.norm(features), encoded.expand(3, -1, -1)], -1))
    query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (
        layer.query(layer.query_norm(x)), layer.key(inner), layer.value(inner)))  # fmt: skip
    logits = query @ key.transpose(-1, -2) / 2
    if bias is not None:
        logits = logits + bias(points, cells, bias.cell_bias((2, 3))).detach()
    attended = layer.out((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))
    y = attended if first else x + attended
    torch.testing.assert_close(output, y + layer.mlp(y), rtol=1e-4, atol=1e-5)
    assert layer.key.bias is None
    assert [tuple(layer.project.weight.shape), tuple(layer.mlp[1].weight.shape)] == [(24, 5 + CHANNELS), (16, 8)]
    with torch.no_grad():
        again = layer(x, points, cells, (2, 3), layer.read(whitened, encoded))
    torch.testing.assert_close(again, output, rtol=1e-4, atol=1e-5)
