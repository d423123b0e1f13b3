"""Every argument of every registered probe, decoder and objective changes what comes out, or is refused by name.

CASES has each argument of each signature, with another value than the default; one that a table lacks is a failure.
"""

import inspect
import typing
from dataclasses import dataclass, field, fields, is_dataclass

import numpy as np
import pytest
import torch
from dense_ctx_probes.text import TextEmbeddings
from dip_data import tasks
from maxa_scenes import KINDS, OUTPUTS, Boxes
from PIL import Image

from dense_ctx import DenseModel, create_decoder, registry
from dense_ctx.data.video import write_video
from dense_ctx.errors import ConfigError, DenseCtxError, InputError
from dense_ctx.interfaces import DenseFeatures, FitContext
from dense_ctx.testing import TinyBackbone
from dense_ctx.testing.common import decoder_inputs
from dense_ctx.testing.decoder import PLAIN
from dense_ctx.train import TrainStep

TASKS = ("segmentation", "regression")


@dataclass(frozen=True)
class Case:
    """Another value of an argument.

    beside: arguments without which it cannot count. tasks: of a probe, those under which it counts; it is refused under
    the others.
    """

    value: object
    beside: dict = field(default_factory=dict)
    tasks: tuple = TASKS


LABELS, VALUES = ("segmentation",), ("regression",)
GRADIENT = {
    "reads": Case("pixels"), "classes": Case(5, tasks=LABELS), "updates": Case(2), "replay": Case(0), "lr": Case(0.1),
    "weight_decay": Case(0.5), "total_steps": Case(10), "seed": Case(3),
}  # fmt: skip
REGRESSION = {
    "loss": Case("l1", tasks=VALUES), "bins": Case(4, tasks=VALUES),
    "low": Case(-1.0, {"bins": 4}, VALUES), "high": Case(5.0, {"bins": 4}, VALUES),
}  # fmt: skip
FILE = {"embeddings": "FILE"}
PROBES = {
    "ridge": {"penalty": Case(10.0), "bias": Case("none"), "mean": Case(False)},
    "knn": {"k": Case(2), "temperature": Case(1.0), "stride": Case(2), "memory": Case(20),
            "seed": Case(1, {"memory": 20})},
    "ensemble": {"k": Case(2), "temperature": Case(1.0), "stride": Case(2), "memory": Case(20),
                 "seed": Case(1, {"memory": 20}), "weight": Case(1.0), "uniform": Case(0.9, tasks=LABELS),
                 "landmarks": Case(4), "gamma": Case(5.0), "penalty": Case(1.0)},
    "linear": {"penalty": Case(1.0), "samples": Case(50), "iterations": Case(2), "seed": Case(1, {"samples": 50})},
    "conv": {**GRADIENT, **REGRESSION, "kernel": Case(3), "norm": Case("none")},
    "attention": {**GRADIENT, **REGRESSION, "heads": Case(2), "downscale": Case(1), "with_norm": Case(False)},
    "retrieval": {
        "k": Case(2), "temperature": Case(1.0), "memory": Case(20), "mode": Case("dip"),
        "sampling": Case("uniform", {"memory": 20}, LABELS), "reads": Case("pixels"), "classes": Case(5, tasks=LABELS),
        "dtype": Case("float16"), "seed": Case(1, {"memory": 20}),
    },
    "zero-shot": {
        **GRADIENT, "embeddings": Case("FILE"), "width": Case(8),
        "class_names": Case(["c", "b", "a"], FILE), "unseen": Case((1,)),
    },
    "head": {},  # learns nothing: test_predictor
    "propagation": {"n_last_frames": Case(0), "size_mask_neighborhood": Case(1), "topk": Case(1),
                    "temperature": Case(5.0), "stride": Case(3)},
}  # fmt: skip
BASE_PROBES = {"conv": {"updates": 3}, "attention": {"updates": 3}, "zero-shot": {"updates": 3, "embeddings": "random"}}
LAYERS, DIM = Case([0]), Case(3)
DECODERS = {
    "upsample": {"layers": LAYERS, "normalize": Case(False)},
    "dpt": {"dim": DIM, "width": Case(8), "projections": Case([4, 4, 4, 4]), "norm": Case(False),
            "shortcut": Case(True)},
    "maxa": {"dim": DIM, "width": Case(16), "heads": Case(4), "depth": Case(1), "sigma": Case("none"),
             "cnn_width": Case(4), "layers": LAYERS, "size": Case((32, 48)), "grid": Case((5, 7)), "density": Case(2)},
    "cnn": {"dim": DIM, "width": Case(16), "heads": Case(4), "cnn_width": Case(4), "layers": LAYERS},
    "linear": {"dim": DIM, "layers": LAYERS},
}  # fmt: skip
EMA, SMOOTH = {"context": "ema"}, {"loss.fit": "smooth"}
LILA = {
    "cues": Case(["flow:dis"]), "mode": Case("erm"), "context": Case("detached"),
    "ema.momentum": Case(0.1, EMA), "ema.every": Case(2, EMA), "ema.ramp": Case(True, EMA),
    "features.layers": Case((0,)), "features.norm": Case(True), "features.project": Case(3),
    "features.pamr": Case(False), "features.pyramid": Case((8, 2, 1)), "features.iterations": Case((3, 2, 1)),
    "features.dilations": Case((1, 2)), "regression.penalty": Case(0.5), "regression.relative": Case(False),
    "regression.bias": Case("none"), "regression.mean": Case(False), "regression.stride": Case(3),
    "loss.fit": Case("l2"), "loss.beta": Case(0.2, SMOOTH), "loss.weight": Case(2.0), "loss.edges": Case("l1norm"),
    "sigma": Case(0.5), "gamma": Case(0.5), "balance": Case("channels"), "start": Case(2), "centre": Case(3),
    "sampling.gap": Case((1, 1)), "sampling.items": Case("clips"), "sampling.crop": Case((0.5, 0.6)),
    "sampling.size": Case(40), "sampling.map_size": Case(16), "sampling.frame_side": Case(32),
    "sampling.cue_side": Case(24), "sampling.same_frame": Case(True),
}  # fmt: skip
LILA_BASE = {"sampling.size": 32, "sampling.frame_side": 48, "sampling.cue_side": 48, "sampling.crop": (0.6, 0.9),
             "sampling.gap": (1, 2), "centre": 2}  # fmt: skip
