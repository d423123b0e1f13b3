"""check_probe: the clauses of `dense_ctx.Probe`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional

from ..errors import CheckpointError, ConfigError, InputError, NotFittedError
from ..interfaces import DenseFeatures, Probe
from ..persistence.file_args import file_args_problem
from ..persistence.tensors import load_probe
from .common import Clauses, difference, factory, finite, noise

CELL, GRID, WIDTH = 4, (4, 6), 8  # pixels a patch, patches, channels: images of 16 x 24


def check_probe(probe: str | Callable[..., Probe], *, args: dict[str, Any] | None = None) -> tuple[str, ...]:
    """Verify a probe for both tasks, on features of well separated classes.

    A task counts as unsupported where the constructor refuses it, with these arguments, by an InputError or a
    ConfigError; one must be supported.

    Args:
        probe: a registered name, or a class or function called with task=.
        args: further constructor arguments.

    Returns:
        The clauses verified: construction, unfitted, fit, input, predict, learns, ignored, deterministic,
        state_dict, strict, and for segmentation probabilities and new_class.

    Raises:
        ContractError: a clause is broken.
    """
    build = factory("probe", probe, args or {})
    check = Clauses("probe", probe)
    supported = 0
    for task in ("segmentation", "regression"):
        with check.clause("construction") as require:
            try:
                part = build(task=task)
            except (ConfigError, InputError):
                continue
            require((fault := file_args_problem(type(part))) is None, fault or "")
        supported += 1
        _task(check, partial(build, task=task), task == "segmentation")
    with check.clause("construction") as require:
        require(supported > 0, "takes neither task='segmentation' nor task='regression'")
    return tuple(check.done)


def _scene(classes: tuple[int, ...], seed: int) -> tuple[DenseFeatures, Tensor]:
    """Two images whose patches each show one class: a mean per class plus little noise."""
    generator = torch.Generator().manual_seed(seed)
    means = 3 * noise(5, WIDTH, seed=1)
    draw = torch.randint(len(classes), (2, *GRID), generator=generator)
    draw.view(2, -1)[:, : len(classes)] = torch.arange(len(classes))  # each class in each image
    cells = torch.tensor(classes)[draw]
    labels = cells.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    pixels = means[labels].permute(0, 3, 1, 2)
    pixels = pixels + 0.1 * torch.randn(pixels.shape, generator=generator)
    patches = functional.avg_pool2d(pixels, CELL)
    return DenseFeatures(pixels.contiguous(), patches, patches.mean(dim=(2, 3))), labels


def _values(labels: Tensor) -> Tensor:
    """Two regression targets [B, 2, H, W] for the classes."""
    table = torch.tensor([[0.0, 2.0], [1.0, -1.0], [2.0, 0.5]])
    return table[labels].permute(0, 3, 1, 2).contiguous()


def _right(probe: Probe, features: DenseFeatures, labels: Tensor, segmentation: bool) -> float:
    """Accuracy, or the share of variance explained."""
    out = probe.predict(features)
    if segmentation:
        return float((out.argmax(dim=1) == labels).float().mean())
    expected = _values(labels)
    spread = (expected - expected.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    return float(1 - (out - expected).square().mean() / spread)


def _task(check: Clauses, build: Callable[[], Probe], segmentation: bool) -> None:
    train, labels = _scene((0, 1, 2), seed=2)
    test, test_labels = _scene((0, 1, 2), seed=3)
    targets = labels if segmentation else _values(labels)
    count = 3 if segmentation else 2
    height, width = train.pixels.shape[-2:]
    original = [train.pixels.clone(), train.patches.clone(), targets.clone()]
    with check.clause("unfitted") as require:
        try:
            build().predict(train)
        except NotFittedError:
            pass
        else:
            require(False, "predict before partial_fit must raise NotFittedError")
    with check.clause("fit") as require:
        probe = build()
        require(isinstance(probe, Probe), f"gave a {type(probe).__name__}, not a Probe")
        require(probe.partial_fit(train, targets) is probe, "partial_fit must return the probe itself")
    with check.clause("input") as require:
        now = (train.pixels, train.patches, targets)
        require(all(torch.equal(a, b) for a, b in zip(now, original, strict=True)), "partial_fit changes its input")
    with check.clause("predict") as require:
        out = probe.predict(test)
        require(tuple(out.shape) == (2, count, height, width), f"gave {tuple(out.shape)} for {height} x {width}")
        require(finite(out), "the prediction has NaN or infinity")
        sized = tuple(probe.predict(test, size=(11, 19)).shape)
        require(sized == (2, count, 11, 19), f"gave {sized} for size (11, 19)")
    if segmentation:
        with check.clause("probabilities") as require:
            require(bool((out >= -1e-6).all()), "probabilities are negative")
            require(bool(((out.sum(dim=1) - 1).abs() < 1e-4).all()), "probabilities do not sum to 1 over classes")
    with check.clause("learns") as require:
        right = _right(probe, test, test_labels, segmentation)
        require(right > 0.9, f"scores {right:.2f} where classes are well apart; more than 0.9 is expected")
    with check.clause("deterministic") as require:
        again = build().partial_fit(train, targets).predict(test)
        require(difference(again, out) <= 1e-5, "two fits on the same data predict differently")
    with check.clause("state_dict") as require:
        other = build()
        other.load_state_dict(load(save({k: v.contiguous() for k, v in probe.state_dict().items()})))
        require(difference(other.predict(test), out) <= 1e-5, "predicts differently after a round trip of its state")
    with check.clause("strict") as require:
        state = probe.state_dict()
        wrong = {f"{name} is missing": {k: v for k, v in state.items() if k != name} for name in state}
        wrong |= {f"{name} has one more axis": {**state, name: value[None]} for name, value in state.items()}
        wrong |= {f"{name} is complex": {**state, name: value + 0j} for name, value in state.items()}
        wrong["a tensor is left over"] = {**state, "left_over": torch.zeros(1)}
        for fault, tensors in wrong.items():
            with suppress(CheckpointError):
                load_probe(build(), tensors, "")
                require(False, f"load_state_dict accepts a state in which {fault}")
    _ignored(check, build(), segmentation)
    if segmentation:
        _new_class(check, build())


def _ignored(check: Clauses, probe: Probe, segmentation: bool) -> None:
    """Most of the target is unknown; taken for a class or a number, it would dominate."""
    train, labels = _scene((0, 1, 2), seed=4)
    test, test_labels = _scene((0, 1, 2), seed=5)
    hidden = torch.ones_like(labels, dtype=torch.bool)
    hidden[:, :CELL] = False  # the first row of patches shows every class
    classes, values = labels.masked_fill(hidden, -1), _values(labels).masked_fill(hidden[:, None], torch.nan)
    targets = classes if segmentation else values
    what = "-1" if segmentation else "NaN"
    with check.clause("ignored") as require:
        out = probe.partial_fit(train, targets).predict(test)
        require(out.shape[1] == (3 if segmentation else 2), f"{what} became a class: {out.shape[1]} channels")
        require(finite(out), f"{what} in the target reaches the prediction")
        right = _right(probe, test, test_labels, segmentation)
        require(right > 0.9, f"scores {right:.2f} when most of the target is {what}; it must be left out")


def _new_class(check: Clauses, probe: Probe) -> None:
    with check.clause("new_class") as require:
        for classes, seed in (((0, 1), 6), ((1, 2), 7)):
            features, labels = _scene(classes, seed)
            probe.partial_fit(features, labels)
        test, labels = _scene((0, 1, 2), seed=8)
        channels = probe.predict(test).shape[1]
        require(channels == 3, f"{channels} channels after a third class came with a second partial_fit")
        right = _right(probe, test, labels, True)
        require(right > 0.9, f"scores {right:.2f} after a second partial_fit with a new class")
