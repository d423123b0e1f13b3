"""Build a run from its configuration, restore the latest state, prepare it for Accelerate."""

from __future__ import annotations

import datetime
import math
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from ..config import ModelConfig, unknown_keys
from ..create import create_part
from ..errors import ConfigError, FileError, InputError
from ..files import state_digest
from ..interfaces import Objective
from ..model import DenseModel
from ..model_spec import open_model
from ..numerics import arithmetic
from ..persistence.links import refuse_own_link
from ..persistence.lock import locked
from ..plugins import registry
from . import state
from .average import Averaged
from .callbacks import Callbacks
from .config import NOT_TRAINED, OPEN, Optimizer, TrainConfig
from .data import Order, count, loader, mix, seed_all
from .processes import ending_together, in_main, prepare_accelerator
from .step import TrainStep


@dataclass
class Run:
    """The objects of one run, in one process."""

    config: TrainConfig
    out: Path
    accelerator: Any
    step: TrainStep
    wrapped: Any
    optimizer: Any
    loader: Any
    samples: int
    frozen: str
    fresh: bool
    start: int
    seconds: float
    averaged: Averaged
    draws: bool = False  # whether the objective draws random numbers in its forward
    logs: list[str] | None = None  # names of the objective's losses

    def __post_init__(self) -> None:
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.modules = list(self.step.modules())
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.active = self.accelerator.is_main_process  # the process that writes
        self.callbacks = Callbacks(self.config, self.start, self.active)

    @property
    def steps(self) -> int:
        """Total number of steps; the configuration of a run has `steps` instead of `epochs`."""
        return cast(int, self.config.steps)

    def set_lr(self, done: int) -> float:
        """Set the learning rates for the step after `done` steps; returns the first group's."""
        scale = self.config.schedule.factor(done, self.steps)
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * scale
        return float(self.lrs[0] * scale)

    def save(self, done: int) -> None:
        """Write state/step_N, then remove states beyond `save.keep`."""

        def work() -> None:
            folder = state.folder_of(self.out, done)
            if not folder.exists():
                scaler = self.accelerator.scaler
                state.write(
                    folder,
                    self.step,
                    self.optimizer.optimizer,
                    self.averaged.tensors,
                    state.Meta(
                        done, round(self.seconds, 3), self.samples, self.config.to_dict(), self.frozen, self.fresh,
                        None if scaler is None else scaler.state_dict(),
                        self.accelerator.num_processes * self.config.accumulate, self.draws,
                    ),
                )  # fmt: skip
                self.callbacks("training_checkpoint", done, folder=folder)
            state.prune(self.out, self.config.save.keep)

        in_main(self.accelerator, work)

    def publish(self) -> Path:
        """Let the objective finish the model and write its folder."""
        folder = self.out / "model"
        self.step.eval()
        self.averaged.swap()

        def work() -> None:
            model, objective = self.step.model, self.step.objective
            objective.finish(model)
            model.model_config = replace(cast(ModelConfig, model.model_config), output=objective.output())
            model.save_pretrained(folder, trained_with=self._record())

        in_main(self.accelerator, work)
        return folder

    def _record(self) -> dict[str, Any]:
        from ..environment import command_line, describe_environment

        config = self.config.to_dict()
        return {
            "objective": config["objective"] or type(self.step.objective).__name__,
            **{key: config[key] for key in ("data", "steps", "batch_size")},
            "samples": self.samples,
            "config": {key: config[key] for key in config if key not in NOT_TRAINED},
            "seconds": round(self.seconds, 1),
            "processes": self.accelerator.num_processes,
            "command": command_line(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            **describe_environment(self.accelerator.device),
        }


def open_run(
    config: TrainConfig, model: DenseModel | None, objective: Objective | None, dataset: Any, until: ExitStack
) -> Run:
    """Build the parts that are not given and restore the latest state; `out` is locked until `until` ends."""
    accelerator, config = prepare_accelerator(config)
    until.enter_context(ending_together())
    until.enter_context(arithmetic(tf32=config.mixed_precision == "tf32"))
    out = Path(config.out)
    in_main(accelerator, lambda: _claim(config, out, until))
    for tracker in config.log_with or ():  # before weights are fetched and opened
        create_part("tracker", tracker.name, tracker.args)
    latest = _latest_state(config, out, accelerator)
    meta = None if latest is None else state.check(latest)
    if meta is not None:
        differing = config.differences(meta.config)
        if differing:
            raise ConfigError(
                f"{out} holds the run of another configuration: {'; '.join(differing)}. "
                "Undo the change, or choose another out"
            )
    seed_all(mix(config.seed, "objective"))
    objective = _objective(config) if objective is None else objective
    dataset = objective.dataset(config.data) if dataset is None else dataset  # before weights are fetched and opened
    seed_all(mix(config.seed, "model"))
    model = _model(config, accelerator.device) if model is None else model
    if model.model_config is None:
        raise ConfigError(
            "The model was made of modules, so it could not be saved after training. Register its parts in a plugin "
            "and use AutoDenseModel.from_parts with their names (see CONTRIBUTING.md)"
        )
    refuse_own_link(model, out / "model")
    if meta is not None:  # what an objective does in the end may depend on how the run began
        model.decoder.fresh = meta.fresh
    objective.check(model)
    samples = _samples(dataset, config)
    config = _in_steps(config, samples, accelerator)
    if meta is not None and meta.step > cast(int, config.steps):
        raise ConfigError(f"{latest} has {meta.step} steps already, more than steps={config.steps}")
    if meta is not None and meta.samples != samples:
        raise ConfigError(f"{latest} was trained on {meta.samples} samples, the data set now has {samples}")
    world, rank = accelerator.num_processes, accelerator.process_index
    if meta is not None and meta.draws and meta.parts != world * config.accumulate:
        raise ConfigError(
            f"{latest} was trained with processes x accumulate = {meta.parts}, and the objective draws random numbers "
            f"for each part; {world} x {config.accumulate} would draw others. Choose processes and accumulate with the "
            "same product"
        )
    order = Order(samples, config.seed, config.batch_size, config.accumulate, rank, world)
    start = 0 if meta is None else meta.step
    model.to(accelerator.device)
    fresh = model.decoder.fresh
    step = TrainStep(model, objective, dataset, fresh=fresh and meta is None)
    if config.compile:
        step.compile()
    frozen = state_digest({n: p for n, p in step.model.backbone.named_parameters() if not p.requires_grad})
    todo = order.between(start, cast(int, config.steps))
    batches = loader(dataset, objective, todo, config.seed, config.workers, accelerator.device)
    config, adamw = _optimizer(config if meta is None else config.filled(meta.config), config.optimizer, step)
    step.to(accelerator.device)
    wrapped, optimizer = accelerator.prepare(step, adamw)
    averaged = Averaged(step, config.average)
    if latest is not None and meta is not None:
        if meta.frozen != frozen:
            raise ConfigError(f"{latest} was trained on other backbone weights than {model.backbone.source} gives")
        averaged.tensors = state.load(latest, step, adamw)
        model.decoder.fresh = False
        if accelerator.scaler is not None and meta.scaler:
            accelerator.scaler.load_state_dict(dict(meta.scaler))
    in_main(accelerator, lambda: state.discard_after(out, start))
    in_main(accelerator, lambda: config.save_yaml(out / "config.yaml"))
    seconds = 0.0 if meta is None else meta.seconds
    return Run(
        config, out, accelerator, step, wrapped, optimizer, batches, samples, frozen, fresh, start, seconds, averaged,
        meta is not None and meta.draws,
    )  # fmt: skip


def _samples(dataset: Any, config: TrainConfig) -> int:
    try:
        return count(dataset)
    except InputError as error:
        if config.epochs is None:
            raise
        raise ConfigError(f"epochs is {config.epochs:g}, and there is no end of an epoch: {error}") from None


def _in_steps(config: TrainConfig, samples: int, accelerator: Any) -> TrainConfig:
    """The configuration in steps; says how many an epoch's are."""
    if config.epochs is None:
        return config
    resolved = config.resolved(samples)
    if accelerator.is_main_process:
        text = f"epochs={config.epochs:g} of {samples} samples: {resolved.steps} steps of {config.batch_size}"
        print(text, file=sys.stderr, flush=True)
    return resolved


def _claim(config: TrainConfig, out: Path, until: ExitStack) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot write to {out}: {error}. Choose another out") from error
    until.enter_context(locked(out / "run", f"The run {out}", math.inf if config.wait else 0))
    if config.resume == "never" and state.listed(out):
        raise FileError(f"{out} holds a run and resume=never; choose another out, or resume=auto to go on with it")


def _latest_state(config: TrainConfig, out: Path, accelerator: Any) -> Path | None:
    if config.resume == "never":
        return None
    if config.resume != "auto":
        return Path(config.resume)
    return cast("Path | None", in_main(accelerator, lambda: state.newest(out)))


def _model(config: TrainConfig, device: torch.device) -> DenseModel:
    if config.model is None:
        raise ConfigError("model is missing: {backbone: {name: ...}, decoder: {name: ...}}, or a saved model's name")
    if isinstance(config.model, str):
        return open_model(config.model)
    where = device if config.model.backbone.args.get("dtype") else None  # others make their first weights on the host
    return DenseModel.from_parts(config.model.backbone, config.model.decoder, device=where)


def _objective(config: TrainConfig) -> Objective:
    if config.objective is None:
        raise ConfigError(f"objective is missing: {{name: ...}}, one of {', '.join(registry().names('objective'))}")
    return cast(Objective, create_part("objective", config.objective.name, config.objective.args))


def _optimizer(config: TrainConfig, given: Optimizer, step: TrainStep) -> tuple[TrainConfig, torch.optim.AdamW]:
    """The configuration with the values that hold, and AdamW with them; `given` is what the user asked for."""
    groups, defaults = step.groups, dict(step.objective.optimizer)
    if unknown := sorted(set(defaults) - set(OPEN)):
        raise ConfigError(f"{type(step.objective).__name__}.optimizer: {unknown_keys(unknown, OPEN)}")
    own = {key for key in OPEN if all(key in group for group in groups)}
    for key, value in asdict(given).items():
        if key in own and value is not None:
            raise ConfigError(
                f"optimizer.{key}={value} would have no effect: the objective gives each of its parameter groups a "
                f"{key} of its own. Leave one of the two out"
            )
    config = config.filled({"optimizer": {key: v for key, v in {**OPEN, **defaults}.items() if key not in own}})
    spec = {**asdict(config.optimizer), **{key: OPEN[key] for key in own}}
    del spec["name"]
    return config, torch.optim.AdamW(groups, **spec, foreach=True)