DIP = {
    "loss": Case("official"), "distractors": Case(0), "official_distractors": Case(True), "temperature": Case(1.0),
    "classes": Case(9, {"loss": "official"}), "hidden": Case(3), "out": Case(8), "projector_lr": Case(5.0),
    "train": Case("decoder"), "blocks": Case(2), "size": Case(40), "scale": Case((0.9, 1.0)), "resize": Case(36),
    "positives": Case("crops"), "direct": Case(True, {"out": 6144, "hidden": 7}),
}  # fmt: skip
MAXA = {"size": Case((8, 16)), "image_size": Case((32, 40)), "flip": Case(True)}
OBJECTIVES = {
    "lila": LILA,
    "dip": DIP,
    **dict.fromkeys(("maxa", *(f"maxa-{task}" for task in KINDS)), MAXA),
    "maxa-instances": {**MAXA, "pixels": Case(4)},
}
# what changes no number: why, and which test shows what it does
WITHOUT_A_NUMBER = {
    ("probe", "retrieval", "engine"): "another search for the same neighbours: test_retrieval.py",
    ("probe", "retrieval", "device"): "where the bank is",
    ("probe", "retrieval", "folder"): "the bank in files: test_retrieval.py",
    ("objective", "lila", "sampling.memory"): "decoded frames in memory: test_memory_of_frames_is_bounded",
    ("objective", "lila", "cue_cache"): "the maps from disk: test_cues_from_a_cache_are_those_computed",
    **{("objective", name, "cache"): "the maps from disk: test_maxa_data.py" for name in OBJECTIVES if "maxa" in name},
    **{("objective", name, "targets"): "targets on disk: test_maxa_data.py" for name in OBJECTIVES if "maxa" in name},
    **{("objective", f"maxa-{task}", "pixels"): "refused, below" for task in KINDS if task != "instances"},
    ("objective", "maxa", "pixels"): "refused, below; of the task instances it counts, as in maxa-instances",
    **{("objective", f"maxa-{task}", "task"): "given by the name" for task in KINDS},
    ("objective", "maxa", "task"): "each task is an objective here",
}
ALL = {"probe": PROBES, "decoder": DECODERS, "objective": OBJECTIVES}
GIVEN = {"probe": ("task",), "decoder": ("dims", "strides"), "objective": ()}  # by the library
ROWS = [(kind, name, argument) for kind, parts in ALL.items() for name, cases in parts.items() for argument in cases]


