"""Seconds of a training step by part, the parts of its backward pass among them."""

import time
from contextlib import contextmanager

import torch


class Clock:
    """Seconds by part; a part inside another is not counted twice."""

    def __init__(self, device="cpu", cpu_seconds=False):
        self.cuda = device == "cuda"
        self.read = time.process_time if cpu_seconds else time.perf_counter
        self.seconds, self.open, self.since = {}, [], 0.0

    def turn(self, name):
        """The part that is open so far ends, and this one goes on in its place."""
        self._lap()
        self.open[-1] = name

    @contextmanager
    def part(self, name):
        self._lap()
        self.open.append(name)
        yield
        self._lap()
        self.open.pop()

    def timed(self, name, function, back=None, then=None):
        """The function as a part.

        back: part of what autograd does from where the result has its gradient. then: part of what it does from where
        the first argument has its own.
        """

        def run(*arguments, **options):
            if then and arguments[0].requires_grad:
                arguments[0].register_hook(lambda _: self.turn(then))
            with self.part(name):
                out = function(*arguments, **options)
            if back and out.requires_grad:
                out.register_hook(lambda _: self.turn(back))
            return out

        return run

    def _lap(self):
        if self.cuda:
            torch.cuda.synchronize()
        now = self.read()
        if self.open:
            name = self.open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now
