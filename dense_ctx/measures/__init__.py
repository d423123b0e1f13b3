"""Label-light measures of dense features: temporal consistency, boundary quality, invariance (see docs/measures.md)."""

from __future__ import annotations

from .boundary import BoundaryQuality, boundary_quality, edge_strength, label_boundaries
from .flow import dis_flow
from .invariance import Crop, Flip, Invariance, InvarianceSetting, Scale, Transform, feature_invariance
from .temporal import TemporalConsistency, TemporalSetting, temporal_consistency

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
