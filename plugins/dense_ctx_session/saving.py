"""What a session's snapshot says beside the drawings: the model, the source, the settings; and opening them again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dense_ctx_predict.context_files import model_differences
from PIL import Image

from dense_ctx.errors import CheckpointError, ConfigError, FileError, InputError
from dense_ctx.model import DenseModel
from dense_ctx.model_spec import open_model
from dense_ctx.partial_files import unique
from dense_ctx.plugins import registry

from .source import Files, Pictures, Source, VideoFile, picture_of

MODEL, IMAGES = "model", "images"


def model_reference(model: DenseModel, spec: str | None, folder: Path) -> str | None:
    """How to open the model again: a registered name, or a copy in the session's folder; None: by its user alone."""
    if spec in registry().names("model"):
        return spec
    if model.model_config is None:
        return None
    if not (folder / MODEL).exists():
        model.save_pretrained(folder / MODEL)
    return f"./{MODEL}"


def open_referenced(reference: str | None, folder: Path) -> DenseModel:
    """The model of a snapshot. A file names no repository and no path: what is fetched, its user asks for.

    Raises:
        ConfigError: it was made of modules, which no file can name; it is neither the copy nor registered. Errors of
            `dense_ctx.model_spec.open_model`.
    """
    if reference is None:
        raise ConfigError(f"{folder} does not say how to open its model, which was made of modules: give it, model=...")
    if reference != f"./{MODEL}" and reference not in registry().names("model"):
        raise ConfigError(
            f"{folder} names a model {str(reference)[:80]!r}, which is not registered here; if you trust it, give it: "
            "model=..."
        )
    return open_model(str(folder / MODEL) if reference == f"./{MODEL}" else reference)


def check_model(saved: Any, now: dict[str, Any], folder: Path) -> None:
    """Refuse another model than that of the snapshot, by the digest of its weights among others.

    Raises:
        CheckpointError: it differs; the message says in what.
    """
    if not isinstance(saved, dict):
        raise CheckpointError(f"{folder} does not say which model it is of: it is damaged")
    if differences := model_differences(saved, now):
        raise CheckpointError(
            f"{folder} is a session of another model: {'; '.join(differences)}. Open it with that model, or begin a "
            "new session"
        )


def source_reference(source: Source, folder: Path) -> dict[str, Any]:
    """How to open the source again; images in memory are written into the folder."""
    if isinstance(source, Pictures):
        for index, item in enumerate(source.items):
            file = folder / IMAGES / item.name
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_name(f".{file.stem}.{unique()}.partial.png")
                Image.fromarray(picture_of(source, index)).save(partial)
                partial.replace(file)
        return {"kind": "memory", "names": [item.name for item in source.items], "clip": source.is_clip}
    if not source.paths:
        raise InputError(
            f"A {type(source).__name__} cannot be opened again from a file, so that its session cannot be saved: "
            "export its labels, or give images or files"
        )
    kind = "video" if isinstance(source, VideoFile) else "files"
    root = Path(os.path.abspath(source.root or "."))
    return {
        "kind": kind,
        "clip": source.is_clip,
        "root": str(root),
        "beside": os.path.relpath(root, folder) if root.drive == folder.drive else str(root),
        "files": [os.path.relpath(os.path.abspath(path), root) for path in source.paths],
        "names": [item.name for item in source.items],
    }


def open_referenced_source(reference: dict[str, Any], folder: Path) -> Source:
    """The source of a snapshot, where it was, or where it is now as seen from the session's folder.

    Raises:
        FileError: a file is not there any more.
    """
    names = reference["names"]
    if reference["kind"] == "memory":
        return Pictures([folder / IMAGES / name for name in names], bool(reference["clip"]))
    root = Path(reference["root"])
    if not root.exists():
        root = Path(os.path.normpath(folder / reference["beside"]))
    paths = [root / file for file in reference["files"]]
    if missing := [path for path in paths if not path.exists()]:
        raise FileError(
            f"The session {folder} is about {missing[0]}, which is not there any more"
            + (f" ({len(missing)} files are missing)" if len(missing) > 1 else "")
            + ": put it back"
        )
    if reference["kind"] == "video":
        return VideoFile(paths[0])
    return Files(paths, names, root, frames=bool(reference["clip"]))
