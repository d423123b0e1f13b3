"""Every argument of every registered part changes something: an outcome of a tiny problem, by `part_outcomes`.

The parts come from the registry and the arguments from their signatures, those of nested settings among them, so that
a new argument fails here until it has a line.
"""

import dataclasses
import functools
import inspect
import typing
from pathlib import Path

import part_outcomes
import pytest
import torch
from test_cues import TINY_DEPTH

from dense_ctx import registry


class With:
    """A value that counts beside others only: both runs have these."""

    def __init__(self, value, **base):
        self.value, self.base = value, base


class Same:
    """No outcome changes, or none can be had here: why, and where the argument is tested."""

    def __init__(self, reason):
        self.reason = reason


TRAINED = {
    "reads": "patches", "classes": 5, "updates": 3, "replay": 0, "lr": 1e-2, "weight_decay": 50.0, "total_steps": 6,
    "seed": 1,
}  # fmt: skip
REGRESSION = {
    "loss": With("l1", task="regression"), "bins": With(8, task="regression"),
    "low": With(1.0, task="regression", bins=4), "high": With(5.0, task="regression", bins=4),
}  # fmt: skip
BACKBONES = {
    "dims": (8, 12),
    "strides": Same("what the backbone's maps have: a decoder is told, and given maps that are so; test_dpt"),
}
SMALL = {"dim": 6, "size": (32, 48)}
DEPTH = {"weights": None, "config": TINY_DEPTH, "side": 42}
WEIGHTS = Same("where they come from: test_cues, with files and a cache; there is no network here")
MAXA = {
    "task": "depth", "size": (20, 30), "image_size": (40, 56), "flip": True,
    "cache": Same("maps of the frozen backbone, kept: test_training_from_the_cache_is_training_from_images"),
    "targets": Same("the targets, kept: test_targets_are_kept_and_read"),
    "pixels": With(4, task="instances"),
}  # fmt: skip
NO_CLASSES = Same("every metric is told the data set's classes; only one over classes has any")


