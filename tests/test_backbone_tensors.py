"""No tensor of a published format is lost in silence: each changes the features, is refused, or is on the list."""

from pathlib import Path

import pytest
import torch
from dense_ctx_backbones.convert import to_timm
from dense_ctx_backbones.unused import UNUSED, is_cancelled, is_unused
from dense_ctx_backbones.weights import load_strictly, read_state

from dense_ctx import create_backbone
from dense_ctx.errors import WeightsError

TINY = {"depth": 2, "embed_dim": 24, "num_heads": 2}


def vit(name, **more):
    return create_backbone(name, **{"weights": None, **TINY, **more})


def randomised(backbone):
    """Every tensor random, so that none hides behind a zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in backbone.net.state_dict().items():
            if value.is_floating_point():
                value.copy_(0.2 * torch.randn(value.shape, generator=generator) + ("norm" in key))
            if key.endswith("running_var"):
                value.abs_()
    return backbone


def own(backbone):
    return {key: value.clone() for key, value in backbone.net.state_dict().items()}


def renamed(state, *pairs):
    for old, new in pairs:
        state = {key.replace(old, new): value for key, value in state.items()}
    return state


def beside(state, **tensors):
    return state | {key: torch.randn(shape) for key, shape in tensors.items()}


def dinov2(registers, chunked=False):
    backbone = vit("dinov2-reg-s14" if registers else "dinov2-s14", img_size=70)
    state = own(randomised(backbone))
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.randn(1, 1, 24), state["pos_embed"]], 1)
    if chunked:
        state = {key.replace("blocks.", "blocks.0.", 1): value for key, value in state.items()}
    return backbone, state | {"mask_token": torch.randn(1, 24)}


def dinov3(biases):
    name = "timm:vit_small_patch16_dinov3_qkvb" if biases else "dinov3-s16"
    backbone = vit(name, img_size=64)
    state = renamed(own(randomised(backbone)), ("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"),
                    ("gamma_2", "ls2.gamma"))  # fmt: skip
    for block in range(2):
        prefix = f"blocks.{block}.attn"
        q, v = (state.pop(f"{prefix}.{letter}_bias", torch.zeros(24)) for letter in "qv")
        state[f"{prefix}.qkv.bias"] = torch.cat([q, torch.full((24,), 0.3 if biases else 0.0), v])
        state[f"{prefix}.qkv.bias_mask"] = torch.cat([torch.ones(24), torch.zeros(24), torch.ones(24)])
    state["rope_embed.periods"] = backbone.net.rope.periods.clone()
    return backbone, beside(state, mask_token=(1, 24))


def mae():
    backbone = vit("mae-b16", img_size=64)
    return backbone, beside(own(randomised(backbone)), **{"mask_token": (1, 1, 8), "decoder_pos_embed": (1, 17, 8),
                            "decoder_embed.weight": (8, 24), "decoder_blocks.0.norm1.weight": (8,),
                            "decoder_norm.bias": (8,), "decoder_pred.weight": (3, 8)})  # fmt: skip


CLIP = (("norm_pre", "ln_pre"), ("blocks.", "transformer.resblocks."), ("norm1", "ln_1"), ("norm2", "ln_2"),
        ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"), ("patch_embed.proj", "conv1"), ("cls_token", "class_embedding"),
        ("pos_embed", "positional_embedding"))  # fmt: skip


def clip():
    backbone = vit("clip-b16", img_size=80)
    state = renamed(own(randomised(backbone)), *CLIP)
    state = {f"visual.{'ln_post' + key[4:] if key.startswith('norm.') else key}": v for key, v in state.items()}
    for key, index in (("class_embedding", (0, 0)), ("positional_embedding", 0)):
        state[f"visual.{key}"] = state[f"visual.{key}"][index]
    return backbone, beside(state, **{"visual.proj": (24, 16), "positional_embedding": (7, 5),
                            "text_projection": (5, 5), "token_embedding.weight": (9, 5),
                            "transformer.resblocks.0.ln_1.weight": (5,),
                            "ln_final.bias": (5,), "logit_scale": ()})  # fmt: skip


def sam():
    backbone = create_backbone("sam-b16", weights=None, img_size=64, depth=2, embed_dim=24, num_heads=2,
                               global_attn_indexes=(1,), window_size=2)  # fmt: skip
    state = renamed(own(randomised(backbone)), ("mlp.fc", "mlp.lin"))
    state = {f"image_encoder.{key}": value for key, value in state.items()}
    return backbone, beside(state, **{"prompt_encoder.no_mask_embed.weight": (1, 8), "mask_decoder.iou_token.weight":
                                      (1, 8)})  # fmt: skip


def sam2():
    backbone = create_backbone("sam2-tiny", weights=None, embed_dim=8, num_heads=1, stages=(1, 1, 2, 1),
                               global_att_blocks=(3,), window_spec=(8, 4, 4, 4))  # fmt: skip
    state = renamed(own(randomised(backbone)), ("mlp.fc1", "mlp.layers.0"), ("mlp.fc2", "mlp.layers.1"))
    state = {f"image_encoder.trunk.{key}": value for key, value in state.items() if not key.startswith("head.")}
    return backbone, beside(state, **{"image_encoder.neck.convs.0.conv.weight": (8, 8, 1, 1), "no_mem_embed": (1, 1, 8),
                            "memory_attention.norm.weight": (8,), "sam_mask_decoder.iou_token.weight": (1, 8),
                            "maskmem_tpos_enc": (7, 1, 1, 8), "obj_ptr_proj.layers.0.bias": (8,)})  # fmt: skip


def convnext():
    backbone = create_backbone("dinov3-convnext-tiny", weights=None, depths=(1, 1, 1, 1), dims=(4, 8, 8, 8))
    state = renamed(own(randomised(backbone)), ("stem.", "downsample_layers.0."), (".blocks.", "."),
                    ("conv_dw", "dwconv"), ("mlp.fc", "pwconv"), ("head.norm", "norm"))  # fmt: skip
    for stage in (1, 2, 3):
        state = renamed(state, (f"stages.{stage}.downsample.", f"downsample_layers.{stage}."))
    return backbone, beside(state, **{"norms.3.weight": (8,), "norms.3.bias": (8,), "head.weight": (3, 8)})


def timm_form(name, **more):
    backbone = vit(name, **more)
    return backbone, beside(own(randomised(backbone)), **{"head.weight": (3, 24), "head.bias": (3,)})


def hf_form(kind, name, size, intermediate_size=96, **config):
    import transformers

    config = getattr(transformers, f"{kind}Config")(hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                     intermediate_size=intermediate_size, image_size=size, **config)  # fmt: skip
    model = getattr(transformers, f"{kind}Model")(config)
    return vit(name, img_size=size), {key: torch.randn(value.shape) * 0.2 if value.is_floating_point() else value
                                      for key, value in model.state_dict().items()}  # fmt: skip


def tipsv2(prefix=""):
    backbone = vit("tipsv2-b14", img_size=70)
    state = own(randomised(backbone))
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.randn(1, 1, 24), state["pos_embed"]], 1)
    state = {f"{prefix}{key}": value for key, value in state.items()} | {f"{prefix}mask_token": torch.randn(1, 24)}
    return backbone, state | (
        {"text_encoder.ln_final.bias": torch.ones(3), "temperature": torch.ones(1)} if prefix else {}
    )


def radio(name, scales):
    """NVIDIA's files; a class token for each teacher, then registers."""
    backbone = vit(name)
    state = renamed(own(randomised(backbone)), (".gamma", ".grandma"))
    assert any("grandma" in key for key in state) == scales
    tokens = torch.cat([state.pop("embeds.cls_token"), state.pop("embeds.reg_token")], 1)[0]
    rows = state.pop("embeds.proj.weight").unflatten(1, (16, 16, 3)).permute(0, 3, 1, 2).flatten(1)
    backbone.net.embeds.proj.bias.data.zero_()
    del state["embeds.proj.bias"]
    state = {f"radio_model.model.{key}": value for key, value in state.items() if key.startswith("blocks.")} | {
        "radio_model.model.patch_generator.pos_embed": state["embeds.pos_embed"].flatten(1, 2),
        "radio_model.model.patch_generator.cls_token.token": tokens,
        "radio_model.model.patch_generator.embedder.weight": rows,
    }
    return backbone, beside(state, **{"radio_model.input_conditioner.norm_mean": (3, 1, 1)}) | {
        "radio_model.summary_idxs": torch.tensor([0, 1])}  # fmt: skip


