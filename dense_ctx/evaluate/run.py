"""evaluate(model, protocol, data): a reproducible benchmark result."""

from __future__ import annotations

import datetime
import hashlib
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ..data import open_set, published
from ..data.base import ImageSet, Subset, VideoSet
from ..device import check_alike, processes, wait_for_everyone
from ..environment import command_line, describe_environment, peak_memory_mb
from ..errors import ConfigError, InputError
from ..files import file_digest
from ..gateway import gateway
from ..model import DenseModel
from ..numerics import arithmetic
from ..persistence.lock import locked
from ..tiling import parse_memory
from .clips import VideoEvaluation
from .head import HEAD, check_head
from .images import ImageEvaluation
from .job import Job, Progress, Totals, make_probe
from .protocol import Protocol, load_protocol, names
from .result import FORMAT, Result, describe_model
from .samples import read_lists
from .scorer import Scorer
from .workdir import RunFolder

Source: TypeAlias = str | os.PathLike[str] | VideoSet | tuple[ImageSet, ImageSet]


@gateway
def evaluate(
    model: DenseModel,
    protocol: str | Protocol,
    data: Source,
    out: str | os.PathLike[str],
    *,
    name: str = "model",
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    cache: str | int = 0,
    keep: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Measure a model under a protocol and write `out`/result.json.

    An interrupted run resumes when called again with the same arguments. Processes started by `torchrun` or `accelerate
    launch` share the work through the folder; the result is that of a single process.

    Args:
        model: on its device, in eval mode.
        protocol: id of a shipped one, path of a YAML file, or a Protocol.
        data: root folder of the protocol's data set; or open (training, validation) sets, or clips.
        out: folder of the evaluation; must be new, or hold this evaluation.
        name: of the model, for the result.
        overrides: ["grid=8", ...]; they become part of the protocol's id.
        seeds: one probe each; the value is their mean.
        limit: only the first so many images of each split, or clips; becomes part of the protocol's id.
        cache: "4GB" or bytes of training features kept in memory, where nothing is augmented.
        keep: write predictions (PNG of ids, .npy of values).
        progress: (iterable, total, what) -> iterable, for bars.

    Raises:
        UnknownNameError, ConfigError: of the protocol or its probe; `out` holds another evaluation; a shared GPU.
        FileError, InputError: of the data. PluginError: the probe, metric or data set fails in another way.
    """
    began = time.monotonic()
    spec = load_protocol(protocol, overrides)
    if not seeds or len(set(seeds)) != len(seeds):
        raise InputError(f"seeds={list(seeds)}: at least one, each once")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} is not at least 1")
    try:
        budget = parse_memory(cache) if cache else 0
    except InputError:
        raise InputError(f'cache={cache!r} is not a size such as "2GB", or 0') from None
    scorer = Scorer(spec)
    make_probe(spec, 0)  # raises before any work
    train, val, lists = open_sets(spec, data, seeds, limit)
    scorer.rehearse(val.classes)
    _check_stride(spec, model.backbone.stride)
    if spec.probe.name == HEAD:
        check_head(model, spec, val)
    listing = [clip.name for clip in val.clips] if isinstance(val, VideoSet) else [*val.names]
    if len(set(listing)) < len(listing):
        twice = next(name for name in listing if listing.count(name) > 1)
        raise InputError(f"{spec.data.name} has two samples of the name {twice!r}; names are unique in a split")
    described = describe_model(model, name)
    about = {
        "name": spec.data.name,
        "split": spec.data.val,
        "limit": limit,
        "samples": len(listing),
        "published_samples": published(spec.data.name, spec.data.val),
        "training_samples": 0 if train is None else len(train),
        "published_training_samples": published(spec.data.name, spec.data.train),
        "listed_samples": {str(seed): len(listed) for seed, listed in lists.items()},
        "names_digest": _names_digest(listing),
        "training_names_digest": None if train is None else _names_digest(train.names),
        "files": {**_files(spec), **{f"support, seed {seed}": _names_digest(names) for seed, names in lists.items()}},
    }
    identity = {
        "format": FORMAT, "protocol": spec.resolved_id, "protocol_digest": spec.digest(),
        "model_digest": described["digest"], "data": about, "seeds": list(seeds),
    }  # fmt: skip
    rank, world = processes()
    wait_for_everyone()
    check_alike(str(model.device), spec.precision)
    folder = RunFolder(Path(out), identity, rank, world, wait_for_everyone)
    bar = progress if progress is not None and rank == 0 else lambda items, *_: items
    model.eval()
    own = locked(folder.path / f"process-{rank}", f"The evaluation {out}")
    with own, folder.guarded(), arithmetic(tf32=spec.precision == "tfloat32"):
        job = Job(model, spec, scorer, folder, tuple(seeds), keep, bar)
        if isinstance(val, VideoSet):
            totals = VideoEvaluation(job, val).run()
        elif train is None:
            raise ConfigError(f"{spec.id} needs training images")
        else:
            totals = ImageEvaluation(job, train, val, budget, lists).run()
        result = _result(spec, scorer, totals, identity, described, about, model)
        if rank == 0:
            result = replace(result, run=_run(began, world, model))
            result.save(folder.path / "result.json")
    return result


def _names_digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _files(protocol: Protocol) -> dict[str, str]:
    """sha256 of each file that the probe's arguments name: its content affects the result, its name does not."""
    texts = {key: Path(value) for key, value in protocol.probe.args.items() if isinstance(value, str)}
    return {f"probe.args.{key}": file_digest(path) for key, path in texts.items() if path.is_file()}


def open_sets(
    protocol: Protocol, data: Source, seeds: Sequence[int], limit: int | None = None
) -> tuple[ImageSet | None, ImageSet | VideoSet, dict[int, list[str]]]:
    """Training and validation samples, and each seed's list of the former; arguments and errors as `evaluate`."""
    train: Any = None
    scorer = Scorer(protocol)
    if isinstance(data, (str, os.PathLike)):
        spec = protocol.data
        val: Any = open_set(spec.name, data, spec.val, **spec.options)
        if scorer.target != "video":
            if spec.train is None:
                raise ConfigError(f"{protocol.id}: data.train names no split to fit the probe on")
            train = open_set(spec.name, data, spec.train, **spec.options)
    elif isinstance(data, VideoSet):
        val = data
    else:
        train, val = data
    for part in (val,) if isinstance(val, VideoSet) else (train, val):
        if part is not None and part.kind != scorer.target:
            raise ConfigError(
                f"{protocol.id} is about {scorer.target}; the targets of {protocol.data.name} are {part.kind}"
            )
    if limit is not None:
        video = isinstance(val, VideoSet)
        val = VideoSet(val.clips[:limit], val.kind, val.classes) if video else Subset(val, range(len(val))[:limit])
        train = None if train is None else Subset(train, range(len(train))[:limit])
    root = Path(data) if isinstance(data, (str, os.PathLike)) else Path()
    return train, val, {} if train is None else read_lists(protocol, root, seeds, train.names)


def _check_stride(protocol: Protocol, stride: int) -> None:
    if protocol.image.stride in (None, stride):
        return
    shipped, own = [one for one in map(load_protocol, names()) if one.image.stride == stride], protocol.digest()
    alike = {one.id: replace(one, id=protocol.id, image=protocol.image, grid=protocol.grid) for one in shipped}
    others = " or ".join(name for name, one in alike.items() if one.digest() == own)
    advice = f"use {others}" if others else "image.stride=null makes it another evaluation"
    raise ConfigError(
        f"{protocol.id} encodes images of {protocol.image.size} for backbones of stride {protocol.image.stride}; this "
        f"one has {stride}: {advice}"
    )


def _result(
    protocol: Protocol,
    scorer: Scorer,
    totals: Totals,
    identity: Mapping[str, Any],
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    module: DenseModel,
) -> Result:
    scores, scenes = totals
    first, *_ = each = list(scores.values())
    headline = [one.values[protocol.metric] for one in each]
    return Result(
        protocol_id=protocol.resolved_id + (f" [limit={data['limit']}]" if data["limit"] else ""),
        metric=protocol.metric,
        higher_is_better=scorer.higher_is_better,
        value=float(np.mean(headline)),
        std=float(np.std(headline, ddof=1)) if len(headline) > 1 else None,
        n=first.counts,
        scores={key: float(np.mean([one.values[key] for one in each])) for key in first.values},
        per_seed={str(seed): one.values for seed, one in scores.items()},
        scenes={name: {seed: math.nan if x is None else x for seed, x in one.items()} for name, one in scenes.items()},
        parts={key: _mean([one.parts.get(key) for one in each]) for key in first.parts},
        protocol=protocol.to_dict(),
        protocol_digest=identity["protocol_digest"],
        model=model,
        data=data,
        environment=describe_environment(module.device),
    )


def _mean(values: list[Any]) -> Any:
    """The mean of numbers, or key by key of mappings; None where a value is missing."""
    if isinstance(values[0], Mapping):
        return {key: _mean([None if value is None else value.get(key) for value in values]) for key in values[0]}
    mean = float("nan") if None in values else float(np.mean(values))
    return None if math.isnan(mean) else mean


def _run(began: float, world: int, model: DenseModel) -> dict[str, Any]:
    return {
        "command": command_line(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(time.monotonic() - began, 1),
        "processes": world,
        "threads": torch.get_num_threads(),
        "peak_memory_mb": peak_memory_mb(model.device),
    }