CHANGES = {
    "probe attention": {"task": "regression", "heads": 2, "downscale": 1, "with_norm": False, **TRAINED, **REGRESSION},
    "probe conv": {"task": "regression", "kernel": 3, "norm": "none", **TRAINED, **REGRESSION},
    "probe knn": {"task": "regression", "k": 2, "temperature": 0.5, "stride": 4, "memory": 40,
                  "seed": With(1, memory=40)},
    "probe ensemble": {
        "task": "regression", "k": 2, "temperature": 0.5, "stride": 4, "memory": 40, "seed": With(1, memory=40),
        "weight": 0.9, "uniform": 0.9, "landmarks": With(3, weight=1.0), "gamma": With(4.0, weight=1.0),
        "penalty": With(1.0, weight=1.0),
    },
    "probe linear": {
        "task": "regression", "penalty": 0.1, "samples": 60, "iterations": 1, "seed": With(1, samples=60),
    },
    "probe head": {"task": Same("of the protocol; nothing is learnt: test_predictor")},
    "probe propagation": {
        "task": Same("'segmentation' alone: class votes; test_probes_context refuses others"), "n_last_frames": 0,
        "size_mask_neighborhood": 2, "topk": 2, "temperature": 1.0, "stride": 4,
    },
    "probe retrieval": {
        "task": "regression", "k": 2, "temperature": 0.5, "memory": 9, "mode": "official",
        "sampling": With("uniform", memory=9), "reads": "pixels", "classes": 5, "dtype": "float16",
        "engine": Same("the same neighbours, found otherwise: test_published_evaluator, test_an_approximate_index"),
        "device": Same("there is one here"),
        "folder": Same("where it is kept: test_a_bank_in_files_is_the_bank_in_memory"),
        "seed": With(1, memory=9),
    },
    "probe ridge": {"task": "regression", "penalty": 1.0, "bias": "none", "mean": With(False, penalty=1.0)},
    "probe zero-shot": {
        "task": Same("'segmentation' alone: classes have names"),
        "embeddings": Same("text vectors in place of random ones: test_probes_zero_shot"),
        "class_names": Same("picks rows of a file of embeddings: test_probes_zero_shot"),
        "unseen": With((1,), classes=3), "width": 8, **TRAINED,
    },
    "decoder cnn": {**BACKBONES, "dim": 6, "width": 32, "heads": 4, "cnn_width": 16, "layers": With(None)},
    "decoder dpt": {
        **BACKBONES, "dim": 6, "width": 16, "projections": (8, 8), "norm": False, "shortcut": True,
    },
    "decoder linear": {**BACKBONES, "dim": 6, "layers": With(None)},
    "decoder maxa": {
        **BACKBONES, "dim": With(7, **SMALL), "width": With(16, **SMALL), "heads": With(4, **SMALL),
        "depth": With(1, **SMALL), "sigma": With("none", **SMALL), "cnn_width": With(16, **SMALL),
        "layers": With(None, **SMALL), "size": With((16, 24), **SMALL), "grid": With((5, 7), **SMALL),
        "density": With(2, **SMALL),
    },
    "decoder upsample": {**BACKBONES, "layers": (0,), "normalize": False},
    "metric depth": {"classes": NO_CLASSES, "low": 2.0, "high": 5.0, "align": "median"},
    "metric normals": {"classes": NO_CLASSES},
    "metric segmentation": {
        "classes": tuple("abcd"), "matching": "hungarian", "absent": With("zero", classes=tuple("abcd")),
        "clusters": With(6, matching="many_to_one"),
    },
    "metric video": {"classes": NO_CLASSES},
    "metric zero-shot": {
        "classes": tuple("abcd"), "matching": "hungarian", "absent": With("zero", classes=tuple("abcd")),
        "unseen": ("red",),
    },
    "cue depth:depth-anything-v2-small": {
        "size": Same("shapes of the published networks: test_depth_sizes_and_published_architectures"),
        "weights": WEIGHTS, "side": With(56, **DEPTH), "config": With({**TINY_DEPTH, "fusion_hidden_size": 4}, **DEPTH),
    },
    "cue flow:dis": {"preset": "ultrafast", "finest": 0},
    "cue flow:raft-small": {
        "size": With("large", weights=None, iterations=1), "weights": WEIGHTS,
        "iterations": With(2, weights=None, iterations=1),
    },
    "cue flow:sea-raft-s": {
        "size": Same("ptlflow's, an optional package: test_sea_raft_through_ptlflows_interface"), "weights": WEIGHTS,
    },
    "segmenter diffcut": {
        "model": Same("the published pipeline, in place of which the tests give networks of their own"),
        "timestep": 500, "side": 192, "seed": 1, "tau": With(1.2, alpha=10.0),
        "alpha": 40.0, "official_quirk": With(True, tau=1.2, alpha=40.0),
        **dict.fromkeys(("unet", "vae", "prompt"), Same("networks of one's own: all of the tests here give them")),
    },
    "segmenter ncut": {"tau": 0.8, "alpha": 4.0, "official_quirk": True},
    "segmenter patches": {},
    "segmenter slic": {"segments": 12, "compactness": 0.1},
    "task boundaries": {}, "task depth": {}, "task distance": {}, "task normals": {},
    "task instances": {"least": 3, "large": 0.1, "seed": 100},
    "task semantic": {"outputs": 5},
    "objective maxa": MAXA,
    "objective dip": {
        "loss": "official", "distractors": 1, "official_distractors": True, "temperature": 0.5,
        "classes": With(9, loss="official"), "hidden": 3, "out": 5, "projector_lr": 0.1, "train": "decoder",
        "blocks": 1, "size": 48, "scale": (0.2, 0.3), "resize": 40, "positives": "crops",
        "direct": With(True, out=6144, hidden=7),
    },
    "objective lila": {
        "cues": ("flow:dis",), "mode": "erm", "context": "detached",
        "ema.momentum": With(0.5, context="ema"), "ema.every": With(3, context="ema", ema={"momentum": 0.5}),
        "ema.ramp": With(True, context="ema"),
        **{f"features.{field}": value for field, value in {
            "layers": (0,), "norm": True, "project": 3, "pamr": False, "pyramid": (2, 2, 1), "iterations": (4, 1, 1),
            "dilations": (1, 2),
        }.items()},
        **{f"regression.{field}": value for field, value in {
            "penalty": 1.0, "relative": False, "bias": "none", "mean": False, "stride": 2,
        }.items()},
        **{f"loss.{field}": value for field, value in {
            "fit": "huber", "beta": With(0.3, loss={"fit": "huber"}), "weight": 0.2, "edges": "l1norm",
        }.items()},
        "sigma": 0.5, "gamma": 0.1, "balance": "channels", "start": 2, "centre": 0,
        **{f"sampling.{field}": value for field, value in {
            "gap": (2, 3), "items": "clips", "crop": (1, 1), "size": 32, "map_size": 12, "frame_side": 30,
            "cue_side": 32,
            "same_frame": True, "memory": Same("how much is kept, not what: test_memory_of_frames_is_bounded"),
        }.items()},
        "cue_cache": Same("maps read instead of made: test_cues_from_a_cache_are_those_computed"),
    },
}  # fmt: skip
KINDS = ("probe", "decoder", "metric", "cue", "segmenter", "task", "objective")


