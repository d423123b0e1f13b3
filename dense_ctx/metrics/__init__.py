"""Metrics, as the benchmarks define them."""

from .clustering import adjusted_rand_index
from .davis import SequenceScorer, SequenceScores, score_folders, summarize
from .depth import DepthErrors, align_depth
from .normals import NormalErrors
from .segmentation import Segmentation, confusion_matrix, harmonic, iou, matched_iou
from .vos import boundary_f, jaccard, object_scores, statistics

__all__ = [
    "DepthErrors",
    "NormalErrors",
    "Segmentation",
    "SequenceScorer",
    "SequenceScores",
    "adjusted_rand_index",
    "align_depth",
    "boundary_f",
    "confusion_matrix",
    "harmonic",
    "iou",
    "jaccard",
    "matched_iou",
    "object_scores",
    "score_folders",
    "statistics",
    "summarize",
]
