"""What backbones' features know: every backbone x head x task x seed, cell by cell, with a table at the end."""

from .cells import Bench, BenchTask, Cell, run_bench
from .report import page
from .table import markdown

__all__ = ["Bench", "BenchTask", "Cell", "markdown", "page", "run_bench"]
