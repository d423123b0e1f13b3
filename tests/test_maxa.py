import math
import subprocess
import sys

import pytest
import torch
from dense_ctx_benchmarks import papers
from dense_ctx_maxa.attention import GaussianBias
from dense_ctx_maxa.maxa import Maxa
from dense_ctx_maxa.positions import cell_centres, encode

from dense_ctx import AutoDenseModel, registry
from dense_ctx.errors import InputError
from dense_ctx.interfaces import Features
from dense_ctx.testing import check_decoder

# channels of the maps each published row reads (the tables do not print them)
CHANNELS = {
    "SAM V2 B+": 256, "Dino V2 (ViT-L)": 1024, "Hiera B+": 896, "CLIP (ViT-L)": 1024, "SigLIP-SO": 1152, "Aim2": 1024,
    "ViTamin": 1024, "ConvNeXt": 1536, "ConvNeXt (2 layers)": 1536 + 768, "Phi-3.5V": 1024,
}  # fmt: skip
COLUMNS = {  # column of learnable parameters: table, D_out, D_CNN
    "ari_learnable": ("maxa:table2", 32, None),
    "boundary_learnable": ("maxa:table2", 1, None),
    "distance_learnable": ("maxa:table2", 1, None),
    "voc_learnable": ("maxa:table3", 21, None),
    "coco_learnable": ("maxa:table3", 201, 64),
    "depth_learnable": ("maxa:table3", 1, None),
}


