"""check_objective: the clauses of `dense_ctx.Objective`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import ConfigError
from ..interfaces import Losses, Objective, SeededDataset
from ..model import DenseModel
from ..persistence.file_args import file_args_problem
from ..train import TrainStep
from ..train.data import count
from .common import Clauses, factory, finite
from .tiny import tiny_model


def check_objective(
    objective: Objective | str | Callable[..., Objective],
    data: Any,
    *,
    args: dict[str, Any] | None = None,
    model: DenseModel | None = None,
    steps: int = 2,
    batch_size: int = 2,
) -> tuple[str, ...]:
    """Verify an objective by training a model with it.

    Args:
        objective: the module, or a registered name, a class or a function with `args`.
        data: what `objective.dataset` takes.
        model: what to train, changed by it; default `tiny_model()`.
        steps: optimiser steps (SGD).
        batch_size: samples in each.

    Returns:
        The clauses verified: construction, dataset, collate, setup, losses, gradients, after_step, step,
        frozen, state_dict, opened (`setup` leaves the weights of a model that is not fresh as they are; an objective
        that cannot continue from these may raise a ConfigError).

    Raises:
        ContractError: a clause is broken.
    """
    check = Clauses("objective", objective)
    with check.clause("construction") as require:
        part = objective if isinstance(objective, Objective) else factory("objective", objective, args or {})()
        require(isinstance(part, Objective), f"gave a {type(part).__name__}, not an Objective")
        require((fault := file_args_problem(type(part))) is None, fault or "")
    model = tiny_model() if model is None else model
    with check.clause("dataset") as require:
        dataset = part.dataset(data)
        samples = count(dataset)
        if isinstance(dataset, SeededDataset):
            for index in {0, samples - 1}:
                first, second = (part.collate([dataset.sample(index, seed=7)]) for _ in range(2))
                same = all(torch.equal(first[k], second[k]) for k in first if isinstance(first[k], Tensor))
                require(same, f"sample({index}, seed=7) is another one when it is read again")
    with check.clause("collate") as require:
        batches: list[Any] = []
        while len(batches) < steps:
            before = len(batches)
            batches += list(DataLoader(dataset, batch_size=batch_size, collate_fn=part.collate))[:steps]
            require(len(batches) > before, "the data loader gave no batch")
        require(all(isinstance(b, Mapping) for b in batches), f"collate gave a {type(batches[0]).__name__}")
    copies = copy.deepcopy(model), copy.deepcopy(part)
    with check.clause("setup") as require:
        step = TrainStep(model, part, dataset, fresh=True)
        require(all("params" in group for group in step.groups), "each group needs the key 'params'")
    _opened(check, *copies, dataset)
    _train(check, step, batches[:steps])
    with check.clause("state_dict"):
        copy.deepcopy(part).load_state_dict(part.state_dict(), strict=True)
    return tuple(check.done)


def _opened(check: Clauses, model: DenseModel, objective: Objective, dataset: Any) -> None:
    """Set up as for a model opened from a folder."""
    with check.clause("opened") as require:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            TrainStep(model, objective, dataset, fresh=False)
        except ConfigError:
            return
        after = model.state_dict()
        changed = [name for name, value in before.items() if not torch.equal(value, after.get(name, value))]
        require(not changed, f"setup with fresh=False changed weights of a trained model: {', '.join(changed[:3])}")


def _tensors(step: TrainStep, trained: set[int]) -> dict[str, Tensor]:
    """The backbone's tensors that training must not change, including BatchNorm's statistics."""
    backbone = step.model.backbone
    frozen = [(n, p) for n, p in backbone.named_parameters() if id(p) not in trained]
    return {name: tensor.detach().clone() for name, tensor in [*frozen, *backbone.named_buffers()]}


def _train(check: Clauses, step: TrainStep, batches: list[Any]) -> None:
    parameters = [p for group in step.groups for p in group["params"]]
    trained = {id(p) for p in parameters}
    before = [p.detach().clone() for p in parameters]
    frozen = _tensors(step, trained)
    optimizer = torch.optim.SGD(step.groups, lr=1e-2)
    step.train()
    touched: set[int] = set()
    for number, batch in enumerate(batches, start=1):
        with check.clause("losses") as require:
            raw = step.objective(step.model, batch)
            require(isinstance(raw, Losses), f"forward gave a {type(raw).__name__}, not Losses")
            for name, value in {"total": raw.total, **raw.logs}.items():
                shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
                require(shape == [], f"{name} must be a tensor [], is {shape}")
                require(finite(value), f"{name} is {value.detach().item()} at step {number}")
            require(raw.total.requires_grad, "total has no gradient: nothing would be learnt")
        with check.clause("gradients") as require:
            optimizer.zero_grad()
            step(batch).total.backward()
            touched |= {id(p) for p in parameters if p.grad is not None and bool(p.grad.any())}
            require(all(finite(p.grad) for p in parameters if p.grad is not None), "a gradient is NaN or infinite")
        optimizer.step()
        with check.clause("after_step"):
            step.after_step(number)
    with check.clause("gradients") as require:
        for index, group in enumerate(step.groups):
            reached = any(id(p) in touched for p in group["params"])
            require(reached, f"no gradient reached parameter group {index} in {len(batches)} steps")
    with check.clause("step") as require:
        changed = any(not torch.equal(a, b.detach()) for a, b in zip(before, parameters, strict=True))
        require(changed, f"{len(batches)} optimiser steps changed no parameter")
        require(all(finite(p) for p in parameters), "a parameter is NaN or infinite after training")
    with check.clause("frozen") as require:
        after = _tensors(step, trained)
        moved = [name for name, tensor in frozen.items() if not torch.equal(tensor, after[name])]
        require(not moved, f"the frozen backbone changed: {', '.join(moved[:3])}")
