"""A saved model as a backbone: "model:lila-lite0", "model:runs/dip/model", "model:owner/name".

Frozen as any backbone, LoRA's adapters of that model too: they are part of what it has learned. `lora:model:NAME` adds
new ones, `DenseModel.unfreeze` trains its own weights on.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal, cast

from torch import Tensor

from dense_ctx.config import ModelConfig
from dense_ctx.errors import CheckpointError, FileError, InputError
from dense_ctx.files import file_digest, state_digest
from dense_ctx.interfaces import Backbone, Features, Link
from dense_ctx.model import DenseModel
from dense_ctx.persistence import checkpoint, hub
from dense_ctx.persistence.artefact import MANIFEST
from dense_ctx.persistence.file_args import TEXT
from dense_ctx.persistence.links import opening
from dense_ctx.plugins import registry

Maps = Literal["backbone", "decoder", "both"]
FINE = 4  # pixels per cell of the decoder's map, at least, unless asked for


class ModelBackbone(Backbone):
    """The maps of a saved model's backbone, its decoder's features, or both, with that model's preprocessing.

    Args:
        name: short name, folder or Hub repository.
        maps: "backbone", "decoder" (one map) or "both" (by stride, the decoder's before others of its own); default
            "decoder" where that has parameters, else "backbone".
        stride: pixels per cell of the decoder's map, a divisor of the model's own stride; default the least from 4 on.
        revision: of a Hub repository.
        digest: of the model; another one is refused. `save_pretrained` writes it.
        config: of the model, where a checkpoint holds all tensors: with weights=None nothing is read.
        weights: "pretrained" (the model's own) or None (random).

    Raises:
        UnknownNameError: no such model.
        CheckpointError: the model is not the one that the digest is of.
    """

    file_args: ClassVar[Mapping[str, Any] | None] = {
        "maps": frozenset(("backbone", "decoder", "both")), "stride": range(1, 129), "revision": TEXT, "digest": TEXT,
        "config": dict, "weights": frozenset(("pretrained",)),
    }  # fmt: skip

    def __init__(
        self,
        name: str,
        maps: Maps | None = None,
        stride: int | None = None,
        revision: str | None = None,
        digest: str | None = None,
        config: Mapping[str, Any] | None = None,
        weights: str | None = "pretrained",
    ) -> None:
        super().__init__()
        model = self._open(name, revision, config, weights)
        learned = any(True for _ in model.decoder.parameters())
        self.maps = maps or ("decoder" if learned else "backbone")
        if self.maps not in ("backbone", "decoder", "both"):
            raise InputError(f"maps={maps!r}; expected backbone, decoder or both")
        self.backbone = model.backbone
        self.decoder = None if self.maps == "backbone" else model.decoder
        self.config = cast(ModelConfig, model.model_config)  # a model from a folder has one
        self._configure(stride)
        self.digest = None if weights is None else self._digest()
        if digest and self.digest and digest != self.digest:
            raise CheckpointError(
                f"{opening() or 'The configuration'} is built on the model {name!r} with digest "
                f"{digest[:12]}, but {self.links[0].folder} has digest {self.digest[:12]}: its weights or its "
                "configuration changed. Put the old one back (revision= names one on the Hub) or train on the new one; "
                "a model saved with standalone=True needs no other"
            )
        self.eval()

    def _open(
        self, name: str, revision: str | None, config: Mapping[str, Any] | None, weights: str | None
    ) -> DenseModel:
        if weights not in ("pretrained", None):
            raise InputError(f"weights={weights!r}: model:{name} brings its own; expected pretrained, or None (random)")
        if weights is None and config is not None:
            where = f"config of model:{name}"
            return checkpoint.build(ModelConfig.from_dict(config, where), where, random=True)
        local = hub.local_folder(name)
        folder = local or hub.locate(name, hub.Access(revision))
        model = checkpoint.read(folder, weights=weights is not None, published=local is None)
        model.float()  # as any backbone by its name
        if weights is not None:
            self.source = f"model:{name}"
            self.links = (Link(name, folder.resolve(), local is not None), *model.backbone.links)
        return model

    def _configure(self, stride: int | None) -> None:
        inner = self.backbone
        self.stride, self.mean, self.std, self.image_size = inner.stride, inner.mean, inner.std, inner.image_size
        self.dims, self.strides = inner.dims, inner.strides
        self.cell: int | None = None
        if self.decoder is None:
            if stride is not None:
                raise InputError(f"stride={stride} is of the decoder's map, which maps=backbone leaves out")
            return
        divisors = [cell for cell in range(1, inner.stride + 1) if inner.stride % cell == 0]
        self.cell = stride or next((cell for cell in divisors if cell >= FINE), inner.stride)
        if self.cell not in divisors:
            raise InputError(f"stride={stride} does not divide the model's stride; expected one of {divisors}")
        first = bisect_left(inner.strides, self.cell) if self.maps == "both" else 0
        last = first if self.maps == "both" else len(inner.dims)
        self._span = slice(first, last)  # of the inner backbone's maps, which the decoder's replaces
        self.dims = (*inner.dims[:first], self.decoder.dim, *inner.dims[last:])
        self.strides = (*inner.strides[:first], self.cell, *inner.strides[last:])

    def _digest(self) -> str:
        """sha256 of what is used of the model: parts by name, arguments and tensors."""
        parts = {"backbone": asdict(self.config.backbone)}
        if self.decoder is not None:
            parts["decoder"] = asdict(self.config.decoder)
        text = json.dumps(parts, sort_keys=True) + state_digest(self.state_dict())
        return hashlib.sha256(text.encode()).hexdigest()

    def forward(self, images: Tensor) -> Features:
        """Encode normalised images [B, 3, H, W], H and W multiples of `stride`."""
        features: Features = self.backbone(images)
        if self.decoder is None or self.cell is None:
            return features
        height, width = features.image_size
        decoded = self.decoder(features, images, (height // self.cell, width // self.cell))
        maps = list(features.maps)
        maps[self._span] = [decoded]
        return Features(tuple(maps), features.cls, features.image_size)

    def blocks(self) -> list[str]:
        """The inner backbone's, then the decoder as a whole where its map is used."""
        blocks = [f"backbone.{name}" for name in self.backbone.blocks()]
        learned = self.decoder is not None and any(True for _ in self.decoder.parameters())
        return [*blocks, "decoder"] if learned else blocks

    @classmethod
    def random_args(cls) -> dict[str, Any]:
        """weights=None."""
        return {"weights": None}

    @classmethod
    def identity(cls, name: str, *args: Any, **named: Any) -> str | None:
        """Digest of a local model's manifest; None of a published one, whose revision says it.

        Raises:
            FileError: there is no such folder, and it is no name that something could be published under.
        """
        folder = hub.local_folder(name)
        if folder is None and name not in registry().names("model"):
            if name.count("/") != 1 or name.startswith((".", "/", "~")):
                raise FileError(f"There is no model at {name}: expected a folder, a short name or OWNER/NAME")
        elif folder is not None and not any((folder / n).is_file() for n in (checkpoint.CONFIG, MANIFEST)):
            raise FileError(f"{folder} holds no model: it has no {checkpoint.CONFIG}")
        manifest = None if folder is None else folder / MANIFEST
        return file_digest(manifest) if manifest is not None and manifest.is_file() else None

    def stored_args(self, args: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
        """The choice of maps, and the model's digest, or its configuration if `whole`."""
        arguments = {key: value for key, value in args.items() if key not in ("maps", "stride", "digest", "config")}
        stored = {**arguments, "maps": self.maps, **({} if self.cell is None else {"stride": self.cell})}
        if not whole:
            return stored if self.digest is None else {**stored, "digest": self.digest}
        inner = self.config.backbone
        inner = replace(inner, args=self.backbone.stored_args(inner.args, whole=True))
        return {**stored, "config": replace(self.config, backbone=inner).to_dict()}
