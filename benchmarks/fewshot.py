"""A few annotated images in, the others predicted one by one as InContext does it: methods against each other.

    python benchmarks/fewshot.py DATA              # DATA: davis2016/, vos_multi/schoolgirls/, camvid/, instances/voc3/
    python benchmarks/fewshot.py DATA --annotated 1 2 5 --scribbles 20 --methods ridge knn ensemble "knn(k=10)"

A scene is a clip (frames spread evenly are annotated, the first always; J, mean over objects and frames) or, of CamVid,
a draw of training images (mIoU on validation images, which all draws share: intervals say nothing of other places), or,
of VOC, an image whose objects of a class are annotated and the other images with that class (J of the class).
Differences are to the first method, scene by scene; their 95 % intervals are of a bootstrap over the set's scenes.
Seconds are of the processor, the backbone's among them, for each annotated or predicted image; MB: the process' peak.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from common import machine, parse, peak_mb_since, reset_peak
from dense_ctx_benchmarks.intervals import of_scenes
from dense_ctx_demo import demo
from dense_ctx_metrics.segmentation import confusion_matrix, iou
from dense_ctx_metrics.vos import jaccard
from PIL import Image, ImageDraw
from torch.nn import functional

from dense_ctx import InContext
from dense_ctx.config import parse_part
from dense_ctx.data.base import read_mask
from dense_ctx.data.open import open_set
from dense_ctx.data.video import Video
from dense_ctx.images import load
from dense_ctx.model_spec import DEFAULT_MODEL, open_model

IGNORED = -1
SETS = ("davis2016", "vos_multi", "demo", "camvid", "voc")


@dataclass
class Scene:
    """What gives (image float [3, H, W], labels int64 [H, W]) when called; classes: of mIoU, 0: J of the objects."""

    group: str
    name: str
    annotated: list[Callable]
    queries: list[Callable]
    classes: int = 0


def frame(clip, index):
    mask = read_mask(clip.masks[index], clip.binary)
    return load(clip.frames[index]), torch.where(mask == 255, IGNORED, mask)


def pair(images, index):
    sample = images[index]
    return sample.image, sample.target


def of_class(folder, name, label):
    """A VOC image, the pixels of one class against all others."""
    mask = read_mask(folder / "SegmentationClass" / f"{name}.png")
    return load(folder / "JPEGImages" / f"{name}.jpg"), torch.where(mask == 255, IGNORED, (mask == label).long())


def voc_scenes(folder):
    """Each image annotated for each class that another has too."""
    names = sorted(path.stem for path in (folder / "SegmentationClass").glob("*.png"))
    if not names:
        raise SystemExit(f"{folder}/SegmentationClass holds no PNG: expected VOC's classes, or other --sets")
    classes = {name: set(read_mask(folder / "SegmentationClass" / f"{name}.png").unique().tolist()) for name in names}
    for name in names:
        for label in sorted(classes[name] - {0, 255}):
            others = [other for other in names if other != name and label in classes[other]]
            if others:
                annotated, *queries = (partial(of_class, folder, one, label) for one in (name, *others))
                yield Scene("voc, 1 image", f"{name} class {label}", [annotated], queries)


def demo_frame(index):
    video = Video(demo.clip_path())
    return load(demo.enlarge(next(islice(video, index, None)))), demo.enlarge_labels(demo.annotation(index))


def split(group, name, reads, annotated, every):
    """The first of n equal parts' frames are annotated; every so many of the others are predicted."""
    support = {index * len(reads) // annotated for index in range(annotated)}
    queries = [reads[index] for index in range(0, len(reads), every) if index not in support]
    if len(support) < annotated or not queries:
        print(f"{group} {name}: {len(reads)} annotated frames are too few for {annotated}, left out", file=sys.stderr)
        return []
    return [Scene(group, name, [reads[index] for index in sorted(support)], queries)]


def scenes(args, annotated, images):
    """Scenes of clips with so many annotated frames, and of CamVid with so many `images`."""
    for name in args.sets:
        if name == "camvid":
            train, val = (open_set("camvid", args.data / "camvid", part) for part in ("train", "val"))
            for count in images:
                for draw in range(args.draws):
                    picks = random.Random(draw).sample(range(len(train)), count)
                    queries = range(0, len(val), args.every_image)
                    learnt, others = [partial(pair, train, i) for i in picks], [partial(pair, val, i) for i in queries]
                    yield Scene(f"camvid, {count} images", f"draw {draw}", learnt, others, len(train.classes))
        elif name == "voc":
            if annotated == 1:
                yield from voc_scenes(args.data / "instances" / "voc3")
            else:
                print(f"voc: one image is annotated at a time, left out for {annotated}", file=sys.stderr)
        elif name == "demo":
            reads = [partial(demo_frame, i) for i in demo.ANNOTATED]
            yield from split(f"demo, {annotated}", "carphone", reads, annotated, 1)
        else:
            reader = "vos-folder" if name == "vos_multi" else name
            folder = args.data / name / ("schoolgirls" if name == "vos_multi" else "")
            for clip in open_set(reader, folder).clips:
                labelled = [index for index, mask in enumerate(clip.masks) if mask]
                reads = [partial(frame, clip, i) for i in labelled]
                yield from split(f"{name}, {annotated}", clip.name, reads, annotated, args.every)


def strokes(mask, count, seed):
    """The mask where `count` lines of 3 pixels, of the classes in turn and at most 60 pixels long, run through it."""
    draw, result = random.Random(seed), torch.full_like(mask, IGNORED)
    classes = mask[mask != IGNORED].unique().tolist()
    for number in range(count):
        inside = mask == classes[number % len(classes)]
        y, x = inside.nonzero()[draw.randrange(int(inside.sum()))].tolist()
        picture, end = Image.new("1", mask.shape[::-1]), (x + draw.randint(-42, 42), y + draw.randint(-42, 42))
        ImageDraw.Draw(picture).line([(x, y), end], fill=1, width=3)
        line = torch.from_numpy(np.array(picture)) & inside  # at least the pixel it starts from
        result[line] = mask[line]
    return result


def read(one, side):
    """An image and its mask, made smaller where `side` says so."""
    image, mask = one()
    if side and side < min(mask.shape):
        size = [round(edge * side / min(mask.shape)) for edge in mask.shape]
        image = functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
        mask = functional.interpolate(mask[None, None].float(), size, mode="nearest")[0, 0].long()
    return image, mask


def measure(model, method, scene, scribbles, side):
    """Score in per cent, seconds for learning an image and for predicting one, peak MB."""
    part = parse_part(method)
    context = InContext(model, part.name, "segmentation", ignore_index=IGNORED, **part.args)
    support = [read(one, side) for one in scene.annotated]
    reset_peak()
    began = time.process_time()
    for number, (image, mask) in enumerate(support):
        context.partial_fit(image, strokes(mask, scribbles, number) if scribbles else mask)
    learning = (time.process_time() - began) / len(support)
    objects = [label for label in context.classes_ if label > 0]
    values, confusion, predicting = [], torch.zeros(scene.classes, scene.classes, dtype=torch.int64), 0.0
    for one in scene.queries:
        image, truth = read(one, side)
        began = time.process_time()
        labels = context.predict(image)
        predicting += (time.process_time() - began) / len(scene.queries)
        if scene.classes:
            confusion += confusion_matrix(labels, truth, scene.classes, ignore_index=IGNORED)
        else:
            masks = [np.stack([(ids == label).numpy() for label in objects]) for ids in (truth, labels)]
            values.append(jaccard(*masks, (truth == IGNORED).numpy()[None].repeat(len(objects), 0)).mean())
    score = float(iou(confusion).nanmean()) if scene.classes else float(np.mean(values))
    return 100 * score, learning, predicting, peak_mb_since()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--methods", nargs="+", default=["ridge", "knn", "ensemble"])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--annotated", nargs="+", type=int, default=[1], help="frames of a clip")
    parser.add_argument("--images", nargs="+", type=int, default=[5, 20], help="of CamVid that are annotated")
    parser.add_argument("--scribbles", type=int, default=0, help="strokes an image; also the first frame with these")
    parser.add_argument("--every", type=int, default=16, help="of a clip's frames is predicted (%(default)s)")
    parser.add_argument("--every-image", type=int, default=10, help="of CamVid's is predicted (%(default)s)")
    parser.add_argument("--draws", type=int, default=3, help="of CamVid's annotated images (%(default)s)")
    parser.add_argument("--side", type=int, default=0, help="short side of images, in pixels (0: as they are)")
    args = parse(parser, annotated=[1, 2], images=[2], scribbles=20, every=2, every_image=2, draws=2)
    settings = [("masks", count, args.images if count == args.annotated[0] else []) for count in args.annotated]
    settings += [(f"{args.scribbles} strokes", 1, args.images)] if args.scribbles else []
    print(f"{machine()}\n")
    print("| model | set, annotated | labels | method | mean | minus the first | worst | learn s | predict s | MB |")
    print("|---" * 10 + "|")
    for spec in args.models:
        model = open_model(spec)
        for labels, annotated, images in settings:
            for group, members in groupby(scenes(args, annotated, images), lambda scene: scene.group):
                results = {method: [] for method in args.methods}
                for scene in members:
                    for method, rows in results.items():
                        rows.append(measure(model, method, scene, args.scribbles * (labels != "masks"), args.side))
                        print(group, labels, scene.name, method, *(f"{x:.2f}" for x in rows[-1]), file=sys.stderr)
                base = results[args.methods[0]]
                for method, rows in results.items():
                    score, learn, predict, _ = np.mean(rows, axis=0)
                    apart = [row[0] - other[0] for row, other in zip(rows, base, strict=True)]
                    first = f"{of_scenes(apart).text('+.1f')} | {min(apart):+.1f}"
                    cells = [spec, group, labels, method, f"{score:.1f}", first, f"{learn:.2f}", f"{predict:.2f}"]
                    print(f"| {' | '.join(cells)} | {max(row[3] for row in rows):.0f} |", flush=True)


if __name__ == "__main__":
    main()
