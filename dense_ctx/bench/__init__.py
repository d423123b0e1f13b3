"""What backbones' features know: every backbone x head x task x seed, cell by cell, with a table at the end."""

from .cells import Bench, BenchTask, Cell, run_bench
from .table import markdown

__all__ = ["Bench", "BenchTask", "Cell", "markdown", "run_bench"]
