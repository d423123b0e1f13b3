"""SAM and SAM 2 as transformers keeps them: no tensor is lost in silence, and the features are transformers' own."""

import pytest
import torch
import transformers
from dense_ctx_backbones.convert import to_timm
from dense_ctx_backbones.weights import load_strictly
from test_backbone_tensors import check_every_tensor, sam, sam2


def sam_of_transformers(kind):
    """The tensors of the image encoder, and one of each other part of the whole model."""
    config, whole = hf_sam(kind)
    encoder = getattr(transformers, f"{kind}VisionModel")(config.vision_config)
    state = {key.removeprefix("vision_encoder."): value for key, value in encoder.state_dict().items()}
    state = {f"vision_encoder.{key}": torch.randn(value.shape) * 0.2 for key, value in state.items()}
    with torch.device("meta"):
        names = list(whole(config).state_dict())
    others = {name.partition(".")[0]: name for name in names if not name.startswith("vision_encoder.")}
    assert len(others) >= 3
    assert {name for name in names if name.startswith("vision_encoder.")} == set(state)
    return (sam() if kind == "Sam" else sam2())[0], state | {name: torch.randn(3) for name in others.values()}


def hf_sam(kind):
    if kind == "Sam":
        vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 96, "image_size": 64,
                  "global_attn_indexes": [1], "window_size": 2, "output_channels": 256}  # fmt: skip
        return transformers.SamConfig(vision_config=vision), transformers.SamModel
    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
                "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [8, 4, 4, 4],
                "global_attention_blocks": [3], "window_positional_embedding_background_size": [7, 7]}  # fmt: skip
    vision = {"backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8]}
    return transformers.Sam2VideoConfig(vision_config=vision), transformers.Sam2VideoModel


@pytest.mark.parametrize("kind", ["Sam", "Sam2"])
def test_every_tensor_of_transformers_form_matters_or_is_listed(kind, tmp_path):
    torch.manual_seed(0)
    check_every_tensor(*sam_of_transformers(kind), tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["Sam", "Sam2"])
def test_sams_features_are_those_of_transformers(kind, tmp_path):
    torch.manual_seed(0)
    backbone, state = sam_of_transformers(kind)
    load_strictly(backbone.net, to_timm(state, backbone.net), "transformers")
    theirs = getattr(transformers, f"{kind}VisionModel")(hf_sam(kind)[0].vision_config).eval()
    own = theirs.state_dict()
    prefix = "" if any(key.startswith("vision_encoder.") for key in own) else "vision_encoder."
    theirs.load_state_dict({key: state[f"{prefix}{key}"] for key in own})
    size = 64 if kind == "Sam" else 256
    image = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        ours = backbone(image).maps
        if kind == "Sam":
            expected = [theirs(image, output_hidden_states=True).hidden_states[-1].permute(0, 3, 1, 2)]
        else:
            expected = [part.permute(0, 3, 1, 2) for part in theirs.backbone(image).intermediate_hidden_states]
    for a, b in zip(ours[-len(expected) :], expected, strict=True):
        assert (a - b).abs().max() < 1e-4 * b.abs().max()
