"""J and F of a 480p frame: ours, on packed masks, against the straightforward formulation with OpenCV.

    python benchmarks/davis_metrics.py [--frames 20 --objects 2 --rounds 15]

Both score the same masks in one process, in turns; masks are in memory. Needs scikit-image and opencv-python-headless.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import numpy as np
from common import in_turn, machine, parse, ratio, same

HEIGHT, WIDTH = 480, 854


def clip(frames: int, objects: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Truth and prediction: wobbly blobs that move, and the same a few pixels off."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pairs = []
    for t in range(frames):
        pair = []
        for shift in (0, 5):
            ids = np.zeros((HEIGHT, WIDTH), np.uint8)
            for index in range(objects):
                centre = 120 + 45 * index + 3 * t + shift, 200 + 180 * index + 6 * t
                angle = np.arctan2(y - centre[0], x - centre[1])
                radius = 70 + 18 * np.sin(5 * angle + t / 3 + index) + 6 * np.sin(17 * angle)
                ids[np.hypot(y - centre[0], x - centre[1]) < radius] = index + 1
            pair.append(ids)
        pairs.append((pair[0], pair[1]))
    return pairs


def plain_boundary(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    right, below, both = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1], below[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = (mask ^ right) | (mask ^ below) | (mask ^ both)
    edge[-1], edge[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


def plain(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any], objects: int) -> list[tuple[float, float]]:
    """Boolean masks, a dilation by a disk for each boundary: the definition, object by object."""
    import cv2
    from skimage.morphology import disk

    kernel = disk(math.ceil(0.008 * math.hypot(HEIGHT, WIDTH))).astype(np.uint8)
    scores = []
    for index in range(1, objects + 1):
        a, b = truth == index, prediction == index
        union = np.sum(a | b)
        j = np.sum(a & b) / union if union else 1.0
        a, b = plain_boundary(a), plain_boundary(b)
        near_a, near_b = (cv2.dilate(edge.astype(np.uint8), kernel) for edge in (a, b))
        count_a, count_b = np.sum(a), np.sum(b)
        if count_a == 0 or count_b == 0:
            scores.append((float(j), float(count_a == count_b)))
            continue
        precision, recall = np.sum(b * near_a) / count_b, np.sum(a * near_b) / count_a
        total = precision + recall
        scores.append((float(j), float(2 * precision * recall / total) if total else 0.0))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("frames", 20), ("objects", 2), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parse(parser, frames=2, rounds=2)
    from dense_ctx_metrics.vos import object_scores

    frames = clip(args.frames, args.objects)
    difference = 0.0
    for pair in frames:
        ours = np.stack(object_scores(*pair, args.objects), -1)
        difference = max(difference, float(np.abs(ours - np.array(plain(*pair, args.objects))).max()))
    same(difference, 1e-12, "J and F")
    sides = {"plain": plain, "ours": object_scores}
    times = in_turn(
        {name: lambda score=score: [score(*pair, args.objects) for pair in frames] for name, score in sides.items()},
        args.rounds,
    )
    print(f"{args.frames} frames of {HEIGHT} x {WIDTH}, {args.objects} objects; {machine()}")
    for name, seconds in times.items():
        each = statistics.median(seconds) / args.frames / args.objects
        print(f"{name:8}{1e3 * each:7.2f} ms an object and frame, median")
    print(f"plain / ours {ratio(times['plain'], times['ours'])}: target 3")
    print(f"largest difference of J and F {difference:.1e}")


if __name__ == "__main__":
    main()
