"""Benchmarks: evaluate a model under a named protocol, with a reproducible Result."""

from .protocol import Protocol, load_protocol
from .protocol import names as protocols
from .result import Result
from .run import evaluate

__all__ = ["Protocol", "Result", "evaluate", "load_protocol", "protocols"]
