"""Steps of the three objectives as published but for their sizes, for the tests of torch.compile."""

import numpy as np
import torch
from dip_data import tasks
from maxa_scenes import KINDS, OUTPUTS, Boxes
from torch import _dynamo
from torch._dynamo.testing import CompileCounterWithBackend

from dense_ctx import AutoDenseModel, DenseModel, registry
from dense_ctx.data.video import write_video
from dense_ctx.testing import TinyBackbone
from dense_ctx.train import TrainStep

VIT = {"weights": None, "depth": 2, "embed_dim": 48, "num_heads": 2, "layers": [0, 1], "img_size": 98}
# of LILA's presets: equation 2, FlowFeat's scale, the paper's balance of channels
PUBLISHED = {"regression": {"relative": False, "bias": "none"}, "balance": "channels", "centre": 0}


def model_of(decoder, vit, **args):
    if vit:
        return AutoDenseModel.from_parts("dinov2-s14", decoder, backbone_args=VIT, decoder_args=args)
    backbone = TinyBackbone()
    parts = {"dims": backbone.dims, "strides": backbone.strides, **args}
    return DenseModel(backbone, registry().create("decoder", decoder, **parts))


def lila(folder, vit=False, **args):
    picture = np.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    (folder / "clips").mkdir()
    write_video(folder / "clips" / "one.mp4", [np.roll(picture, 3 * t, 1) for t in range(6)])
    sampling = {"size": 56, "frame_side": 80, "cue_side": 80, "map_size": 28}
    objective = registry().create("objective", "lila", **{**PUBLISHED, "sampling": sampling, **args})
    norm = {"norm": True, "shortcut": False}
    return model_of("dpt", vit, dim=6, width=8, **norm), objective, objective.dataset(folder / "clips")


def dip(folder, vit=False, **args):
    objective = registry().create("objective", "dip", size=56, **{"loss": "official", **args})
    return model_of("upsample", vit), objective, objective.dataset(tasks(folder, 12, (64, 72)))


def maxa(folder, vit=False, task="depth", cache=False, **args):
    folder = str(folder / "cache") if cache else None
    sizes = {"size": [56, 56], "image_size": [56, 56], "cache": folder}
    objective = registry().create("objective", f"maxa-{task}", **sizes, **args)
    images = objective.dataset(Boxes(KINDS[task], 6))
    return model_of("maxa", vit, dim=OUTPUTS[task], size=[56, 56]), objective, images


def step_of(model, objective, data, batch_size=3):
    """A step, and two batches of it."""
    step = TrainStep(model, objective, data).train()
    indices = [range(start, start + batch_size) for start in (0, batch_size)]
    return step, [objective.collate([data.sample(i % len(data), i) for i in several]) for several in indices]


def compiled(step, backend):
    """Compile a step afresh; the counter of the graphs that are made."""
    _dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    step.compile(counter if backend != "inductor" else backend)
    return counter


def gradients(step, batch):
    """Losses, and gradients by name."""
    torch.manual_seed(7)
    step.zero_grad()
    losses = step(batch)
    losses.total.backward()
    return losses, {name: p.grad.clone() for name, p in step.named_parameters() if p.grad is not None}


def same(step, batch, wanted):
    """The step computes what was computed before."""
    (losses, grads), (expected, of_each) = gradients(step, batch), wanted
    torch.testing.assert_close(losses.total, expected.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dict(losses.logs), dict(expected.logs), rtol=1e-5, atol=1e-6)
    assert grads.keys() == of_each.keys()
    for name, grad in of_each.items():
        # the derivative of |x| jumps at 0: rounding flips a few signs
        assert float((grads[name] - grad).norm()) <= 1e-3 * float(grad.norm()) + 1e-7, name
