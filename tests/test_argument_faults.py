"""Every public function and verb, called with wrong types, shapes, ranges and options: only errors of ours come out.

500 calls are drawn from one seed (`-m faults`); the default run takes the first hundred. A call may also succeed: what
is refused is another matter than how. Python's own TypeError is for calls that do not fit the signature.
"""

import contextlib
import inspect
import io
import random
import reprlib
import signal
from collections import Counter
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from dense_ctx_bench.plan import Bench, BenchTask
from dense_ctx_bench.run import run_bench
from dense_ctx_datasets.check import check_root
from dense_ctx_dip.task_settings import TaskSettings
from dense_ctx_dip.tasks import make_tasks
from dense_ctx_lila.cue_cache import plan_cues
from dense_ctx_lila.ridge import ridge_apply, ridge_fit
from dense_ctx_measures.boundary import boundary_quality
from dense_ctx_measures.invariance import feature_invariance
from dense_ctx_measures.temporal import temporal_consistency
from dense_ctx_metrics.davis import score_folders
from dense_ctx_metrics.depth import align_depth
from dense_ctx_metrics.segmentation import confusion_matrix
from dense_ctx_predict import track
from dense_ctx_predict.context_files import load_context, save_context
from dense_ctx_predict.feature_files import write_features
from dense_ctx_predict.pca import pca, pca_pictures
from dense_ctx_probes.knn import soft_knn
from dense_ctx_probes.text import TextEmbeddings, embed_text
from evaluation_data import camvid, clip, rgbd, save, scene
from PIL import Image
from test_signals import argv
from tiny_datasets import labels

from dense_ctx import AutoDenseModel, InContext, Part, cli, create_backbone, create_decoder, registry, visualize
from dense_ctx.config import parse_part
from dense_ctx.data import layout, list_set, open_set
from dense_ctx.data.features import fill_cache
from dense_ctx.data.video import Video, write_video
from dense_ctx.errors import (
    CheckpointError,
    ConfigError,
    DenseCtxError,
    FileError,
    InputError,
    MemoryBudgetError,
    MissingDependencyError,
    WeightsError,
)
from dense_ctx.evaluate import evaluate, load_protocol
from dense_ctx.gateway import gateway
from dense_ctx.images import load, load_mask
from dense_ctx.model_spec import open_model
from dense_ctx.testing import tiny_model
from dense_ctx.train import TrainConfig, train

