"""Text embeddings of class names, made once and kept in a small file that can be shipped with results."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from .checkpoint import write_tensors
from .errors import FileError, InputError, WeightsError

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "a {} in the scene.", "{}")


@dataclass(frozen=True)
class TextEmbeddings:
    """vectors: [classes, E], unit length; model, templates: what made them."""

    classes: tuple[str, ...]
    vectors: Tensor
    model: str
    templates: tuple[str, ...] = TEMPLATES

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, whole or not at all.

        Raises:
            FileError: it cannot be written.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        meta = {
            "classes": json.dumps(self.classes),
            "model": self.model,
            "templates": json.dumps(self.templates),
            "format": "dense_ctx text embeddings 1",
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(partial, {"vectors": self.vectors.float().contiguous()}, meta)
            partial.replace(path)
        except OSError as error:
            raise FileError(f"Cannot write the text embeddings to {path}: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TextEmbeddings:
        """Read a file that `save` wrote.

        Raises:
            FileError: missing, or not such a file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileError(f"No text embeddings at {path}; make them with `dense-ctx text CLASSES --out {path}`")
        try:
            with safe_open(str(path), framework="pt") as file:
                meta = file.metadata() or {}
                made = cls(
                    tuple(json.loads(meta["classes"])),
                    file.get_tensor("vectors"),
                    meta["model"],
                    tuple(json.loads(meta["templates"])),
                )
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FileError(f"{path} is not a file of text embeddings: {error!r}") from None
        if made.vectors.ndim != 2 or len(made.vectors) != len(made.classes):
            shape = list(made.vectors.shape)
            raise FileError(f"{path} is damaged: it names {len(made.classes)} classes, but vectors {shape}")
        return made

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
def embed_text(
    classes: Sequence[str],
    model: str = "openai/clip-vit-base-patch32",
    templates: Sequence[str] = TEMPLATES,
    device: str = "cpu",
) -> TextEmbeddings:
    """Embed class names by a CLIP text encoder of transformers: mean over templates of unit vectors, scaled to unit.

    Args:
        classes: names as they should be read ("traffic light").
        model: Hub repository or folder of a CLIP model (text tower, projection and tokenizer).
        templates: sentences with {} for the name.

    Raises:
        InputError: no classes, or a template without {}.
        WeightsError: the model cannot be had.
    """
    if not classes or any("{}" not in template for template in templates) or not templates:
        raise InputError("embed_text needs at least one class, and templates that hold {}")
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded: Any = CLIPTextModelWithProjection.from_pretrained(model, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The text encoder {model} cannot be had: {str(error).splitlines()[0]}. Give a folder or the name of a "
            "CLIP model on the Hub, or use a file of embeddings made elsewhere"
        ) from error
    encoder, report = loaded
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise WeightsError(
            f"The text encoder {model} lacks {', '.join(sorted(report['missing_keys'])[:3])}: it needs the text tower "
            "and the projection of a whole CLIP model"
        )
    encoder = encoder.to(device).eval()
    vectors = []
    for name in classes:
        tokens = tokenizer([t.format(name) for t in templates], padding=True, truncation=True, return_tensors="pt")
        each = functional.normalize(encoder(**tokens.to(device)).text_embeds.float(), dim=-1)
        vectors.append(functional.normalize(each.mean(0), dim=0))
    return TextEmbeddings(tuple(classes), torch.stack(vectors).cpu(), model, tuple(templates))