FORMATS = {
    "DINO, teacher": lambda: (lambda b, s: (b, beside({f"module.backbone.{k}": v for k, v in s.items()}, **{
        "module.head.mlp.0.weight": (3, 3)})))(*(lambda b: (b, own(randomised(b))))(vit("dino-s16", img_size=64))),
    "DINOv2": lambda: dinov2(False),
    "DINOv2, chunked": lambda: dinov2(False, True),
    "DINOv2 with registers": lambda: dinov2(True),
    "DINOv3": lambda: dinov3(False),
    "DINOv3 with biases": lambda: dinov3(True),
    "TIPSv2": tipsv2,
    "TIPSv2 with its text tower": lambda: tipsv2("vision_encoder."),
    "RADIO v3": lambda: radio("radio-v3-b16", True),
    "RADIO v4": lambda: radio("radio-v4-h16", False),
    "MAE": mae,
    "CLIP": clip,
    "SAM": sam,
    "SAM 2": sam2,
    "ConvNeXt": convnext,
    "timm: ViT": lambda: timm_form("vit-s16", img_size=64),
    "timm: DINOv2 with registers": lambda: timm_form("dinov2-reg-s14", img_size=70),
    "timm: DINOv3": lambda: timm_form("dinov3-s16", img_size=64),
    "timm: CLIP": lambda: timm_form("clip-b16", img_size=80),
    "timm: SigLIP": lambda: timm_form("siglip-b16-224", img_size=64),
    "timm: SAM": lambda: (lambda b, s: (b, {k.removeprefix("image_encoder.").replace("mlp.lin", "mlp.fc"): v
                          for k, v in s.items() if k.startswith("image_encoder.")}))(*sam()),
    "timm: SAM 2": lambda: (lambda b, s: (b, {k.removeprefix("image_encoder.trunk.").replace("layers.0", "fc1").replace(
        "layers.1", "fc2"): v for k, v in s.items() if k.startswith("image_encoder.trunk.")}))(*sam2()),
    "transformers: DINOv2": lambda: hf_form("Dinov2", "dinov2-s14", 70, patch_size=14),
    "transformers: DINOv2 with registers": lambda: hf_form("Dinov2WithRegisters", "dinov2-reg-s14", 70, patch_size=14),
    "transformers: DINOv3": lambda: hf_form("DINOv3ViT", "timm:vit_small_patch16_dinov3_qkvb", 64, patch_size=16,
                                            num_register_tokens=4),
    "transformers: CLIP": lambda: hf_form("CLIPVision", "clip-b16", 80, patch_size=16),
    "transformers: MAE": lambda: hf_form("ViTMAE", "mae-b16", 64, patch_size=16),
    "transformers: AIMv2": lambda: hf_form("Aimv2Vision", "aimv2-l14", 70, intermediate_size=66, patch_size=14,
                                           use_head=False),
    "transformers: SigLIP": lambda: hf_form("SiglipVision", "siglip-b16-224", 64, patch_size=16),
}  # fmt: skip


