"""Benchmarks: a model under a named protocol gives a Result that can be believed, compared and made again."""

from .protocol import Protocol, load_protocol
from .protocol import names as protocols
from .result import Result
from .run import evaluate

__all__ = ["Protocol", "Result", "evaluate", "load_protocol", "protocols"]
