"""Metrics, as the benchmarks define them."""

from .clustering import adjusted_rand_index
from .davis import SequenceScorer, SequenceScores, score_folders, summarize
from .depth import DepthErrors, DepthMetric, align_depth
from .normals import NormalErrors, NormalsMetric
from .segmentation import Segmentation, SegmentationMetric, ZeroShotMetric, confusion_matrix, harmonic, iou, matched_iou
from .video import VideoMetric
from .vos import boundary_f, jaccard, object_scores, statistics

__all__ = [
    "DepthErrors",
    "DepthMetric",
    "NormalErrors",
    "NormalsMetric",
    "Segmentation",
    "SegmentationMetric",
    "SequenceScorer",
    "SequenceScores",
    "VideoMetric",
    "ZeroShotMetric",
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
