"""The folder of one cue's maps, and the settings that determine its content."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dense_ctx.config import Part
from dense_ctx.data.cache import DiskCache
from dense_ctx.errors import ConfigError
from dense_ctx.persistence.identity import Identity
from dense_ctx.plugins import registry

from ..cues.base import Cue
from .clips import stamp
from .shards import ClipShard

FORMAT = 1
ADVICE = "Ask for what it holds, or make another one with `dense-ctx cues --out`"


def cue_folder(root: Path, part: Part, settings: Mapping[str, Any]) -> DiskCache[ClipShard]:
    """The maps of one cue under `root`; "@" for ":" occurs in no name, and ":" in no Windows file."""
    path = root / part.name.replace(":", "@") / "manifest.json"
    return DiskCache(Identity(path, "cue cache", ADVICE), settings, ClipShard)


def identity(part: Part, size: int | None) -> dict[str, Any]:
    """What determines a cue's maps: name, all arguments (defaults too), files among them, version, frame size.

    The cue is not built: reading a cache needs neither its weights nor its packages.

    Raises:
        UnknownNameError: no such cue. InputError: it does not take the arguments.
        ConfigError: JSON cannot hold an argument, or the cue is not registered by its class, which has the version.
    """
    call = registry().bind("cue", part.name, **part.args)
    cue = call.func
    if not (isinstance(cue, type) and issubclass(cue, Cue)):
        raise ConfigError(
            f"The cue {part.name!r} is registered by {cue!r}, so its version is unknown and its maps cannot be cached; "
            "register the subclass of Cue"
        )
    bound = inspect.signature(cue).bind(*call.args, **call.keywords)
    bound.apply_defaults()
    try:
        args = json.loads(json.dumps(bound.arguments))
    except TypeError as error:
        raise ConfigError(f"cue {part.name!r} with {dict(part.args)}: {error}") from None
    files = {key: stamp(Path(value)) for key, value in args.items() if isinstance(value, str) and Path(value).exists()}
    return {"format": FORMAT, "cue": part.name, "args": args, "files": files, "version": cue.version, "size": size}


def notes(cue: Cue) -> dict[str, Any]:
    """What a reader needs to know about a cue without building it."""
    return {
        "channels": cue.channels,
        "unit": cue.unit,
        "pair": cue.pair,
        "antisymmetric": cue.antisymmetric,
        "meaning": cue.meaning,
        "source": cue.source,
    }
