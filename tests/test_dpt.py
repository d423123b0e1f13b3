"""The DPT decoder against the official one, and where it goes beyond."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_dpt import strips
from dense_ctx_dpt.convert import flowfeat_decoder
from dense_ctx_dpt.dpt import DPT
from safetensors.torch import load_file
from torch.nn import functional

from dense_ctx import AutoDenseModel
from dense_ctx.errors import CheckpointError, InputError
from dense_ctx.interfaces import Features
from dense_ctx.tiling.footprint import forward_bytes

ORACLES = Path(__file__).parent / "oracles"


@pytest.fixture(scope="module")
def oracle():
    return {key: torch.from_numpy(value) for key, value in np.load(ORACLES / "dpt_p14_io.npz").items()}


@pytest.fixture
def official():
    return load_file(str(ORACLES / "dpt_p14_state.safetensors"))


def features_of(oracle):
    tokens = [oracle[f"layer_{i}"].clone().requires_grad_() for i in range(1, 5)]
    maps = tuple(t[:, 1:].transpose(1, 2).unflatten(2, (6, 8)) for t in tokens)
    return tokens, Features(maps, None, (84, 112))


def test_values_and_gradients_equal_the_official_decoder(oracle, official):
    decoder = flowfeat_decoder(official)
    tokens, features = features_of(oracle)
    out = decoder(features, torch.zeros(1, 3, 84, 112), (84, 112))
    assert out.shape == (1, 20, 84, 112)
    torch.testing.assert_close(out[:, :, ::2, ::2], oracle["out_sub2"], rtol=1e-4, atol=1e-4)
    (out * oracle["weight"].float()).sum().backward()
    gradients = {f"grad_layer_{i}": token.grad for i, token in enumerate(tokens, 1)}
    gradients["grad_scratch.layer1_rn.weight"] = decoder.lateral[0].weight.grad
    gradients["grad_scratch.refinenet4.resConfUnit2.conv1.weight"] = decoder.fuse[3].conv1.weight.grad
    for name, value in gradients.items():
        assert (value - oracle[name]).abs().max() <= 1e-3 * oracle[name].abs().max(), name
    decoder.norm = None
    with torch.no_grad():
        plain = decoder(features, torch.zeros(1, 3, 84, 112), (84, 112))[:, :, ::4, ::4]
    torch.testing.assert_close(plain, oracle["out_without_norm_sub4"], rtol=1e-4, atol=1e-4)


def test_official_names_with_their_prefix_load_too(official):
    state = {f"decoder.{key}": value for key, value in official.items()} | {"encoder.x": torch.zeros(1)}
    assert torch.equal(flowfeat_decoder(state).head.weight, official["scratch.output_conv0.weight"])


def test_what_is_not_an_official_decoder_says_so(official):
    with pytest.raises(CheckpointError, match=r"act_postprocess1\.post\.0\.weight"):
        flowfeat_decoder({"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"missing lateral\.1\.weight; left over project\.7\.x"):
        flowfeat_decoder(
            {k: v for k, v in official.items() if "layer2_rn" not in k} | {"scratch.output_conv1.7.x": torch.zeros(1)}
        )
    with pytest.raises(CheckpointError, match=r"head\.bias is \[5\], not \[24\]"):
        flowfeat_decoder(official | {"scratch.output_conv0.bias": torch.zeros(5)})


def features(sizes, dims, image):
    return Features(tuple(torch.randn(2, d, *s) for d, s in zip(dims, sizes, strict=True)), None, image)


@pytest.mark.parametrize(
    ("dims", "strides", "sizes", "image"),
    [
        (
            (8, 8, 8, 8),
            (14, 14, 14, 14),
            [(5, 7)] * 4,
            (70, 98),
        ),  # an odd grid, which the official code refuses
        ((8, 8, 8, 8), (14, 14, 14, 14), [(1, 1)] * 4, (14, 14)),
        ((8, 6, 4, 10), (4, 8, 16, 32), [(24, 40), (12, 20), (6, 10), (3, 5)], (96, 160)),
        ((8, 6), (4, 8), [(9, 5), (5, 3)], (36, 20)),
        ((8, 8, 8), (16, 16, 16), [(3, 5)] * 3, (48, 80)),
        ((8,), (16,), [(3, 5)], (48, 80)),
    ],
)
def test_any_grid_any_pyramid_any_output_size(dims, strides, sizes, image):
    decoder = DPT(dims, strides, dim=6, width=8)
    item = features(sizes, dims, image)
    for size in (image, (17, 31), (1, 3), (2 * image[0], image[1] + 5)):
        out = decoder(item, torch.zeros(2, 3, *image), size)
        assert out.shape == (2, 6, *size)
        assert torch.isfinite(out).all()
    out.square().sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())  # nothing is stored that never learns


@pytest.mark.parametrize(
    ("strides", "sizes", "args"),
    [
        ((14,) * 4, [(5, 7)] * 4, {}),
        ((14,) * 4, [(5, 7)] * 4, {"norm": False}),
        ((4, 8, 16, 32), [(24, 40), (12, 20), (6, 10), (3, 5)], {"shortcut": True}),
    ],
)
def test_strips_of_rows_equal_the_whole(strides, sizes, args, monkeypatch):
    """Without gradients the last stage is computed a few rows at a time."""
    torch.manual_seed(0)
    decoder = DPT((8,) * 4, strides, dim=6, width=8, **args)
    item = features(sizes, (8,) * 4, (96, 160))
    for size in ((96, 160), (70, 98), (17, 31), (1, 3), (49, 30), (20, 200)):
        whole = decoder(item, torch.zeros(2, 3, 96, 160), size)
        for limit in (1, 2 * 6 * size[1] * 5, 1 << 21):  # one row, five, all
            monkeypatch.setattr(strips, "LIMIT", limit)
            with torch.no_grad():
                torch.testing.assert_close(decoder(item, torch.zeros(2, 3, 96, 160), size), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_memory_of_full_resolution_features():
    """1024 x 1024 pixels of `lila-lite0`'s form: the result is 537 MB, and what else is held less than half of that."""
    args = {"dim": 128, "width": 64, "shortcut": True}
    model = AutoDenseModel.from_parts(
        "efficientnet-lite0", "dpt", backbone_args={"weights": None, "layers": [1, 2, 3, 4]}, decoder_args=args
    )
    assert forward_bytes(model, 1, (1024, 1024), (1024, 1024)) < 800e6


