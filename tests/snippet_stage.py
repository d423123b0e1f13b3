"""The folder in which blocks of the documentation run: the files that a reader is assumed to have, made small."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import torch
from dense_ctx_session import Session
from evaluation_data import camvid, clip, davis2016, image_folder, rgbd, save, scene
from PIL import Image
from plugin_sandbox import distribution
from snippets import ROOT, command_lines
from tiny_datasets import labels, nyu_folder, text

from dense_ctx import cli, plugins
from dense_ctx.data.video import write_video

SIZE = (128, 192)  # of photographs, H x W
SMALL = {"embed_dim": 24, "num_heads": 2}
NOT_RUN = {"pip": "a network", "export": "a variable of the shell"}


def lay_out(folder):
    """Photographs with masks, a depth map, clips, and small data sets in their official layouts."""
    for index, name in enumerate(["photo", "other", "new", "a", "b", "c", "room"]):
        picture, ids = scene(index, SIZE, classes=2)
        save(folder / f"{name}.jpg", picture)
        for mask in (f"{name}_mask.png", f"{name}.png", "mask.png"):
            labels(folder / mask, ids)
    for index in range(8):
        save(folder / f"photos/{index:04d}.jpg", scene(index, SIZE)[0])
    slope = np.linspace(1, 3, SIZE[1], dtype=np.float32)[None].repeat(SIZE[0], 0)
    Image.fromarray((1000 * slope).astype(np.uint16)).save(folder / "room_depth.png")
    normals = np.zeros((*SIZE, 3), np.float32)
    normals[..., 2] = 1
    np.save(folder / "room_normals.npy", normals)
    frames = clip(16, (64, 96))
    for path in ("clip.mp4", "clips/bear.mp4"):
        (folder / path).parent.mkdir(exist_ok=True)
        write_video(folder / path, [picture for picture, _ in frames])
    for path in ("first_frame.png", "first_mask.png"):
        labels(folder / path, frames[0][1])
    for path in ("data/camvid", "CAMVID"):
        camvid(folder / path, train=20)
    rgbd(folder / "KITCHEN", frames=20)
    image_folder(folder / "DATA")
    cells(folder / "CELLS")
    nyu_folder(folder / "data/nyu", normals=True)
    davis(folder / "data/davis")
    os.symlink("davis", folder / "data/DAVIS")
    voc(folder / "data/VOC2012")
    model, objective = "efficientnet-lite0+dpt(dim=4, width=4)", "template-colours(side=64)"
    lines = [
        "out: runs/first",
        "steps: 2",
        "batch_size: 2",
        f"model: {model}",
        f"objective: {objective}",
        "data: photos",
    ]
    text(folder / "run.yaml", *lines)


def cells(root):
    """The layout of the template's data set."""
    for split, numbers in {"train": range(4), "val": range(4, 6)}.items():
        for index in numbers:
            picture, ids = scene(index, classes=2)
            save(root / f"images/{index}.png", picture)
            labels(root / f"masks/{index}.png", ids)
        text(root / f"{split}.txt", *map(str, numbers))


def davis(root):
    """Both years: two clips of three frames, an object each."""
    davis2016(root, clips=("camel", "goat"), frames=3)
    for path in root.rglob("Annotations/480p/*/*.png"):
        labels(path, np.array(Image.open(path)) // 255, palette=True)
    text(root / "ImageSets/2017/val.txt", "camel", "goat")


def annotate(path, label_format):
    """Strokes of two classes on a photograph, and what follows from them, as the file of an annotation tool."""
    with Session("rgb-xy+upsample", "photos/", classes=["background", "cup"]) as session:
        session.stroke(0, 0, [(12, 30), (80, 30)], radius=4)
        session.stroke(0, 1, [(150, 90), (170, 120)], radius=4)
        exported = session.export("exported", format=label_format)
    (exported if exported.is_dir() else next(Path("exported").rglob(exported.name))).rename(path)


def voc(root):
    """Four images to learn from and two to score."""
    lists = {"train": range(4), "val": range(4, 6)}
    for split, numbers in lists.items():
        for index in numbers:
            picture, ids = scene(index, (48, 64))
            save(root / f"JPEGImages/{index}.jpg", picture)
            labels(root / f"SegmentationClass/{index}.png", ids, palette=True)
        text(root / f"ImageSets/Segmentation/{split}.txt", *map(str, numbers))


def install_template(folder, patch):
    """The plugin of examples/plugin_template, as if pip had installed it."""
    distribution(folder, "dense-ctx-template", {}, {"template": "dense_ctx_template"})
    for path in (folder, ROOT / "examples" / "plugin_template"):
        patch.syspath_prepend(path)
    patch.setattr(plugins, "_registry", plugins.load_plugins(strict=True))


def stand_in(patch):
    """Networks whose weights are on the Hub are built small, with the random weights that they begin with."""
    from dense_ctx_backbones.timm_backbone import TimmBackbone

    build = TimmBackbone._build

    def small(self, model, options):
        options = {**(SMALL if model.startswith("vit_") else {}), **options}
        self.own_weights = lambda: build(self, model, options).state_dict()
        return build(self, model, options)

    def pretrained(self):
        self.source = "random"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.own_weights()

    patch.setattr(TimmBackbone, "_build", small)
    patch.setattr(TimmBackbone, "_pretrained", pretrained)


def run(block, instead, names):
    """Run a block, with some of its text replaced; Python in the namespace of its page."""
    text = block.text
    for old, new in instead.items():
        text = text.replace(old, new)
    if block.language == "python":
        exec(compile(text, block.place, "exec"), names)
        return
    for words in command_lines(text):
        run_command(words, block.place)


def run_command(words, place):
    """A command of ours, in this process."""
    program, words = words[0], words[1:]
    if program in ("accelerate", "torchrun"):  # as one process
        words = words[words.index("dense_ctx.cli") + 1 :] if "dense_ctx.cli" in words else []
    elif program != "dense-ctx":
        assert program in NOT_RUN, f"{place}: {program} is not run here; list the block in snippet_table.STATIC"
        return
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = cli.main(words) if words else 0
    assert status == 0, f"{place}: dense-ctx {' '.join(words)}\n{output.getvalue()[-3000:]}"
