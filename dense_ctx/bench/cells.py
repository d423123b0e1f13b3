"""One cell is one head trained on one backbone for one task from one seed; its file is written when it is done."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import state_digest
from ..config import Part
from ..datasets import ImageSet, open_set
from ..errors import ConfigError, DenseCtxError
from ..evaluate.result import describe_environment, peak_memory_mb, read_json, write_json
from ..interfaces import Objective, Size
from ..model import AutoDenseModel, DenseModel, create_backbone
from ..plugins import registry
from ..train import TrainConfig, train
from ..train.config import Save, Validate
from ..train.data import mix, seed_all
from .select import Best, hold_out

FORMAT = 1


@dataclass(frozen=True)
class BenchTask:
    """A registered objective that can score, such as maxa-depth, and the data it is trained and tested on.

    data: what `objective.dataset` takes, without the split; train, val: the splits.
    """

    objective: str
    data: Mapping[str, Any]
    train: str = "train"
    val: str = "val"


@dataclass(frozen=True)
class Bench:
    """What is run.

    size: (H, W) of the outputs, the same for all. image_size: of the inputs; None: each backbone's native size.
    steps, batch_size: of the training of each head. held_out: share of the training images that chooses among ten of
        its states; 0: the last one is scored. cache: keep each backbone's features under `out`/features.
    """

    out: Path
    backbones: tuple[Part, ...]
    heads: tuple[Part, ...]
    tasks: tuple[BenchTask, ...]
    seeds: tuple[int, ...] = (0,)
    size: Size = (224, 224)
    image_size: Size | None = None
    steps: int = 1000
    batch_size: int = 16
    held_out: float = 0.1
    cache: bool = True

    def __post_init__(self) -> None:
        for name in ("backbones", "heads", "tasks", "seeds"):
            values = getattr(self, name)
            if not values:
                raise ConfigError(f"{name} is empty: there is nothing to run")
            if len({repr(value) for value in values}) != len(values):
                raise ConfigError(f"{name} names one twice")
        if not 0 <= self.held_out <= 0.5:
            raise ConfigError(f"held_out={self.held_out}: expected a share from 0 to 0.5")
        for task in self.tasks:  # a typo is found before hours of work
            registry().get("objective", task.objective)
        for kind, parts in (("backbone", self.backbones), ("decoder", self.heads)):
            for part in parts:
                registry().get(kind, part.name)

    def cells(self) -> Iterator[Cell]:
        """All cells, those of one backbone side by side."""
        for backbone in self.backbones:
            for task in self.tasks:
                for head in self.heads:
                    for seed in self.seeds:
                        yield Cell(backbone, head, task, seed)


@dataclass(frozen=True)
class Cell:
    """One head on one backbone for one task from one seed."""

    backbone: Part
    head: Part
    task: BenchTask
    seed: int

    @property
    def name(self) -> str:
        """Fit for a file: readable, and told apart from others by a digest of all arguments."""
        words = f"{self.backbone.name}-{self.head.name}-{self.task.objective}-{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', words)}-{_digest(asdict(self))}"


def run_bench(bench: Bench, report: Callable[[Cell, Mapping[str, Any]], object] | None = None) -> list[dict[str, Any]]:
    """Run the cells that are not done; a cell that fails is written down as failed, and tried again next time.

    Args:
        report: called with each cell and its record, also of those that were done before.

    Returns:
        The records, in the order of `Bench.cells`; "status" is "done" or "failed".

    Raises:
        ConfigError: `out` holds a cell that was run with other settings.
    """
    records = []
    for cell in bench.cells():
        path = bench.out / "cells" / f"{cell.name}.json"
        settings = _settings(bench, cell)
        record = read_json(path) if path.exists() else None
        if record is not None and record["settings"] != settings:
            differing = [key for key, value in settings.items() if record["settings"].get(key) != value]
            raise ConfigError(f"{path} was run with another {', '.join(differing)}; choose another --out or remove it")
        if record is None or record["status"] != "done":
            record = {"format": FORMAT, "settings": settings, **_guarded(bench, cell)}
            write_json(path, record)
        records.append(record)
        if report is not None:
            report(cell, record)
    return records


def _settings(bench: Bench, cell: Cell) -> dict[str, Any]:
    values = {
        "backbone": asdict(cell.backbone), "head": asdict(cell.head), "task": asdict(cell.task), "seed": cell.seed,
        "size": bench.size, "image_size": bench.image_size, "steps": bench.steps, "batch_size": bench.batch_size,
        "held_out": bench.held_out,
    }  # fmt: skip
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return found


def _guarded(bench: Bench, cell: Cell) -> dict[str, Any]:
    try:
        return {"status": "done", **_run(bench, cell)}
    except (DenseCtxError, RuntimeError) as error:  # out of memory, a file that is missing: the others go on
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _run(bench: Bench, cell: Cell) -> dict[str, Any]:
    started = time.monotonic()
    backbone = create_backbone(cell.backbone.name, **cell.backbone.args)
    image_size = bench.image_size or backbone.image_size
    features = None
    if bench.cache:
        features = bench.out / "features" / _digest([asdict(cell.backbone), image_size, cell.task.data])
    layers = _digest(cell.head.args.get("layers"))  # heads that read other maps need other files
    objective: Objective = registry().create(
        "objective", cell.task.objective, base=Objective, size=bench.size, image_size=image_size,
        cache=None if features is None else str(features / f"train-{layers}"),
    )  # fmt: skip
    if not callable(getattr(objective, "score", None)) or not hasattr(objective, "metric"):
        raise ConfigError(f"{cell.task.objective} cannot score; a benchmark needs an objective with score() and metric")
    scored: Any = objective
    fit, held = hold_out(_images(cell.task), bench.held_out)
    dataset = objective.dataset(fit)
    seed_all(mix(cell.seed, "bench"))  # of the head's first weights
    model = AutoDenseModel.from_parts(
        cell.backbone, Part(cell.head.name, _head_args(cell.head, bench, backbone.strides, image_size, scored.outputs))
    )
    run = bench.out / "runs" / cell.name
    every = max(1, bench.steps // 10) if len(held) else 0
    config = TrainConfig(
        str(run), bench.steps, batch_size=bench.batch_size, seed=cell.seed, save=Save(200, 1),
        validate=Validate(every), log=max(1, bench.steps // 20),
    )  # fmt: skip
    best = Best(run, scored.metric, scored.lower_is_better)

    def validate(trained: DenseModel, step: int) -> dict[str, float]:
        kept = None if features is None else str(features / f"held-out-{layers}")
        found: dict[str, float] = scored.score(trained, held, cache=kept)
        best.offer(trained, step, found[scored.metric])
        return found

    train(config, model=model, objective=objective, dataset=dataset, validate=validate if every else None)
    selected = best.restore(model)
    model.save_pretrained(run / "model")
    val = {**cell.task.data, "split": cell.task.val}
    scores = scored.score(model, val, cache=None if features is None else str(features / f"val-{layers}"))
    shutil.rmtree(run / "state", ignore_errors=True)  # the model stays, what a continued run needs does not
    return {
        "metric": scored.metric,
        "lower_is_better": scored.lower_is_better,
        "value": scores[scored.metric],
        "scores": scores,
        "n": int(scores.get("images", 0)),
        "selected": selected,
        "learnt": sum(p.numel() for p in model.decoder.parameters()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights": state_digest(model.backbone.state_dict()),
        "source": model.backbone.source,
        "image_size": list(image_size),
        **_measured(model, image_size, bench.size),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": peak_memory_mb(model.device),
        "environment": describe_environment(model.device),
    }


def _images(task: BenchTask) -> ImageSet:
    """The training images."""
    options = {key: value for key, value in task.data.items() if key not in ("name", "root")}
    if not {"name", "root"} <= set(task.data):
        raise ConfigError(
            f"{task.objective} needs name (of a data set) and root; got {', '.join(task.data) or 'nothing'}"
        )
    found = open_set(task.data["name"], task.data["root"], task.train, **options)
    if not isinstance(found, ImageSet):
        raise ConfigError(f"{task.data['name']} holds clips; a benchmark takes annotated images")
    return found


def _head_args(head: Part, bench: Bench, strides: tuple[int, ...], image_size: Size, outputs: int) -> dict[str, Any]:
    """The head's arguments: as many channels as the task has outputs, and the sizes if it wants to know them."""
    entry, _ = registry().get("decoder", head.name)
    known = inspect.signature(registry().resolve(entry)).parameters
    args: dict[str, Any] = {"dim": outputs, **head.args}
    if "size" in known:
        args.setdefault("size", list(bench.size))
    if "grid" in known:
        finest = min(strides[layer] for layer in args.get("layers", (-1,)))
        args.setdefault("grid", [-(-side // finest) for side in image_size])
    return args


@torch.no_grad()
def _measured(model: DenseModel, image_size: Size, size: Size) -> dict[str, Any]:
    """Seconds of one image through backbone and head, the median of three, and the grid of the deepest map."""
    image = torch.rand(1, 3, *image_size, generator=torch.Generator().manual_seed(0))
    model.eval()
    backbone, head = [], []
    for _ in range(4):
        start = time.perf_counter()
        features, padded = model.encode(image)
        middle = time.perf_counter()
        model.decode(features, padded, image_size, size)
        backbone.append(middle - start)
        head.append(time.perf_counter() - middle)
    return {
        "grid": list(features.maps[-1].shape[-2:]),
        "backbone_seconds": sorted(backbone[1:])[1],
        "head_seconds": sorted(head[1:])[1],
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
