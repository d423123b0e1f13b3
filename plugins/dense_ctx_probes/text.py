"""Text embeddings of class names, computed once and stored in a small file that can accompany results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from dense_ctx.errors import CheckpointError, FileError, InputError
from dense_ctx.gateway import gateway
from dense_ctx.persistence.tensors import read_sealed, require_state, write_sealed

from .text_encoders import text_encoder

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "a {} in the scene.", "{}")
RANDOM = "random"  # instead of a file: random directions, a control without knowledge of the names


@dataclass(frozen=True)
class TextEmbeddings:
    """vectors: [classes, E], unit length; model, templates: of the encoder."""

    classes: tuple[str, ...]
    vectors: Tensor
    model: str
    templates: tuple[str, ...] = TEMPLATES

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, atomically.

        Raises:
            CheckpointError: NaN or infinity.
            FileError: it cannot be written.
        """
        path = Path(path)
        meta = {
            "classes": json.dumps(self.classes),
            "model": self.model,
            "templates": json.dumps(self.templates),
            "format": "dense_ctx text embeddings 1",
        }
        return write_sealed(path, {"vectors": self.vectors.float()}, meta)

    @classmethod
    @gateway
    def load(cls, path: str | os.PathLike[str]) -> TextEmbeddings:
        """Read a file that `save` wrote.

        Raises:
            FileError: missing.
            CheckpointError: damaged, or not such a file.
            NonFiniteError: NaN or infinity in it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileError(f"No text embeddings at {path}; make them with `dense-ctx text CLASSES --out {path}`")
        tensors, meta = read_sealed(path)
        try:
            classes, templates = (tuple(json.loads(meta[key])) for key in ("classes", "templates"))
            model = meta["model"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is not a file of text embeddings: {error!r}") from None
        layout = {"vectors": (torch.float32, (len(classes), "E"))}
        require_state(tensors, layout, f"{path} is not a file of embeddings of {len(classes)} classes")
        return cls(classes, tensors["vectors"], model, templates)

    def pick(self, classes: Sequence[str]) -> Tensor:
        """Vectors [len(classes), E] in the order of `classes`.

        Raises:
            InputError: a class without an embedding.
        """
        index = {name: i for i, name in enumerate(self.classes)}
        missing = [name for name in classes if name not in index]
        if missing:
            raise InputError(
                f"No text embedding for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}; the file has "
                f"{len(self.classes)} classes, made by {self.model}"
            )
        return self.vectors[[index[name] for name in classes]]


@torch.no_grad()
@gateway
def embed_text(
    classes: Sequence[str],
    model: str = "openai/clip-vit-base-patch32",
    templates: Sequence[str] = TEMPLATES,
    device: str = "cpu",
) -> TextEmbeddings:
    """Embed class names by a CLIP text encoder: mean over templates of unit vectors, scaled to unit length.

    Args:
        classes: names as they should be read ("traffic light").
        model: a CLIP model of transformers by Hub repository or folder (text tower, projection and tokenizer); or one
            of open_clip: "open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:hf-hub:OWNER/NAME",
            "open_clip:local-dir:PATH".
        templates: sentences with {} for the name.

    Raises:
        InputError: no classes, or a template without {}.
        WeightsError: the model is unavailable.
        MissingDependencyError: a model of open_clip without open_clip.
    """
    if not classes or any("{}" not in template for template in templates) or not templates:
        raise InputError("embed_text needs at least one class, and templates that hold {}")
    encode = text_encoder(model, device)
    vectors = [functional.normalize(encode([t.format(name) for t in templates]).mean(0), dim=0) for name in classes]
    return TextEmbeddings(tuple(classes), torch.stack(vectors).cpu(), model, tuple(templates))
