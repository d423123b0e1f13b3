"""Seconds from a stroke to the mask, of a step through a clip, and the memory of a session.

    python benchmarks/session.py [CLIP] [--model lila-lite0 --strokes 200 --frames 600 --steps 20 --memory 2GB]

Without CLIP it draws one of `--frames` frames of 854 x 480. Wall time is what a user waits for; seconds of the
processor, of all threads together, are beside it, since wall time grows with whatever else the machine does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, parse, peak_mb_since, reset_peak
from dense_ctx_session import Session

from dense_ctx.data.video import write_video

SIZE = (480, 854)  # of the display
CLASSES = ("background", "disc", "square")


def frames(count: int, size: tuple[int, int]) -> Iterator[Any]:
    """A disc and a square that move over a texture, which moves too."""
    rng = np.random.default_rng(0)
    height, width = size
    texture = rng.integers(40, 200, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    texture = texture.repeat(16, 0).repeat(16, 1)[:height, :width]
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        picture = np.roll(texture, number, 1)
        angle = number / 40
        cy, cx = height * (0.5 + 0.2 * np.sin(angle)), width * (0.3 + 0.1 * np.cos(angle))
        picture[(y - cy) ** 2 + (x - cx) ** 2 < (height / 8) ** 2] = (220, 40, 30)
        top, left = int(height * (0.4 + 0.2 * np.cos(angle))), int(width * (0.6 + 0.1 * np.sin(angle)))
        picture[top : top + height // 5, left : left + height // 5] = (30, 60, 230)
        yield picture


class Clocks:
    """Wall and processor seconds of calls, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {}

    def time(self, name: str, call: Callable[[], Any]) -> Any:
        wall, own = time.perf_counter(), time.process_time()
        result = call()
        self.seconds.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - own))
        return result

    def line(self, name: str, goal: str = "") -> str:
        both = np.array(self.seconds[name]) * 1000
        low, high = np.percentile(both, 50, axis=0), np.percentile(both, 95, axis=0)
        return f"{name:44}{low[0]:8.1f}{high[0]:9.1f}   {low[1]:8.1f}{high[1]:9.1f}   {len(both):4d}   {goal}".rstrip()


def stroke(rng: Any, size: tuple[int, int]) -> Any:
    """A line of 30 points that wanders."""
    start = rng.uniform((0.2 * size[1], 0.2 * size[0]), (0.8 * size[1], 0.8 * size[0]))
    walk = start + np.cumsum(rng.normal(0, size[0] / 120, (30, 2)), axis=0)
    return np.clip(walk, 0, (size[1] - 1, size[0] - 1))


def measure(session: Session, args: argparse.Namespace, clocks: Clocks) -> None:
    rng, item = np.random.default_rng(1), session.items[0]
    size = (item.height, item.width)
    display = size if args.quick else SIZE
    count = min(len(session.items), args.frames)
    steps = min(args.steps, count - 1)

    def draw(number: int) -> None:
        session.stroke(0, number % len(CLASSES), stroke(rng, size), 6)
        session.labels(0, display)

    for number in range(3):  # the first one warms the libraries up, as a session does in the background
        clocks.time("features of a frame", lambda number=number: session.pca(number, (16, 16)))
    session.stroke(0, 0, stroke(rng, size), 6)
    clocks.time("first answer, features there", lambda: draw(1))
    clocks.time("first answer for a frame never shown", lambda: session.labels(min(3, count - 1), display))
    for number in range(args.strokes):
        clocks.time("further stroke to the mask", lambda number=number: draw(number))
    for _ in range(args.strokes):
        clocks.time("undo to the mask", lambda: (session.undo(), session.labels(0, display)))
        session.redo()
    for number in range(1, steps + 1):
        session.prefetch(number)
        while number not in session._store.samples:
            time.sleep(0.01)
    walk = session.propagate(stop=steps + 1)
    for number in range(1, steps + 1):
        clocks.time("step of propagation, features there", lambda walk=walk: next(walk))
        clocks.time("a propagated frame to the screen", lambda number=number: session.labels(number, display))
    rest = session.propagate(stop=count)
    for _ in range(steps + 1, count):
        clocks.time("step of propagation, features too", lambda: next(rest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, help="a video file; default one that is drawn")
    parser.add_argument("--model", default="lila-lite0")
    parser.add_argument("--method", default=None, help="probe; default that of the session")
    parser.add_argument("--strokes", type=int, default=200)
    parser.add_argument("--frames", type=int, default=600, help="of the clip that are propagated")
    parser.add_argument("--steps", type=int, default=20, help="frames whose features are computed beforehand")
    parser.add_argument("--memory", default="2GB", help="the session's budget")
    args = parse(parser, model="rgb-xy+upsample", strokes=6, frames=6, steps=2)
    clocks = Clocks()
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""
    print(f"{machine()}; {load}")
    with tempfile.TemporaryDirectory() as folder:
        clip = args.clip or write_video(
            Path(folder) / "drawn.mp4", frames(args.frames, (48, 64) if args.quick else SIZE)
        )
        before = reset_peak()
        with Session(args.model, clip, method=args.method, max_memory=args.memory, classes=CLASSES) as session:
            session.save(Path(folder) / "session")
            item = session.items[0]
            measure(session, args, clocks)
            bytes_held = session._store.bytes / 1e6
        peak = peak_mb_since() - before
    print(
        f"{args.model}, {item.width} x {item.height}, {len(session.items)} frames, method {session.method}, autosave on"
    )
    print(f"{'milliseconds':44}{'p50':>8}{'p95':>9}   {'p50 cpu':>8}{'p95 cpu':>9}   n      goal")
    goals = {"first answer, features": "1000", "further stroke": "p95 50", "features there": "150"}
    for name in clocks.seconds:
        print(clocks.line(name, next((goal for part, goal in goals.items() if part in name), "")))
    print(f"memory: {peak:.0f} MB added at its peak, {bytes_held:.0f} MB of features held; budget {args.memory}")


if __name__ == "__main__":
    main()
