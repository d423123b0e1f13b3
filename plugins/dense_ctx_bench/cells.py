"""One cell: one head trained on one backbone for one task from one seed, and its record."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dense_ctx.config import ModelConfig, Part
from dense_ctx.create import create_backbone, create_decoder
from dense_ctx.data import ImageSet, Subset, open_set, published
from dense_ctx.environment import describe_environment, peak_memory_mb
from dense_ctx.errors import ConfigError, InputError, StoppedError
from dense_ctx.evaluate.result import clean
from dense_ctx.files import state_digest
from dense_ctx.interfaces import Backbone, Decoder, ScoredObjective, Size
from dense_ctx.model import DenseModel
from dense_ctx.plugins import blamed, registry
from dense_ctx.train import TrainConfig, train
from dense_ctx.train.config import Save, Schedule, Validate
from dense_ctx.train.data import mix, seed_all

from .check import create_objective
from .plan import Bench, BenchTask, Cell
from .select import Best, hold_out
from .speed import seconds_per_image
from .store import Store


def run_cell(
    bench: Bench,
    cell: Cell,
    on_error: Callable[[Cell, BaseException], object] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train, select and score a cell; its record, in which "status" is "done", or "failed" with the error.

    Args:
        on_error: called with the error of a cell that fails, while its traceback is at hand.
        device: on which everything is computed.

    Raises:
        StoppedError: SIGINT or SIGTERM was received in training; the cell resumes next time.
    """
    try:
        return {"status": "done", **_run(bench, cell, device)}
    except StoppedError:
        raise
    except (Exception, SystemExit) as error:  # out of memory, a missing file, a faulty part: the other cells still run
        if on_error is not None:
            on_error(cell, error)
        return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def _run(bench: Bench, cell: Cell, device: str) -> dict[str, Any]:
    started = time.monotonic()
    learning, val = _images(cell.task, cell.task.train), _images(cell.task, cell.task.val)  # before weights are opened
    seed_all(mix(cell.seed, "bench", "backbone"))  # of an untrained one's weights
    backbone = create_backbone(cell.backbone.name, **cell.backbone.args)
    image_size = bench.image_size or backbone.image_size
    store = Store.of(bench, cell, backbone, image_size)
    objective = _objective(bench, cell, store, image_size)
    train_images, held_out = hold_out(_subset(cell.task, learning), bench.held_out)
    images: dict[str, ImageSet] = {"train": train_images, "held-out": held_out, "val": val}
    data = {
        "samples": len(val), "published_samples": published(cell.task.data["name"], cell.task.val),
        "training_samples": len(learning),
        "published_training_samples": published(cell.task.data["name"], cell.task.train),
    }  # fmt: skip
    with blamed("objective", cell.task.objective):
        dataset = objective.dataset(train_images)
        outputs = objective.outputs(dataset)
    model = _model(bench, cell, backbone, image_size, outputs).to(device)
    features = {}
    if bench.cache:
        _check_frozen(cell, backbone)
        features = {name: store.open(name, model, some) for name, some in images.items()}
        if (stored := features["train"]) is not None:
            objective.use_features(stored)
    run = bench.out / "runs" / cell.name
    config = _config(bench, cell, str(run), device, validate=len(held_out) > 0)
    by_loss = bench.select == "loss" and bool(objective.loss_score)
    criterion = objective.loss_score if by_loss else objective.metric
    best = Best(run, criterion, by_loss or objective.lower_is_better)

    def score(trained: DenseModel, name: str) -> dict[str, float]:
        with blamed("objective", cell.task.objective):
            return _numbers(cell, objective, objective.score(trained.eval(), images[name], features=features.get(name)))

    def validate(trained: DenseModel, step: int) -> dict[str, float]:
        scores = score(trained, "held-out")
        best.offer(trained, step, scores[criterion])
        return scores

    began = time.monotonic()
    train(config, model=model, objective=objective, dataset=dataset, validate=validate if len(held_out) else None)
    training = time.monotonic() - began
    selected = best.restore(model)
    model.save_pretrained(run / "model")
    scores = score(model, "val")
    if not math.isfinite(scores[objective.metric]):
        raise InputError(f"{objective.metric} is {scores[objective.metric]}: the validation images allow no score")
    shutil.rmtree(run / "state", ignore_errors=True)  # the model stays, the state for resuming does not
    record = {
        "metric": objective.metric,
        "unit": objective.unit,
        "lower_is_better": objective.lower_is_better,
        "value": scores[objective.metric],
        "scores": clean(scores),
        "n": int(scores["images"]),
        "data": data,
        "selected": None if selected is None else {**selected, "by": criterion},
        "learnt": sum(p.numel() for p in model.decoder.parameters()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights": state_digest(model.backbone.state_dict()),
        "source": model.backbone.source,
        "image_size": list(image_size),
        **seconds_per_image(model, image_size, bench.size),
        "training_seconds": round(training, 1),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": peak_memory_mb(model.device),
        "environment": describe_environment(model.device),
    }
    checked: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))  # raises for what JSON cannot hold
    return checked