def scene(grid=(5, 7), channels=12, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = (grid[0] * 16, grid[1] * 16)
    return Features((torch.randn(batch, channels, *grid, generator=generator),), None, image)


def adapter(channels=12, seed=0, **args):
    torch.manual_seed(seed)
    objective = Maxa((channels,), (16,), **{"dim": 3, "size": (48, 64), **args}).eval()
    with torch.no_grad():
        for parameter in objective.parameters():  # biases start at zero and would hide mistakes
            parameter.add_(0.1 * torch.randn_like(parameter))
    return objective


def formula(channels, cells, dim, width):
    c, n = width, dim
    cnn = (9 * 32 + 1) * c + (16 * c + 1) * c + (9 * c + 1) * c + (4 * c + 1) * c + (c + 1) * n + 33 * n
    return 27_370 + 196 * channels + 8 * cells + cnn


def test_learnable_parameters_are_the_published_ones():
    count = 0
    print(f"\n{'backbone':22}{'head':22}{'paper':>8}{'formula':>9}{'ours':>9}")
    for column, (table, dim, width) in COLUMNS.items():
        for row in papers.table(table).rows:
            grid = int(row.values["grid"])
            channels = CHANNELS.get(row.name, 768)
            head = Maxa((channels,), (16,), dim=dim, cnn_width=width, grid=(grid, grid))
            ours = sum(p.numel() for p in head.parameters())
            expected = formula(channels, grid * grid, dim, width or max(8, dim))
            print(f"{row.name:22}{column:22}{row.values[column]:8.3f}{expected / 1e6:9.4f}{ours / 1e6:9.4f}")
            assert abs(ours - expected) <= 0.02 * expected
            assert abs(ours / 1e6 - row.values[column]) <= 0.02 * row.values[column]
            if dim == 1 and channels == 768:
                assert ours < 0.003 * row.values["params"] * 1e6
            count += 1
    assert count == 6 * 21


@pytest.mark.parametrize("density", [1, 2, 3])
def test_a_window_is_a_part_of_the_whole(density):
    head, features = adapter(density=density), scene()
    for size in ((48, 64), (50, 101), (20, 33)):
        whole = head(features, None, size)
        for rows, columns in (((0, 5), (3, 20)), ((11, 12), (0, 33)), ((13, 20), (25, 33))):
            part = head.window(features, size, rows, columns)
            assert part.shape[-2:] == (rows[1] - rows[0], columns[1] - columns[0])
            assert torch.allclose(part, whole[:, :, slice(*rows), slice(*columns)], atol=1e-5, rtol=0)


@pytest.mark.parametrize("density", [1, 2])
def test_a_point_does_not_depend_on_what_else_is_asked_for(density):
    head, features = adapter(density=density), scene()
    whole = head(features, None, (30, 45))
    rows, columns = torch.tensor([0, 4, 29, 15]), torch.tensor([44, 0, 20, 21])
    points = torch.stack([(rows + 0.5) / 30, (columns + 0.5) / 45], 1)
    assert torch.allclose(head.points(features, points), whole[:, :, rows, columns], atol=1e-5, rtol=0)
    for index in range(4):
        alone = head.points(features, points[index : index + 1])
        assert torch.allclose(alone, whole[:, :, rows[index : index + 1], columns[index : index + 1]], atol=1e-5)
    # pixels of one size whose centres are pixels of another one
    assert torch.allclose(head(features, None, (90, 135))[:, :, 1::3, 1::3], whole, atol=1e-5, rtol=0)


def test_predictions_at_the_trained_pixels_do_not_depend_on_the_density():
    head, features = adapter(), scene()
    first = head(features, None, head.size)
    head.density = 3
    assert torch.allclose(head(features, None, head.size), first, atol=1e-5, rtol=0)
    fine = head(features, None, (144, 192))
    head.density = 1
    coarse = head(features, None, (144, 192))
    assert torch.allclose(fine[:, :, 1::3, 1::3], first, atol=1e-5, rtol=0)
    assert float((fine - coarse).detach().abs().max()) > 1e-3  # between them there is more than interpolation


def test_the_trained_lattice_is_the_plain_computation():
    """Against the paper's formulas written out: softmax(QK / sqrt(d) + M) V, no chunks, the CNN on all queries."""
    head, features = adapter(), scene()
    blocks, grid = (6, 8), (5, 7)
    points, cells = cell_centres(blocks), cell_centres(grid)
    tokens = features.maps[0].flatten(2).transpose(1, 2)
    x = encode(points)[None].expand(2, -1, -1)
    for number, layer in enumerate(head.attention):
        inner = layer.project(torch.cat([layer.norm(tokens), encode(cells).expand(2, -1, -1)], -1))
        q, k, v = (
            part.unflatten(-1, (8, 4)).transpose(1, 2)
            for part in (layer.query(layer.query_norm(x)), layer.key(inner), layer.value(inner))
        )
        logits = q @ k.transpose(-1, -2) / math.sqrt(4)
        if number == 0:
            distance = torch.cdist(points, cells)
            for index, sigma in enumerate(layer.bias.log_sigma.exp()):
                gaussian = torch.exp(-(distance**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
                logits[:, index] += gaussian + layer.bias.cell_bias(grid)[0, index]
        attended = layer.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = attended if number == 0 else x + attended
        x = x + layer.mlp(x)
    x = x.transpose(1, 2).unflatten(-1, blocks)
    large = torch.nn.functional.interpolate(x, scale_factor=8, mode="bilinear")
    expected = head.upscale.cnn(x) + head.upscale.skip(large)
    assert torch.allclose(head(features, None, (48, 64)), expected, atol=1e-4)


def test_chunks_change_neither_values_nor_gradients(monkeypatch):
    head, features = adapter(), scene()
    whole = head(features, None, (48, 64))
    whole.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in head.named_parameters()}
    head.zero_grad()
    monkeypatch.setattr("dense_ctx_maxa.attention.CHUNK_BYTES", 4 * 2 * 8 * 35 * 7)  # seven queries at a time
    part = head(features, None, (48, 64))
    assert torch.allclose(part, whole, atol=1e-5)
    part.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert torch.allclose(
            parameter.grad, gradients[name], rtol=1e-3, atol=1e-3 * float(gradients[name].abs().max())
        )


@pytest.mark.parametrize("name", ["maxa", "cnn", "linear"])
def test_training_in_mixed_precision(name):
    torch.manual_seed(0)
    args = {"size": (48, 64)} if name == "maxa" else {}
    head = registry().create("decoder", name, dims=(12,), strides=(16,), dim=3, **args)
    size = (48, 64) if name == "maxa" else (2, 3)  # smaller than the grid, which other filters make
    whole = head(scene(), None, size)
    with torch.autocast("cpu", torch.bfloat16):
        out = head(scene(), None, size)
        out.float().square().mean().backward()
    assert float((out - whole).detach().abs().max()) < 0.05 * float(whole.detach().abs().max())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in head.parameters())


def test_the_output_size_does_not_follow_the_grid():
    head = adapter()
    for grid in ((5, 7), (3, 4), (9, 6), (1, 1)):
        assert head(scene(grid), None, (23, 31)).shape == (2, 3, 23, 31)


def test_numbers_of_the_training_grid_are_interpolated_for_others():
    bias = GaussianBias(2, (4, 6), "none")
    with torch.no_grad():
        bias.cells.copy_(torch.arange(4.0)[:, None].expand(1, 2, 4, 6))  # a ramp downwards
    assert torch.equal(bias.cell_bias((4, 6)).view(2, 4, 6), bias.cells[0])
    fine = bias.cell_bias((8, 6)).view(2, 8, 6)
    assert torch.allclose(fine[0, 1:-1, 0], (torch.arange(8.0)[1:-1] + 0.5) / 2 - 0.5)


def test_the_first_layer_looks_near_its_query_where_sigma_is_small():
    near = adapter(depth=1)
    with torch.no_grad():
        near.attention[0].bias.log_sigma.fill_(math.log(0.03))
    features = scene((6, 8))
    changed = features.maps[0].clone()
    changed[:, :, :, -1] += 10.0  # the right edge
    moved = Features((changed,), None, features.image_size)
    gap = (near(features, None, (48, 64)) - near(moved, None, (48, 64))).abs().mean((0, 1, 2))
    assert float(gap[:16].detach().max()) < 0.05 * float(gap[-8:].detach().max())


def test_switches_take_what_they_name_away():
    count = {}
    for name, args in {
        "base": {}, "one sigma": {"sigma": "shared"}, "no sigma": {"sigma": "none"}, "one layer": {"depth": 1},
        "narrow": {"width": 16},
    }.items():  # fmt: skip
        head = adapter(**args)
        count[name] = sum(p.numel() for p in head.parameters())
        assert head(scene(), None, (31, 17)).shape == (2, 3, 31, 17)
    assert count["base"] - count["one sigma"] == 7
    assert count["base"] - count["no sigma"] == 8
    assert count["one layer"] < count["base"]
    assert count["narrow"] < count["base"]


@pytest.mark.parametrize(
    "args", [{"sigma": "shared"}, {"sigma": "none"}, {"depth": 1}, {"width": 16}, {"layers": [0, 2]}, {"density": 2}]
)
def test_contract_with_each_switch(args):
    assert "gradients" in check_decoder("maxa", args={**args, "size": (48, 64)})


def test_several_maps_are_joined_on_the_finest_grid():
    head = Maxa((4, 6, 8), (8, 16, 32), dim=2, layers=(-1, 1), size=(48, 64))
    maps = (torch.randn(1, 4, 8, 12), torch.randn(1, 6, 4, 6), torch.randn(1, 8, 2, 3))
    assert head.attention[0].norm.normalized_shape == (14,)
    assert head(Features(maps, None, (64, 96)), None, (20, 30)).shape == (1, 2, 20, 30)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"dim": 0}, "output channel"),
        ({"width": 12}, "heads divide"),
        ({"depth": 3}, "one or two layers"),
        ({"sigma": "head-wise"}, "expected 'head'"),
        ({"size": (100, 64)}, "multiple of 8"),
        ({"grid": (0, 3)}, "at least 1"),
        ({"density": 0}, "at least 1"),
        ({"layers": [4]}, "maps 0 to 0"),
        ({"cnn_width": 0}, "at least 1"),
    ],
)
def test_bad_arguments(args, words):
    with pytest.raises(InputError, match=words):
        Maxa((12,), (16,), **args)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("linear", {"dim": 0}, "dim=0: the head needs at least one output channel"),
        ("cnn", {"dim": 0}, "dim=0: the head needs at least one output channel"),
        ("cnn", {"width": 12}, "width=12, heads=8.*that the heads divide"),
        ("cnn", {"cnn_width": 0}, "cnn_width=0: expected at least 1"),
        ("linear", {"layers": []}, "maps 0 to 0"),
    ],
)
def test_bad_arguments_of_the_baselines(name, args, words):
    with pytest.raises(InputError, match=words):
        registry().create("decoder", name, dims=(12,), strides=(16,), **args)


