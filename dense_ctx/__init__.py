"""Dense, pixel-level features from vision foundation models.

Public names are imported at first use: `import dense_ctx` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import DenseCtxError
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .config import ModelConfig, Part
    from .incontext import InContext
    from .interfaces import Backbone, Batch, Decoder, DenseFeatures, Features, Losses, Objective, Probe
    from .model import AutoDenseModel, DenseModel, create_backbone, create_decoder
    from .plugins import registry
    from .propagation import track

_LAZY = {
    "AutoDenseModel": "model",
    "Backbone": "interfaces",
    "Batch": "interfaces",
    "Decoder": "interfaces",
    "DenseFeatures": "interfaces",
    "DenseModel": "model",
    "Features": "interfaces",
    "InContext": "incontext",
    "Losses": "interfaces",
    "ModelConfig": "config",
    "Objective": "interfaces",
    "Part": "config",
    "Probe": "interfaces",
    "create_backbone": "model",
    "create_decoder": "model",
    "registry": "plugins",
    "track": "propagation",
}

__all__ = ["DenseCtxError", "hookimpl", *_LAZY]  # noqa: PLE0604  the names below, checked by a test


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dense-ctx")
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'dense_ctx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, "__version__"])