def parts():
    """One part of each target: presets of another's arguments are the same code."""
    found = {}
    for kind in KINDS:
        for entry in registry().entries(kind):
            if entry.owner.distribution == "dense-ctx":
                found.setdefault(entry.target, f"{kind} {entry.name}")
    chosen = set(CHANGES)
    return sorted({next((c for c in chosen if _target(c) == target), name) for target, name in found.items()})


def _target(part):
    kind, name = part.split(" ", 1)
    return registry().get(kind, name)[0].target if name in registry().names(kind) else None


def arguments(part):
    """Names of its arguments; a.b for a field of nested settings, those that are a dataclass."""
    kind, name = part.split(" ", 1)
    target = registry().resolve(registry().get(kind, name)[0])
    hints = typing.get_type_hints(target.__init__)
    for parameter in inspect.signature(target).parameters.values():
        hint = hints.get(parameter.name)
        nested = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)]
        if nested:
            yield from (f"{parameter.name}.{field.name}" for field in dataclasses.fields(nested[0]))
        else:
            yield parameter.name


ROWS = [(part, argument) for part in parts() for argument in arguments(part)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    @functools.cache
    def made(part, words):
        kind, name = part.split(" ", 1)
        folder = tmp_path_factory.getbasetemp() / f"effects-{name}"
        return getattr(part_outcomes, kind)(name, dict(eval(words)), Path(folder))  # words of this file alone

    return lambda part, args: made(part, repr(args))


@pytest.mark.parametrize(("part", "argument"), ROWS, ids=lambda value: value.replace(" ", "-"))
def test_an_argument_changes_the_outcome(part, argument, outcomes):
    change = CHANGES.get(part, {}).get(argument)
    assert change is not None, f"{argument} of {part} has no line in CHANGES: what does it change?"
    if isinstance(change, Same):
        return
    change = change if isinstance(change, With) else With(change)
    outer, _, inner = argument.partition(".")
    value = {**change.base.get(outer, {}), inner: change.value} if inner else change.value
    before, after = (outcomes(part, args) for args in (change.base, {**change.base, outer: value}))
    assert differ(before, after), f"{part} ignores {argument}={change.value!r}"


def differ(one, other):
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return True
        one, other = one.double(), other.double()
        return bool(((one - other).abs() > 1e-5 * one.abs().max().clamp_min(1e-3)).any())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) != len(other) or any(map(differ, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) > 1e-6 * max(1.0, abs(one)) or (one != one) != (other != other)
    return one != other


def test_no_line_is_of_an_argument_that_is_gone():
    rows = {part: set(arguments(part)) for part in parts()}
    assert {part: set(lines) for part, lines in CHANGES.items()} == rows


def test_the_same_arguments_give_the_same_outcome(outcomes, tmp_path):
    """Else any argument would seem to change it."""
    for part in ("objective lila", "objective dip", "probe conv"):
        kind, name = part.split(" ", 1)
        again = getattr(part_outcomes, kind)(name, {}, tmp_path / kind)
        assert not differ(outcomes(part, {}), again)
