"""The stranger's distribution in a site folder of its own, and the command line in a process that sees it.

`spell` and `lila` are the only places that know how command lines and configurations are spelt.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from plugin_sandbox import distribution

TESTS = Path(__file__).parent
_WORK = tempfile.TemporaryDirectory(prefix="dense-ctx-stranger-")  # removed when the process ends
ROWS = {  # the stripes of the stranger's data set, an image a line
    "train": ("0 1 2 0", "1 2 0 1", "2 0 1 2", "0 0 1 2"),
    "val": ("2 1 0 0", "1 1 2 0", "0 2 2 1"),
}
MODEL = "stranger-blocks+stranger-mix(dim=6)"


@dataclass(frozen=True)
class Site:
    """A folder of installed distributions; `also` come before it on sys.path."""

    folder: Path
    also: tuple[Path, ...] = ()

    def run(self, *words: object, module: str = "dense_ctx.cli") -> tuple[int, str, str]:
        """Exit status, stdout and stderr of `dense-ctx WORDS`, or of another module or code ("-c")."""
        path = [*map(str, (*self.also, self.folder)), os.environ.get("PYTHONPATH", "")]
        outside = {k: v for k, v in os.environ.items() if not k.startswith("DENSE_CTX_")}
        settings = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
        environment = {**outside, **settings, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        start = [sys.executable, *(["-m", module] if module else [])]
        command = [*start, *map(str, words)]
        process = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True)
        return process.returncode, process.stdout, process.stderr

    def refused(self, *words: object) -> str:
        """The one line with which the command ends in status 2."""
        status, _, error = self.run(*words)
        assert status == 2, error
        assert "Traceback" not in error
        (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
        assert error.rstrip().endswith(line), "the error is one line, the last"
        return line


@functools.cache
def stranger() -> Site:
    """The stranger's distribution, installed by pip as any other."""
    work = Path(_WORK.name)
    source = shutil.copytree(TESTS / "third_party", work / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(work / "site"), str(source)], check=True)
    return Site(work / "site")


def faulty(folder: Path, init: str | None = None) -> Site:
    """The stranger beside the distribution "dense-ctx-faults" 0.1, whose plugin is "faults"; `init`: its __init__."""
    source = TESTS / "third_party_faults" / "dense_ctx_faults"
    files = {f"dense_ctx_faults/{path.name}": path.read_text(encoding="utf-8") for path in source.glob("*.py")}
    if init is not None:
        files["dense_ctx_faults/__init__.py"] = init
    distribution(folder, "dense-ctx-faults", files, {"faults": "dense_ctx_faults"}, version="0.1")
    return Site(stranger().folder, (folder,))


def stripes(root: Path) -> Path:
    """The stranger's data set."""
    root.mkdir(parents=True, exist_ok=True)
    for split, rows in ROWS.items():
        (root / f"{split}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def labels(row: str) -> np.ndarray:
    """The class ids [16, W] of a line of the data set."""
    return np.repeat([int(word) for word in row.split()], 8)[None].repeat(16, 0)


def pictures(folder: Path, count: int = 4, size: tuple[int, int] = (48, 80)) -> Path:
    """A smooth picture that moves to the right, as PNG: images, or the frames of a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        x, y = np.meshgrid(np.arange(size[1]) - 2 * index, np.arange(size[0]))
        picture = np.stack([np.sin(x / 9 + y / 7), np.cos(x / 5), np.sin(y / 4 - x / 11)], -1)
        Image.fromarray((127 + 100 * picture).astype(np.uint8)).save(folder / f"{index:05d}.png")
    return folder


def records(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The cells of a benchmark: (objective, decoder) to record."""
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "cells").glob("*.json"))]
    return {(cell["settings"]["task"]["objective"], cell["settings"]["head"]["name"]): cell for cell in cells}


def lila(out: Path, clips: Path, decoder: str, **args: Any) -> Path:
    """A configuration of two steps of LILA, written beside `out`: features and the stranger's cue, no flow."""
    sampling = {"size": 32, "frame_side": 48, "cue_side": 48, "crop": [0.6, 0.9], "gap": [1, 2]}
    backbone = {"name": "stranger-blocks", "args": {"adapt": True}}
    objective = {"cues": ["features", "stranger-grey"], "start": 0, "centre": 0, "sampling": sampling, **args}
    config = {
        "out": str(out), "steps": 2, "batch_size": 2, "log": 1, "optimizer": {"lr": 1e-3}, "data": str(clips),
        "model": {"backbone": backbone, "decoder": {"name": decoder, "args": {"dim": 4}}},
        "objective": {"name": "lila", "args": objective},
    }  # fmt: skip
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return path


def spell(verb: str, out: Path, data: Path, *more: object, **values: Any) -> list[object]:
    """The words of a command.

    evaluate: protocol=ID, model=MODEL. bench: tasks=[OBJECTIVE or OBJECTIVE(args), ...].
    pseudo-label: segmenter=NAME(key=value, ...). `more`: key=value changes, and options.
    """
    if verb == "evaluate":
        model, protocol = values.get("model", MODEL), values.get("protocol", "stranger-stripes-v1")
        return [verb, model, "--protocol", protocol, "--data", data, "--out", out, "--device", "cpu", *more]
    if verb == "bench":
        names = (name.rstrip(")") + (", " if "(" in name else "(") for name in values["tasks"])
        tasks = [f"{name}name=stranger-stripes, root={data})" for name in names]
        parts = ["--backbones", "stranger-blocks", "--heads", "stranger-mix", "stranger-places", "--tasks", *tasks]
        sizes = ["--size", 16, 32, "--image-size", 16, 32, "--steps", 30, "--batch", 2, "--held-out", 0]
        return [verb, *parts, *sizes, "--out", out, *more]
    if verb == "pseudo-label":
        few = ["side=32", "classes=3", "neighbours=2", "--device", "cpu"]
        return [verb, data, "--out", out, "--model", MODEL, "--segmenter", values["segmenter"], *few, *more]
    raise ValueError(verb)
