"""TrainStep: the module that a training loop wraps for several processes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ..errors import ConfigError, ContractError, InputError
from ..interfaces import Batch, Losses, Objective
from ..model import DenseModel
from ..numerics import assuming, holds
from ..plugins import blamed


class TrainStep(nn.Module):
    """A model and its objective as one module, whose forward returns the losses of a batch.

    Wrap this module (`accelerator.prepare`, DistributedDataParallel), not the model: gradients are synchronised only
    through the forward of the wrapped module; otherwise each process would train alone, without an error.

    The constructor calls `objective.check` and, once per training, `setup`, and freezes all parameters that are in none
    of its groups, because DistributedDataParallel waits for the gradient of every parameter that requires one.

    Args:
        model: on its device. objective: trains the model. dataset: of `objective.dataset`.
        fresh: whether the decoder may be initialised from data; default its own `fresh`. False if the run resumes.

    Attributes:
        groups: the parameter groups, for the optimiser.
        compiled: whether `forward` runs the graph that `compile` has made of it.

    Raises:
        InputError: `setup` returns no parameter, one twice, or one that is not of the model or objective.
        PluginError: a registered objective raises another exception, here or in a later call.
    """

    def __init__(
        self, model: DenseModel, objective: Objective, dataset: Dataset[Any], *, fresh: bool | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.compiled = False
        with blamed("objective", objective):
            objective.check(model)
            setup = objective.setup(model, dataset, fresh=model.decoder.fresh if fresh is None else fresh)
        self.groups: list[dict[str, Any]] = [{**group, "params": list(group["params"])} for group in setup]
        parameters = [p for group in self.groups for p in group["params"]]
        own = {id(p) for p in self.parameters()}
        if not parameters:
            raise InputError(f"{type(objective).__name__}.setup gave no parameters: nothing to train")
        if len({id(p) for p in parameters}) != len(parameters):
            raise InputError(f"{type(objective).__name__}.setup lists a parameter twice")
        if any(id(p) not in own for p in parameters):
            raise InputError(f"{type(objective).__name__}.setup lists a parameter neither of the model nor its own")
        self.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)

    def compile(self, backend: str = "inductor") -> None:
        """Let `forward` run as one graph of torch.compile, after `Objective.prepare`: the same losses up to rounding.

        The graph sees the tensors of a batch alone.
        What the graph assumes of values (`numerics.holds`) is looked at after it; a batch for which it does not hold is
        computed again without it. `forward` raises ConfigError where the compiler fails.
        """
        # random numbers are those of the uncompiled step
        options: Any = {"fallback_random": True} if backend == "inductor" else None
        self._graph = torch.compile(self._losses, backend=backend, fullgraph=True, options=options)
        self.compiled = True

    def forward(self, batch: Batch) -> Losses:
        """The losses of one batch: total [] float32 to differentiate, logs [] detached."""
        with blamed("objective", self.objective):
            batch = self.objective.prepare(self.model, batch)
        if not self.compiled:
            return self._losses(batch)
        from torch._dynamo.exc import TorchDynamoException

        generator, fault = torch.get_rng_state(), None
        counts = [(b, b.clone()) for m in self.modules() if m.training for b in m.buffers(recurse=False)]  # BatchNorm's
        try:
            with assuming() as conditions:
                # a graph is of one name or number: another would be another graph
                losses: Losses = self._graph({key: x for key, x in batch.items() if isinstance(x, torch.Tensor)})
            if not conditions or holds(torch.stack([c.to(self.model.device) for c in conditions]).all(), late=True):
                return losses
        except TorchDynamoException as error:
            fault = error
            self._losses(batch)  # a fault of the data is said as such
        torch.set_rng_state(generator)
        for buffer, before in counts:
            buffer.copy_(before)
        if not fault:
            return self._losses(batch)
        first, places = str(fault).strip().splitlines()[0], re.findall(r'File (".+", line \d+), in', str(fault))
        raise ConfigError(f"compile: {' at '.join([first, *places[-1:]])}. Leave compile out, or change it") from fault

    def _losses(self, batch: Batch) -> Losses:
        with blamed("objective", self.objective):
            losses: Losses = self.objective(self.model, batch)
            if not isinstance(losses, Losses) or losses.total.ndim:
                what = f"objective {type(self.objective).__name__}: forward gave {losses!r:.60}"
                raise ContractError("losses", f"{what}; expected Losses, total []")
        return Losses(losses.total.float(), {name: value.detach() for name, value in losses.logs.items()})

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Tell the objective that the optimiser has taken step number `step`, counted from 1."""
        self.model.decoder.fresh = False
        with blamed("objective", self.objective):
            self.objective.after_step(self.model, step)