def outcome(backbone, state, path):
    """The features with these tensors, or the refusal."""
    torch.save({"model": state}, path)
    try:
        load_strictly(backbone.net, to_timm(read_state(path), backbone.net), "perturbed")
    except WeightsError as error:
        return str(error)
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        sides = [min(side, 70 if backbone.stride == 14 else 64) for side in backbone.image_size]
        features = backbone(torch.randn(1, 3, *sides, generator=generator))
    return torch.cat([part.flatten() for part in (*features.maps, features.cls)])


def check_every_tensor(backbone, official, path, listed=lambda name: is_unused(name) or is_cancelled(name)):
    """Each tensor changes the features, is refused by name, or is `listed`."""
    before = outcome(backbone, official, path)
    assert torch.is_tensor(before), before
    for name, value in official.items():
        other = value + torch.randn(value.shape) if value.is_floating_point() else value + 3
        after = outcome(backbone, official | {name: other}, path)
        if torch.is_tensor(after):  # else it is refused by name
            same = torch.allclose(after, before, rtol=0, atol=1e-6)
            assert same == listed(name), f"{name}: {(after - before).abs().max()}"
        else:
            assert name in after or name.removesuffix("_mask") in after, after


@pytest.mark.parametrize("form", FORMATS)
def test_every_tensor_of_a_format_matters_or_is_listed(form, tmp_path):
    torch.manual_seed(0)

    def listed(name):
        return is_unused(name) or is_cancelled(name) or (form == "ConvNeXt" and name.startswith("norm."))

    check_every_tensor(*FORMATS[form](), tmp_path / "w.pth", listed)