def test_low_precision():
    decoder = DPT((8,) * 4, (14,) * 4, dim=6, width=8).bfloat16()
    item = features([(5, 7)] * 4, (8,) * 4, (70, 98))
    maps = tuple(m.bfloat16() for m in item.maps)
    assert decoder(Features(maps, None, (70, 98)), torch.zeros(2, 3, 70, 98), (70, 98)).dtype == torch.bfloat16


def test_wrong_arguments():
    with pytest.raises(InputError, match=r"strides that grow with depth; got \[8, 4\]"):
        DPT((8, 8), (8, 4))
    with pytest.raises(InputError, match="one number for each"):
        DPT((8, 8), (8, 8), projections=[4])
    with pytest.raises(InputError, match="dim=0"):
        DPT((8, 8), (8, 8), dim=0)


def test_the_shortcut_starts_as_principal_components():
    """Untrained, and with the other path silenced, the decoder gives the maps' components, rotated."""
    torch.manual_seed(0)
    mix = torch.randn(5, 30)
    decoder = DPT((12, 18), (4, 8), dim=4, width=8, norm=False, shortcut=True)
    maps = [
        torch.einsum("bkhw,kc->bchw", torch.randn(3, 5, 8, 12), mix[:, :12]),
        torch.randn(3, 18, 8, 12),
    ]  # one grid: nothing is resampled
    assert decoder.initialise([maps]) is True
    torch.nn.init.zeros_(decoder.project[-1].weight)
    out = (
        decoder(Features(tuple(maps), None, (32, 48)), torch.zeros(3, 3, 32, 48), (8, 12)).movedim(1, -1).flatten(0, 2)
    )
    assert out.mean(0).abs().max() < 1e-3
    rows = torch.cat([functional.layer_norm(m.movedim(1, -1), (m.shape[1],)) / m.shape[1] ** 0.5 for m in maps], -1)
    variances = torch.linalg.eigvalsh(torch.cov(rows.flatten(0, 2).T, correction=0)).flip(0)[:4] ** 1.5
    spread = torch.linalg.eigvalsh(torch.cov(out.T, correction=0)).flip(0)
    assert torch.allclose(spread, 4 * variances / variances.sum(), rtol=1e-3)
    with pytest.raises(InputError, match="30 channels, fewer than dim=31"):
        DPT((12, 18), (4, 8), dim=31, width=8, shortcut=True).initialise([maps])
    with pytest.raises(InputError, match="No image"):
        decoder.initialise([])


def test_without_a_shortcut_nothing_is_initialised_or_read():
    decoder = DPT((12, 18), (4, 8), dim=4, width=8)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    maps = iter([[torch.randn(1, 12, 8, 8), torch.randn(1, 18, 4, 4)]])
    assert decoder.initialise(maps) is False
    assert len(list(maps)) == 1
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
