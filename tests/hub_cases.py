"""What `pytest -m hub` compares: published weights here and in the library that they were made for.

The table names the real repositories. `DENSE_CTX_TEST_HUB`, a JSON file, puts small networks in their place, served by
a hub on loopback (`tiny_hub.py`): the same tests, other sizes.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

from dense_ctx import create_backbone

STAND_IN = json.loads(Path(os.environ["DENSE_CTX_TEST_HUB"]).read_text()) if "DENSE_CTX_TEST_HUB" in os.environ else {}
# of the arguments of our network where a small one stands in; its weights come from the same repository
TINY = {"embed_dim": 24, "num_heads": 2} if STAND_IN else {}

# name here: the repository of the same weights in transformers' form, prefix tokens there
TRANSFORMERS = {
    "dinov2-s14": ("facebook/dinov2-small", 1),
    "dinov2-reg-s14": ("facebook/dinov2-with-registers-small", 5),
    "dinov3-s16": ("facebook/dinov3-vits16-pretrain-lvd1689m", 5),
    "clip-b16": ("openai/clip-vit-base-patch16", 1),
    "mae-b16": ("facebook/vit-mae-base", 1),
    "siglip2-b16-224": ("google/siglip2-base-patch16-224", 0),
}
EFFICIENTNET = "timm:tf_efficientnet_lite0.in1k"
DEPTH = "depth-anything/Depth-Anything-V2-Small-hf"
DIFFUSION = "segmind/SSD-1B"
TEXT = "openai/clip-vit-base-patch32"
FLOWFEAT = ("dinov2-s14", "flowfeat-dinov2-s14-yt")  # its frozen encoder, and the name of the checkpoint
# the authors' page has no link: the path of a file that you have
DIP = os.environ.get("DENSE_CTX_TEST_DIP_CHECKPOINT")


@cache
def ours(name):
    return create_backbone(name, **({} if "efficientnet" in name else TINY))


def photo(size, seed=0):
    """A real photograph [1, 3, H, W] in [0, 1]; another seed, another one."""
    from skimage import data

    picture = torch.from_numpy((data.astronaut, data.coffee)[seed]().copy()).permute(2, 0, 1)[None].float() / 255
    return functional.interpolate(picture, size, mode="bilinear", antialias=True).clamp(0, 1)


def normalised(backbone, image):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    return (image - mean) / std


def apart(a, b):
    """Largest difference, relative to the largest entry."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max() / b.abs().max())


def of_transformers(repo, prefix, image):
    """The deepest map [1, C, h, w] and the class token (or None), as transformers' own classes compute them."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(repo)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    config = transformers.AutoConfig.from_pretrained(repo)
    vision = getattr(config, "vision_config", config)
    own = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}.get(config.model_type)
    model = (getattr(transformers, own) if own else transformers.AutoModel).from_pretrained(repo).eval()
    options = {}
    if config.model_type == "vit_mae":  # it drops patches and shuffles the others, unless told otherwise
        model.config.mask_ratio = 0.0
        options["noise"] = torch.arange((image.shape[-1] // vision.patch_size) ** 2)[None]
    with torch.inference_mode():
        tokens = model((image - mean) / std, **options).last_hidden_state
        if config.model_type.startswith("clip"):
            tokens = getattr(model, "vision_model", model).post_layernorm(tokens)
    rows = image.shape[-2] // vision.patch_size
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, -1)), tokens[:, 0] if prefix else None


def raft_weights(entry):
    """torchvision's entry of RAFT's weights, at the stand-in's address where there is one."""
    if STAND_IN:
        import dataclasses

        entry._value_ = dataclasses.replace(entry.value, url=STAND_IN["raft"])
    return entry


def flowfeat_file(name, folder):
    """The authors' checkpoint, downloaded from the address that our message about its short name has."""
    from urllib.request import urlretrieve

    from dense_ctx import registry

    how = next(entry.args["unpublished"] for entry in registry().entries("model") if entry.name == name)
    address = STAND_IN.get("flowfeat") or next(word for word in how.split() if word.startswith("https://")).rstrip(";")
    return Path(urlretrieve(address, folder / "flowfeat.pth")[0])


def smaller(family):
    """Settings that make a preset's model the stand-in's."""
    if not STAND_IN:
        return []
    words = [f"model.backbone.args.{key}={value}" for key, value in TINY.items()]
    if family == "dip":
        return [*words, "objective.args.out=16"]
    words += ["model.decoder.args.dim=8", "model.decoder.args.width=8", "model.decoder.args.projections=[8,8,8,8]"]
    return [*words, "objective.args.sampling.size=112", "objective.args.sampling.map_size=56"]


def small_sets(names, root):
    """Tiny data sets in their official layouts: {name: root}."""
    import tiny_datasets

    for name in names:
        make, _, _ = tiny_datasets.SETS[name]
        make(root / name)
        if name == "coco-instances":  # whichever of its two images trains has an instance
            path = root / name / "annotations/instances_val2017.json"
            document = json.loads(path.read_text())
            document["annotations"][-1] |= {"iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 12, 0, 12]]}
            path.write_text(json.dumps(document))
    return {name: root / name for name in names}