def test_official_dinov3_keeps_its_biases(tmp_path):
    """timm's own converter prints an error and goes on without them."""
    backbone, official = dinov3(True)
    state = {key: value.clone() for key, value in backbone.net.state_dict().items()}
    torch.save(official, tmp_path / "w.pth")
    name = "timm:vit_small_patch16_dinov3_qkvb"
    loaded = vit(name, img_size=64, weights=tmp_path / "w.pth").net.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert loaded["blocks.1.attn.q_bias"].abs().min() > 0
    with pytest.raises(WeightsError, match=r"blocks\.0\.attn\.qkv\.bias is not zero.*_dinov3_qkvb"):
        vit("dinov3-s16", img_size=64, weights=tmp_path / "w.pth")
    del official["blocks.1.attn.qkv.bias_mask"]
    torch.save(official, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.qkv\.bias has a part for the keys"):
        vit(name, img_size=64, weights=tmp_path / "w.pth")
    torch.save(official | {"blocks.0.attn.qkv.bias_mask": torch.full((72,), float("nan"))}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="not 0 and 1 throughout"):
        vit(name, img_size=64, weights=tmp_path / "w.pth")


def test_a_tensor_that_timm_would_drop_is_refused_by_name(tmp_path):
    backbone, official = sam()
    torch.save(official | {"third_network.weight": torch.ones(3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"would drop 1 tensors.*third_network\.weight.*prefix=PREFIX"):
        to_timm(read_state(tmp_path / "w.pth"), backbone.net)


@pytest.mark.parametrize("form", ["transformers: DINOv2", "DINOv2, chunked", "timm: SAM"])
def test_two_tensors_for_one_place_are_refused(form, tmp_path):
    """Two towers in one file: before, the second took the first one's place."""
    backbone, official = FORMATS[form]()
    one, two = {"transformers: DINOv2": ("dinov2.", "vit."), "DINOv2, chunked": ("", ""), "timm: SAM": ("", "")}[form]
    if form == "timm: SAM":  # transformers' names, in both of their spellings
        official = renamed(official, ("patch_embed.proj.", "patch_embed.projection."))
        one, two = "vision_encoder.", ""
    both = {f"{one}{key}": value for key, value in official.items()}
    both |= {f"{two}{key.replace('blocks.0.', 'blocks.1.')}": value + 1 for key, value in official.items()}
    torch.save(both, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"two tensors of one place, \S+ and \S+: .* prefix="):
        load_strictly(backbone.net, to_timm(read_state(tmp_path / "w.pth"), backbone.net), "twice")


def test_the_list_of_unused_tensors_is_in_the_documentation():
    text = (Path(__file__).parents[1] / "docs/backbones.md").read_text(encoding="utf-8")
    assert [reason for reason in UNUSED if reason not in text] == []


@pytest.mark.parametrize("kind", ["Dinov2WithRegisters", "DINOv3ViT", "CLIPVision"])
def test_every_tensor_of_a_transformers_folder_matters_or_is_listed(kind, tmp_path):
    import transformers

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes, image_size=64, patch_size=16, num_register_tokens=2)
    model = getattr(transformers, f"{kind}Model")(config)
    model.save_pretrained(tmp_path)
    image = torch.randn(1, 3, 64, 64)
    state = {key: torch.randn(value.shape) * 0.2 for key, value in model.state_dict().items()
             if value.is_floating_point()}  # fmt: skip

    def features(tensors):
        torch.save(tensors, tmp_path / "w.bin")
        with torch.inference_mode():
            output = create_backbone(f"hf:{tmp_path}", weights=tmp_path / "w.bin")(image)
        return torch.cat([part.flatten() for part in (*output.maps, output.cls)])

    before = features(state)
    torch.save(
        {"student": {key: value + 1 for key, value in state.items()}, "teacher_net": state}, tmp_path / "two.pth"
    )
    with torch.inference_mode():
        found = create_backbone(f"hf:{tmp_path}", weights=tmp_path / "two.pth", prefix="teacher_net.")(image)
    assert torch.equal(torch.cat([part.flatten() for part in (*found.maps, found.cls)]), before)
    for name, value in state.items():
        same = torch.allclose(features(state | {name: value + torch.randn(value.shape)}), before, rtol=0, atol=1e-6)
        assert same == (is_unused(name) or is_cancelled(name)), name