def target_of(kind, name):
    return registry().resolve(registry().get(kind, name)[0])


def signature(kind, name):
    """Arguments of a registered part; those of a settings dataclass one by one, dotted."""
    target = target_of(kind, name)
    hints = typing.get_type_hints(target.__init__)
    for argument in inspect.signature(target).parameters:
        groups = [c for c in typing.get_args(hints.get(argument)) if isinstance(c, type) and is_dataclass(c)]
        if argument not in GIVEN[kind]:
            yield from [f"{argument}.{item.name}" for group in groups for item in fields(group)] or [argument]


@pytest.mark.parametrize("kind", ALL)
def test_every_argument_is_in_a_table(kind):
    assert set(ALL[kind]) == set(registry().names(kind))
    for name, cases in ALL[kind].items():
        exceptions = {argument for k, n, argument in WITHOUT_A_NUMBER if (k, n) == (kind, name)}
        assert set(signature(kind, name)) == set(cases) | exceptions, name
        assert not set(cases) & exceptions, name


# ---------------------------------------------------------------------- what comes out


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A file of text embeddings, clips for LILA and tasks for DIP."""
    root = tmp_path_factory.mktemp("effects")
    vectors = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    TextEmbeddings(("a", "b", "c"), vectors, "test").save(root / "text.safetensors")
    rng = np.random.default_rng(0)
    picture = np.asarray(Image.fromarray(rng.integers(0, 255, (8, 16, 3), dtype=np.uint8)).resize((120, 60)))
    (root / "clips").mkdir()
    for film in range(2):
        write_video(root / f"clips/{film}.mp4", [picture[:48, 3 * i : 3 * i + 80] for i in range(film + 4)])
    return root, tasks(root / "dip")


def features(seed, classes=3, noise=0.5):
    """Two images of 12 x 15 pixels on a grid of 4 x 5 patches, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (2, 4, 5), generator=generator).repeat_interleave(3, 1).repeat_interleave(3, 2)
    means = torch.randn(classes, 8, generator=torch.Generator().manual_seed(99))
    pixels = means[labels].permute(0, 3, 1, 2) + noise * torch.randn(2, 8, 12, 15, generator=generator)
    return DenseFeatures(pixels, torch.nn.functional.avg_pool2d(pixels, 3), None), labels


def probe_outcome(name, args, task, work):
    args = {key: str(work[0] / "text.safetensors") if value == "FILE" else value for key, value in args.items()}
    probe = registry().create("probe", name, task=task, **args)
    for seed in (1, 2):
        maps, labels = features(seed)
        probe.partial_fit(maps, labels if task == "segmentation" else labels[:, None].float().square())
    return {"prediction": probe.predict(features(3, noise=2.0)[0], (11, 19)), **probe.state_dict()}


def decoder_outcome(name, args):
    torch.manual_seed(0)
    decoder = registry().create("decoder", name, dims=PLAIN[0], strides=PLAIN[1], **args).eval()
    for parameter in decoder.parameters():  # some are 0 at the start
        parameter.data += 0.1 * torch.randn(parameter.shape)
    maps, images = decoder_inputs(*PLAIN)
    return {"out": decoder(maps, images, (33, 47)).detach(), **decoder.state_dict()}


def nested(args):
    values = {}
    for key, value in args.items():
        group, dot, inner = key.partition(".")
        values.setdefault(group, {}) if dot else None
        if dot:
            values[group][inner] = value
        else:
            values[key] = value
    return values


