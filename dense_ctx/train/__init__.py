"""The training loop: `train(TrainConfig.load("run.yaml"))` writes a model folder. See docs/training.md."""

from .config import TrainConfig
from .loop import train
from .step import TrainStep

__all__ = ["TrainConfig", "TrainStep", "train"]
