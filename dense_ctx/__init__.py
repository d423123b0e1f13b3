"""Dense, pixel-level features from vision foundation models.

Public names are imported at first use: `import dense_ctx` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import DenseCtxError
from .hookspecs import hookimpl
from .plugins import registry  # at once: the module dense_ctx.registry would hide the function of this name

if TYPE_CHECKING:
    from .config import ModelConfig as ModelConfig
    from .config import Part as Part
    from .create import create_backbone as create_backbone
    from .create import create_decoder as create_decoder
    from .incontext import InContext as InContext
    from .interfaces import Backbone as Backbone
    from .interfaces import Batch as Batch
    from .interfaces import Decoder as Decoder
    from .interfaces import DenseFeatures as DenseFeatures
    from .interfaces import EpochDataset as EpochDataset
    from .interfaces import Features as Features
    from .interfaces import FitContext as FitContext
    from .interfaces import Losses as Losses
    from .interfaces import Metric as Metric
    from .interfaces import Objective as Objective
    from .interfaces import Probe as Probe
    from .interfaces import ScoredObjective as ScoredObjective
    from .interfaces import Scores as Scores
    from .interfaces import SeededDataset as SeededDataset
    from .model import AutoDenseModel as AutoDenseModel
    from .model import DenseModel as DenseModel

_MODULES = {
    "config": "ModelConfig Part",
    "create": "create_backbone create_decoder",
    "incontext": "InContext",
    "interfaces": "Backbone Batch Decoder DenseFeatures EpochDataset Features FitContext Losses Metric Objective Probe "
    "ScoredObjective Scores SeededDataset",
    "model": "AutoDenseModel DenseModel",
}
_LAZY = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = ["DenseCtxError", "hookimpl", "registry", *_LAZY]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dense-ctx")
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'dense_ctx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, "__version__"])
