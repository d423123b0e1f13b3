"""One cell: one head trained on one backbone for one task from one seed, and its record."""

from __future__ import annotations

import inspect
import shutil
import time
from typing import Any

import torch

from dense_ctx.config import ModelConfig, Part
from dense_ctx.data import ImageSet, open_set
from dense_ctx.environment import describe_environment, peak_memory_mb
from dense_ctx.errors import ConfigError, DenseCtxError, StoppedError
from dense_ctx.files import state_digest
from dense_ctx.interfaces import Objective, Size
from dense_ctx.model import DenseModel, create_backbone, create_decoder
from dense_ctx.plugins import registry
from dense_ctx.train import TrainConfig, train
from dense_ctx.train.config import Save, Schedule, Validate
from dense_ctx.train.data import mix, seed_all

from .plan import Bench, BenchTask, Cell
from .select import Best, hold_out
from .store import Store

LEAST_ROUNDS, MEASURED_SECONDS = 5, 0.5  # of the speed: long enough for other programs to pause once


def run_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Train, select and score a cell; its record, in which "status" is "done", or "failed" with the error.

    Raises:
        StoppedError: SIGINT or SIGTERM came in training; the same cell goes on from there next time.
    """
    try:
        return {"status": "done", **_run(bench, cell)}
    except StoppedError:
        raise
    except (DenseCtxError, RuntimeError) as error:  # out of memory, a file that is missing: the others go on
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _run(bench: Bench, cell: Cell) -> dict[str, Any]:
    started = time.monotonic()
    seed_all(mix(cell.seed, "bench", "backbone"))  # of an untrained one's weights
    backbone = create_backbone(cell.backbone.name, **cell.backbone.args)
    image_size = bench.image_size or backbone.image_size
    store = Store.of(bench, cell, backbone, image_size)
    steps = cell.task.steps or bench.steps
    objective = _objective(bench, cell, store, image_size)
    scored: Any = objective
    fit, held = hold_out(_images(cell.task, cell.task.train), bench.held_out)
    test = _images(cell.task, cell.task.val)
    dataset = objective.dataset(fit)
    head = Part(cell.head.name, _head_args(cell.head, bench, backbone.strides, image_size, scored.outputs))
    seed_all(mix(cell.seed, "bench"))  # of the head's first weights, whatever the backbone has drawn
    decoder = create_decoder(head.name, backbone, **head.args)
    model = DenseModel(backbone, decoder, ModelConfig(cell.backbone, head))
    if bench.cache:
        for name, images in (("train", fit), ("held-out", held), ("val", test)):
            store.fill(name, model, images, image_size)
    run = bench.out / "runs" / cell.name
    every = max(1, steps // 10) if len(held) else 0
    config = TrainConfig(
        str(run), steps, batch_size=bench.batch_size, seed=cell.seed, save=Save(200, 1),
        validate=Validate(every), log=max(1, steps // 20), schedule=Schedule(bench.schedule),
    )  # fmt: skip
    best = Best(run, scored.metric, scored.lower_is_better)

    def score(trained: DenseModel, name: str, images: ImageSet) -> dict[str, float]:
        kept = store.cache(name) if bench.cache else None
        found: dict[str, float] = scored.score(trained, images, cache=kept, targets=store.kept(name))
        return found

    def validate(trained: DenseModel, step: int) -> dict[str, float]:
        found = score(trained, "held-out", held)
        best.offer(trained, step, found[scored.metric])
        return found

    began = time.monotonic()
    train(config, model=model, objective=objective, dataset=dataset, validate=validate if every else None)
    training = time.monotonic() - began
    selected = best.restore(model)
    model.save_pretrained(run / "model")
    scores = score(model, "val", test)
    shutil.rmtree(run / "state", ignore_errors=True)  # the model stays, what a continued run needs does not
    return {
        "metric": scored.metric,
        "unit": getattr(scored, "unit", ""),
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
        "training_seconds": round(training, 1),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": peak_memory_mb(model.device),
        "environment": describe_environment(model.device),
    }


def _objective(bench: Bench, cell: Cell, store: Store, image_size: Size) -> Objective:
    """The task's objective, which can score."""
    name, lr = cell.task.objective, cell.head.args.get("lr", cell.task.lr)
    options = {} if lr is None else {"lr": lr}
    entry, _ = registry().get("objective", name)
    made: Any = registry().resolve(entry)
    if isinstance(made, type) and not (hasattr(made, "score") and hasattr(made, "metric")):
        raise ConfigError(f"{name} cannot score; a benchmark needs an objective with score() and metric, as maxa-depth")
    objective: Objective = registry().create(
        "objective", name, size=bench.size, image_size=image_size,
        cache=store.cache("train") if bench.cache else None, targets=store.kept("train"), **options,
    )  # fmt: skip
    return objective


def _images(task: BenchTask, split: str) -> ImageSet:
    """The images of a split."""
    options = {key: value for key, value in task.data.items() if key not in ("name", "root")}
    found = open_set(task.data["name"], task.data["root"], split, **options)
    if not isinstance(found, ImageSet):
        raise ConfigError(f"{task.data['name']} holds clips; a benchmark takes annotated images")
    return found


def _head_args(head: Part, bench: Bench, strides: tuple[int, ...], image_size: Size, outputs: int) -> dict[str, Any]:
    """The head's arguments: as many channels as the task has outputs, and the sizes if it wants to know them."""
    entry, _ = registry().get("decoder", head.name)
    known = inspect.signature(registry().resolve(entry)).parameters
    args: dict[str, Any] = {"dim": outputs, **{key: value for key, value in head.args.items() if key != "lr"}}
    if "size" in known:
        args.setdefault("size", list(bench.size))
    if "grid" in known:
        finest = min(strides[layer] for layer in args.get("layers", (-1,)))
        args.setdefault("grid", [-(-side // finest) for side in image_size])
    return args


@torch.no_grad()
def _measured(model: DenseModel, image_size: Size, size: Size) -> dict[str, Any]:
    """Seconds of one image through backbone and head, the least of many, and the grid of the deepest map."""
    image = torch.rand(1, 3, *image_size, generator=torch.Generator().manual_seed(0)).to(model.device)
    model.eval()
    backbone: list[float] = []
    head: list[float] = []
    began = time.perf_counter()
    while len(head) < LEAST_ROUNDS or time.perf_counter() - began < MEASURED_SECONDS:
        start = time.perf_counter()
        features, padded = model.encode(image)
        _wait(model.device)
        middle = time.perf_counter()
        model.decode(features, padded, image_size, size)
        _wait(model.device)
        backbone.append(middle - start)
        head.append(time.perf_counter() - middle)
    return {
        "grid": list(features.maps[-1].shape[-2:]),
        "backbone_seconds": min(backbone),  # other programs only add to it
        "head_seconds": min(head),
    }


def _wait(device: torch.device) -> None:
    """For what was asked of an accelerator, which works while the program goes on."""
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).synchronize()
