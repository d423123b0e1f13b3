"""Segmenters on pictures: ncut, slic, and diffcut's whole path with a tiny random UNet."""

import sys

import pytest
import torch
from dense_ctx_dip.segmenters import PatchSegmenter
from dense_ctx_dip.testing import check_segmenter
from evaluation_data import scene

from dense_ctx import registry
from dense_ctx.errors import ContractError, InputError, MissingDependencyError, UnknownNameError


def create_segmenter(name, **args):
    return registry().create("segmenter", name, **args)


def picture(seed=0, size=(48, 72)):
    pixels, label = scene(seed, size)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255, torch.from_numpy(label).long()


def purity(segments, label):
    """Share of pixels that have their segment's commonest class."""
    table = torch.bincount(segments.flatten() * 10 + label.flatten(), minlength=10 * (int(segments.max()) + 1))
    return float(table.view(-1, 10).amax(1).sum() / label.numel())


def test_ncut_finds_the_colours():
    image, label = picture()
    features = torch.nn.functional.avg_pool2d(image[None], 4)[0] - 0.5
    segments = create_segmenter("ncut", alpha=4)(image, features, (48, 72))
    assert segments.shape == (48, 72)
    assert segments.unique().tolist() == list(range(int(segments.max()) + 1))
    assert 1 < len(segments.unique()) <= 12
    assert purity(segments, label) > 0.8
    with pytest.raises(InputError, match="reads the backbone's features; got none"):
        create_segmenter("ncut")(image, None, (48, 72))


def test_slic_finds_the_colours():
    image, label = picture()
    segments = create_segmenter("slic", segments=24)(image, None, (24, 36))
    assert segments.shape == (24, 36)
    assert purity(segments, label[::2, ::2]) > 0.9


def test_patches_are_segments_of_their_own():
    image, _ = picture()
    segments = create_segmenter("patches")(image, torch.zeros(3, 6, 9), (48, 72))
    assert torch.equal(segments[::8, ::8].flatten(), torch.arange(54))
    assert torch.equal(segments, segments[::8, ::8].repeat_interleave(8, 0).repeat_interleave(8, 1))
    with pytest.raises(InputError, match="patches reads the backbone's features; got none"):
        create_segmenter("patches")(image, None, (48, 72))


def tiny_diffusion():
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=8, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16, norm_num_groups=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16, 16, 16), down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=8,
    )  # fmt: skip
    return unet, vae


def test_diffcut_on_a_tiny_unet():
    unet, vae = tiny_diffusion()
    segmenter = create_segmenter("diffcut", unet=unet, vae=vae, side=128, alpha=2).to("cpu")
    image, _ = picture()
    features = segmenter.features(image)
    assert features.shape == (64, 8, 8)  # 128 pixels, /8 by the VAE, /2 by the first block
    assert torch.equal(features, segmenter.features(image))
    other = segmenter.features(image.flip(0))
    assert not torch.allclose(features, other)
    segments = segmenter(image, None, (48, 72))
    assert segments.shape == (48, 72)
    assert not unet._forward_hooks
    assert not segmenter._attention._forward_hooks
    with pytest.raises(InputError, match="has no self-attention"):
        create_segmenter("diffcut", unet=torch.nn.Linear(1, 1), vae=vae)


@pytest.mark.parametrize("name", registry().names("segmenter"))
def test_the_contract(name):
    args = {"slic": {"segments": 12}}.get(name, {})
    if name == "diffcut":
        unet, vae = tiny_diffusion()
        args = {"unet": unet, "vae": vae, "side": 128, "alpha": 2}
    assert check_segmenter(name, **args) == ["builds", "segments", "deterministic", "size", "batch", "inputs"]


class Narrow(PatchSegmenter):
    def __call__(self, image, features, size):
        return super().__call__(image, features, size)[:, 1:]


class Random(PatchSegmenter):
    def __call__(self, image, features, size):
        return torch.randint(9, size)


class Batched(PatchSegmenter):
    def batch(self, images, features, sizes):
        return [torch.zeros(size, dtype=torch.int64) for size in sizes]


class Short(PatchSegmenter):
    def __call__(self, image, features, size):
        return super().__call__(image, features, size).int()


class Painter(PatchSegmenter):
    def __call__(self, image, features, size):
        image.zero_()
        return super().__call__(image, features, size)


@pytest.mark.parametrize(
    ("broken", "clause"),
    [(Narrow, "segments"), (Short, "segments"), (Random, "deterministic"), (Batched, "batch"), (Painter, "inputs"),
     (dict, "builds")],
)  # fmt: skip
def test_the_contract_sees_a_breach(broken, clause):
    with pytest.raises(ContractError) as caught:
        check_segmenter(broken)
    assert caught.value.clause == clause


def test_faults(monkeypatch):
    with pytest.raises(UnknownNameError, match=r"Unknown segmenter 'diffcat'\. Closest: diffcut"):
        create_segmenter("diffcat")
    with pytest.raises(InputError, match=r"does not take \{'k': 3\}"):
        create_segmenter("ncut", k=3)
    with pytest.raises(InputError, match="tau=3"):
        create_segmenter("ncut", tau=3)
    with pytest.raises(InputError, match="segments=0"):
        create_segmenter("slic", segments=0)
    for name, package, extra in (("diffcut", "diffusers", "diffcut"), ("slic", "skimage.segmentation", "dip")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"dense_ctx_dip.{name}", raising=False)
        with pytest.raises(MissingDependencyError, match=rf"'{name}' needs the package .*dense-ctx\[{extra}\]"):
            create_segmenter(name)
