"""check_backbone: the clauses of `dense_ctx.Backbone`."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ..errors import InputError
from ..interfaces import Backbone, Features
from ..persistence.file_args import file_args_problem
from .common import Clauses, check_bfloat16, difference, finite, noise

GRIDS = ((3, 5), (4, 3))  # cells of the coarsest stride; odd and even, H != W


def check_backbone(
    backbone: Backbone | str,
    *,
    args: dict[str, Any] | None = None,
    tolerance: float = 1e-5,
    structure_only: bool = False,
) -> tuple[str, ...]:
    """Verify a backbone; a module is left unchanged, in eval mode.

    Args:
        backbone: the module, or a registered name, built with random weights unless `args` says otherwise.
        args: constructor arguments for a name.
        tolerance: largest relative difference between an image encoded alone and in a batch.
        structure_only: only clauses on attributes and shapes; the module may then be on the meta device.

    Returns:
        The clauses verified: attributes, blocks, shapes; then finite, input, deterministic, batch, gradients,
        state_dict, and bfloat16 where PyTorch has the kernels.

    Raises:
        ContractError: a clause is broken.
    """
    check = Clauses("backbone", backbone)
    if isinstance(backbone, str):
        from ..create import create_backbone, random_args

        backbone = create_backbone(backbone, **{**random_args(backbone), **(args or {})})
    if not isinstance(backbone, Backbone):
        raise InputError(f"expected a Backbone or a registered name; got {type(backbone).__name__}")
    backbone.eval()
    _attributes(check, backbone)
    _shapes(check, backbone)
    if not structure_only:
        _values(check, backbone, tolerance)
        _gradients(check, backbone)
        _state(check, backbone)
        _bfloat16(check, backbone)
    return tuple(check.done)


def _sizes(backbone: Backbone) -> list[tuple[int, int]]:
    return [(rows * backbone.stride, columns * backbone.stride) for rows, columns in GRIDS]


def _attributes(check: Clauses, backbone: Backbone) -> None:
    with check.clause("attributes") as require:
        dims, strides, stride = backbone.dims, backbone.strides, backbone.stride
        require(len(dims) == len(strides) > 0, f"dims {dims} and strides {strides} must have one entry a map")
        whole = all(isinstance(n, int) and n > 0 for n in (*dims, *strides, stride))
        require(whole, f"dims {dims}, strides {strides}, stride {stride} must be positive whole numbers")
        require(list(strides) == sorted(strides), f"strides {strides} must go from shallow to deep")
        divides = all(stride % s == 0 for s in strides)
        require(divides, f"stride {stride} must be a multiple of every map's stride {strides}")
        three = len(backbone.mean) == len(backbone.std) == 3 and min(backbone.std) > 0
        require(three, f"mean {backbone.mean}, std {backbone.std}: three channels, std above 0")
        size = backbone.image_size
        require(len(size) == 2 and min(size) > 0, f"image_size {size} must be (H, W), in pixels")
        require((fault := file_args_problem(type(backbone))) is None, fault or "")
    with check.clause("blocks") as require:
        names = [name for name, _ in backbone.named_parameters()]
        for block in backbone.blocks():
            exists = any(name == block or name.startswith(block.rstrip(".") + ".") for name in names)
            require(exists, f"blocks() names {block!r}, but no parameter's name starts with it")


def _shapes(check: Clauses, backbone: Backbone) -> None:
    device = next(backbone.parameters()).device
    with check.clause("shapes") as require, torch.no_grad():
        for height, width in _sizes(backbone):
            out = backbone(torch.zeros(2, 3, height, width, device=device))
            fits = out.cls is None or (out.cls.ndim == 2 and out.cls.shape[0] == 2)
            require(fits, f"cls must be [B, C] or None, is {None if out.cls is None else tuple(out.cls.shape)}")


def _outputs(features: Features) -> list[torch.Tensor]:
    return [*features.maps, *([] if features.cls is None else [features.cls])]


def _values(check: Clauses, backbone: Backbone, tolerance: float) -> None:
    images = noise(3, 3, *_sizes(backbone)[0])
    original = images.clone()
    with torch.no_grad():
        with check.clause("finite") as require:
            together = _outputs(backbone(images))
            require(all(finite(item) for item in together), "the output has NaN or infinity for ordinary noise")
        with check.clause("input") as require:
            require(torch.equal(images, original), "forward changes its input in place")
        with check.clause("deterministic") as require:
            again = _outputs(backbone(images))
            same = all(difference(a, b) <= 1e-6 for a, b in zip(again, together, strict=True))
            require(same, "two forwards of one input differ in eval mode (dropout? BatchNorm in train mode?)")
        with check.clause("batch") as require:
            for row in range(3):
                alone = _outputs(backbone(images[row : row + 1]))
                for a, b in zip(alone, together, strict=True):
                    gap = difference(a, b[row : row + 1])
                    require(gap <= tolerance, f"an image alone and in a batch differ by {gap:.1e} relative")


def _gradients(check: Clauses, backbone: Backbone) -> None:
    trial = copy.deepcopy(backbone).requires_grad_(True)
    with check.clause("gradients") as require:
        maps = trial(noise(1, 3, *_sizes(backbone)[0])).maps
        total = torch.stack([item.float().square().mean() for item in maps]).sum()
        require(total.requires_grad, "forward cuts gradients off")
        total.backward()
        gradients = [p.grad for p in trial.parameters() if p.grad is not None]
        require(bool(gradients) and any(bool(g.any()) for g in gradients), "no parameter receives a gradient")
        require(all(finite(g) for g in gradients), "a gradient has NaN or infinity")


def _state(check: Clauses, backbone: Backbone) -> None:
    images = noise(1, 3, *_sizes(backbone)[0])
    with check.clause("state_dict") as require, torch.no_grad():
        state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        other = copy.deepcopy(backbone)
        for parameter in other.parameters():
            parameter.add_(1.0)
        other.load_state_dict(state, strict=True)
        pairs = zip(_outputs(other(images)), _outputs(backbone(images)), strict=True)
        require(all(difference(a, b) <= 1e-6 for a, b in pairs), "weights are kept outside state_dict()")


def _bfloat16(check: Clauses, backbone: Backbone) -> None:
    trial = copy.deepcopy(backbone).to(torch.bfloat16)
    check_bfloat16(check, lambda: trial(noise(1, 3, *_sizes(backbone)[0]).to(torch.bfloat16)).maps)
