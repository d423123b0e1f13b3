"""What a step of LILA would take on a GPU at least: FLOP and bytes of each operation, from shapes alone.

`device_counts.py --roofline` prints it. Tensors are fake ones on a pretended CUDA device, so that nothing is computed
and no memory needed. An operation takes the longer of its FLOP at the data sheet's rate and its bytes at the bandwidth.
It knows no cache (what is read right after it was written counts again). That is a bound to compare programs by; beside
it stands what shares of the rates that kernels commonly reach would give. Neither is a time that anyone has measured.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from math import prod
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# NVIDIA H100 SXM: dense TFLOP/s by type of the factors, and bytes a second
RATES = {"bf16": 989e12, "tf32": 494e12, "float32": 67e12, "bytes": 3.35e12}
COMMON = {"rate": 0.6, "bytes": 0.85, "launch": 2.5e-6}  # shares of these, and seconds an operation takes at least
NOT_RUN = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "detach", "alias"}


def size(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements; what is expanded is read once."""
    return tensor.element_size() * prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step)


def matching(pixels, weights, bias, shares, cells, offset, plain, *rest):
    """FLOP by rate, and bytes, of the kernels of LILA's loss.

    Two look at every pixel, its shares and plain maps, each with the halo of its tiles, whose second read is a cache's;
    one writes the features' gradient. Each sums' partial results go out and in.
    """
    from dense_ctx_lila.fused import TILE

    products, gradient = rest[-2:]
    rows, columns = TILE["ROWS"], TILE["COLUMNS"]
    batch, height, width, dim = pixels.shape
    channels, depth, mixed = weights.shape[-1], *cells.shape[1:]
    tiles = -(-height // (rows - 2)) * -(-width // (columns - 2))
    each = 2 * batch * tiles * rows * columns * (channels * dim + mixed * depth)
    back = 2 * batch * tiles * rows * columns * channels * dim
    flop = 2 * each + 2 * back if gradient else each
    read = sum(map(size, (pixels, weights, bias, shares, cells, offset, plain)))
    partial = 2 * 4 * batch * tiles * 3 * channels
    moved = (2 * read + size(pixels) + 3 * size(weights) if gradient else read) + partial
    return ({"bf16": 3 * flop} if products == "bf16x3" else {products: flop}), moved


def spread(features, weights, dilations, count):
    """Of PAMR's kernel: an iteration reads and writes the features once, and reads the weights."""
    pixels = len(features) * prod(weights.shape[-2:])
    rows = 4 * features.shape[1] * pixels
    resize = 0 if features.shape[-2:] == weights.shape[-2:] else size(features) + rows
    return {"float32": 2 * count * weights.shape[1] * rows // 4}, resize + count * (2 * rows + size(weights))


OURS = {"matching": matching, "spread": spread}


class Roofline(TorchDispatchMode):
    """Operations, FLOP, bytes and seconds by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.phase, self.rows = "other", defaultdict(lambda: [0, 0.0, 0.0, 0.0, 0.0])
        self.heavy = defaultdict(lambda: [0, 0.0, 0.0, 0.0, 0.0])

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if view or name in NOT_RUN:
            return result
        if name.startswith("new_") or name.endswith("_like"):  # its first argument tells it a type, and is not read
            args = args[1:]
        ins, outs = ([x for x in tree_leaves(each) if isinstance(x, torch.Tensor)] for each in ((args, kwargs), result))
        if name in OURS:
            flop, moved = OURS[name](*args)
        else:
            counted = flop_registry.get(function._overloadpacket)
            kind = {torch.bfloat16: "bf16", torch.float16: "bf16"}.get(ins[0].dtype if ins else None, "float32")
            flop = {kind: counted(*args, **(kwargs or {}), out_val=result) if counted else 0}
            moved = sum(map(size, ins)) + sum(map(size, outs))
        compute, memory = sum(count / RATES[kind] for kind, count in flop.items()), moved / RATES["bytes"]
        common = max(compute / COMMON["rate"], memory / COMMON["bytes"], COMMON["launch"])
        for table, key in ((self.rows, self.phase), (self.heavy, (self.phase, name))):
            for index, value in enumerate((1, sum(flop.values()), moved, max(compute, memory), common)):
                table[key][index] += value
        return result

    def during(self, phase: str, real: Any) -> Any:
        """The function as a phase."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return real(*args, **kwargs)
            finally:
                self.phase = before

        return run


class Fake(FakeTensorMode):
    """Fake tensors on a pretended device."""

    avoid_device_init = property(lambda self: True)

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)


def fake(module: torch.nn.Module) -> torch.nn.Module:
    """The module with fake parameters and buffers on cuda:0."""
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if value is not None:
                    copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda:0")
                    own = isinstance(value, torch.nn.Parameter)
                    table[name] = torch.nn.Parameter(copy, requires_grad=value.requires_grad) if own else copy
    return module


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """The flash kernel that CUDA has for bfloat16."""
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (x.bfloat16() for x in (query, key, value))
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]


