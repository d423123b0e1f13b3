"""What probes, decoders and objectives make of a tiny problem: all that an argument of them may change.

One function a kind, called by test_effects.py with the part's name, its arguments and a folder for files; an outcome is
a list of numbers, words, tensors and such lists. Other kinds: effect_outcomes_more.py.
"""

import copy

import numpy as np
import torch
from dense_ctx_dpt.dpt import DPT
from dense_ctx_probes.text import TextEmbeddings
from dip_data import tasks
from maxa_scenes import KINDS, OUTPUTS, Boxes
from PIL import Image
from torch.nn import functional

from dense_ctx import AutoDenseModel, registry
from dense_ctx.interfaces import DenseFeatures, Features
from dense_ctx.model import DenseModel
from dense_ctx.testing import TinyBackbone
from dense_ctx.train import TrainStep


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def state(module):
    """Names and values of its tensors, as they are now."""
    return [(name, value.detach().clone()) for name, value in sorted(module.state_dict().items())]


def probe(name, args, folder):
    """Predictions after two calls of `partial_fit`, of three frames in order, at two sizes; and the fitted state."""
    if name in ("attention", "conv", "zero-shot"):
        args = {"updates": 4, **args}
    if name == "zero-shot":
        args = {"embeddings": "random", **args}
        if args["embeddings"] == "FILE":
            args["embeddings"] = str(folder.with_suffix(".safetensors"))
            TextEmbeddings(("a", "b", "c"), functional.normalize(noise(3, 8), dim=1), "test").save(args["embeddings"])
    part = registry().create("probe", name, **args)
    segmentation = args.get("task", "segmentation") == "segmentation"
    outcome = []
    for seed in range(2 * part.learns):
        features = DenseFeatures(noise(1, 16, 24, 36, seed=seed), noise(1, 24, 3, 4, seed=9 + seed))
        coarse = (noise(1, 4, 6, seed=seed) * 2).long().clamp(-1, 2).repeat_interleave(6, 1).repeat_interleave(6, 2)
        part.partial_fit(features, coarse if segmentation else noise(1, 1, 24, 36) + 2)
    for seed in range(3):
        features = DenseFeatures(noise(1, 16, 24, 36, seed=20 + seed), noise(1, 24, 3, 4, seed=30 + seed))
        outcome += [part.predict(features), part.predict(features, (48, 70))]
    return [*outcome, sorted(part.state_dict().items())]


def decoder(name, args, folder):
    """Output at the size of training and at another, and the weights."""
    args = {"dims": (8, 16), "strides": (4, 8), **args}
    torch.manual_seed(0)
    part = registry().create("decoder", name, **args).eval()
    with torch.no_grad():
        for parameter in part.parameters():  # some start from zero, and with them what they weigh
            parameter.add_(0.1 * torch.randn(parameter.shape))
    maps = tuple(noise(1, dim, 32 // s, 48 // s, seed=s) for dim, s in zip(args["dims"], (4, 8), strict=True))
    features, image = Features(maps, noise(1, args["dims"][1]), (32, 48)), noise(1, 3, 32, 48)
    with torch.no_grad():
        return [state(part), part(features, image, (32, 48)), part(features, image, (64, 96))]


def objective(name, args, folder):
    """Batches, losses, logs, gradients and rates of three steps, and the model's features and tensors afterwards."""
    model, data, args = {"lila": _lila, "dip": _dip}.get(name, _maxa)(name, args, folder)
    torch.manual_seed(0)
    part = registry().create("objective", name, **args)
    images = part.dataset(data)
    step = TrainStep(model, part, images)
    outcome = [[(group.get("lr"), [tuple(p.shape) for p in group["params"]]) for group in step.groups]]
    optimizer = torch.optim.SGD([{**group, "lr": 0.1} for group in step.groups])
    for number in range(3):
        torch.manual_seed(number)
        samples = [images.sample(i, i) if hasattr(images, "sample") else images[i] for i in range(2)]
        batch = part.collate(samples)
        losses = step(batch)
        optimizer.zero_grad()
        losses.total.backward()
        outcome += [sorted((key, value) for key, value in batch.items() if isinstance(value, torch.Tensor))]
        outcome += [losses.total.detach(), [(key, float(value)) for key, value in losses.logs.items()]]
        outcome += [p.grad.clone() for group in step.groups for p in group["params"] if p.grad is not None]
        optimizer.step()
        step.after_step(number + 1)
    part.finish(model)
    with torch.no_grad():
        return [*outcome, state(step), model.eval()(noise(1, 3, 32, 48).sigmoid()).pixels]


def _lila(name, args, folder):
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


def _dip(name, args, folder):
    data = tasks(folder)
    torch.manual_seed(0)
    network = {"weights": None, "embed_dim": 16, "depth": 4, "num_heads": 2, "img_size": 32}
    model = AutoDenseModel.from_parts("timm:vit_tiny_patch16_224", "linear", backbone_args=network,
                                      decoder_args={"dim": 5})  # fmt: skip
    return model, data, {"size": 32, "out": 6, "hidden": 2, **args}


def _maxa(name, args, folder):
    task_name = name.removeprefix("maxa-")
    if name == "maxa":
        args = {"task": "semantic", **args}
        task_name = args["task"]
    torch.manual_seed(0)
    backbone = TinyBackbone((8, 16))
    head = registry().create("decoder", "linear", dims=backbone.dims, strides=backbone.strides, dim=OUTPUTS[task_name])
    return DenseModel(backbone, head), Boxes(KINDS[task_name]), {"size": (16, 24), "image_size": (32, 48), **args}
