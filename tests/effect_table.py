"""Every argument of the parts that learn, probes, decoders and objectives, with a value that changes what comes out."""

from effect_lines import BOTH, LABELS, VALUES, Changes, Refused, Same, beside
from maxa_scenes import KINDS

FILE = {"embeddings": "FILE"}  # of text embeddings, which the test makes
TRAINED = {
    "reads": "patches", "classes": beside(5, LABELS), "updates": 3, "replay": 0, "lr": 1e-2, "weight_decay": 50.0,
    "total_steps": 6, "seed": 1,
}  # fmt: skip
REGRESSION = {
    "loss": beside("l1", VALUES), "bins": beside(8, VALUES), "low": beside(1.0, VALUES, bins=4),
    "high": beside(5.0, VALUES, bins=4),
}  # fmt: skip
NEIGHBOURS = {"k": 2, "temperature": 0.5, "stride": 4, "memory": 40, "seed": beside(1, memory=40),
              "device_memory": Same("how often a bank is copied to an accelerator: test_device_banks")}  # fmt: skip
LABELS_ALONE = Refused("regression")
PROBES = {
    "attention": {"task": "regression", "heads": 2, "downscale": 1, "with_norm": False, **TRAINED, **REGRESSION},
    "conv": {"task": "regression", "kernel": 3, "norm": "none", **TRAINED, **REGRESSION},
    "knn": {"task": "regression", **NEIGHBOURS},
    "ensemble": {
        "task": "regression", **{key: value for key, value in NEIGHBOURS.items() if key != "k"},
        "temperature": beside(0.5, area=0.0), "channels": 2, "keys": 20,
        "radius": Same("of a filter that wants the image: test_ensemble.test_each_argument_counts"),
        "epsilon": Same("of a filter that wants the image: test_ensemble.test_each_argument_counts"),
        "weight": 0.9, "area": 1.0, "uniform": beside(0.9, LABELS, area=0.0),
        "landmarks": beside(3, weight=1.0), "gamma": beside(4.0, weight=1.0), "penalty": beside(1.0, weight=1.0),
    },
    "linear": {"task": "regression", "penalty": 0.1, "samples": 60, "iterations": 1, "seed": beside(1, samples=60)},
    "head": {"task": "regression"},
    "propagation": {
        "task": LABELS_ALONE, "n_last_frames": 0, "size_mask_neighborhood": 2, "topk": 2, "temperature": 1.0,
        "stride": 4, "recall": 0.0,
    },
    "retrieval": {
        "task": "regression", "k": 2, "temperature": 0.5, "memory": 9, "mode": "dip",
        "sampling": beside("uniform", LABELS, "a regression is sampled uniformly as it is", memory=9),
        "reads": "pixels", "classes": beside(5, LABELS), "dtype": "float16",
        "engine": Same("the same neighbours by another search: test_published_evaluator, test_search_is_exact, and "
                       "test_an_approximate_index_says_how_much_it_finds"),
        "device": Same("where the bank is, and there is one here: test_pretend_gpu_parts"),
        "folder": Same("where the bank is kept: test_a_bank_in_files_is_the_bank_in_memory"),
        "device_memory": NEIGHBOURS["device_memory"],
        "seed": beside(1, memory=9),
    },
    "ridge": {"task": "regression", "penalty": 1.0, "bias": "none", "mean": beside(False, penalty=1.0)},
    "zero-shot": {
        "task": LABELS_ALONE, "embeddings": "FILE", "class_names": Changes(["c", "b", "a"], FILE),
        "unseen": beside((1,), classes=3), "width": 8, **TRAINED,
    },
}  # fmt: skip
SIZES = {
    "dims": (8, 12),
    "strides": Same("the backbone's: a decoder is told, and given maps that are so; test_dpt"),
}
SMALL = {"dim": 6, "size": (32, 48)}
LAST = beside(None)  # all maps in place of the last
DECODERS = {
    "anyup": {**SIZES, "layer": 0, "width": 16, "heads": 2, "window": 0.0},
    "featup": {**SIZES, "layer": 0, "norm": False},
    "jafar": {**SIZES, "layer": 0, "width": 16, "heads": 2},
    "loftup": {**SIZES, "layer": 0, "heads": 2},
    "naf": {**SIZES, "layer": 0, "width": 64, "heads": 2, "kernel": 3},
    "uplift": {**SIZES, "layer": 0, "width": 16, "steps": 2},
    "cnn": {**SIZES, "dim": 6, "width": 32, "heads": 4, "cnn_width": 16, "layers": LAST},
    "dpt": {**SIZES, "dim": 6, "width": 16, "projections": (8, 8), "norm": False, "shortcut": True},
    "linear": {**SIZES, "dim": 6, "layers": LAST},
    "maxa": {**SIZES, **{key: Changes(value, SMALL) for key, value in {
        "dim": 7, "width": 16, "heads": 4, "depth": 1, "sigma": "none", "cnn_width": 16, "layers": None,
        "size": (16, 24), "grid": (5, 7), "density": 2,
    }.items()}},
    "upsample": {**SIZES, "layers": (0,), "normalize": False},
}  # fmt: skip
EMA = {"context": "ema"}
LILA = {
    "cues": ("flow:dis",), "mode": "erm", "context": "detached",
    "ema.momentum": Changes(0.5, EMA), "ema.every": Changes(3, {**EMA, "ema": {"momentum": 0.5}}),
    "ema.ramp": Changes(True, EMA),
    **{f"features.{field}": value for field, value in {
        "layers": (0,), "norm": True, "project": 3, "pamr": False, "pyramid": (2, 2, 1), "iterations": (4, 1, 1),
        "dilations": (1, 2),
    }.items()},
    **{f"regression.{field}": value for field, value in {
        "penalty": 1.0, "relative": False, "bias": "none", "mean": False, "stride": 2,
        "products": "tf32",
    }.items()},
    **{f"loss.{field}": value for field, value in {
        "fit": "huber", "beta": beside(0.3, loss={"fit": "huber"}), "weight": 0.2, "edges": "l1norm",
    }.items()},
    "sigma": 0.5, "gamma": 0.1, "balance": "channels", "start": 2, "centre": 0, "refine": 0.5,
    "anchor": Same("zero in a first step: test_the_anchor_is_zero_at_the_start_and_holds_it_after"),
    **{f"sampling.{field}": value for field, value in {
        "gap": (2, 3), "items": "clips", "crop": (1, 1), "size": 32, "map_size": 12, "frame_side": 30, "cue_side": 32,
        "same_frame": True, "synthetic": 1.0, "flow_check": True,
        "memory": Same("how much is kept, not what: test_memory_of_frames_is_bounded"),
    }.items()},
    "cue_cache": Same("maps read in place of computed: test_cues_from_a_cache_are_those_computed"),
}  # fmt: skip
DIP = {
    "loss": "official", "distractors": 1, "official_distractors": True, "temperature": 0.5,
    "classes": beside(9, loss="official"), "hidden": 3, "out": 5, "projector_lr": 0.1, "train": "decoder", "blocks": 1,
    "size": 48, "scale": (0.2, 0.3), "resize": 40, "positives": "crops", "direct": beside(True, out=6144, hidden=7),
}  # fmt: skip
MAXA = {
    "size": (20, 30), "image_size": (40, 56), "flip": True, "pixels": Refused(4),
    "cache": Same("maps of the frozen backbone, kept: test_training_from_the_cache_is_training_from_images"),
    "targets": Same("the targets, kept: test_targets_are_kept_and_read"),
}  # fmt: skip
NAMED = {"task": Same("given by the name; of the objective maxa it counts: test_effects")}
OBJECTIVES = {
    "lila": LILA,
    "dip": DIP,
    "maxa": {**MAXA, "task": "depth"},
    **{f"maxa-{task}": {**MAXA, **NAMED} for task in KINDS},
    "maxa-instances": {**MAXA, **NAMED, "pixels": 4},
}
TABLE = {
    f"{kind} {name}": lines
    for kind, parts in (("probe", PROBES), ("decoder", DECODERS), ("objective", OBJECTIVES))
    for name, lines in parts.items()
}
# under which a probe is run; the argument `task` itself changes the first to the second
TASKS = {name: LABELS if lines["task"] == LABELS_ALONE else BOTH for name, lines in PROBES.items()}