def objective_outcome(name, args, work):
    torch.manual_seed(0)
    data: object = str(work[0] / "clips")
    decoder, decoder_args = "dpt", {"dim": 6, "width": 8, "shortcut": True}
    if name == "dip":
        data, args = work[1], {"size": 32, "out": 16, "hidden": 2, **args}
    elif name.startswith("maxa"):
        task = name.removeprefix("maxa-")
        task, args = (task, args) if task in KINDS else ("depth", {"task": "depth", **args})
        data, args = Boxes(KINDS[task]), {"size": (16, 24), "image_size": (24, 32), **args}
        decoder, decoder_args = "linear", {"dim": OUTPUTS[task]}
    else:
        args = nested({**LILA_BASE, **args})
    backbone = TinyBackbone()
    model = DenseModel(backbone, create_decoder(decoder, backbone, **decoder_args))
    objective = registry().create("objective", name, **args)
    dataset = objective.dataset(data)
    step = TrainStep(model, objective, dataset)
    optimizer = torch.optim.SGD(step.groups, lr=0.1)
    outcome = {}
    for number in (1, 2):
        batch = objective.collate(
            [dataset.sample(index % len(dataset), seed=10 * number + index) for index in range(4)]
        )
        torch.manual_seed(number)
        losses = step(batch)
        outcome |= {f"{number} {key}": value for key, value in {**losses.logs, "total": losses.total.detach()}.items()}
        outcome |= {f"{number} batch {key}": value for key, value in batch.items() if isinstance(value, torch.Tensor)}
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        step.after_step(number)
    objective.finish(model)
    return {**outcome, **{key: value.detach().clone() for key, value in step.state_dict().items()}}


_unchanged = {}


def outcome(kind, name, args, task, work):
    """Tensors; or the error, which is an outcome too."""
    try:
        if kind == "probe":
            return probe_outcome(name, {**BASE_PROBES.get(name, {}), **args}, task, work)
        return decoder_outcome(name, args) if kind == "decoder" else objective_outcome(name, args, work)
    except DenseCtxError as error:
        return error


def unchanged(kind, name, case, task, work):
    """What comes out without the argument, computed once for a table."""
    key = (kind, name, task, str(case.beside))
    if key not in _unchanged:
        _unchanged[key] = outcome(kind, name, case.beside, task, work)
        assert same(_unchanged[key], outcome(kind, name, case.beside, task, work)), "two runs of the same differ"
    return _unchanged[key]


def same(one, two):
    if isinstance(one, Exception) or isinstance(two, Exception) or one.keys() != two.keys():
        return False
    return all(a.dtype == two[k].dtype and a.shape == two[k].shape and torch.equal(a, two[k]) for k, a in one.items())


def tasks_of(kind, name):
    if kind != "probe":
        return (None,)
    return LABELS if name in ("zero-shot", "propagation") else TASKS


@pytest.mark.parametrize(("kind", "name", "argument"), ROWS)
def test_an_argument_counts_or_is_refused(kind, name, argument, work):
    case = ALL[kind][name][argument]
    for task in tasks_of(kind, name):
        counts = task in case.tasks or kind != "probe"
        after = outcome(kind, name, {**(case.beside if counts else {}), argument: case.value}, task, work)
        if counts:
            before = unchanged(kind, name, case, task, work)
            assert not isinstance(before, Exception), before
            assert not isinstance(after, Exception), after
            assert not same(before, after), f"{argument}={case.value} changes nothing under {task}"
        elif (name, argument) != ("retrieval", "sampling"):  # says what is done with values anyway
            assert isinstance(after, ConfigError), f"{argument} is ignored under {task}"
            assert f"{argument} would have no effect" in str(after)


TASK_ARGUMENTS = {
    "semantic": {"outputs": 5}, "instances": {"least": 3, "large": 0.1, "seed": 4},
    "boundaries": {}, "distance": {}, "depth": {}, "normals": {},
}  # fmt: skip


@pytest.mark.parametrize("name", TASK_ARGUMENTS)
def test_each_argument_of_a_task_of_maxa_counts(name):
    assert set(TASK_ARGUMENTS) == set(registry().names("task"))
    parameters = [key for key in inspect.signature(target_of("task", name)).parameters if key not in ("args", "kwargs")]
    assert set(parameters) == set(TASK_ARGUMENTS[name])

    def result(**args):
        task = registry().create("task", name, **args)
        latent = torch.rand(8, 40, 56, generator=torch.Generator().manual_seed(0))
        metric, images = task.scores(("ground", "red", "blue")), Boxes(KINDS[name])
        for index in range(len(images)):
            metric.update(latent, task.target(images[index].target, images.classes, "a"))
        try:
            return task.channels, metric.compute().values
        except InputError as error:  # no image has so many instances
            return task.channels, str(error)

    for argument, value in TASK_ARGUMENTS[name].items():
        assert result() == result() != result(**{argument: value}), argument


