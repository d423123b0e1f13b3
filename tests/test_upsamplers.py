"""FeatUp, JAFAR, AnyUp, NAF, LoftUp and UPLiFT over tiny files of their published layouts.

`oracles/upsamplers.npz` has what the authors' networks give for `published_upsamplers.published` and `inputs`, every
third pixel, and the gradient by the map of the output's sum weighted from -1 to 1. The networks were retyped from their
repositories (FeatUp 2320bf5, AnyUp 1551eaa, JAFAR as in NAF f63aadf and copies of it, LoftUp as in copies of it, UPLiFT
605a100), with NATTEN's neighbourhoods written out, and loaded these files strictly.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_ctx_upsamplers import blocks, convert, published_names
from dense_ctx_upsamplers.anyup import near
from dense_ctx_upsamplers.naf import around
from published_upsamplers import CHANNELS, LAYOUTS, WIDTH, inputs, published
from torch.nn import functional

from dense_ctx import AutoDenseModel, DenseModel, registry
from dense_ctx.cli import main
from dense_ctx.errors import CheckpointError, ConfigError, InputError
from dense_ctx.interfaces import Decoder, Features
from dense_ctx.testing.tiny import TinyBackbone

ORACLE = Path(__file__).parent / "oracles" / "upsamplers.npz"
NAMES = sorted(LAYOUTS)
SLOW = ("jafar", "loftup", "naf", "uplift")


@pytest.fixture
def convert_file(tmp_path):
    """The model of a file with these tensors, on a backbone of eight channels."""

    def converted(name, state, backbone="dinov2-s14", **args):
        torch.save(state, tmp_path / "published.pth")
        small = f"{backbone}(weights=null, depth=1, embed_dim={CHANNELS}, num_heads=2, img_size=28)"
        return registry().create("converter", name, path=tmp_path / "published.pth", backbone=small, **args)

    return converted


@pytest.fixture
def decoder(convert_file):
    return lambda name: convert_file(name, published(name)).decoder.eval()


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_equal_the_published_networks(name, decoder):
    low, image, size = inputs(name)
    size = (32, 48) if name == "featup" else size
    features = Features((low.requires_grad_(),), None, size)
    out = decoder(name)(features, image, size)
    with np.load(ORACLE) as oracle:
        value, gradient = (torch.from_numpy(oracle[f"{name}_{part}"]) for part in ("out", "grad"))
    torch.testing.assert_close(out[:, :, ::3, ::3], value, rtol=1e-5, atol=1e-5)
    (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    assert (low.grad - gradient).abs().max() <= 1e-5 * gradient.abs().max()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES])
def test_every_tensor_matters_or_is_listed_as_unused(name, decoder):
    """So is every row of a tensor that is used in part."""
    low, image, size = inputs(name)
    low = low[..., :1, :2] if name == "uplift" else low  # of 16 pixels a cell, as large as the output is asked to be
    state = {key.removeprefix("model."): value for key, value in published(name).items()}
    read, part = getattr(published_names, f"{name}_tensors"), decoder(name)

    def outcome(changed):
        part.load_state_dict(read(changed)[0])
        with torch.inference_mode():
            return part(Features((low,), None, size), image, size)

    before, unused = outcome(state), read(state)[2]
    rows = dict(entry.removesuffix(":]").split("[") for entry in unused if "[" in entry)
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue  # of training: loaded, and without effect
        for part_of in [slice(None)] if key not in rows else [slice(int(rows[key])), slice(int(rows[key]), None)]:
            changed = value.clone()
            changed[part_of if value.ndim else ()] += 0.3
            same = torch.equal(outcome(state | {key: changed}), before)
            assert same == (key in unused or part_of.start is not None), (key, part_of)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_too_few_too_many_or_of_another_shape_is_refused_by_name(name, convert_file):
    state = published(name)
    ends = (
        "conv2d.weight",
        "fixup_proj.1.weight",
        "0.1.net.1.weight",
        "up_1.up.weight",
        "image_encoder.encoder.1.conv1.weight",
    )
    key = next(key for key in state if key.endswith(ends))
    ours = {
        "anyup": "attention.conv2d.weight", "featup": "fixup_proj.1.weight", "jafar": "attention.conv2d.weight",
        "loftup": "transformer.0.net.1.weight", "naf": "encoder.1.conv1.weight", "uplift": "twice.weight",
    }  # fmt: skip
    missing = {k: v for k, v in state.items() if k != key}
    with pytest.raises(CheckpointError, match=rf"published.pth does not fit {name} on .*: missing {ours[name]}"):
        convert_file(name, missing)
    with pytest.raises(CheckpointError, match=r"left over extra\.weight"):
        convert_file(name, state | {"extra.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=rf"{ours[name]} is \[1\], not \["):
        convert_file(name, state | {key: torch.zeros(1)})
    with pytest.raises(CheckpointError, match="holds NaN"):
        convert_file(name, state | {key: torch.full_like(state[key], float("nan"))})


def test_files_of_other_kinds(convert_file, tmp_path):
    with pytest.raises(CheckpointError, match=r"No tensor 'rope.freqs': not such a file. Its first tensors are a"):
        convert_file("anyup", {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="of that many sides"):
        convert_file("jafar", {"rope.freqs": torch.zeros(1)})
    torch.save(published("naf"), tmp_path / "naf.pth")
    with pytest.raises(ConfigError, match="naf: a file does not say which backbone's maps it is for"):
        convert.from_naf(tmp_path / "naf.pth")


def test_wrappings_of_the_published_files(convert_file):
    """JAFAR's training script keeps its optimizer; FeatUp's and LoftUp's are Lightning's; FeatUp's norm is optional."""
    low, image, size = inputs("jafar")

    def pixels(model):
        with torch.inference_mode():
            return model.decoder(Features((low,), None, size), image, size)

    state = {"optimizer_jafar": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 1, "jafar": published("jafar")}
    model = convert_file("jafar", state)
    assert torch.equal(pixels(model), pixels(convert_file("jafar", published("jafar"))))
    assert "optimizer_jafar.state.0.exp_avg" in model.model_config.trained_with["unused"]
    renamed = {k.replace("channelnorm.", "model.1."): v for k, v in published("loftup").items()}
    assert torch.equal(
        pixels(convert_file("loftup", {"state_dict": renamed})), pixels(convert_file("loftup", published("loftup")))
    )
    plain = {key: value for key, value in published("featup").items() if "model.1.norm" not in key}
    model = convert_file("featup", {"state_dict": plain})
    assert model.decoder.norm is None
    assert not torch.equal(pixels(model), pixels(convert_file("featup", published("featup"))))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES])
