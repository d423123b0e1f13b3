"""Interfaces of the parts (Backbone, Decoder, Objective, Probe, Metric) and the data types that they exchange.

Axes are always [B, C, H, W], sizes (H, W), flow [B, 2, H, W] as (x, y) in pixels. The library uses no
member of a part that is not named here; `dense_ctx.testing` has a check for each class. Data sets and commands are in
`dense_ctx.data.base` and `dense_ctx.commands.base`, which load no torch.
"""

from .backbone import Backbone, Link
from .decoder import Decoder
from .features import Batch, DenseFeatures, Features, Reads, Size, Task, Unchecked, resample
from .metric import Metric, Scores
from .objective import EpochDataset, Losses, Objective, ScoredObjective, SeededDataset
from .probe import FitContext, Probe

__all__ = ["Backbone", "Batch", "Decoder", "DenseFeatures", "EpochDataset", "Features", "FitContext", "Link", "Losses",
           "Metric", "Objective", "Probe", "Reads", "ScoredObjective", "Scores", "SeededDataset", "Size", "Task",
           "Unchecked", "resample"]  # fmt: skip
