"""A page to look at: random tasks (query, positive and their labels), and how frequent the classes are."""

from __future__ import annotations

import html
import random
from pathlib import Path
from typing import Any

import numpy as np

from dense_ctx import images as image_io
from dense_ctx import visualize
from dense_ctx.files import read_json, write_text

from .manifest import read_manifest
from .task_files import read_pairs, read_pseudo_labels


def write_report(root: Path, rows: int = 12, seed: int = 0) -> Path:
    """Write report/index.html and its pictures into a finished tasks folder; returns the page."""
    manifest = read_manifest(root)
    pairs = read_pairs(root / "pairs.jsonl")
    chosen = random.Random(seed).sample(pairs, min(rows, len(pairs)))
    folder = root / "report"
    picture = visualize.contact_sheet(
        [_row(root, Path(manifest["segment"]["images"]), query, positive) for query, positive in chosen],
        [Path(query).stem[-12:] for query, _ in chosen],
        ["query", "its labels", "positive", "its labels"],
    )
    visualize.save_picture(folder / "tasks.png", picture)
    statistics = class_statistics(root)
    page = folder / "index.html"
    write_text(page, _page(manifest, statistics, len(pairs)))
    return page


def _row(root: Path, images: Path, *names: str) -> list[visualize.Picture]:
    found = []
    for name in names:
        labels = read_pseudo_labels(root / "labels" / f"{name}.png")
        image = image_io.load(images / name)
        # colours by a scrambled id: classes with near ids, of which there are a thousand, must not look alike
        colours = visualize.palette(256)[1 + (labels.clamp_min(0).numpy() * 97) % 255]
        colours[(labels < 0).numpy()] = 255
        picture = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        found += [visualize.fit(item, (180, 240)) for item in (picture, colours)]
    return found


def class_statistics(root: Path) -> dict[str, Any]:
    """images, unlabelled (images without any class), classes used, and for each class: images, mean share there."""
    manifest = read_manifest(root)
    classes = int(manifest["cluster"]["classes"])
    images, mass = np.zeros(classes, dtype=np.int64), np.zeros(classes)
    count = bare = 0
    covered = 0.0
    for path in sorted((root / "votes").glob("shard-*.json")):
        for shares in read_json(path).values():
            count += 1
            bare += not shares
            covered += sum(shares.values())
            for key, share in shares.items():
                images[int(key)] += 1
                mass[int(key)] += share
    return {
        "images": count,
        "unlabelled": bare,
        "classes": classes,
        "used": int((images > 0).sum()),
        "labelled_pixels": covered / max(1, count),
        "per_class": [(key, int(images[key]), mass[key] / images[key]) for key in np.argsort(-images) if images[key]],
    }


def _page(manifest: dict[str, Any], found: dict[str, Any], pairs: int) -> str:
    settings = manifest["segment"]
    lines = [
        f"{found['images']} images of {settings['count']} ({found['unlabelled']} without a label), "
        f"{found['used']} of {found['classes']} pseudo-classes used, {found['labelled_pixels']:.1%} of the pixels "
        f"labelled, {pairs} pairs",
        f"segments: {settings['segmenter']} {settings['args']}, short side {settings['side']}; features: "
        f"{manifest['embed']['model']}; pairs: {manifest['pair']['neighbours']} neighbours, a shared class over more "
        f"than {manifest['pair']['shared']:.0%} of both",
    ]
    counts = [row[1] for row in found["per_class"]] or [0]
    quarters = np.percentile(counts, [0, 25, 50, 75, 100]).round().astype(int).tolist()
    lines.append(f"images a class: least {quarters[0]}, quartiles {quarters[1:4]}, most {quarters[4]}")
    table = "".join(f"<tr><td>{k}<td>{n}<td>{share:.1%}</tr>" for k, n, share in found["per_class"][:40])
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        "<!doctype html><meta charset='utf-8'><title>Tasks</title><style>body{font-family:sans-serif;margin:2em}"
        f"td,th{{padding:0 1em;text-align:right}}</style><h1>Tasks</h1>{text}<img src='tasks.png' alt='random tasks'>"
        f"<h2>Most frequent classes</h2><table><tr><th>class<th>images<th>share there</tr>{table}</table>\n"
    )