def test_blocks_are_the_whole(name, decoder, monkeypatch):
    """Values and gradients, at an output of another shape than the image's."""
    low, image, _ = inputs(name)
    part, size, results = decoder(name), (21, 50), []
    for limit in (1 << 30, 3000, 300):
        monkeypatch.setattr(blocks, "LIMIT", limit)
        own = low.clone().requires_grad_()
        features = Features((own,), None, (28, 42))
        part.zero_grad()
        out = part(features, image, size)
        assert out.shape == (1, CHANNELS, *size)
        out.square().sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(part(features, image, size), out, rtol=1e-5, atol=1e-5)
        results.append([out.detach(), own.grad, *(p.grad for p in part.parameters())])
    for other in results[1:]:
        scale = max(float(value.abs().max()) for value in results[0][2:])  # of the gradients of parameters
        for index, (one, two) in enumerate(zip(results[0], other, strict=True)):
            assert (one - two).abs().max() <= 1e-4 * (scale if index > 1 else float(one.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name, decoder):
    low, image, size = inputs(name)
    image = image.bfloat16().float()  # LoftUp's highest frequency, e^10, makes noise of what bfloat16 rounds
    exact = decoder(name)(Features((low,), None, size), image, size)
    half = decoder(name).bfloat16()(Features((low.bfloat16(),), None, size), image.bfloat16(), size)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().mean() <= 0.05 * exact.abs().mean()


@pytest.mark.parametrize("name", NAMES)
def test_the_guidance_has_the_normalisation_of_training(name, convert_file):
    """ImageNet's, whatever the backbone's is; JAFAR's is the backbone's own; LoftUp's range is the image's."""
    low, image, size = inputs(name)
    features, ours = Features((low,), None, size), Decoder
    decoder = convert_file(name, published(name)).decoder
    assert (decoder.image_mean, decoder.image_std) == (ours.image_mean, ours.image_std)
    with torch.inference_mode():
        expected = decoder(features, image, size)
        backbone = TinyBackbone()
        DenseModel(backbone, decoder)
        assert decoder.image_mean == backbone.mean
        assert decoder.image_mean != ours.image_mean
        mean, std, own_mean, own_std = (
            torch.tensor(v)[:, None, None] for v in (ours.image_mean, ours.image_std, backbone.mean, backbone.std)
        )
        same = (image * std + mean - own_mean) / own_std
        theirs = decoder(features, same, size)
        difference = (theirs - expected).abs().max() / expected.abs().max()
        assert (difference > 1e-2) == (name == "jafar")
        assert difference < 1e-3 or name == "jafar"
        if name not in ("jafar", "loftup"):
            assert (decoder(features, image, size) - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_becomes_a_folder_that_opens(name, tmp_path, capsys):
    torch.save(published(name), tmp_path / "file.pth")
    out, words = tmp_path / "model", "weights=null, depth=1, embed_dim=8, num_heads=2, img_size=28"
    command = ["convert", name, str(tmp_path / "file.pth"), "--out", str(out), f"backbone=dinov2-s14({words})"]
    assert main(command) == 0
    unused = json.loads((out / "config.json").read_text())["trained_with"]["unused"]
    assert all(entry in capsys.readouterr().out for entry in unused[:1])
    image, model = torch.rand(1, 3, 30, 45), AutoDenseModel.from_pretrained(out)
    pixels = model(image).pixels
    assert pixels.shape == (1, CHANNELS, 30, 45)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(AutoDenseModel.from_pretrained(tmp_path / "again")(image).pixels, pixels)


@pytest.mark.parametrize("name", ["anyup", "jafar", "naf"])
def test_means_of_the_map_s_cells(name, decoder):
    """A constant map stays constant, whatever the image; and values stay between the map's least and largest."""
    low, image, size = inputs(name)
    part = decoder(name)
    with torch.inference_mode():
        constant = part(Features((torch.full_like(low, 2.5),), None, size), image, size)
        out = part(Features((low,), None, size), image, size)
    torch.testing.assert_close(constant, torch.full_like(constant, 2.5))
    assert (out.amax((2, 3)) <= low.amax((2, 3)) + 1e-5).all()
    assert (out.amin((2, 3)) >= low.amin((2, 3)) - 1e-5).all()


def test_attention_against_torch_s_own():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, 5, 7), torch.randn(2, 3, 4, 2, 3), torch.randn(2, 3, 6, 2, 3)
    q, k, v = (item.flatten(3).mT for item in (query, key, value))
    expected = functional.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2).unflatten(2, (5, 7))
    torch.testing.assert_close(blocks.attend(query, key, value), expected)
    rows, columns = near(5, 2, 0.1), near(7, 3, 0.1)
    shares = torch.einsum("ah,bw->abhw", torch.from_numpy(rows), torch.from_numpy(columns)).flatten(0, 1).flatten(1) > 0
    weights = (q @ k.mT / 2).masked_fill(~shares, -torch.inf).softmax(-1).mean(1)
    expected = (weights @ v[:, 0]).mT.unflatten(2, (5, 7))
    torch.testing.assert_close(blocks.attend(query, key, value[:, :1], rows, columns), expected)