def lila(backbone: str, dim: int, batch: int, side: int, precision: str = "bf16", cached: int = 3) -> Roofline:
    """A step on pairs of crops, their cues beside the features from a cache: `cached` channels."""
    from dense_ctx_lila.cue_targets import CueMaps
    from dense_ctx_lila.objective import LilaObjective
    from dense_ctx_lila.regression import Regression

    from dense_ctx import AutoDenseModel
    from dense_ctx.numerics import assuming
    from dense_ctx.train import TrainStep

    model = AutoDenseModel.from_parts(backbone, "dpt", backbone_args={"weights": None}, decoder_args={"dim": dim})
    objective, count = LilaObjective(cues=["features", "flow:dis"], sampling={"size": side}), Roofline()
    with ExitStack() as stack:
        stack.enter_context(Fake())
        fake(model)
        stack.enter_context(mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", attention))
        phases = (
            (type(model.backbone), "forward", "encoder"), (type(model.decoder), "forward", "decoder"),
            (CueMaps, "forward", "features cue"), (Regression, "fit", "ridge fit"),
        )  # fmt: skip
        for owner, name, phase in phases:
            stack.enter_context(mock.patch.object(owner, name, count.during(phase, getattr(owner, name))))
        step = TrainStep(model, objective, (), fresh=False).train()
        optimizer = torch.optim.AdamW(step.groups, lr=1e-4, foreach=True)
        images = {role: torch.rand(batch, 3, side, side, device="cuda:0") for role in ("context", "query")}
        maps = {f"{role}/flow:dis": torch.rand(batch, cached, side, side, device="cuda:0") for role in images}
        with count, assuming():
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                total = step({**images, **maps}).total
            count.phase = "backward"
            total.backward()
            count.phase = "optimizer"
            optimizer.step()
    return count


def show(count: Roofline, most: int = 0) -> None:
    """Print a table of the phases, the loss by itself, and the heaviest operations."""
    print(f"| {'':40} | operations |  TFLOP |     GB | ms at least | ms commonly |\n|---|---|---|---|---|---|")
    own = {key: row for key, row in count.heavy.items() if key[1] == "matching"}
    phases = {phase: list(row) for phase, row in count.rows.items()}
    for (phase, _), row in own.items():
        phases[phase] = [a - b for a, b in zip(phases[phase], row, strict=True)]
        phases["loss and its gradient"] = row
    total = [sum(column) for column in zip(*phases.values(), strict=True)]
    rows = sorted(phases.items(), key=lambda item: -item[1][3])
    heaviest = sorted(count.heavy.items(), key=lambda item: -item[1][3])[:most]
    for name, (n, flop, moved, least, common) in [
        *rows,
        ("step", total),
        *((" ".join(key), row) for key, row in heaviest),
    ]:
        numbers = f"{n:10} | {flop / 1e12:6.2f} | {moved / 1e9:6.1f} | {1e3 * least:11.1f} | {1e3 * common:11.1f}"
        print(f"| {name:40} | {numbers} |")