# refused beside another argument. Not refused: `balance` with one cue, `sampling.cue_side` with the features cue alone;
# they are of however many cues there are, and leaving one out of a preset is the paper's own ablation
REFUSED = [
    ("conv", {"reads": "patches", "kernel": 3}, "kernel"),
    ("attention", {"reads": "patches", "heads": 2}, "heads"),
    ("attention", {"reads": "patches", "downscale": 2}, "downscale"),
    ("attention", {"reads": "patches", "with_norm": False}, "with_norm"),
    ("conv", {"low": 0.1}, "low"),
    ("conv", {"task": "regression", "high": 5.0}, "high"),
    ("conv", {"updates": 1, "replay": 4}, "replay"),
    ("zero-shot", {"embeddings": "FILE", "width": 64}, "width"),
    ("zero-shot", {"embeddings": "FILE", "classes": 3}, "classes"),
    ("zero-shot", {"embeddings": "random", "class_names": ["a"]}, "class_names"),
    ("retrieval", {"task": "regression", "mode": "official"}, "mode=official"),
    ("retrieval", {"task": "regression", "sampling": "balanced"}, "sampling=balanced"),
    ("retrieval", {"folder": "bank", "classes": 3, "device": "cuda"}, "device"),
    ("lila", {"cues": ["features"], "cue_cache": "folder"}, "cue_cache"),
    ("lila", {"features": {"pamr": False, "iterations": (1, 1, 1)}}, "features.iterations"),
    ("lila", {"features": {"pamr": False, "pyramid": (8, 2, 1)}}, "features.pyramid"),
    ("lila", {"features": {"pamr": False, "dilations": (1,)}}, "features.dilations"),
    *((name, {"pixels": 4}, "pixels") for name in OBJECTIVES if name.startswith("maxa-") and name != "maxa-instances"),
    ("maxa", {"task": "depth", "pixels": 4}, "pixels"),
]


@pytest.mark.parametrize(("name", "args", "argument"), REFUSED)
def test_an_argument_without_effect_beside_another_is_refused(name, args, argument, work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = "probe" if name in PROBES else "objective"
    args = {key: str(work[0] / "text.safetensors") if value == "FILE" else value for key, value in args.items()}
    with pytest.raises(ConfigError, match=rf"^(objective: )?{argument} would have no effect .*leave it out"):
        registry().create(kind, name, **args)
    assert not list(tmp_path.iterdir())


def test_loss_of_directions_beside_bins_is_refused():
    with pytest.raises(ConfigError, match="loss=cosine compares directions, and bins predict one number"):
        registry().create("probe", "conv", task="regression", loss="cosine", bins=4)


@pytest.mark.parametrize(
    ("name", "args", "context", "words"),
    [
        ("conv", {"kernel": 3}, FitContext(reads="patches", steps=3), "kernel would have no effect with reads=patches"),
        ("conv", {"classes": 5}, FitContext(("a", "b")), "classes=5, and the data set has 2"),
        ("zero-shot", {"embeddings": "random", "unseen": [1]}, FitContext(("a", "b")), "unseen would have no effect"),
    ],
)
def test_an_argument_that_the_evaluation_decides_is_refused(name, args, context, words):
    with pytest.raises(ConfigError, match=words):
        registry().create("probe", name, **args).configure(context)


@pytest.mark.parametrize(
    ("kind", "name", "args", "argument"),
    [
        ("objective", "lila", {}, "cues"),
        ("probe", "zero-shot", {"embeddings": "FILE"}, "class_names"),
    ],
)
def test_a_text_in_place_of_a_list_is_not_read_letter_by_letter(kind, name, args, argument, work):
    target = target_of(kind, name)  # the class itself: the registry has its own check
    args = {key: str(work[0] / "text.safetensors") for key in args}
    with pytest.raises((ConfigError, InputError), match=f"{argument}='features' is one text; expected a list"):
        target(**args, **{argument: "features"})
    lists = {
        (kind, part, key)
        for kind in ALL
        for part in registry().names(kind)
        for key, hint in typing.get_type_hints(target_of(kind, part).__init__).items()
        if "Sequence[str]" in str(hint)
    }
    assert lists == {("objective", "lila", "cues"), ("probe", "zero-shot", "class_names")}, "add it to this test"
