"""The same weights give the same features through timm and through transformers."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from backbone_parity import CASES, difference, pair

from dense_ctx import create_backbone


@pytest.mark.parametrize("family", list(CASES))
def test_native_size(family):
    ours, theirs = pair(family)
    assert ours.layers == theirs.layers == [0, 1, 2, 3]
    assert ours.image_size == theirs.image_size
    assert difference(ours, theirs, *ours.image_size) <= 1e-4


@pytest.mark.parametrize("family", ["DINOv2 with registers", "DINOv3"])
@pytest.mark.parametrize("cells", [(3, 7), (8, 5)])
def test_any_size_where_the_rules_agree(family, cells):
    """Both antialias when they resize (DINOv2 with registers), or compute positions afresh (DINOv3)."""
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