def test_bad_queries():
    head, features = adapter(), scene()
    with pytest.raises(InputError, match="start < stop <= 20"):
        head.window(features, (20, 30), (5, 21), (0, 3))
    with pytest.raises(InputError, match="between 0 and 1"):
        head.points(features, torch.tensor([[0.5, 12.0]]))
    with pytest.raises(InputError, match="between 0 and 1"):
        head.points(features, torch.tensor([[0.5, float("nan")]]))
    with pytest.raises(InputError, match=r"\[N, 2\]"):
        head.points(features, torch.zeros(0, 2))


def test_in_a_model_saved_and_loaded(tmp_path):
    model = AutoDenseModel.from_parts(
        "rgb-xy", "maxa", decoder_args={"dim": 4, "size": [32, 48], "grid": [9, 11], "density": 2}
    )
    image = torch.rand(1, 3, 37, 53)
    first = model(image).pixels
    assert first.shape == (1, 4, 37, 53)
    model.save_pretrained(tmp_path / "m")
    assert torch.equal(AutoDenseModel.from_pretrained(tmp_path / "m")(image).pixels, first)


LARGE = """
import resource, torch
from dense_ctx.interfaces import Features
from dense_ctx_maxa.maxa import Maxa
head = Maxa((768,), (14,), dim=21, grid=(37, 37), density=5).eval()
with torch.no_grad():
    out = head(Features((torch.randn(1, 768, 37, 37),), None, (518, 518)), None, (1024, 1000))
assert out.shape == (1, 21, 1024, 1000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_a_megapixel_from_large_features_in_4_gb():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 4.0