def _config(bench: Bench, cell: Cell, out: str, device: str, validate: bool) -> TrainConfig:
    steps = cell.task.steps or bench.steps
    return TrainConfig(
        out, steps, device=device, batch_size=bench.batch_size, seed=cell.seed, save=Save(200, 1),
        validate=Validate(max(1, steps // 10) if validate else 0), log=max(1, steps // 20),
        schedule=Schedule(bench.schedule), clip_norm=bench.clip_norm, mixed_precision=bench.mixed_precision,
        optimizer=replace(bench.optimizer, lr=cell.head.args.get("lr", cell.task.lr)),
    )  # fmt: skip


def _objective(bench: Bench, cell: Cell, store: Store, image_size: Size) -> ScoredObjective:
    """The task's objective, with this cell's sizes and folder."""
    objective = create_objective(cell.task)
    objective.size, objective.image_size = bench.size, image_size
    objective.use_folder(str(store.targets))
    return objective


def _images(task: BenchTask, split: str) -> ImageSet:
    """The images of a split."""
    options = {key: value for key, value in task.data.items() if key not in ("name", "root")}
    images = open_set(task.data["name"], task.data["root"], split, **options)
    if not isinstance(images, ImageSet):
        raise ConfigError(f"{task.data['name']} holds clips; a benchmark takes annotated images")
    return images


def _subset(task: BenchTask, images: ImageSet) -> ImageSet:
    """The training images that are used: all, or as many as the task says."""
    if task.images is None:
        return images
    if task.images > len(images):
        raise InputError(f"images={task.images}, but the split {task.train} of {task.data['name']} has {len(images)}")
    return Subset(images, sorted(random.Random(0).sample(range(len(images)), task.images)))


def _model(bench: Bench, cell: Cell, backbone: Backbone, image_size: Size, outputs: int) -> DenseModel:
    """The head on the backbone, with the task's number of outputs and the arguments that follow from the sizes."""
    entry, _ = registry().get("decoder", cell.head.name)
    decoder_class = registry().resolve(entry)
    args = {"dim": outputs, **{k: v for k, v in cell.head.args.items() if k != "lr"}, **cell.task.head}
    if isinstance(decoder_class, type) and issubclass(decoder_class, Decoder):  # else a function, which has no sizes
        arguments = {**entry.args, **args}
        sizes = decoder_class.size_args(bench.size, image_size, backbone.strides, arguments)
        args |= {key: value for key, value in sizes.items() if key not in arguments}
    seed_all(mix(cell.seed, "bench"))  # of the head's first weights, whatever the backbone has drawn
    decoder = create_decoder(cell.head.name, backbone, **args)
    return DenseModel(backbone, decoder, ModelConfig(cell.backbone, Part(cell.head.name, args)))


def _check_frozen(cell: Cell, backbone: Backbone) -> None:
    if backbone.adapters():
        raise ConfigError(
            f"{cell.backbone.name} has adapters that train, and features from disk would stay as they were before: "
            "give --no-cache (cache=False)"
        )


def _numbers(cell: Cell, objective: ScoredObjective, scores: Mapping[str, float]) -> dict[str, float]:
    """Scores as plain numbers.

    Raises:
        ConfigError: the headline or the number of images is missing.
    """
    numbers = {str(name): float(value) for name, value in scores.items()}
    missing = [name for name in (objective.metric, "images") if name not in numbers]
    if missing:
        raise ConfigError(
            f"{cell.task.objective}'s score() gave {', '.join(numbers) or 'nothing'}, without {' and '.join(missing)}"
        )
    return numbers
