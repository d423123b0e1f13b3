"""What a folder of maps was made with. Anything else is refused, and what differs is named."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dense_ctx.config import Part
from dense_ctx.errors import ConfigError, FileError
from dense_ctx.files import read_json, write_json
from dense_ctx.plugins import registry

from ..cues.base import Cue
from .clips import stamp

FORMAT = 1


def folder_of(root: Path, part: Part) -> Path:
    """Where a cue's maps lie; "@" occurs in no name, and ":" in no Windows file."""
    return root / part.name.replace(":", "@")


def identity(part: Part, size: int | None) -> dict[str, Any]:
    """What decides a cue's maps: name, all arguments (defaults too), files among them, version, frame size.

    The cue is not built: reading a cache needs neither its weights nor its packages.

    Raises:
        UnknownNameError: no such cue.
        ConfigError: an argument JSON cannot hold, or the cue does not take it.
    """
    entry, positional = registry().get("cue", part.name)
    target = registry().resolve(entry)
    try:
        bound = inspect.signature(target).bind(*positional, **{**entry.args, **part.args})
        bound.apply_defaults()
        args = json.loads(json.dumps(bound.arguments))
    except TypeError as error:
        raise ConfigError(f"cue {part.name!r} with {dict(part.args)}: {error}") from None
    files = {key: stamp(Path(value)) for key, value in args.items() if isinstance(value, str) and Path(value).exists()}
    version = getattr(target, "version", 1)
    return {"format": FORMAT, "cue": part.name, "args": args, "files": files, "version": version, "size": size}


def check(folder: Path, wanted: Mapping[str, Any], cue: Cue, gaps: Sequence[int]) -> dict[str, Any]:
    """What the manifest says or will say; writes nothing.

    Raises:
        ConfigError: the folder holds the maps of something else.
        FileError: it holds other files.
    """
    described = {**wanted, "gaps": list(gaps) if cue.pair else None}
    path = folder / "manifest.json"
    foreign = folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    if foreign and not path.exists():  # asked again: another process may have claimed it in between
        raise FileError(f"{folder} exists and holds no cue cache; choose another --out")
    if path.exists():
        compare(path, described)
    return described


def claim(folder: Path, wanted: Mapping[str, Any], cue: Cue, gaps: Sequence[int]) -> None:
    """Write the manifest where there is none; several processes may do so at once, and write the same.

    Raises:
        ConfigError, FileError: as `check`.
    """
    described = check(folder, wanted, cue, gaps)
    if (folder / "manifest.json").exists():
        return
    notes = {
        "channels": cue.channels,
        "unit": cue.unit,
        "pair": cue.pair,
        "antisymmetric": cue.antisymmetric,
        "meaning": cue.meaning,
        "source": cue.source,
    }
    write_json(folder / "manifest.json", {**described, **notes})


def compare(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Read a manifest and refuse one that says something else than `wanted`.

    Raises:
        FileError: there is none.
        ConfigError: names every key that differs, with both values.
    """
    if not path.exists():
        cached = sorted(entry.parent.name.replace("@", ":") for entry in path.parent.parent.glob("*/manifest.json"))
        raise FileError(
            f"{path.parent.parent} has no maps of the cue {wanted['cue']!r}"
            + (f"; it has {', '.join(cached)}" if cached else "")
            + ". Make them with `dense-ctx cues`"
        )
    there: dict[str, Any] = read_json(path)
    differing = []
    for key, value in wanted.items():
        if there.get(key) == value:
            continue
        if isinstance(value, dict) and isinstance(there.get(key), dict):
            names = sorted(k for k in {*value, *there[key]} if value.get(k) != there[key].get(k))
            differing += [f"{key}.{k}: {there[key].get(k)!r} there, {value.get(k)!r} now" for k in names]
        else:
            differing.append(f"{key}: {there.get(key)!r} there, {value!r} now")
    if differing:
        raise ConfigError(
            f"The cue cache {path.parent} is stale: {'; '.join(differing)}. Ask for what it holds, or make another one "
            "with `dense-ctx cues --out`"
        )
    return there
