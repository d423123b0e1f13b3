"""What backbones' features know: every backbone x head x task x seed, cell by cell, with a table at the end."""

from .names import spec
from .plan import Bench, BenchTask, Cell
from .report import page, plots
from .run import run_bench
from .table import markdown

__all__ = ["Bench", "BenchTask", "Cell", "markdown", "page", "plots", "run_bench", "spec"]
