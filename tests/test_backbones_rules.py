"""Rules of the backbones that no parity of two libraries shows: DINOv2's own positions, early stop, strict files."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional

from dense_ctx import create_backbone
from dense_ctx.errors import FileError, WeightsError

TINY = {"depth": 4, "embed_dim": 48, "num_heads": 2}
CONFIG = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}


def official_map(net, images):
    """DINO's and DINOv2's published rule, written out: bicubic by scale factor (side + 0.1) / table side."""
    x = net.patch_embed.proj(images)
    count, _, h, w = x.shape
    side = round((net.pos_embed.shape[1] - 1) ** 0.5)
    table = net.pos_embed[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if (h, w) != (side, side):
        table = functional.interpolate(table, scale_factor=((h + 0.1) / side, (w + 0.1) / side), mode="bicubic")
    x = torch.cat([net.cls_token.expand(count, -1, -1), x.flatten(2).transpose(1, 2)], 1)
    x = x + torch.cat([net.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], 1)
    for block in net.blocks:
        x = block(x)
    return net.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (h, w))


@pytest.mark.parametrize(("name", "patch", "native"), [("dinov2-s14", 14, 518), ("dino-s16", 16, 224)])
@pytest.mark.parametrize("grid", [None, (16, 17), (37, 31), (5, 3), (40, 39), (14, 37)])
def test_dino_positions_follow_the_official_rule(name, patch, native, grid):
    torch.manual_seed(0)
    backbone = create_backbone(name, weights=None, **TINY)
    with torch.no_grad():
        backbone.net.pos_embed.normal_(0, 0.2)
    rows, columns = grid or (native // patch, native // patch)
    images = torch.randn(1, 3, rows * patch, columns * patch)
    with torch.no_grad():
        got, expected = backbone(images).maps[-1], official_map(backbone.net, images)
        again = copy.deepcopy(backbone)(images).maps[-1]
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(again, got)


def test_a_fixed_size_network_is_left_to_timm():
    fixed = create_backbone("dinov2-s14", weights=None, dynamic_img_size=False, img_size=(56, 70), **TINY)
    with torch.no_grad():
        assert fixed(torch.randn(1, 3, 56, 70)).maps[-1].shape == (1, 48, 4, 5)


def test_registers_keep_timms_antialiased_rule():
    assert type(create_backbone("dinov2-reg-s14", weights=None, **TINY).net).__name__ == "VisionTransformer"
    assert type(create_backbone("mae-b16", weights=None, **TINY).net).__name__ == "VisionTransformer"


def test_blocks_after_the_deepest_map_do_not_run():
    whole = create_backbone("timm:vit_tiny_patch16_224", weights=None, layers=(1, 11))
    short = create_backbone("timm:vit_tiny_patch16_224", weights=None, layers=(1,))
    short.load_state_dict(whole.state_dict())
    ran = []
    for index, block in enumerate(short.net.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    images = torch.randn(1, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(short(images).maps[0], whole(images).maps[0])
    assert ran == [0, 1]


def test_another_patch_size_is_refused_not_resized(tmp_path):
    other = create_backbone("timm:vit_tiny_patch16_224", weights=None, img_size=64)
    save_file(other.net.state_dict(), tmp_path / "p16.safetensors")
    with pytest.raises(WeightsError, match=r"patches of \[16, 16\] pixels.*\[8, 8\]"):
        create_backbone("timm:vit_tiny_patch16_224", weights=tmp_path / "p16.safetensors", patch_size=8, img_size=32)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**CONFIG, patch_size=14, image_size=56)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "repo")
    return tmp_path / "repo"


def test_hf_weights_from_a_file_equal_those_of_the_folder(folder):
    images = torch.randn(1, 3, 56, 70)
    with torch.no_grad():
        expected = create_backbone(f"hf:{folder}")(images).maps
        for weights in (folder, folder / "model.safetensors"):
            got = create_backbone(f"hf:{folder}", weights=weights)(images).maps
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("weights", ["pretrained", "file"])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "of another shape"])
def test_hf_weights_are_strict(folder, fault, weights):
    path = folder / "model.safetensors"
    state = load_file(path)
    if fault == "missing":
        del state["layernorm.bias"]
    elif fault == "unexpected":
        state["encoder.layer.9.norm1.bias"] = torch.zeros(48)
    else:
        state["layernorm.bias"] = torch.zeros(49)
    save_file(state, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=fault):
        create_backbone(f"hf:{folder}", weights=path if weights == "file" else "pretrained")


def test_hf_weights_that_are_not_there(folder):
    with pytest.raises(FileError, match=r"none\.safetensors"):
        create_backbone(f"hf:{folder}", weights=folder / "none.safetensors")


@pytest.mark.parametrize("name", ["dinov2-g14", "siglip-b16-224"])
def test_folders_of_transformers_open_in_timm(name, tmp_path):
    """SwiGLU's two halves and SigLIP's pooling, by value; at the native size, the one where both rules are one."""
    torch.manual_seed(0)
    if name == "dinov2-g14":
        config = transformers.Dinov2Config(**CONFIG, patch_size=14, image_size=56, use_swiglu_ffn=True)
        options = {**TINY, "img_size": 56, "mlp_ratio": 2 * 128 / 48}
    else:
        # timm builds SigLIP-B with the exact GELU, transformers with the tanh one by default: 2e-4 of these features
        activation = {"hidden_act": "gelu", "intermediate_size": 192}
        config = transformers.SiglipVisionConfig(**CONFIG, **activation, patch_size=16, image_size=64)
        options = {**TINY, "img_size": 64}
    theirs = create_backbone("hf:untrained", config=config, weights=None)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.5)
    theirs.net.save_pretrained(tmp_path)
    ours = create_backbone(name, weights=tmp_path, **options)
    images = torch.randn(2, 3, *ours.image_size)
    with torch.no_grad():
        for a, b in zip(ours(images).maps, theirs(images).maps, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    if name.startswith("siglip"):
        pool = ours.net.attn_pool(torch.zeros(1, 16, 48)), theirs.net.head(torch.zeros(1, 16, 48))
        torch.testing.assert_close(*pool, atol=1e-5, rtol=1e-4)
