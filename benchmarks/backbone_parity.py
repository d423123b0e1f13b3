"""The same random weights through timm and through transformers: how far apart their features are.

    python benchmarks/backbone_parity.py [--quick]

At the native size they must agree. Off it, the libraries resize position embeddings by different rules; the table says
how much that changes: largest difference of the last map, relative to its largest entry.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
import transformers
from common import machine, parse, same

from dense_ctx import create_backbone
from dense_ctx.interfaces import Backbone

WIDTH = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
DEEP = {**WIDTH, "intermediate_size": 192, "image_size": 80, "patch_size": 16}
DINOV3: dict[str, Any] = {
    **WIDTH, "intermediate_size": 192, "image_size": 80, "patch_size": 16, "num_register_tokens": 4,
    "query_bias": False, "value_bias": False,
}  # fmt: skip
CASES: dict[str, tuple[str, Any, int]] = {
    "DINOv2": ("dinov2-s14", lambda: transformers.Dinov2Config(**WIDTH, image_size=70, patch_size=14), 70),
    "DINOv2 with registers": (
        "dinov2-reg-s14",
        lambda: transformers.Dinov2WithRegistersConfig(**WIDTH, image_size=70, patch_size=14, num_register_tokens=4),
        70,
    ),
    "CLIP": (
        "clip-b16",
        lambda: transformers.CLIPVisionConfig(**DEEP),
        80,
    ),
    "MAE": (
        "mae-b16",
        lambda: transformers.ViTMAEConfig(**DEEP, layer_norm_eps=1e-6),
        80,
    ),
    "DINOv3": (
        "dinov3-s16",
        lambda: transformers.DINOv3ViTConfig(**DINOV3),
        80,
    ),
    "DINOv3 gated": (
        "dinov3-s16plus",
        lambda: transformers.DINOv3ViTConfig(**DINOV3, use_gated_mlp=True, hidden_act="silu"),
        80,
    ),
    "TIPSv2": ("tipsv2-b14", lambda: transformers.Tipsv2VisionConfig(**WIDTH, image_size=70, patch_size=14), 70),
    "RADIO v3": (
        "radio-v3-l16",
        lambda: transformers.RadioConfig(**WIDTH, num_cls_tokens=4, num_registers=4, image_size=80, summary_idxs=[0]),
        80,
    ),
    "RADIO v4": (
        "radio-v4-h16",
        lambda: transformers.RadioConfig(**WIDTH, num_cls_tokens=3, num_registers=7, image_size=80),
        80,
    ),
    "AIMv2": (
        "aimv2-l14",
        lambda: transformers.Aimv2VisionConfig(
            **WIDTH, intermediate_size=132, image_size=70, patch_size=14, use_head=False
        ),
        70,
    ),
}


def pair(name: str) -> tuple[Backbone, Backbone]:
    """One family, tiny, with the same random weights: through timm, and through transformers."""
    registered, config, size = CASES[name]
    torch.manual_seed(0)
    theirs = create_backbone("hf:untrained", config=config(), weights=None)
    with torch.no_grad():
        for parameter in theirs.parameters():  # every weight counts, position embeddings and layer scales too
            parameter.copy_(
                torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.5) + (parameter.ndim == 1) * 0.5
            )
        if name == "RADIO v4":  # its network has no layer scales, transformers' form of it scales of one
            for key, parameter in theirs.named_parameters():
                if "layer_scale" in key:
                    parameter.fill_(1)
    with tempfile.TemporaryDirectory() as folder:
        theirs.net.save_pretrained(folder)  # type: ignore[union-attr, operator]
        options = {"depth": 4, "embed_dim": 48, "num_heads": 2, "img_size": size}
        ours = create_backbone(registered, weights=folder, **options)
    return ours, theirs


def difference(ours: Backbone, theirs: Backbone, height: int, width: int) -> float:
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    raw = image * torch.tensor(ours.std).view(3, 1, 1) + torch.tensor(ours.mean).view(3, 1, 1)
    with torch.inference_mode():
        a, b = ours(image), theirs(raw if hasattr(theirs.net, "input_conditioner") else image)
    worst = max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a.maps, b.maps, strict=True))
    return max(worst, float((a.cls - b.cls).abs().max() / b.cls.abs().max()))  # type: ignore[union-attr, operator]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(CASES), default=list(CASES))
    args = parse(parser, families=["DINOv2 with registers", "CLIP"])
    print(f"{machine()}, transformers {transformers.__version__}")
    print(f"{'family':24}{'native':>12}{'3 x 7 cells':>14}{'8 x 5 cells':>14}{'16 x 12 cells':>16}")
    for name in args.families:
        size = CASES[name][2]
        ours, theirs = pair(name)
        step = ours.stride
        grids = [(size // step, size // step), (3, 7), (8, 5), (16, 12)]
        if name == "AIMv2":  # transformers' runs at its native size only
            grids = grids[:1]
        values = [difference(ours, theirs, rows * step, columns * step) for rows, columns in grids]
        same(values[0], 1e-4, f"{name} at its native size")
        print(
            f"{name:24}{values[0]:>12.1e}"
            + "".join(f"{value:>{14 + 2 * (i == 2)}.1e}" for i, value in enumerate(values[1:]))
        )


if __name__ == "__main__":
    main()
