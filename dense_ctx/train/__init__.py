"""The one training loop: `train(TrainConfig.load("run.yaml"))` gives a model folder. See docs/training.md."""

from .config import TrainConfig
from .loop import train
from .step import TrainStep

__all__ = ["TrainConfig", "TrainStep", "train"]
