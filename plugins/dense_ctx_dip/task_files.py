"""Files of automatic tasks: label images with a void value, and lists of pairs."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dense_ctx.errors import FileError, InputError
from dense_ctx.files import read_pickle
from dense_ctx.images import open_image
from dense_ctx.visualize import palette, save_picture

_OFFICIAL = re.compile(r"[^:,\t]+:[^:,\t]+")
VOID = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}  # the largest value of the file's type


def save_pseudo_labels(path: Path, labels: Tensor, classes: int) -> None:
    """Write labels [H, W], -1 void: palette PNG up to 255 classes, 16-bit grey above.

    Raises:
        InputError: ids outside -1 .. classes - 1, or more than 65535 classes.
        FileError: the file cannot be written.
    """
    index = labels.cpu().numpy()
    low, high = int(index.min(initial=0)), int(index.max(initial=0))
    if low < -1 or high >= classes or classes > 65535:
        raise InputError(f"label ids run from {low} to {high}; expected -1 to {classes - 1}, and at most 65535 classes")
    dtype: Any = np.uint8 if classes <= 255 else np.uint16
    image = Image.fromarray(np.where(index < 0, VOID[np.dtype(dtype)], index).astype(dtype))
    if dtype is np.uint8:
        image.putpalette(palette().tobytes())
    save_picture(path, image)


def read_pseudo_labels(path: Path, classes: int | None = None) -> Tensor:
    """int64 [H, W], -1 void: from PNG (void is 255 or 65535, the largest value of its type), .npy or .pt (below 0).

    A .pt file is a tensor [H, W] or [1, H, W], as published with DIP; of its pickle nothing but a tensor is opened.

    Raises:
        FileError: missing, damaged, or no label image.
        InputError: an id beyond the classes.
    """
    if path.suffix == ".pt":
        index = _tensor(path).numpy()
    elif path.suffix == ".npy":
        try:
            index = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FileError(f"{path} cannot be read as labels: {error}") from None
    else:
        image = open_image(path)
        if image.mode not in ("P", "L") and not image.mode.startswith("I"):
            raise FileError(f"{path} is a {image.mode} picture; expected label ids: palette, 8 or 16-bit grey")
        index = np.asarray(image)
    if index.ndim != 2 or index.dtype.kind not in "iu":
        raise FileError(f"{path} holds {index.dtype} {list(index.shape)}; expected integers [H, W]")
    labels = torch.from_numpy(index.astype(np.int64)).clamp_min(-1)
    if path.suffix not in (".npy", ".pt"):
        labels = torch.where(labels == (255 if index.dtype == np.uint8 else 65535), -1, labels)
    if classes is not None and int(labels.max()) >= classes:
        raise InputError(
            f"{path} holds class {int(labels.max())}; the tasks were made with {classes}, 0 to {classes - 1}. "
            "Labels of another clustering?"
        )
    return labels


def _tensor(path: Path) -> Tensor:
    try:
        value = read_pickle(path)
    except ValueError as error:
        raise FileError(f"{path} is damaged, or holds more than a tensor and is not opened: {error}") from None
    if not isinstance(value, Tensor):
        raise FileError(f"{path} holds a {type(value).__name__}; expected a tensor [H, W] of label ids")
    value = value[0] if value.ndim == 3 and len(value) == 1 else value
    if value.is_floating_point() and bool((value == value.round()).all()):
        return value.long()
    return value


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(query, positive) names from JSON lines, JSON, or text.

    JSON lines: {"query": ..., "positive": ...}. JSON: {query: [positives]} or [[query, positive, ...]]. Text and CSV:
    a query and one or more positives a line, separated by commas, tabs or spaces; or QUERY: POSITIVE, as in the lists
    published with DIP.

    Raises:
        FileError: it cannot be read, or holds no pair.
    """
    try:
        text = path.read_text(encoding="utf-8")
        pairs = list(_pairs(text, path.suffix))
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"Cannot read the pairs {path}: {type(error).__name__}: {error}") from None
    if not pairs:
        raise FileError(
            f"{path} holds no pair. Lower the shared area or take more neighbours "
            "(`dense-ctx pseudo-label ... shared=0.01 neighbours=20`), or fewer classes"
        )
    return pairs


def _pairs(text: str, suffix: str) -> Iterator[tuple[str, str]]:
    if suffix == ".jsonl":
        rows: Any = (json.loads(line) for line in text.splitlines() if line.strip())
        yield from ((str(row["query"]), str(row["positive"])) for row in rows)
        return
    if suffix == ".json":
        data = json.loads(text)
        rows = data.items() if isinstance(data, dict) else ((row[0], row[1:]) for row in data)
        for query, positives in rows:
            for positive in [positives] if isinstance(positives, str) else positives:
                yield str(query), str(positive)
        return
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and all(_OFFICIAL.fullmatch(line) for line in lines):
        yield from ((query, positive) for query, positive in (re.split(r":\s*", line) for line in lines))
        return
    for row in csv.reader(text.splitlines()) if "," in text else (line.split() for line in text.splitlines()):
        names = [name.strip() for name in row if name.strip()]
        if len(names) == 1:
            raise ValueError(f"a line with one name, {names[0]!r}; expected a query and its positives")
        yield from ((names[0], name) for name in names[1:])
