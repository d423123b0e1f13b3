"""Mean IoU of clicked objects, by CVAT's interaction function, on the annotated frames of the demo's clip.

python benchmarks/clicks.py [MODEL]
"""

import argparse
import time

import numpy as np
from common import parse
from dense_ctx_cvat import interaction, shapes
from dense_ctx_cvat.sdk import cvat
from dense_ctx_demo.demo import ANNOTATED, annotation, clip_path
from PIL import Image
from scipy import ndimage

from dense_ctx.data.video import Video

CORRECTIONS = 7
METHODS = ("ridge", "knn")
MARGIN = 2  # pixels of a box around its object


class Prompts(cvat.InteractionPrompts):
    pos_points, neg_points, bounding_box = (), (), None

    def __init__(self, pos, neg, box=None):
        self.pos_points, self.neg_points, self.bounding_box = pos, neg, box


def centre(mask):
    """The point of a mask that is farthest from its border."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return x + 0.5, y + 0.5


def overlaps(function, session, mask, others):
    """IoU of an object by what is clicked."""

    def answer(pos, neg, box=None):
        (shape,) = function.detect(None, session, Prompts(pos, neg, box))
        return shapes.mask_of("mask", shape.points, mask.shape)

    def overlap(result):
        return (result & mask).sum() / (result | mask).sum()

    y, x = np.nonzero(mask)
    box = (x.min() - MARGIN, y.min() - MARGIN), (x.max() + 1 + MARGIN, y.max() + 1 + MARGIN)
    pos, neg = [centre(mask)], [centre(other) for other in others]
    result = {
        "one and one": overlap(answer(pos, neg[:1])),
        "the same in a box": overlap(answer(pos, neg[:1], box)),
        "one on each class": overlap(answer(pos, neg)),
        "each class, in a box": overlap(answer(pos, neg, box)),
    }
    neg = neg[:1]
    current = answer(pos, neg)
    for _ in range(CORRECTIONS):
        missing, extra = mask & ~current, current & ~mask
        if missing.sum() > extra.sum():
            pos = [*pos, centre(missing)]
        else:
            neg = [*neg, centre(extra)]
        current = answer(pos, neg)
    return {**result, f"one and one, {CORRECTIONS} corrections": overlap(current)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="efficientnet-lite0", metavar="MODEL")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="probes (%(default)s)")
    parser.add_argument("--frames", type=int, default=len(ANNOTATED), help="annotated frames of the clip")
    args = parse(parser, methods=["ridge"], frames=1)
    model = args.model
    frames = list(Video(clip_path()))
    print(f"{model}, mean IoU")
    for method in args.methods:
        start, rows = time.process_time(), []
        function = interaction.create(model, method=method)
        for index in list(ANNOTATED)[: args.frames]:
            session = function.preprocess_image(None, Image.fromarray(frames[index]))
            labels = annotation(index).numpy()
            classes = np.unique(labels).tolist()
            for label in classes[1:]:
                rows.append(overlaps(function, session, labels == label, [labels == k for k in classes if k != label]))
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        print(f"{method} ({len(rows)} objects, {time.process_time() - start:.1f} s of CPU)")
        for name, value in means.items():
            print(f"  {value:.3f}  {name}")


if __name__ == "__main__":
    main()
