"""HTML report on a tasks folder: random tasks (query, positive and their labels), and class frequencies."""

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
    """Write report/index.html and its pictures into a finished tasks folder; returns the page's path."""
    manifest = read_manifest(root)
    pairs = read_pairs(root / "pairs.jsonl")
    sample = random.Random(seed).sample(pairs, min(rows, len(pairs)))
    folder = root / "report"
    picture = visualize.contact_sheet(
        [_row(root, Path(manifest["segment"]["images"]), query, positive) for query, positive in sample],
        [Path(query).stem[-12:] for query, _ in sample],
        ["query", "its labels", "positive", "its labels"],
    )
    visualize.save_picture(folder / "tasks.png", picture)
    statistics = class_statistics(root)
    page = folder / "index.html"
    write_text(page, _page(manifest, statistics, len(pairs)))
    return page


def _row(root: Path, images: Path, *names: str) -> list[visualize.Picture]:
    pictures = []
    for name in names:
        labels = read_pseudo_labels(root / "labels" / f"{name}.png")
        image = image_io.load(images / name)
        # scramble the ids, so that classes with neighbouring ids do not look alike
        colours = visualize.palette(256)[1 + (labels.clamp_min(0).numpy() * 97) % 255]
        colours[(labels < 0).numpy()] = 255
        picture = (image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        pictures += [visualize.fit(item, (180, 240)) for item in (picture, colours)]
    return pictures


def class_statistics(root: Path) -> dict[str, Any]:
    """Count images, images without a class, and used classes; for each class its images and its mean share in them."""
    manifest = read_manifest(root)
    classes = int(manifest["cluster"]["classes"])
    images, mass = np.zeros(classes, dtype=np.int64), np.zeros(classes)
    count = unlabelled = 0
    covered = 0.0
    for path in sorted((root / "votes").glob("shard-*.json")):
        for shares in read_json(path).values():
            count += 1
            unlabelled += not shares
            covered += sum(shares.values())
            for key, share in shares.items():
                images[int(key)] += 1
                mass[int(key)] += share
    return {
        "images": count,
        "unlabelled": unlabelled,
        "classes": classes,
        "used": int((images > 0).sum()),
        "labelled_pixels": covered / max(1, count),
        "per_class": [(key, int(images[key]), mass[key] / images[key]) for key in np.argsort(-images) if images[key]],
    }


def _page(manifest: dict[str, Any], statistics: dict[str, Any], pairs: int) -> str:
    settings = manifest["segment"]
    lines = [
        f"{statistics['images']} images of {settings['count']} ({statistics['unlabelled']} without a label), "
        f"{statistics['used']} of {statistics['classes']} pseudo-classes used, "
        f"{statistics['labelled_pixels']:.1%} of the pixels labelled, {pairs} pairs",
        f"segments: {settings['segmenter']} {settings['args']}, short side {settings['side']}; features: "
        f"{manifest['embed']['model']}; pairs: {manifest['pair']['neighbours']} neighbours, a shared class over more "
        f"than {manifest['pair']['shared']:.0%} of both",
    ]
    counts = [row[1] for row in statistics["per_class"]] or [0]
    quarters = np.percentile(counts, [0, 25, 50, 75, 100]).round().astype(int).tolist()
    lines.append(f"images per class: minimum {quarters[0]}, quartiles {quarters[1:4]}, maximum {quarters[4]}")
    table = "".join(f"<tr><td>{k}<td>{n}<td>{share:.1%}</tr>" for k, n, share in statistics["per_class"][:40])
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        "<!doctype html><meta charset='utf-8'><title>Tasks</title><style>body{font-family:sans-serif;margin:2em}"
        f"td,th{{padding:0 1em;text-align:right}}</style><h1>Tasks</h1>{text}<img src='tasks.png' alt='random tasks'>"
        f"<h2>Most frequent classes</h2><table><tr><th>class<th>images<th>mean share</tr>{table}</table>\n"
    )
