"""Data that an evaluation can learn from, in official layouts, made small: classes have colours, surfaces slopes."""

import numpy as np
import torch
from PIL import Image
from tiny_datasets import labels, text

H, W = 24, 36
COLOURS = np.array([(200, 40, 40), (40, 190, 60), (50, 70, 210), (220, 210, 60)], dtype=np.int16)


def scene(seed, size=(H, W), classes=4):
    """A picture of vertical stripes, each in its class' colour with noise, and the classes."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, classes, 6)
    label = np.repeat(ids, size[1] // 6 + 1)[None, : size[1]].repeat(size[0], 0)
    picture = COLOURS[label] + rng.integers(-20, 20, (*size, 3))
    return picture.clip(0, 255).astype(np.uint8), label.astype(np.uint8)


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def camvid(root, train=5, val=4):
    """Four of CamVid's classes occur; 11 is unlabelled."""
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for index in range(count):
            picture, label = scene(first + index)
            label[:2] = 11
            save(root / f"{split}/images/{index:04d}.png", picture)
            labels(root / f"{split}/labels/{index:04d}.png", label)
    return root


def voc(root, count=2):
    """VOC's pictures and classes without its lists."""
    for index in range(count):
        picture, label = scene(index)
        save(root / f"JPEGImages/{index}.jpg", picture)
        labels(root / f"SegmentationClass/{index}.png", label)
    return root


def image_folder(root, train=4, val=3):
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for index in range(count):
            picture, label = scene(first + index)
            save(root / split / f"images/{index}.png", picture)
            labels(root / split / f"labels/{index}.png", label)
    text(root / "classes.txt", "red", "green", "blue", "yellow")
    return root


def clip(frames=5, size=(H, W), objects=1, seed=0):
    """Squares of their own colours that move right over noise: pictures and ids."""
    rng = np.random.default_rng(seed)
    pairs = []
    for t in range(frames):
        picture = rng.integers(90, 130, (*size, 3)).astype(np.int16)
        label = np.zeros(size, np.uint8)
        for index in range(1, objects + 1):
            top, left = 3 + 10 * (index - 1), 2 + t % (size[1] - 14)
            label[top : top + 8, left : left + 10] = index
            picture[label == index] = COLOURS[index - 1] + rng.integers(-15, 15, ((label == index).sum(), 3))
        pairs.append((picture.clip(0, 255).astype(np.uint8), label))
    return pairs


def davis2016(root, clips=("camel", "goat", "swan"), frames=5):
    for number, name in enumerate(clips):
        for index, (picture, label) in enumerate(clip(frames, seed=number)):
            save(root / f"JPEGImages/480p/{name}/{index:05d}.png", picture)
            labels(root / f"Annotations/480p/{name}/{index:05d}.png", 255 * label)
    text(root / "ImageSets/2016/val.txt", *clips)
    return root


def vos_folder(root, clips=("one", "two"), frames=5, objects=2):
    for number, name in enumerate(clips):
        for index, (picture, label) in enumerate(clip(frames, objects=objects, seed=number)):
            save(root / f"{name}/frames/{index:05d}.png", picture)
            labels(root / f"{name}/masks/{index:05d}.png", label, palette=True)
    return root


def rgbd(root, frames=8):
    """Walls at slants; brightness tells the distance."""
    for index in range(frames):
        rng = np.random.default_rng(index)
        slope = np.linspace(1.0, 1.0 + rng.uniform(0.5, 2.0), W)[None].repeat(H, 0)
        picture = np.stack([255 / slope] * 3, -1) + rng.integers(-3, 3, (H, W, 3))
        depth = (1000 * slope).astype(np.uint16)
        depth[:2] = 0
        save(root / f"frame-{index:06d}.color.png", picture.clip(0, 255).astype(np.uint8))
        labels(root / f"frame-{index:06d}.depth.png", depth, dtype=np.uint16)
    text(root / "camera-intrinsics.txt", "40 0 18", "0 40 12", "0 0 1")
    return root


def same_revision(monkeypatch):
    """The git revision is part of a result; two results of one test must not differ by a commit in between."""
    monkeypatch.setattr("dense_ctx.environment.git_revision", lambda: "0000000")


def fixed_model(seed=0):
    """tiny_model with other weights."""
    from dense_ctx.testing import tiny_model

    model = tiny_model()
    if seed:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model
