"""Label-light measures of dense features: temporal consistency, boundary quality, invariance (docs/measures.md)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dense_ctx.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from .boundary import BoundaryQuality, boundary_quality, edge_strength, label_boundaries
    from .flow import dis_flow
    from .invariance import Crop, Flip, Invariance, InvarianceSetting, Scale, Transform, feature_invariance
    from .temporal import TemporalConsistency, TemporalSetting, temporal_consistency

_LAZY = {
    "BoundaryQuality": "boundary",
    "Crop": "invariance",
    "Flip": "invariance",
    "Invariance": "invariance",
    "InvarianceSetting": "invariance",
    "Scale": "invariance",
    "TemporalConsistency": "temporal",
    "TemporalSetting": "temporal",
    "Transform": "invariance",
    "boundary_quality": "boundary",
    "dis_flow": "flow",
    "edge_strength": "boundary",
    "feature_invariance": "invariance",
    "label_boundaries": "boundary",
    "temporal_consistency": "temporal",
}

__all__ = [
    "BoundaryQuality",
    "Crop",
    "Flip",
    "Invariance",
    "InvarianceSetting",
    "Scale",
    "TemporalConsistency",
    "TemporalSetting",
    "Transform",
    "boundary_quality",
    "dis_flow",
    "edge_strength",
    "feature_invariance",
    "label_boundaries",
    "temporal_consistency",
]


@hookimpl
def register_parts(register: Register) -> None:
    """Name the verb."""
    register("command", "measure", "dense_ctx_measures.command:Measure")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