def test_windows_and_neighbourhoods():
    """By hand: a window of a tenth over four cells; three neighbours at the border, in pairs of pixels, and of five."""
    assert near(4, 4, 0.1).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert near(4, 4, 0.2).tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    whole = [[1, 1, 1, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert around(4, 4, 3).tolist() == whole
    assert around(8, 4, 3).tolist() == [row for row in whole for _ in range(2)]
    assert around(4, 2, 9).tolist() == [[1, 1]] * 4  # all there are
    # five pixels of two cells, the middle one the second's: neighbours are two pixels apart
    assert around(5, 2, 3).tolist() == [[1, 2], [1, 1], [1, 2], [1, 1], [1, 2]]
    for length, cells, kernel in ((37, 9, 9), (5, 9, 3), (1, 1, 9)):
        assert (around(length, cells, kernel).sum(1) >= 1).all()


def test_memory_of_attention_does_not_grow_with_the_image(monkeypatch):
    """The largest tensor of a block is bounded, of 64 times as many pixels too."""
    largest = {}
    softmax = torch.Tensor.softmax

    def counted(self, *args):
        largest[side] = max(largest.get(side, 0), self.numel())
        return softmax(self, *args)

    monkeypatch.setattr(torch.Tensor, "softmax", counted)
    monkeypatch.setattr(blocks, "LIMIT", 5000)
    for side in (16, 128):
        blocks.attend(torch.randn(1, 2, 4, side, side), torch.randn(1, 2, 4, 8, 8), torch.randn(1, 1, 3, 8, 8))
    assert largest[128] <= 5000
    assert largest[128] >= largest[16] / 2


def test_wrong_arguments():
    dims, strides = (8, 12), (14, 14)
    for name, args, words in (
        ("anyup", {"layer": 2}, "layer=2: the backbone has maps 0 to 1"), ("anyup", {"width": 12}, "multiple of 8"),
        ("anyup", {"heads": 3}, "heads=3: expected a number that divides the 128"), ("jafar", {"width": 0}, "width=0"),
        ("anyup", {"window": 1.5}, "window=1.5"), ("naf", {"heads": 5}, "divides the 12 channels of the map"),
        ("naf", {"kernel": 4}, "kernel=4: expected an odd"), ("naf", {"width": 24}, "width=24"),
        ("loftup", {"heads": 5}, "divides the 32 channels"), ("uplift", {"steps": 0}, "steps=0"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            registry().create("decoder", name, dims=dims, strides=strides, **args)


def test_the_width_is_the_file_s(decoder):
    assert decoder("anyup").rope.freqs.shape[1] == WIDTH
    assert decoder("naf").encoder[0].out_channels == WIDTH


def test_a_file_s_layer_is_the_decoder_s(convert_file):
    assert convert_file("naf", published("naf"), layer=0).decoder.layers == (0,)
    with pytest.raises(InputError, match="layer=5: the backbone has maps 0 to 0"):
        convert_file("naf", published("naf"), layer=5)


@pytest.mark.parametrize(("name", "prefix"), [("jafar", "jafar."), ("featup", "upsampler."), ("loftup", "upsampler.")])
def test_a_file_with_the_same_tensor_under_two_names_is_refused(name, prefix, convert_file):
    state = {key.removeprefix("model."): value for key, value in published(name).items()}
    ours = [key for key in state if not key.startswith(("0.", "downsampler.", "scale_net.", "1.", "channelnorm."))]
    key = next(key for key in ours if state[key].is_floating_point() and state[key].ndim > 1)
    other = key.removeprefix(prefix) if key.startswith(prefix) else prefix + key
    with pytest.raises(CheckpointError, match=f"holds {name} twice"):
        convert_file(name, state | {other: state[key] + 1})
