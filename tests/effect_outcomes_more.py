"""As effect_outcomes.py, for parts of other kinds, measures, and evaluations under a protocol."""

import json
from types import SimpleNamespace

import torch
from dense_ctx_measures import boundary, invariance, temporal
from effect_outcomes import noise
from effect_table_more import BASES
from evaluation_data import camvid, rgbd
from maxa_scenes import KINDS, Boxes
from test_measures_boundary import one_hot, regions
from test_measures_temporal import colour, moving_clip
from torch.nn import functional

from dense_ctx import create_backbone, registry
from dense_ctx.errors import InputError
from dense_ctx.evaluate import evaluate, load_protocol
from dense_ctx.testing import tiny_model

CLASSES = ("ground", "red", "blue")
MEMBERS = {"hf:": "facebook/dinov2-small", "lora:": "timm:vit_tiny_patch16_224", "model:": "lila-lite0"}


def backbone(name, args, folder):
    """Maps of an image and the shapes of the weights."""
    torch.manual_seed(0)
    options = args.pop("options", {})
    args = {**BASES.get(f"backbone {name}", {}), **args, **options}
    large = name == "mocov3-b16"  # whatever is asked; drawing its weights the usual way takes seconds
    with torch.device("meta" if large else "cpu"):
        part = create_backbone(name + MEMBERS.get(name, ""), **args)
    with torch.no_grad():
        for parameter in part.to_empty(device="cpu").parameters() if large else ():
            parameter.uniform_(-0.1, 0.1)
        size = (2 * part.stride, 3 * part.stride) if part.stride > 8 else (32, 48)
        features = part(noise(1, 3, *size))
    weights = [(key, tuple(value.shape)) for key, value in part.state_dict().items()]
    return [weights, part.dims, part.strides, part.stride, part.adapters(), *features.maps]


def metric(name, args, folder):
    """Scores and parts of two images."""
    classes = CLASSES if name in ("segmentation", "zero-shot") else ()
    part = registry().create("metric", name, **{"classes": classes, **args})
    for seed in range(2):
        if part.target == "segmentation":
            scores = noise(args.get("clusters", len(part.classes)), 8, 9, seed=seed)
            scores[3:4] -= 9  # a class in neither, where there are four
            part.update(scores.softmax(0), (noise(8, 9, seed=5 + seed) * 2).long().clamp(0, 2))
        else:
            part.update(*(noise(1, 8, 9, seed=s + seed).abs() * 8 + 0.5 for s in (0, 5)))
    scores = part.compute()
    return [sorted(scores.values.items()), sorted(scores.parts.items())]


def cue(name, args, folder):
    """Maps of two frames."""
    torch.manual_seed(0)
    part = registry().create("cue", name, **args)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.normal_(0, 0.3)
    picture = functional.interpolate(noise(1, 3, 10, 12), (96, 112), mode="bicubic").sigmoid()
    weights = [(key, tuple(value.shape)) for key, value in part.state_dict().items()]
    return [weights, *part(picture[..., :88, 8:104], picture[..., 8:, 4:100])]


def segmenter(name, args, folder):
    """Segments of a picture of stripes, from features that are its colours."""
    from test_dip_segmenters import picture, tiny_diffusion

    if name == "diffcut":
        unet, vae = tiny_diffusion()
        args = {"unet": unet, "vae": vae, "side": 128, "alpha": 2, **args}
    part = registry().create("segmenter", name, **args)
    image, _ = picture()
    features = functional.avg_pool2d(image[None], 4)[0] - 0.5
    maps = [part.features(image)] if name == "diffcut" else []
    return [part(image, features + 0.3 * noise(*features.shape), (48, 72)), *maps]


def task(name, args, folder):
    """Scores of a random prediction."""
    part, images = registry().create("task", name, **args), Boxes(KINDS[name])
    scores = part.scores(images.classes)
    for index in range(2):
        target = part.target(images[index].target, images.classes, "x")
        channels = part.channels or len(images.classes)
        scores.update(noise(channels, *target.shape[-2:], seed=index), target)
    try:
        values = scores.compute()
    except InputError as error:
        return [str(error)]
    return [sorted(values.values.items()), sorted(values.counts.items()), part.channels]


def measure(name, args, folder):
    """All that the measure gives; features are colours, or the labels themselves with noise."""

    def model(images, size):
        return SimpleNamespace(pixels=functional.interpolate(colour(images), size=size, mode="bilinear"))

    if name == "temporal_consistency":
        still = torch.full((2, 48, 64), 1.0)
        args = {key: still if value == "STILL" else value for key, value in args.items()}
        return [repr(temporal.temporal_consistency(model, list(moving_clip(12)), **args))]
    if name == "feature_invariance":
        args = {
            key: (invariance.Flip(), invariance.Crop(0.7)) if value == "CROP" else value for key, value in args.items()
        }
        return [repr(invariance.feature_invariance(model, list(moving_clip(2)), **args))]
    labels = regions()
    features = one_hot(labels) + 0.4 * noise(1, 3, *labels.shape)
    return [repr(boundary.boundary_quality(lambda images, size: SimpleNamespace(pixels=features),
                                           [(torch.zeros(3, *labels.shape), labels)], **args))]  # fmt: skip


def protocol(name, args, folder):
    """Scores of a model with random weights under a protocol, with a closed-form probe unless another is asked for."""
    protocol_id = args.pop("of", "camvid-linear-grid4-v1")
    args = {"probe": "ridge", "train": None, "decode": "full", **args}
    make, root = (rgbd, folder / "walk") if protocol_id.startswith("rgbd") else (camvid, folder / "streets")
    if not root.exists():
        make(root)
    spec = load_protocol(protocol_id).override([f"{key}={json.dumps(value)}" for key, value in args.items()])
    out = folder / f"out-{len(list(folder.iterdir()))}"
    result = evaluate(tiny_model(), spec, root, out)
    return [result.value, result.n, sorted(result.scores.items()), sorted(result.parts.items())]
