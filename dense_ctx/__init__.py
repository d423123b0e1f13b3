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
    from .config import ModelConfig, Part
    from .incontext import InContext
    from .interfaces import (
        Backbone,
        Batch,
        Decoder,
        DenseFeatures,
        EpochDataset,
        Features,
        FitContext,
        Losses,
        Metric,
        Objective,
        Probe,
        ScoredObjective,
        Scores,
        SeededDataset,
    )
    from .model import AutoDenseModel, DenseModel, create_backbone, create_decoder
    from .tracking import track

_LAZY = {
    "AutoDenseModel": "model",
    "Backbone": "interfaces",
    "Batch": "interfaces",
    "Decoder": "interfaces",
    "DenseFeatures": "interfaces",
    "EpochDataset": "interfaces",
    "DenseModel": "model",
    "Features": "interfaces",
    "FitContext": "interfaces",
    "InContext": "incontext",
    "Losses": "interfaces",
    "Metric": "interfaces",
    "ModelConfig": "config",
    "Objective": "interfaces",
    "Part": "config",
    "Probe": "interfaces",
    "ScoredObjective": "interfaces",
    "Scores": "interfaces",
    "SeededDataset": "interfaces",
    "create_backbone": "model",
    "create_decoder": "model",
    "track": "tracking",
}

__all__ = [
    "AutoDenseModel",
    "Backbone",
    "Batch",
    "Decoder",
    "DenseCtxError",
    "DenseFeatures",
    "DenseModel",
    "EpochDataset",
    "Features",
    "FitContext",
    "InContext",
    "Losses",
    "Metric",
    "ModelConfig",
    "Objective",
    "Part",
    "Probe",
    "ScoredObjective",
    "Scores",
    "SeededDataset",
    "create_backbone",
    "create_decoder",
    "hookimpl",
    "registry",
    "track",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dense-ctx")
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'dense_ctx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, "__version__"])
