"""What each stage of a tasks folder was made with; a stage of other settings is refused, not mixed in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dense_ctx.errors import ConfigError, FileError
from dense_ctx.files import read_json, write_json

FORMAT = 1
STAGES = ("segment", "embed", "cluster", "vote", "pair")
# what a stage writes, to be removed if it is to be made again; what follows from it goes too
WRITTEN = {
    "segment": "segments",
    "embed": "embeddings",
    "cluster": "centroids.safetensors",
    "vote": "labels votes",
    "pair": "pairs.jsonl",
}


def read_manifest(root: Path) -> dict[str, Any]:
    """The settings of all stages begun.

    Raises:
        FileError: the folder is none of tasks, or of a newer format.
    """
    path = root / "manifest.json"
    if not path.is_file():
        raise FileError(f"{root} holds no tasks (manifest.json is missing): make them with `dense-ctx pseudo-label`")
    found: dict[str, Any] = read_json(path)
    if found.get("format") != FORMAT or "segment" not in found:
        raise FileError(f"{path} has format {found.get('format')!r}; this dense_ctx reads {FORMAT}")
    return found


def compare(root: Path, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is there; writes nothing.

    Raises:
        ConfigError: a stage was made with something else; says what differs and what to remove.
        FileError: the folder holds other files.
    """
    path = root / "manifest.json"
    if not path.exists():
        if root.is_file() or (root.is_dir() and any(not item.name.startswith(".") for item in root.iterdir())):
            raise FileError(f"{root} exists and holds no tasks; choose another --out")
        return {}
    there = read_manifest(root)
    for number, stage in enumerate(STAGES):
        if stage not in there or not any((root / name).exists() for name in WRITTEN[stage].split()):
            continue  # what has written nothing binds to nothing: too many classes asked for, say
        old, new = there[stage], settings[stage]
        keys = sorted({*old, *new})
        differing = [f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in keys if old.get(k) != new.get(k)]
        if differing:
            left = " ".join(WRITTEN[later] for later in STAGES[number:])
            raise ConfigError(
                f"{root} was made otherwise (stage {stage}: {'; '.join(differing)}). Choose another --out, or remove "
                f"{left} in it and the stages {', '.join(STAGES[number:])} from its manifest.json"
            )
    return there


def claim(root: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Compare, then write down the settings; raises as `compare`."""
    there = compare(root, settings)
    if {key: there.get(key) for key in settings} != dict(settings):
        write_json(root / "manifest.json", {"format": FORMAT, **settings})
