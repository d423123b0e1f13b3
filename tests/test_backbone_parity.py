"""The same weights give the same features through timm and through transformers."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import transformers
from backbone_parity import CASES, difference, pair

from dense_ctx import create_backbone
from dense_ctx.errors import InputError


def has(*families):
    """The families whose class the installed transformers has, the others skipped with the reason."""
    newer = {"TIPSv2": "Tipsv2VisionConfig", "RADIO v3": "RadioConfig", "RADIO v4": "RadioConfig"}
    lacks = [family for family in families if not hasattr(transformers, newer.get(family, "CLIPVisionConfig"))]
    skip = pytest.mark.skip(reason=f"transformers {transformers.__version__} has no class of it")
    return [pytest.param(family, marks=[skip] if family in lacks else []) for family in families]


@pytest.mark.parametrize("family", has(*CASES))
def test_native_size(family):
    ours, theirs = pair(family)
    assert ours.layers == theirs.layers == [0, 1, 2, 3]
    if "RADIO" not in family:  # timm's has a size that it is used at, not one it was made for
        assert ours.image_size == theirs.image_size
    assert difference(ours, theirs, *theirs.image_size) <= 1e-4


ANY_SIZE = has("DINOv2 with registers", "DINOv3", "DINOv3 gated", "TIPSv2", "RADIO v3", "RADIO v4")


@pytest.mark.parametrize("family", ANY_SIZE)
@pytest.mark.parametrize("cells", [(3, 7), (8, 5)])
def test_any_size_where_the_rules_agree(family, cells):
    """Both resize by one rule (DINOv2 with registers, TIPSv2, RADIO), or compute positions afresh (DINOv3)."""
    ours, theirs = pair(family)
    assert difference(ours, theirs, cells[0] * ours.stride, cells[1] * ours.stride) <= 1e-4


@pytest.mark.parametrize("family", ["DINOv2", "CLIP", "MAE"])
def test_off_native_rules_differ_a_little_and_not_a_lot(family):
    ours, theirs = pair(family)
    assert 1e-5 < difference(ours, theirs, 3 * ours.stride, 7 * ours.stride) < 0.1


def test_the_comparison_would_notice_another_activation(tmp_path):
    _, theirs = pair("CLIP")
    theirs.net.save_pretrained(tmp_path)
    options = {"depth": 4, "embed_dim": 48, "num_heads": 2, "img_size": 80}
    exact_gelu = create_backbone("openclip-b16", weights=tmp_path, **options)
    assert difference(exact_gelu, theirs, 80, 80) > 1e-3


def test_maps_hold_patches_and_not_prefix_tokens():
    ours, _ = pair("DINOv2 with registers")
    image = torch.randn(2, 3, 3 * 14, 5 * 14)
    with torch.inference_mode():
        tokens = ours.net.forward_features(image)
        features = ours(image)
    assert tokens.shape[1] == 1 + 4 + 15
    expected = tokens[:, 5:].transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(features.maps[-1], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.cls, tokens[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cells", [(5, 5), (3, 7), (8, 5)])
def test_siglip2_naflex_at_any_aspect(tmp_path, cells):
    """transformers' takes patches as rows of pixels, with the grid of each image."""
    shape = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 192}
    torch.manual_seed(0)
    config = transformers.Siglip2VisionConfig(**shape, num_patches=25, patch_size=16, vision_use_head=False)
    theirs = transformers.Siglip2VisionModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + 0.5 * (parameter.ndim == 1))
    theirs.save_pretrained(tmp_path)
    options = {"depth": 4, "embed_dim": 48, "num_heads": 2, "pos_embed_grid_size": (5, 5), "global_pool": "avg"}
    ours = create_backbone("siglip2-naflex-b16", weights=tmp_path, fc_norm=False, **options)
    rows, columns = cells
    image = torch.randn(1, 3, 16 * rows, 16 * columns)
    patches = image.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 4, 5, 1).reshape(1, rows * columns, -1)
    with torch.inference_mode():
        expected = theirs(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(1, rows * columns, dtype=torch.long),
            spatial_shapes=torch.tensor([cells]),
        ).last_hidden_state
        mine = ours(image).maps[-1]
    expected = expected.transpose(1, 2).unflatten(2, cells)
    assert float((mine - expected).abs().max() / expected.abs().max()) < 1e-4


def test_tipsv2_opens_a_folder_with_its_text_tower(tmp_path):
    if not hasattr(transformers, "Tipsv2Config"):
        pytest.skip("this transformers has no TIPSv2")
    vision = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}
    text = {
        "hidden_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 50,
    }
    whole = transformers.Tipsv2Model(transformers.Tipsv2Config(vision_config=vision, text_config=text)).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.normal_(0, 0.2)
    whole.save_pretrained(tmp_path)
    ours = create_backbone("tipsv2-b14", weights=tmp_path, depth=4, embed_dim=48, num_heads=2, img_size=70)
    image = torch.rand(1, 3, 42, 84)
    with torch.inference_mode():
        expected = whole.vision_model(image).last_hidden_state[:, 2:]
        torch.testing.assert_close(
            ours(image).maps[-1], expected.transpose(1, 2).unflatten(2, (3, 6)), rtol=1e-4, atol=1e-5
        )


def test_transformers_networks_of_one_size_say_so():
    _, theirs = pair("AIMv2")
    with pytest.raises(InputError, match=r"Aimv2VisionModel .* does not run on 28 x 42 pixels .* made for 70 x 70"):
        theirs(torch.rand(1, 3, 28, 42))
