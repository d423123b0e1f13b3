"""Settings of each stage of a tasks folder; a stage with other settings is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dense_ctx.errors import FileError
from dense_ctx.files import write_json
from dense_ctx.persistence.identity import Identity, require_equal

FORMAT = 1
FILE = "manifest.json"
# what each stage writes, to be removed if it is to be made again; what follows from it goes too
WRITTEN = {
    "segment": "segments",
    "embed": "embeddings",
    "cluster": "centroids.safetensors",
    "vote": "labels votes",
    "pair": "pairs.jsonl",
}
STAGES = tuple(WRITTEN)


def read_manifest(root: Path) -> dict[str, Any]:
    """The settings of all stages begun.

    Raises:
        FileError: the folder holds no tasks, or those of another format.
    """
    manifest = _read(root) if (root / FILE).is_file() else None
    if manifest is None:
        raise FileError(f"{root} holds no tasks ({FILE} is missing): make them with `dense-ctx pseudo-label`")
    return manifest


def compare(root: Path, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The stored settings, {} where there are none; writes nothing.

    Raises:
        ConfigError: a stage was run with other settings; says what differs and what to remove.
        FileError: the folder holds other files.
    """
    stored = _read(root) or {}
    for number, stage in enumerate(STAGES):
        if stage not in stored or not any((root / name).exists() for name in WRITTEN[stage].split()):
            continue  # a stage without files has no settings to keep: it may have failed for too many classes
        files, later = " ".join(WRITTEN[name] for name in STAGES[number:]), ", ".join(STAGES[number:])
        require_equal(
            {stage: stored[stage]},
            {stage: settings[stage]},
            f"{root} holds other tasks",
            f"Choose another --out, or remove {files} in it and the stages {later} from its {FILE}",
        )
    return stored


def claim(root: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare, then write the settings; raises as `compare`."""
    if not settings.items() <= compare(root, settings).items():
        write_json(root / FILE, {"format": FORMAT, **settings})


def _read(root: Path) -> dict[str, Any] | None:
    stored = Identity(root / FILE, "tasks").read(edited=True)
    if stored is not None and (stored.get("format") != FORMAT or "segment" not in stored):
        raise FileError(
            f"{root / FILE} has format {stored.get('format')!r}; this dense_ctx reads {FORMAT}. Make the tasks again"
        )
    return stored
