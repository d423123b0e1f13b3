"""What a part makes of a tiny problem: all that an argument of it may change. One function a kind, for test_effects.py.

An outcome is a list of numbers, words and tensors.
"""

import copy

import numpy as np
import torch
from dense_ctx_dpt.dpt import DPT
from dip_data import tasks
from maxa_scenes import KINDS, OUTPUTS, Boxes
from PIL import Image
from torch.nn import functional

from dense_ctx import AutoDenseModel, registry
from dense_ctx.errors import InputError
from dense_ctx.interfaces import DenseFeatures, Features
from dense_ctx.model import DenseModel
from dense_ctx.testing import TinyBackbone
from dense_ctx.train import TrainStep

CLASSES = ("ground", "red", "blue")


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def probe(name, args, folder):
    """Predictions after two calls of `partial_fit`, of three frames in order, at two sizes."""
    if name in ("attention", "conv", "zero-shot"):
        args = {"updates": 4, **args, **({"embeddings": "random"} if name == "zero-shot" else {})}
    made = registry().create("probe", name, **args)
    segmentation = args.get("task", "segmentation") == "segmentation"
    outcome = []
    for seed in range(2):
        features = DenseFeatures(noise(1, 16, 24, 36, seed=seed), noise(1, 24, 3, 4, seed=9 + seed))
        coarse = (noise(1, 4, 6, seed=seed) * 2).long().clamp(-1, 2).repeat_interleave(6, 1).repeat_interleave(6, 2)
        targets = coarse if segmentation else noise(1, 1, 24, 36) + 2
        made.partial_fit(features, targets)
    for seed in range(3):
        features = DenseFeatures(noise(1, 16, 24, 36, seed=20 + seed), noise(1, 24, 3, 4, seed=30 + seed))
        outcome += [made.predict(features), made.predict(features, (48, 70))]
    return outcome


