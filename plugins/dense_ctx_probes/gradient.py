"""Base class of the probes trained by gradient descent: one `partial_fit` is `updates` steps on its images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer

from dense_ctx.errors import CheckpointError, ConfigError, InputError, NotFittedError, refuse_idle
from dense_ctx.interfaces import DenseFeatures, FitContext, Probe, Size, Task
from dense_ctx.persistence.file_args import CHANNELS, SEEDS
from dense_ctx.persistence.tensors import require_state, specs
from dense_ctx.train.config import Schedule

from .heads import Reads, check_reads
from .losses import Loss, bin_centres, check_loss, regression_loss
from .optimizer_state import PREFIX, follow_parameters, moment_specs, moments, restore_moments
from .targets import at_size, check

UPDATES, REPLAY, LOW, HIGH = 200, 8, 0.001, 10.0  # the defaults


class GradientProbe(Probe):
    """A head trained by AdamW on batches of images.

    With a few images, each `partial_fit` trains on one; earlier ones are replayed, so that they are not forgotten.
    Targets may be finer than the features' grid: scores are upsampled to them.
    For a data set, `updates=1, replay=0` makes each call one step, and `total_steps` sets the schedule.

    Args:
        task: see `dense_ctx.Probe`.
        reads: "pixels" (decoder), "patches" (encoder) or "both", summed; default "both", in an evaluation its own.
        classes: segmentation: number of classes, where known; default: grows with what is seen.
        updates: gradient steps of one `partial_fit`.
        replay: earlier calls whose images join those steps, at most updates - 1; default 8, or as many as can.
        lr, weight_decay: of AdamW.
        total_steps: of the cosine schedule with 5 % warm-up; default a constant rate.
        loss: regression: "mse", "l1", "cosine" (directions) or "silog" (positive values).
        bins: regression of one value: predict a distribution over so many intervals of low..high and take its mean
            (AdaBins; DINOv2's depth probe); 0: predict the value.
        low, high: range of the bins, in the targets' unit; default 0.001 to 10.
        seed: of the initial weights.

    Raises:
        InputError: an argument out of its range. ConfigError: one without effect for the task or beside the others.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "reads": frozenset(get_args(Reads)), "classes": CHANNELS, "updates": range(1, 100_001), "replay": range(1025),
        "lr": (0.0, 100.0), "weight_decay": (0.0, 100.0), "total_steps": range(1, 1 << 31), "seed": SEEDS,
        "loss": frozenset(get_args(Loss)), "bins": range(4097), "low": (-1e6, 1e6), "high": (-1e6, 1e6),
    }  # fmt: skip

    def __init__(
        self,
        task: Task = "segmentation",
        reads: Reads | None = None,
        classes: int | None = None,
        updates: int = UPDATES,
        replay: int | None = None,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        total_steps: int | None = None,
        loss: Loss = "mse",
        bins: int = 0,
        low: float = LOW,
        high: float = HIGH,
        seed: int | None = None,
    ) -> None:
        super().__init__(task, seed)
        self.reads: Reads = "both" if reads is None else reads
        self._own_reads = reads
        check_reads(self.reads)
        check_loss(loss)
        if updates < 1 or (replay or 0) < 0 or not lr > 0 or weight_decay < 0 or not low < high or bins < 0:
            raise InputError(
                f"updates={updates}, replay={replay}, lr={lr}, weight_decay={weight_decay}, bins={bins}, "
                f"low={low}, high={high}: expected at least 1, 0, above 0, at least 0, at least 0, and low below high"
            )
        values = task != "segmentation"
        refuse_idle(
            (
                (values and classes is not None, "classes", "with task=regression"),
                (not values and loss != "mse", "loss", "with task=segmentation, which trains by cross-entropy"),
                (not values and bins > 0, "bins", "with task=segmentation"),
                (not bins and low != LOW, "low", "without bins"),
                (not bins and high != HIGH, "high", "without bins"),
                ((replay or 0) >= updates and replay != 0, "replay", f"beyond updates - 1 = {updates - 1} calls"),
            )
        )
        if bins and loss == "cosine":
            raise ConfigError("loss=cosine compares directions, and bins predict one number: leave one of the two out")
        self.classes, self.updates = classes, updates
        self.replay = min(REPLAY, updates - 1) if replay is None else replay
        self._own_steps = (updates, replay, total_steps)
        self.lr, self.weight_decay, self.total_steps = lr, weight_decay, total_steps
        self.loss, self.bins, self.low, self.high = loss, bins, low, high
        self.head_: nn.Module | None = None
        self.step_ = 0
        self.outputs_ = 0
        self.dims_ = (0, 0)
        self.affine_ = torch.empty(0)  # regression without bins: [2, K], centre and spread of the first targets
        self._optimizer: Optimizer | None = None
        self._memory: list[tuple[DenseFeatures, Tensor]] = []

    def configure(self, context: FitContext) -> None:
        """Take the evaluation's features and classes; with steps, each `partial_fit` is one step of the schedule.

        Raises:
            ConfigError: own arguments that contradict the context.
        """
        super().configure(replace(context, steps=None))
        # without steps, `pixels` are what the evaluation reads already
        reads: Reads = "pixels" if context.steps is None else context.reads
        if self._own_reads not in (None, reads):
            raise ConfigError(
                f"reads={self._own_reads} is set for the probe, and the evaluation reads {context.reads}: set the "
                "protocol's own reads in place of probe.args.reads"
            )
        self.reads = reads
        self.refuse_unread()
        if context.classes and self.task == "segmentation":
            if self.classes not in (None, len(context.classes)):
                raise ConfigError(f"classes={self.classes}, and the data set has {len(context.classes)}: leave it out")
            self.classes = len(context.classes)
        if context.steps is not None:
            if self._own_steps != (UPDATES, None, None):
                raise ConfigError("updates, replay and total_steps follow from the protocol's `train`: leave them out")
            self.updates, self.replay, self.total_steps = 1, 0, context.steps

    def refuse_unread(self) -> None:
        """Refuse arguments of a branch of the head that `reads` leaves out, with a ConfigError. Default: none."""

    @abstractmethod
    def build(self, dims: tuple[int, int], outputs: int) -> nn.Module:
        """Make the head for (pixel, patch) channels; called under the probe's own seed."""

    # ------------------------------------------------------------------ learning

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> GradientProbe:
        """Take `updates` steps on B images (and replayed ones)."""
        check(features, targets, self.task, any_size=True)
        labelled = targets >= 0 if self.task == "segmentation" else targets.isfinite().all(1)
        if not bool(labelled.any()):
            raise InputError("No labelled pixel: every target is ignored (-1) or NaN")
        with torch.inference_mode(False), torch.enable_grad():
            features = _plain(features)
            targets = targets.clone().to(features.pixels.device)
            head, optimizer = self._prepared(features, targets, labelled)
            head.train()
            batches = [*self._memory, (features, targets)]
            for update in range(self.updates):
                self._step(head, optimizer, *batches[(len(batches) - 1 - update) % len(batches)])
            head.eval()
        self._memory = [*self._memory, (features, targets)][-self.replay :] if self.replay else []
        return self

    def _prepared(self, features: DenseFeatures, targets: Tensor, labelled: Tensor) -> tuple[nn.Module, Optimizer]:
        """The head with an output for everything in the targets, and its optimiser, where the features are."""
        if self.task == "segmentation":
            outputs = max(int(targets.max()) + 1, self.classes or 0, self.outputs_)
            if self.classes is not None and outputs > self.classes:
                raise InputError(f"A target holds class {outputs - 1}; the probe was made for {self.classes} classes")
        else:
            outputs = self.bins or targets.shape[1]
            if self.bins and targets.shape[1] != 1:
                raise InputError(f"bins={self.bins} predict one value a pixel; the targets have {targets.shape[1]}")
        if self.task == "regression" and not len(self.affine_):
            values = targets.movedim(1, -1)[labelled.to(targets.device)].float()
            self.affine_ = torch.stack([values.mean(0), values.std(0, correction=0).clamp_min(1e-6)]).cpu()
        dims = (features.pixels.shape[1], features.patches.shape[1])
        head = self.head_
        if head is None or outputs > self.outputs_:
            head = self._grow(dims, outputs, features.pixels.device)
        if dims != self.dims_:
            raise InputError(f"The probe reads features of {self.dims_} channels (pixels, patches); got {dims}")
        head.to(features.pixels.device)
        self._optimizer = self._optimizer or self._adamw(head)
        follow_parameters(self._optimizer)  # those of a loaded state are still where it was loaded
        return head, self._optimizer

    def _adamw(self, head: nn.Module) -> Optimizer:
        return AdamW(head.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def _grow(self, dims: tuple[int, int], outputs: int, device: torch.device) -> nn.Module:
        """Build the head, or one with more outputs that keeps the trained weights."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # the CPU's alone, which fork_rng restores
            head = self.build(dims, outputs)
        if self.head_ is not None:
            old, new = self.head_.state_dict(), head.state_dict()
            for name, value in new.items():
                part = tuple(slice(0, size) for size in old[name].shape)
                value[part] = old[name].cpu()
            head.load_state_dict(new)
        self.head_, self.outputs_, self.dims_, self._optimizer = head.to(device), outputs, dims, None
        return head

    def _step(self, head: nn.Module, optimizer: Optimizer, features: DenseFeatures, targets: Tensor) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.lr * self._schedule()
        loss = self.objective(head(features), targets)
        if not bool(loss.isfinite()):
            raise InputError(f"The probe's loss is {float(loss.detach())} at step {self.step_}: lower lr={self.lr}?")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.step_ += 1

    def _schedule(self) -> float:
        if self.total_steps is None:
            return 1.0
        return Schedule("cosine", max(1, round(0.05 * self.total_steps))).factor(self.step_, self.total_steps)

    def objective(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Loss [] of the head's output [B, outputs, h, w]; targets [B, H, W] or [B, K, H, W]."""
        if scores.shape[-2:] != targets.shape[-2:]:
            size = (targets.shape[-2], targets.shape[-1])
            scores = functional.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        if self.task == "segmentation":
            return functional.cross_entropy(scores, targets, ignore_index=-1)
        values = self._values(scores)
        if self.loss == "mse" or self.loss == "l1":  # in units of the targets' spread, so that lr means the same
            spread = self.affine_[1].to(values)[:, None, None]
            return regression_loss(values / spread, targets / spread, self.loss)
        return regression_loss(values, targets, self.loss)

    def _values(self, scores: Tensor) -> Tensor:
        if self.bins:
            centres = bin_centres(self.bins, self.low, self.high).to(scores)
            return (scores.softmax(1) * centres[:, None, None]).sum(1, keepdim=True)
        centre, spread = self.affine_.to(scores)[..., None, None]
        if self.loss == "cosine":  # offset by the mean direction: small scores alone would give a random direction
            return functional.normalize(scores + centre, dim=1)
        values = scores * spread + centre
        return functional.softplus(values) if self.loss == "silog" else values

    # ------------------------------------------------------------------ reading

    @torch.no_grad()
    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: probabilities or values."""
        if self.head_ is None:
            raise NotFittedError("The probe is not trained: call fit first")
        self.head_.eval()
        scores = at_size(self.head_.to(features.pixels.device)(features), size, features.pixels)
        return scores.softmax(1) if self.task == "segmentation" else self._values(scores)

    def state_dict(self) -> dict[str, Tensor]:
        """The head, the optimiser's moments and the step, so that training resumes (without replayed images)."""
        if self.head_ is None:
            raise NotFittedError("Nothing to save: call fit first")
        state = {f"head.{name}": value.detach().cpu() for name, value in self.head_.state_dict().items()}
        state["meta"] = torch.tensor([self.step_, self.outputs_, *self.dims_])
        if len(self.affine_):
            state["affine"] = self.affine_
        if self._optimizer is not None:
            state |= moments(self._optimizer)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state."""
        complaint = f"The state is not that of a {type(self).__name__}"
        meta = {"meta": (torch.int64, (4,))}
        require_state({k: v for k, v in state.items() if k == "meta"}, meta, complaint)
        step, outputs, pixels, patches = state["meta"].tolist()
        lengths = {length for value in state.values() for length in value.shape}
        if min(outputs, pixels, patches) < 1 or step < 0 or outputs not in lengths:
            text = f"meta is {[step, outputs, pixels, patches]} (step, outputs, channels)"
            raise CheckpointError(f"{complaint}: {text}, and no tensor has {outputs} outputs")
        with torch.device("meta"):  # shapes alone: nothing is allocated before they are known to be those of the file
            shapes = self.build((pixels, patches), outputs)
        layout = meta | {f"head.{name}": spec for name, spec in specs(shapes.state_dict()).items()}
        if self.task == "regression":
            layout["affine"] = (torch.float32, (2, "K"))
        trains_on = any(key.startswith(PREFIX) for key in state)
        if trains_on:
            layout |= moment_specs(shapes.parameters())
        require_state(state, layout, complaint)
        self.head_ = None
        head = self._grow((pixels, patches), outputs, torch.device("cpu"))
        head.load_state_dict({k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")})
        head.eval()
        self.step_, self.affine_ = step, state["affine"].clone() if "affine" in state else torch.empty(0)
        if trains_on:
            self._optimizer = self._adamw(head)
            restore_moments(self._optimizer, state)


def _plain(features: DenseFeatures) -> DenseFeatures:
    """Copies of tensors made in inference mode, which autograd refuses."""
    maps = [item.clone() if item.is_inference() else item.detach() for item in (features.pixels, features.patches)]
    return DenseFeatures(maps[0], maps[1], None, features.extent)
