"""Local k-NN propagation as a probe: each `predict` is the next frame of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import CheckpointError, InputError, NotFittedError
from dense_ctx.interfaces import DenseFeatures, Probe, Size, Task
from dense_ctx.persistence.tensors import require_state

from .local_knn import Propagator, upsampled_votes
from .targets import check


class PropagationProbe(Probe):
    """DINO's video evaluation (Caron et al. 2021) as a probe.

    `partial_fit` takes annotated frames, which stay context for the whole clip and start it anew. Unlike other probes
    it has a memory: frames come in order, once each (a batch is frames in order), features on the grid the votes are
    taken on.

    Args:
        task: "segmentation" only.
        n_last_frames, size_mask_neighborhood, topk, temperature: see `dense_ctx_probes.local_knn.Propagator`.
        stride: pixels of a cell; None: the least that covers the size asked for.
        recall: see the same; None is the published recipe, which cannot find an object that left the view.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "n_last_frames": range(1025),
        "size_mask_neighborhood": range(1025),
        "topk": range(1, 1025),
        "temperature": (0.0, 1e6),
        "stride": range(1, 4097),
        "recall": (0.0, 2.0),
    }

    def __init__(
        self,
        task: Task = "segmentation",
        n_last_frames: int = 7,
        size_mask_neighborhood: int = 12,
        topk: int = 5,
        temperature: float = 0.1,
        stride: int | None = None,
        recall: float | None = None,
    ) -> None:
        super().__init__(task)
        if task != "segmentation":
            raise InputError("propagation carries class votes from frame to frame: task='segmentation' only")
        self.stride = stride
        self.options = (n_last_frames, size_mask_neighborhood, topk, temperature, recall)
        self.keys_: Tensor | None = None
        self.labels_ = torch.empty(0)
        self._propagator: Propagator | None = None

    def partial_fit(self, features: DenseFeatures, targets: Tensor) -> PropagationProbe:
        """Add B annotated frames; ignored pixels do not vote."""
        check(features, targets, self.task)
        classes = self.labels_.shape[1] if self.keys_ is not None else 0
        count = max(int(targets.max()) + 1, classes)
        if not bool((targets >= 0).any()):
            raise InputError("No labelled pixel: every target is ignored (-1)")
        labels = functional.one_hot(targets.clamp_min(0), count).movedim(-1, 1).float() * (targets >= 0)[:, None]
        keys = features.pixels.detach().float()
        labels = labels.to(keys.device)
        if self.keys_ is not None:
            old = functional.pad(self.labels_, (0, 0, 0, 0, 0, count - classes)).to(keys.device)
            if self.keys_.shape[1:] != keys.shape[1:]:
                raise InputError(
                    f"Annotated frames of one clip have one grid: {list(self.keys_.shape[1:])}, now "
                    f"{list(keys.shape[1:])}"
                )
            keys, labels = torch.cat([self.keys_.to(keys.device), keys]), torch.cat([old, labels])
        self.keys_, self.labels_ = keys, labels
        self._propagator = None
        return self

    def predict(self, features: DenseFeatures, size: Size | None = None) -> Tensor:
        """[B, K, *size]: the votes of the next B frames, scaled to sum 1; their order is DINO's."""
        if self.keys_ is None:
            raise NotFittedError("No annotated frame: call fit first")
        if self._propagator is None:
            self._propagator = Propagator(self.keys_, self.labels_, *self.options)
        height, width = features.pixels.shape[-2:]
        size = size or (height, width)
        cell = self.stride or max(1, -(-size[0] // height))
        votes = [upsampled_votes(self._propagator.step(frame), size, cell) for frame in features.pixels.float()]
        stacked = torch.stack(votes)
        total = stacked.sum(1, keepdim=True)
        # by equality, since NaN must stay NaN
        return torch.where(total == 0, 1 / stacked.shape[1], stacked / total.clamp_min(1e-12))

    @property
    def certainty(self) -> Tensor:
        """Of each class in the last frame, [K]: see `Propagator`; 1 before the first prediction."""
        return torch.ones(self.labels_.shape[1]) if self._propagator is None else self._propagator.certainty

    def state_dict(self) -> dict[str, Tensor]:
        """The annotated frames; a loaded probe restarts the clip."""
        if self.keys_ is None:
            raise NotFittedError("Nothing to save: call fit first")
        return {"keys": self.keys_.cpu(), "labels": self.labels_.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore annotated frames."""
        layout = {"keys": (torch.float32, ("R", "C", "h", "w")), "labels": (torch.float32, ("R", "K", "h", "w"))}
        require_state(state, layout, "The state is not that of a propagation probe")
        self.keys_, self.labels_, self._propagator = state["keys"].clone(), state["labels"].clone(), None

    def outputs(self, pixels: int, patches: int) -> int:
        """Classes of the annotated frames; a prediction would be a frame of the clip.

        Raises:
            CheckpointError: they are of features of another width.
        """
        if self.keys_ is None or self.keys_.shape[1] != pixels:
            raise CheckpointError(f"The annotated frames are not of features of {pixels} channels")
        return self.labels_.shape[1]