SHORT = reprlib.Repr()
SHORT.maxdict = 20
LIMIT = 30  # seconds for one call
VERBS = ("evaluate", "bench", "pseudo-label", "features", "track", "predict", "measure", "cues", "datasets", "train",
         "plugins", "compare", "score", "text", "convert")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    camvid(root / "camvid", train=3, val=2)
    rgbd(root / "rgbd", frames=8)
    for index in range(4):
        save(root / "pictures" / f"{index:02d}.png", scene(index, (48, 72))[0])
    for index, (picture, label) in enumerate(clip(4, size=(32, 48))):
        save(root / "clips" / "one" / f"{index:05d}.png", picture)
        for folder in ("truth", "predicted"):
            labels(root / folder / "one" / f"{index:05d}.png", label, palette=True)
        if index == 0:
            labels(root / "one.png", label)
    labels(root / "mask.png", scene(0, (48, 72))[1])
    (root / "garbage").write_bytes(bytes(range(256)) * 4)
    (root / "garbage.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300))
    (root / "garbage.yaml").write_text("a: [1, {b: &c *c, '\n")
    (root / "garbage.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(500))
    return root


def hostile(draw, root):
    """A value that hardly any argument wants."""
    return draw.choice((
        None, True, -1, 0, 3, -(10**30), 10**30, float("nan"), float("inf"), -0.5, 1e308, 1j, "", "no-such", "\0", "a" * 1000,
        "../../x", "timm:", "key=value", b"bytes", [], (), {}, set(), [None], ["a", 1], {"a": 1}, {1: 2}, object(), int,
        len, lambda *args: None, lambda *args: 1 / 1, Ellipsis, NotImplemented, range(3), iter([1]), (0, 0), (-1, 5), (3, 4, 5),
        torch.empty(0), torch.tensor(1.0), torch.rand(2, 2), torch.rand(3, 0, 4), torch.rand(1, 3, 20, 20) * 5,
        torch.rand(2, 4, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.complex64), torch.ones(8, 8, dtype=torch.bool),
        torch.full((3, 16, 16), float("nan")), torch.randint(0, 9, (16, 16)), torch.rand(3, 16, 16, 2),
        np.zeros((0, 3)), np.array("text"), np.array([object()]), np.zeros((4, 4, 7)), np.full((8, 8), 300),
        np.zeros((16, 16), dtype="datetime64[s]"), root, root / "missing" / "x.png", root / "garbage", root / "garbage.png",
        root / "garbage.yaml", root / "garbage.mp4", Path("/dev/null"), root / "mask.png" / "below", str(root / "camvid"),
        Exception("a value"), torch.nn.Identity(), slice(3),
    ))  # fmt: skip


def functions(root, out):
    """name -> (function, arguments that work)."""
    model, image, mask = tiny_model(), torch.rand(3, 32, 48), (torch.arange(48) < 20).long().expand(32, 48)
    fitted = InContext(model).fit(image, mask)
    pictures = sorted((root / "pictures").iterdir())
    rows = torch.rand(20, 4)
    depth = torch.rand(1, 8, 8) + 1
    dense = AutoDenseModel.from_parts("rgb-xy", "linear", decoder_args={"dim": 3})
    images = open_set("camvid", root / "camvid", "train")
    task = BenchTask("maxa-depth", {"name": "rgbd-folder", "root": str(root / "rgbd")})
    bench = {"out": out / "bench", "backbones": (Part("rgb-xy"),), "heads": (Part("linear"),), "tasks": (task,),
             "seeds": (0,), "size": (16, 24), "image_size": (12, 18), "steps": 2, "batch_size": 2}  # fmt: skip
    settings = {"out": str(out / "run"), "steps": 1, "batch_size": 2, "model": "rgb-xy+linear(dim=1)",
                "objective": {"name": "maxa-depth"}, "data": {"name": "rgbd-folder", "root": str(root / "rgbd")},
                "optimizer": {"lr": 1e-3}, "save": {"every": 1}, "seed": 0, "log": 1}  # fmt: skip
    return {
        "load": (load, {"image": image}),
        "load_mask": (load_mask, {"mask": mask, "size": (32, 48)}),
        "forward": (model.forward, {"images": image, "size": (8, 8), "max_memory": "1GB"}),
        "unfreeze": (tiny_model().unfreeze, {"prefixes": "deep"}),
        "from_parts": (AutoDenseModel.from_parts, {"backbone": "rgb-xy", "decoder": "linear", "backbone_args": {"position": 0.5},
                                                  "decoder_args": {"dim": 3}}),
        "from_pretrained": (AutoDenseModel.from_pretrained, {"name_or_path": "lila-lite0", "revision": None, "cache_dir": None,
                                                            "local_files_only": True, "token": None, "device": None}),
        "save_pretrained": (dense.save_pretrained, {"save_directory": out / "saved"}),
        "create_backbone": (create_backbone, {"name": "rgb-xy", "position": 1.0}),
        "create_decoder": (create_decoder, {"name": "linear", "backbone": model.backbone, "dim": 3}),
        "open_model": (open_model, {"spec": "rgb-xy+linear(dim=3)", "device": "cpu", "dtype": "float32"}),
        "registry.create": (lambda kind, called, **a: registry().create(kind, called, **a), {"kind": "probe", "called": "ridge", "penalty": 0.1}),
        "registry.get": (registry().get, {"kind": "probe", "name": "ridge"}),
        "InContext": (InContext, {"model": model, "method": "ridge", "task": "segmentation", "ignore_index": 255, "penalty": 0.1}),
        "InContext.fit": (InContext(model).fit, {"images": [image], "targets": [mask], "max_memory": "1GB"}),
        "InContext.predict": (fitted.predict, {"images": image, "max_memory": "1GB"}),
        "save_context": (save_context, {"context": fitted, "folder": out / "probe"}),
        "load_context": (lambda folder, model: load_context(folder, model), {"folder": save_context(fitted, out / "kept"), "model": model}),
        "track": (track, {"model": model, "video": [image, image], "first_mask": mask, "stride": 8, "topk": 5,
                  "n_last_frames": 3, "size_mask_neighborhood": 4, "temperature": 0.1, "max_memory": "1GB"}),
        "write_features": (write_features, {"model": model, "image": image, "path": out / "f.npy", "max_memory": "1GB",
                                           "dtype": "float16"}),
        "open_set": (open_set, {"name": "camvid", "root": root / "camvid", "split": "val"}),
        "list_set": (list_set, {"name": "rgbd-folder", "root": root / "rgbd", "split": "val", "target": "normals"}),
        "layout": (layout, {"name": "camvid"}),
        "Video": (Video, {"path": root / "clips" / "one"}),
        "write_video": (write_video, {"path": out / "v.mp4", "frames": [np.zeros((16, 16, 3), np.uint8)] * 2, "fps": 25.0}),
        "fill_cache": (fill_cache, {"backbone": model.backbone, "images": images, "folder": out / "features", "size": (16, 24),
                                         "layers": (-1,), "batch": 2, "name": "tiny"}),
        "evaluate": (evaluate, {"model": model, "protocol": "camvid-linear-grid4-v2", "data": root / "camvid", "out": out / "e",
                               "overrides": ["grid=8"], "seeds": (0,), "limit": 2, "cache": "1GB", "keep": False, "name": "m"}),
        "load_protocol": (load_protocol, {"name": "camvid-linear-grid4-v2", "overrides": ["grid=8"]}),
        "TrainConfig.from_dict": (TrainConfig.from_dict, {"data": settings, "where": "config"}),
        "TrainConfig settings": (lambda **a: train(TrainConfig.from_dict(a)), settings),
        "TrainConfig.load": (TrainConfig.load, {"path": root / "garbage.yaml", "overrides": ["steps=3"]}),
        "train": (train, {"config": TrainConfig.from_dict(settings), "model": None, "objective": None, "dataset": None, "validate": None}),
        "parse_part": (parse_part, {"text": "linear(dim=3)"}),
        "pca_pictures": (pca_pictures, {"features": [torch.rand(4, 8, 8)], "size": (8, 8)}),
        "overlay": (visualize.overlay, {"image": np.zeros((16, 16, 3), np.uint8), "labels": torch.zeros(16, 16, dtype=torch.int64),
                                       "alpha": 0.5}),
        "save_labels": (visualize.save_labels, {"path": out / "l.png", "labels": torch.zeros(16, 16, dtype=torch.int64)}),
        "save_picture": (visualize.save_picture, {"path": out / "p.png", "picture": np.zeros((16, 16, 3), np.uint8)}),
        "heat_picture": (visualize.heat_picture, {"values": torch.rand(8, 8), "low": 0.0, "high": 1.0}),
        "ridge_fit": (ridge_fit, {"features": rows, "targets": rows[:, :2], "penalty": 0.1, "bias": "free", "mean": True,
                                 "weights": torch.ones(20)}),
        "ridge_apply": (ridge_apply, {"features": rows, "coefficients": torch.rand(5, 2)}),
        "pca": (pca, {"rows": rows, "components": 3}),
        "soft_knn": (soft_knn, {"queries": rows, "keys": rows, "values": rows, "k": 3, "temperature": 0.1}),
        "confusion_matrix": (confusion_matrix, {"prediction": mask, "target": mask, "classes": 2, "ignore_index": 255}),
        "align_depth": (align_depth, {"prediction": depth, "target": depth, "align": "median"}),
        "boundary_quality": (boundary_quality, {"model": model, "samples": [(image, mask)], "tolerance": 2.0, "ignore_index": 255,
                                               "thresholds": (0.1, 0.2)}),
        "feature_invariance": (feature_invariance, {"model": model, "images": [image]}),
        "temporal_consistency": (temporal_consistency, {"model": model, "frames": [image, image], "scales": (1.0,), "gaps": (1,),
                                                       "threshold": 1.0, "points": 64, "seed": 0}),
        "score_folders": (score_folders, {"truth": root / "truth", "prediction": root / "predicted", "binary": False, "processes": 1}),
        "check_root": (check_root, {"name": "camvid", "root": root / "camvid", "split": "val", "limit": 1}),
        "make_tasks": (make_tasks, {"images": root / "pictures", "out": out / "tasks", "model": dense,
                                   "settings": TaskSettings(side=48, classes=2, segmenter=Part("slic", {"segments": 4}))}),
        "plan_cues": (plan_cues, {"videos": [root / "clips"], "cues": ["flow:dis"], "out": out / "cues", "gaps": [1], "size": 32,
                                 "batch": 2, "rank": 0, "world": 1}),
        "run_bench": (run_bench, {"bench": Bench(**bench), "report": None}),
        "Bench": (Bench, bench),
        "embed_text": (embed_text, {"classes": ["cat"], "model": str(root), "templates": ("a {}",), "device": "cpu"}),
        "TextEmbeddings.load": (TextEmbeddings.load, {"path": root / "garbage"}),
        "pictures": (load, {"image": pictures[0]}),
    }  # fmt: skip


def words_of(verb, root, out):
    more = {
        "plugins": ["plugins", "decoder"],
        "compare": ["compare", str(root), str(root / "camvid")],
        "score": ["score", str(root / "predicted"), str(root / "truth")],
        "text": ["text", str(root / "garbage.yaml"), "--encoder", str(root), "--out", str(out / "t.safetensors")],
        "convert": ["convert", str(root / "garbage"), "--out", str(out / "c")],
    }
    words = more.get(verb) or argv(verb, root, out)
    return ["1" if word == "200" else word for word in words]  # fewer steps


def spoil(draw, words, root):
    """A command line with a word changed, left out, doubled or added."""
    junk = ("", "no-such", "-1", "0", "1e999", "nan", "\0", "a" * 3000, "--no-such", "--", "key=", "=", "a.b.c=[", "x(y=", "!",
            "../..", "/dev/null", "/proc/self/mem", str(root), str(root / "garbage"), str(root / "garbage.png"),
            str(root / "garbage.yaml"), str(root / "mask.png" / "below"), "rgb-xy(position=text)", "timm:none", "hf:none/none",
            "steps=-3", "model=3", "--seeds", "--out")  # fmt: skip
    words, place = list(words), draw.randrange(1, len(words) + 1)
    how = draw.choice(("change", "change", "change", "drop", "add", "double"))
    if how == "add" or place == len(words):
        words.insert(place, draw.choice(junk))
    elif how == "drop":
        del words[place]
    elif how == "double":
        words.insert(place, words[place])
    else:
        words[place] = draw.choice(junk)
    return words


@contextlib.contextmanager
def limited():
    def late(*_):
        raise AssertionError(f"not done after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def called(function, arguments):
    """None, "ours", "signature", or what is wrong."""
    try:
        with limited(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = function(**arguments)
            if inspect.isgenerator(result) or isinstance(result, Video):
                list(result)
        return None
    except DenseCtxError as error:
        return "ours" if len(str(error)) < 4000 else f"a message of {len(str(error))} letters"
    except BaseException as error:
        if isinstance(error, TypeError):
            try:
                inspect.signature(function).bind(**arguments)
            except TypeError:
                return "signature"
        return f"{type(error).__name__}: {str(error)[:300]}"


def drawn(count, root, out, seed=0):
    """Calls, seven of ten of functions, three of verbs: (title, outcome)."""
    draw = random.Random(seed)
    for number in range(count):
        if draw.random() < 0.7:
            folder = out / str(number)
            folder.mkdir()
            name, (function, arguments) = draw.choice(sorted(functions(root, folder).items()))
            arguments = dict(arguments)
            for key in draw.sample(sorted(arguments), min(len(arguments), draw.choice((1, 1, 1, 2)))):
                arguments[key] = hostile(draw, root)
            if name == "unfreeze":
                yield (
                    f"{number} {name}({SHORT.repr(arguments)})",
                    called(lambda prefixes, f=function: f(prefixes), arguments),
                )
                continue
            if draw.random() < 0.1:
                arguments[draw.choice(("no_such", "size_", "seed"))] = hostile(draw, root)
            yield f"{number} {name}({SHORT.repr(arguments)})", called(function, arguments)
        else:
            verb = draw.choice(VERBS)
            folder = out / str(number)
            folder.mkdir()
            words = spoil(draw, words_of(verb, root, folder / "out"), root)
            yield f"{number} dense-ctx {' '.join(words)}"[:600], run(words)


def run(words):
    """As `called`, of a command line."""
    said = io.StringIO()
    try:
        with limited(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = cli.main(words)
    except SystemExit as error:
        return "ours" if error.code in (0, 2) else f"SystemExit({error.code})"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    if status not in (0, 1, 2) or "Traceback" in said.getvalue():
        return f"status {status}: {said.getvalue()[-300:]}"
    return "ours" if status else None


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.chdir(tmp_path)


def outcomes(count, data, tmp_path):
    cases = list(drawn(count, data, tmp_path))
    assert len(cases) == count
    bad = [f"{title}\n    {outcome}" for title, outcome in cases if outcome not in (None, "ours", "signature")]
    kinds = Counter(str(outcome) for _, outcome in cases if outcome in (None, "ours", "signature"))
    print(f"{count - len(bad)} of {count}: {dict(kinds)}")
    assert not bad, "\n\n".join([f"{len(bad)} of {count}", *bad])
    return kinds


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")
def test_a_hundred_wrong_calls(data, tmp_path):
    assert outcomes(100, data, tmp_path)["ours"] > 50, "the calls are hardly wrong"


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")
def test_five_hundred_wrong_calls(data, tmp_path):
    assert outcomes(500, data, tmp_path)["ours"] > 250


class OutOfMemoryError(RuntimeError):  # torch's
    pass


class Answer(Exception):
    pass


Answer.__module__ = "httpx._exceptions"


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("work", "ours", "advice"),
    [
        (lambda: yaml.safe_load("[1, {"), ConfigError, "Correct it"),
        (lambda: Image.open(io.BytesIO(b"no picture")), FileError, "Check the path"),
        (lambda: av.open(io.BytesIO(b"no video")), FileError, "Check the path"),
        (lambda: safetensors.torch.load(b"no tensors"), CheckpointError, "Get the file again"),
        (lambda: np.zeros((2, 3)) @ np.zeros((2, 3)), InputError, "Check the arguments"),
        (lambda: torch.rand(2, 3) @ torch.rand(2, 3), InputError, "Check the arguments"),
        (lambda: Path("/dev/null/below").read_text(), FileError, "room on the disk"),
        (lambda: raise_(MemoryError("all of it")), MemoryBudgetError, "max_memory"),
        (lambda: raise_(OutOfMemoryError("CUDA")), MemoryBudgetError, "max_memory"),
        (lambda: raise_(Answer("503")), WeightsError, "Check the network"),
        (lambda: raise_(ImportError("nobody_has_this")), MissingDependencyError, "Install it"),
    ],
)
def test_errors_of_other_libraries_become_ours(work, ours, advice):
    def open_it(work):
        return work()

    with pytest.raises(ours, match=advice) as caught:
        gateway(open_it)(work)
    assert "open_it: " in str(caught.value)
    assert caught.value.__cause__ is not None, "the first error is kept"
    assert "\n" not in str(caught.value)


def test_the_wrong_argument_is_named_and_a_mistake_of_ours_is_not_hidden():
    @gateway
    def scaled(size: "tuple[int, int]", factor: "float" = 1.0, how: "Literal['a', 'b'] | None" = None):
        return (size[0] * factor, size[1].missing if how == "a" else 1 / factor)

    assert scaled((3, 4)) == (3, 1)
    with pytest.raises(InputError, match=r"size is tuple\[int, int\]; got int 5 \(TypeError"):
        scaled(5)
    with pytest.raises(InputError, match="factor is float; got str 'x'"):
        scaled((3, 4), factor="x")
    with pytest.raises(AttributeError, match="missing"):
        scaled((3, 4), how="a")
    with pytest.raises(ZeroDivisionError):
        scaled((3, 4), factor=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'no_such'"):
        scaled((3, 4), no_such=1)


def test_a_folder_that_cannot_be_written_is_one_line(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(argv("bench", data, tmp_path / "file" / "out")) == 2
    assert [line[:7] for line in capsys.readouterr().err.strip().splitlines()] == ["error: "]


@pytest.mark.filterwarnings("ignore")
def test_the_calls_work_as_they_are(data, tmp_path):
    """Or the faults would prove nothing; those that read what is not there are left out."""
    absent = ("TrainConfig.load", "embed_text", "TextEmbeddings.load", "unfreeze")
    broken = {name: outcome for name, (function, arguments) in functions(data, tmp_path).items()
              if name not in absent and (outcome := called(function, arguments)) is not None}  # fmt: skip
    assert not broken
