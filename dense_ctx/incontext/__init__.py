"""Dense predictions from a few annotated images."""

from .estimator import InContext

__all__ = ["InContext"]
