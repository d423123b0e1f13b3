"""What position alone predicts, and what cells of 14 x 14 can: the two ends between which a backbone's features lie.

    python benchmarks/maxa_floor.py DATA                 # DATA holds camvid/ and rgbd/kitchen/

Position alone: each pixel gets the mean of its targets (the commonest label) in the training images. Cells: each
image's own targets, averaged (the commonest label) over the 8 x 8 pixels of a cell of a 112 x 112 output.
"""

import argparse
from pathlib import Path

import torch
from common import parse
from dense_ctx_maxa.dataset import TaskData, open_images
from dense_ctx_maxa.tasks import create_task
from torch.nn.functional import avg_pool2d, interpolate, one_hot

SIZE, CELL = (112, 112), 8


def targets(task, data, split, count=None):
    images = open_images({**data, "split": split}, task)
    samples = TaskData(task, images, SIZE, SIZE)
    return torch.stack([samples.target(index) for index in range(len(images))[:count]]), images.classes


def as_values(task, target, classes):
    """Targets [N, K, H, W] to be averaged and whether they are known [N, 1, H, W]; labels as one of K."""
    known = task.known(target)[:, None].float()
    if task.values:
        return target.nan_to_num(), known
    return one_hot(target.clamp_min(0), len(classes)).movedim(-1, 1) * known, known


def score(task, predictions, target, classes):
    scores = task.scores(classes)
    for prediction, truth in zip(predictions, target, strict=True):
        scores.update(prediction, truth)
    return scores.compute().values[task.metric]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, help="first so many images of each split")
    args = parse(parser, limit=2)
    root = args.data
    kitchen = {"name": "rgbd-folder", "root": str(root / "rgbd" / "kitchen")}
    sets = {
        "semantic": {"name": "camvid", "root": str(root / "camvid")},
        "depth": kitchen,
        "normals": {**kitchen, "target": "normals"},
    }
    for name, data in sets.items():
        task = create_task(name)
        (train, classes), (val, _) = (targets(task, data, split, args.limit) for split in ("train", "val"))
        values, known = as_values(task, train, classes)
        everywhere = values.sum((0, 2, 3)) / known.sum()
        mean = torch.where(known.sum(0) > 0, values.sum(0) / known.sum(0).clamp_min(1), everywhere[:, None, None])
        values, known = as_values(task, val, classes)
        cells = avg_pool2d(values, CELL) / avg_pool2d(known, CELL).clamp_min(1e-6)
        alone = score(task, mean.expand(len(val), -1, -1, -1), val, classes)
        best = score(task, interpolate(cells, scale_factor=CELL), val, classes)
        print(
            f"maxa-{name}, {task.metric}{f' ({task.unit})' if task.unit else ''}: position alone {alone:.4g}, ", end=""
        )
        print(f"cells of the truth {best:.4g}", flush=True)


if __name__ == "__main__":
    main()
