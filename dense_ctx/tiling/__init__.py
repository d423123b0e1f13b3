"""Large images in bounded memory: the memory of a forward, windows that fit, and joining their results."""

from .budget import parse_memory, plan
from .forward import map_tiles, settled, tiled_forward
from .windows import Axis, Plan

__all__ = ["Axis", "Plan", "map_tiles", "parse_memory", "plan", "settled", "tiled_forward"]
