"""Plugin: backbones of timm, transformers and others, LoRA, saved models; commands `backbones` and `convert`."""

from dense_ctx.hookspecs import DefineKind, Register, hookimpl

_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant", "h": "huge"}


def timm_names() -> dict[str, str]:
    """Our name -> timm's "architecture.tag", the tag being the published weights."""
    names: dict[str, str] = {}
    for letter in "sblg":
        names[f"dinov2-{letter}14"] = f"vit_{_SIZES[letter]}_patch14_dinov2.lvd142m"
        names[f"dinov2-reg-{letter}14"] = f"vit_{_SIZES[letter]}_patch14_reg4_dinov2.lvd142m"
    for letter in "sbl":
        names[f"dinov3-{letter}16"] = f"vit_{_SIZES[letter]}_patch16_dinov3.lvd1689m"
        names[f"vit-{letter}16"] = f"vit_{_SIZES[letter]}_patch16_224.augreg_in21k"
    for size in ("tiny", "small", "base", "large"):
        names[f"dinov3-convnext-{size}"] = f"convnext_{size}.dinov3_lvd1689m"
        names[f"convnext-{size}"] = f"convnext_{size}.fb_in22k"
    for letter in "sb":
        for patch in (8, 16):
            names[f"dino-{letter}{patch}"] = f"vit_{_SIZES[letter]}_patch{patch}_224.dino"
    names |= {
        "mae-b16": "vit_base_patch16_224.mae",
        "mae-l16": "vit_large_patch16_224.mae",
        "mae-h14": "vit_huge_patch14_224.mae",
        # OpenAI's and MetaCLIP's networks use the quick GELU; timm's plain names would run them with the exact one
        "clip-b16": "vit_base_patch16_clip_quickgelu_224.openai",
        "clip-b32": "vit_base_patch32_clip_quickgelu_224.openai",
        "clip-l14": "vit_large_patch14_clip_quickgelu_224.openai",
        "metaclip-b16": "vit_base_patch16_clip_quickgelu_224.metaclip_2pt5b",
        "openclip-b16": "vit_base_patch16_clip_224.laion2b",
        "siglip-so400m": "vit_so400m_patch14_siglip_384.webli",
        "siglip2-so400m": "vit_so400m_patch16_siglip_384.v2_webli",
        "sam-b16": "samvit_base_patch16.sa1b",
        "sam-l16": "samvit_large_patch16.sa1b",
        "sam-h16": "samvit_huge_patch16.sa1b",
        "sam2-tiny": "sam2_hiera_tiny.fb_r896_2pt1",
        "sam2-small": "sam2_hiera_small.fb_r896_2pt1",
        "sam2-base-plus": "sam2_hiera_base_plus.fb_r896_2pt1",
        "sam2-large": "sam2_hiera_large.fb_r1024_2pt1",
    }
    names |= {
        "dinov3-s16plus": "vit_small_plus_patch16_dinov3.lvd1689m",
        "dinov3-h16plus": "vit_huge_plus_patch16_dinov3.lvd1689m",
        "dinov3-7b16": "vit_7b_patch16_dinov3.lvd1689m",
        "tipsv2-b14": "vit_base_patch14_reg1_tipsv2.webli",
        "tipsv2-l14": "vit_large_patch14_reg1_tipsv2.webli",
        "tipsv2-so400m14": "vit_so400m_patch14_reg1_tipsv2.webli",
        "tipsv2-g14": "vit_giant_patch14_reg1_tipsv2.webli",
        "pe-spatial-t16": "vit_pe_spatial_tiny_patch16_512.fb",
        "pe-spatial-s16": "vit_pe_spatial_small_patch16_512.fb",
        "pe-spatial-b16": "vit_pe_spatial_base_patch16_512.fb",
        "pe-spatial-l14": "vit_pe_spatial_large_patch14_448.fb",
        "pe-spatial-g14": "vit_pe_spatial_gigantic_patch14_448.fb",
        # timm's plain RADIO fixes the position table to one size; the other follows RADIO's code at every size
        "radio-v3-b16": "naflexvit_base_patch16_radio_v3.c_radio",
        "radio-v3-l16": "naflexvit_large_patch16_radio_v3.c_radio",
        "radio-v3-h16": "naflexvit_huge_patch16_radio_v3.c_radio",
        "radio-v3-g16": "naflexvit_giant_patch16_radio_v3.c_radio",
        "radio-v4-so400m16": "naflexvit_so400m_patch16_radio_v4.c_radio",
        "radio-v4-h16": "naflexvit_huge_patch16_radio_v4.c_radio",
        "eva02-t14": "eva02_tiny_patch14_224.mim_in22k",
        "eva02-s14": "eva02_small_patch14_224.mim_in22k",
        "eva02-b14": "eva02_base_patch14_224.mim_in22k",
        "eva02-l14": "eva02_large_patch14_224.mim_m38m",
        "aimv2-l14": "aimv2_large_patch14_224.apple_pt",
        "aimv2-h14": "aimv2_huge_patch14_224.apple_pt",
        "aimv2-1b14": "aimv2_1b_patch14_224.apple_pt",
        "aimv2-3b14": "aimv2_3b_patch14_224.apple_pt",
        "siglip2-naflex-b16": "naflexvit_base_patch16_siglip.v2_webli",
        "siglip2-naflex-so400m": "naflexvit_so400m_patch16_siglip.v2_webli",
    }
    for letter in "sblg":
        names[f"lingbot-{letter}16"] = f"vit_{_SIZES[letter]}_patch16_lingbot.robbyant"
    for pixels in (224, 384, 512):
        names[f"siglip-b16-{pixels}"] = f"vit_base_patch16_siglip_{pixels}.webli"
        names[f"siglip2-b16-{pixels}"] = f"vit_base_patch16_siglip_{pixels}.v2_webli"
    return names


@hookimpl
def define_kinds(define: DefineKind) -> None:
    """Converters: functions from the path of an author's checkpoint, `path`, to a model."""
    define("converter", "dense_ctx.model:DenseModel")


@hookimpl
def register_parts(register: Register) -> None:
    """Register the parts."""
    for name, model in timm_names().items():
        register("backbone", name, "dense_ctx_backbones.timm_backbone:TimmBackbone", args={"model": model})
    for size in ("tiny", "small", "base", "base_plus", "large", "huge"):
        model = f"hiera_{size}_224.mae"
        register(
            "backbone",
            f"hiera-{size.replace('_', '-')}",
            "dense_ctx_backbones.hiera:HieraBackbone",
            args={"model": model},
        )
    for number in range(3):
        register(
            "backbone",
            f"efficientnet-lite{number}",
            "dense_ctx_backbones.efficientnet_lite:EfficientNetLite",
            args={"model": f"tf_efficientnet_lite{number}"},
        )
    register("backbone", "mocov3-b16", "dense_ctx_backbones.moco:MoCoV3")
    register("backbone", "sam2-base-plus-neck", "dense_ctx_backbones.sam2_neck:Sam2Neck")
    register("backbone", "rgb-xy", "dense_ctx_backbones.rgb_xy:RgbXy")
    register("backbone", "timm:", "dense_ctx_backbones.timm_backbone:TimmBackbone")
    register("backbone", "lora:", "dense_ctx_backbones.lora:LoraBackbone")
    register("backbone", "hf:", "dense_ctx_backbones.hf_backbone:HfBackbone")
    register("backbone", "model:", "dense_ctx_backbones.saved_model:ModelBackbone")
    register("command", "backbones", "dense_ctx_backbones.list_command:Backbones")
    register("command", "convert", "dense_ctx_backbones.command:Convert")