def decoder(name, args, folder):
    """Output at the size of training and at another, and the names and shapes of the weights."""
    args = {"dims": (8, 16), "strides": (4, 8), **args}
    torch.manual_seed(0)
    made = registry().create("decoder", name, **args).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # some start from zero, and with them what they weigh
            parameter.add_(0.1 * torch.randn(parameter.shape))
    maps = tuple(noise(1, dim, 32 // s, 48 // s, seed=s) for dim, s in zip(args["dims"], (4, 8), strict=True))
    features = Features(maps, noise(1, args["dims"][1]), (32, 48))
    image = noise(1, 3, 32, 48)
    weights = [(key, tuple(value.shape)) for key, value in made.state_dict().items()]
    with torch.no_grad():
        return [weights, made(features, image, (32, 48)), made(features, image, (64, 96))]


def metric(name, args, folder):
    """Scores and parts of two images."""
    classes = CLASSES if name in ("segmentation", "zero-shot") else ()
    made = registry().create("metric", name, **{"classes": classes, **args})
    for seed in range(2):
        if made.target == "segmentation":
            scores = noise(args.get("clusters", len(made.classes)), 8, 9, seed=seed)
            scores[3:4] -= 9  # a class in neither, where there are four
            made.update(scores.softmax(0), (noise(8, 9, seed=5 + seed) * 2).long().clamp(0, 2))
        else:
            made.update(*(noise(1, 8, 9, seed=s + seed).abs() * 8 + 0.5 for s in (0, 5)))
    scores = made.compute()
    return [sorted(scores.values.items()), sorted(scores.parts.items())]


def cue(name, args, folder):
    """Maps of two frames."""
    torch.manual_seed(0)
    made = registry().create("cue", name, **args)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.3)
    picture = functional.interpolate(noise(1, 3, 10, 12), (96, 112), mode="bicubic").sigmoid()
    weights = [(key, tuple(value.shape)) for key, value in made.state_dict().items()]
    return [weights, *made(picture[..., :88, 8:104], picture[..., 8:, 4:100])]


def segmenter(name, args, folder):
    """Segments of a picture of stripes, from features that are its colours."""
    from test_dip_segmenters import picture, tiny_diffusion

    if name == "diffcut":
        unet, vae = tiny_diffusion()
        args = {"unet": unet, "vae": vae, "side": 128, "alpha": 2, **args}
    made = registry().create("segmenter", name, **args)
    image, _ = picture()
    features = functional.avg_pool2d(image[None], 4)[0] - 0.5
    maps = [made.features(image)] if name == "diffcut" else []
    return [made(image, features + 0.3 * noise(*features.shape), (48, 72)), *maps]


def task(name, args, folder):
    """Scores of a random prediction."""
    made, images = registry().create("task", name, **args), Boxes(KINDS[name])
    scores = made.scores(images.classes)
    for index in range(2):
        target = made.target(images[index].target, images.classes, "x")
        channels = made.channels or len(images.classes)
        scores.update(noise(channels, *target.shape[-2:], seed=index), target)
    try:
        values = scores.compute()
    except InputError as error:
        return [str(error)]
    return [sorted(values.values.items()), sorted(values.counts.items()), made.channels]


# ---------------------------------------------------------------------- objectives: three steps of a training


def objective(name, args, folder):
    """Losses, logs, gradients and rates of three steps, and the model's features afterwards."""
    kind = "maxa" if name.startswith("maxa") else name
    model, data, args = {"lila": _lila, "dip": _dip, "maxa": _maxa}[kind](args, folder)
    torch.manual_seed(0)
    made = registry().create("objective", name, **args)
    images = made.dataset(data)
    step = TrainStep(model, made, images)
    outcome = [[(group.get("lr"), [tuple(p.shape) for p in group["params"]]) for group in step.groups]]
    optimizer = torch.optim.SGD([{**group, "lr": 0.1} for group in step.groups])
    for number in range(3):
        torch.manual_seed(number)
        samples = [images.sample(i, i) if hasattr(images, "sample") else images[i] for i in range(2)]
        losses = step(made.collate(samples))
        optimizer.zero_grad()
        losses.total.backward()
        outcome += [losses.total.detach(), [(key, float(value)) for key, value in losses.logs.items()]]
        outcome += [p.grad.clone() for group in step.groups for p in group["params"] if p.grad is not None]
        optimizer.step()
        made.after_step(model, number + 1)
    made.finish(model)
    with torch.no_grad():
        return [*outcome, model.eval()(noise(1, 3, 32, 48).sigmoid()).pixels]


def _lila(args, folder):
    if not folder.exists():
        for clip in ("a", "b"):
            (folder / clip).mkdir(parents=True)
            smooth = noise(1, 3, 8, 14, seed=ord(clip))
            picture = functional.interpolate(smooth, (40, 80), mode="bicubic").sigmoid()[0]
            for frame in range(4):
                crop = (picture[:, :, 2 * frame : 2 * frame + 64] * 255).byte().permute(1, 2, 0).numpy()
                Image.fromarray(np.ascontiguousarray(crop)).save(folder / clip / f"{frame}.png")
    torch.manual_seed(0)
    backbone = TinyBackbone()
    model = DenseModel(backbone, DPT(backbone.dims, backbone.strides, dim=6, width=8, shortcut=True))
    small = {"size": 24, "map_size": 16, "frame_side": 40, "cue_side": 40, "gap": (1, 2)}
    args = copy.deepcopy(args)
    args["sampling"] = {**small, **args.get("sampling", {})}
    return model, str(folder), {"centre": 2, **args}


def _dip(args, folder):
    data = tasks(folder)
    torch.manual_seed(0)
    network = {"weights": None, "embed_dim": 16, "depth": 4, "num_heads": 2, "img_size": 32}
    model = AutoDenseModel.from_parts("timm:vit_tiny_patch16_224", "linear", backbone_args=network,
                                      decoder_args={"dim": 5})  # fmt: skip
    return model, data, {"size": 32, "out": 6, "hidden": 2, **args}


def _maxa(args, folder):
    chosen = args.get("task", "semantic")
    torch.manual_seed(0)
    backbone = TinyBackbone((8, 16))
    head = registry().create("decoder", "linear", dims=backbone.dims, strides=backbone.strides, dim=OUTPUTS[chosen])
    return DenseModel(backbone, head), Boxes(KINDS[chosen]), {"task": chosen, "size": (16, 24), "image_size": (32, 48),
                                                              **args}  # fmt: skip
