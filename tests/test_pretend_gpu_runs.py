"""Objectives, probes, metrics, runs and every verb on a pretended CUDA device: the CPU's values, on cuda:1 alone."""

import copy
import json

import pytest
import torch
from dense_ctx_predict.context_files import load_context, save_context
from dense_ctx_predict.tracking import track
from dense_ctx_probes.text import TextEmbeddings
from dip_data import tasks
from evaluation_data import camvid, clip, davis2016, rgbd, save
from maxa_scenes import KINDS, OUTPUTS, Boxes
from pretend_gpu.device import compiler, pretend, without_room
from safetensors.torch import load_file
from test_clean_ends import ends
from test_placement import vit_file
from test_pretend_gpu_parts import close
from tiny_datasets import labels
from torch.nn import functional
from torch.utils.data import DataLoader
from train_parts import install, settings

from dense_ctx import AutoDenseModel, InContext, cli, registry
from dense_ctx.errors import ConfigError, InputError, MemoryBudgetError, NonFiniteError
from dense_ctx.evaluate import evaluate, samples
from dense_ctx.evaluate import run as evaluation
from dense_ctx.images import load, load_mask
from dense_ctx.interfaces import DenseFeatures, FitContext
from dense_ctx.model import DenseModel
from dense_ctx.testing.tiny import tiny_model
from dense_ctx.train import TrainConfig, TrainStep, train
from dense_ctx.train.log import read_log

pytestmark = [
    pytest.mark.pretend_gpu,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler (c++, g++ or clang++) for the pretended device"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for name in ("one", "two"):
        for index, (picture, _) in enumerate(clip(4, (48, 64), seed=len(name))):
            save(root / name / f"{index:05d}.png", picture)
    return root


SAMPLING = {"size": 32, "frame_side": 48, "cue_side": 48, "crop": (0.6, 0.9), "gap": (1, 2)}
HALF_DTYPE = {"dtype": "bfloat16"}
LILA = {
    "plain": {}, "start": {"start": 2}, "erm": {"mode": "erm"}, "ema": {"context": "ema"}, "no pamr": {"features": {"pamr": False}},
}  # fmt: skip
DIP = {"plain": {}, "official": {"loss": "official"}, "direct": {"direct": True, "out": 6144, "hidden": 7}}


def lila_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = {"dim": 6, "width": 8, "shortcut": True}
        return AutoDenseModel.from_parts(
            "efficientnet-lite0", "dpt", backbone_args={"weights": None}, decoder_args=decoder
        )


def step_of(objective, model, data):
    """A TrainStep, everything in it on the model's device, and its first batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dataset = objective.dataset(data)
        batch = next(iter(DataLoader(dataset, 2, collate_fn=objective.collate)))
        return TrainStep(model, objective, dataset).to(model.device), batch


def trains_alike(build, model, data):
    """Loss and gradients of the first batch, and the weights after a step, are the CPU's."""
    runs = {}
    for device in ("cpu", "cuda:1"):
        with torch.random.fork_rng(devices=[]), pretend() as gpu:
            step, batch = step_of(build(), copy.deepcopy(model).to(device), data)
            step.train()
            torch.manual_seed(3)
            losses = step(batch)
            losses.total.backward()
            grads = {name: p.grad.cpu() for name, p in step.named_parameters() if p.grad is not None}
            torch.optim.SGD(step.groups, lr=1e-2).step()
            step.after_step(1)
            for dtype in (torch.bfloat16, torch.float16):
                with torch.autocast(step.model.device.type, dtype=dtype):
                    assert bool(step(batch).total.isfinite())
            runs[device] = float(losses.total), grads
            assert gpu.touched == (set() if device == "cpu" else {1})
    (one, ones), (two, twos) = runs.values()
    assert two == pytest.approx(one, rel=1e-3)
    assert ones.keys() == twos.keys()
    close(torch.cat([v.flatten() for v in ones.values()]), torch.cat([twos[n].flatten() for n in ones]), 5e-3)


@pytest.mark.parametrize("case", LILA)
def test_lila(clips, case):
    def build():
        return registry().create("objective", "lila", sampling=SAMPLING, **LILA[case])

    trains_alike(build, lila_model(), clips)


@pytest.mark.parametrize("case", DIP)
def test_dip(tmp_path, case):
    def build():
        return registry().create("objective", "dip", **{"size": 32, "out": 16, "hidden": 2, **DIP[case]})

    trains_alike(build, tiny_model(), tasks(tmp_path))


@pytest.mark.parametrize("task", KINDS)
def test_maxa(task):
    def build():
        return registry().create("objective", f"maxa-{task}", size=[16, 24], image_size=[24, 32])

    model = AutoDenseModel.from_parts("rgb-xy", "maxa", decoder_args={"dim": OUTPUTS[task], "size": [16, 24]})
    trains_alike(build, model, Boxes(KINDS[task]))
    with pretend() as gpu:
        images, objective = Boxes(KINDS[task]), build()
        expected = objective.score(model.eval(), images)
        scores = objective.score(copy.deepcopy(model).to("cuda:1"), images)
        assert scores == pytest.approx(expected, rel=1e-3, nan_ok=True)
        assert gpu.touched == {1}


def test_maxa_fills_its_cache_on_the_device(tmp_path):
    for device in ("cpu", "cuda:1"):
        with pretend() as gpu:
            objective = registry().create(
                "objective", "maxa-depth", size=[16, 24], image_size=[24, 32], cache=str(tmp_path / device)
            )
            model = AutoDenseModel.from_parts("rgb-xy", "linear", decoder_args={"dim": 1}).to(device)
            step_of(objective, model, Boxes("depth"))
            assert (device == "cpu") == (not gpu.launches)
    one, two = ({p.name: p for p in (tmp_path / device).rglob("*.safetensors")} for device in ("cpu", "cuda:1"))
    assert one.keys() == two.keys() != set()
    for name, path in one.items():
        tensors = load_file(path), load_file(two[name])
        assert all(
            torch.allclose(value.float(), tensors[1][key].float(), atol=1e-2) for key, value in tensors[0].items()
        )


# ---------------------------------------------------------------------------------------------------------- probes


def scene(seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels, patches = torch.randn(2, 6, 8, 12, generator=draw), torch.randn(2, 10, 4, 6, generator=draw)
    return DenseFeatures(pixels, patches, patches.mean((2, 3))), torch.randint(0, 3, (2, 8, 12), generator=draw)


def on(features, device):
    return DenseFeatures(*(t.to(device) for t in (features.pixels, features.patches, features.cls)), features.extent)


# `head` learns nothing: it reads what a trained head gives, in an evaluation (test_predictor)
PROBES = {name: {} for name in registry().names("probe") if name != "head"} | {
    "attention": {"updates": 12}, "conv": {"updates": 12}, "zero-shot": {"updates": 12},
    "retrieval on the device": {"device": "cuda:1"}, "retrieval of pixels": {"reads": "pixels", "mode": "dip"},
}  # fmt: skip


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("task", ["segmentation", "regression"])
def test_a_probe_predicts_where_the_features_are_and_its_state_goes_anywhere(name, task, tmp_path):
    args = dict(PROBES[name])
    if name == "zero-shot":
        vectors = functional.normalize(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), dim=1)
        args["embeddings"] = str(TextEmbeddings(("a", "b", "c"), vectors, "made up").save(tmp_path / "t.safetensors"))

    def fresh(**more):
        probe = registry().create("probe", name.split(" ")[0], task=task, **{**args, **more})
        if name == "zero-shot":
            probe.configure(FitContext(classes=("a", "b", "c")))
        return probe

    try:
        fresh()
    except InputError:
        return  # of the other task alone
    (first, labels), (second, _) = scene(0), scene(1)
    targets = labels if task == "segmentation" else torch.randn(2, 2, 8, 12, generator=torch.Generator().manual_seed(2))
    here = {} if "device" not in args else {"device": "cpu"}
    cpu = fresh(**here).partial_fit(first, targets)
    expected = cpu.predict(second)
    with pretend() as gpu:
        probe = fresh()
        there = probe.partial_fit(on(first, "cuda:1"), targets.to("cuda:1")).predict(on(second, "cuda:1"))
        assert there.device == torch.device("cuda:1")
        close(expected, there, 5e-3)
        mixed = fresh().partial_fit(on(first, "cuda:1"), targets).predict(on(second, "cuda:1"))  # targets as read
        close(expected, mixed, 5e-3)
        assert gpu.touched == {1}
        state = {key: value.clone() for key, value in probe.state_dict().items()}
        assert {value.device.type for value in state.values()} == {"cpu"}, "a state is the CPU's"
        for device in ("cpu", "cuda:0"):
            other = fresh(**({"device": device} if "device" in args else {}))
            other.load_state_dict(state)
            answer = other.predict(on(second, device))
            assert answer.device == torch.device(device)
            close(expected, answer, 5e-3)
            other.partial_fit(on(first, device), targets.to(device))  # goes on there
        moved = on(second, "cpu")  # the same probe, asked for features that are elsewhere
        assert probe.predict(moved).device.type == "cpu"


@pytest.mark.parametrize("name", registry().names("metric"))
def test_metrics_take_predictions_from_the_device(name):
    draw = torch.Generator().manual_seed(0)
    classes = ("a", "b", "c") if name in ("segmentation", "zero-shot") else ()
    ids = torch.randint(0, 3, (8, 12), generator=draw)
    values = {"depth": (1, torch.rand(1, 8, 12, generator=draw) + 1), "video": (0, ids),
              "normals": (3, functional.normalize(torch.randn(3, 8, 12, generator=draw), dim=0))}  # fmt: skip
    channels, target = values.get(name, (3, ids))
    prediction = torch.rand(channels, 8, 12, generator=draw) + 0.5 if channels else ids.roll(1, 0)
    outputs = []
    with pretend():
        for device in ("cpu", "cuda:1"):
            metric = registry().create(
                "metric", name, classes=classes, **({"unseen": ("c",)} if name == "zero-shot" else {})
            )
            metric.start("clip", target)
            for _ in range(3):
                metric.update(prediction.to(device), target)
            outputs.append(metric.compute().values)
    assert outputs[0] == pytest.approx(outputs[1], rel=1e-5)


# ------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("method", ["ridge", "knn", "linear", "retrieval", "conv"])
def test_in_context_predictions_are_on_the_cpu_and_contexts_move(method, tmp_path):
    image, mask = (
        torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0)),
        torch.zeros(32, 40, dtype=torch.int64),
    )
    mask[8:20, 10:30] = 7
    options = {"updates": 3} if method == "conv" else {}
    expected = InContext(tiny_model(), method, **options).fit(image, mask)
    with pretend() as gpu:
        model = tiny_model().to("cuda:1")
        context = InContext(model, method, **options).fit(image, mask)
        labels, shares = context.predict(image), context.predict_proba(image)
        assert labels.device == shares.device == torch.device("cpu")
        close(expected.predict_proba(image), shares, 5e-3)
        assert float((labels == expected.predict(image)).float().mean()) > 0.99
        tiled = context.predict_proba(image, max_memory="1GB")
        assert tiled.device.type == "cpu"
        assert gpu.touched == {1}
        folder = save_context(context, tmp_path / "context")
        for device in ("cpu", "cuda:0"):
            gpu.clear()
            other = load_context(folder, tiny_model().to(device))
            close(shares, other.predict_proba(image), 5e-3)
            assert gpu.touched == (set() if device == "cpu" else {0})
            other.partial_fit(image, mask)


def test_regression_in_context_is_on_the_cpu():
    image, depth = torch.rand(3, 32, 40), torch.rand(32, 40)
    with pretend():
        values = InContext(tiny_model().to("cuda:1")).fit(image, depth).predict(image)
        assert values.device.type == "cpu"


def test_track():
    frames, masks = zip(
        *((torch.from_numpy(p).permute(2, 0, 1) / 255, torch.from_numpy(m).long()) for p, m in clip(4)), strict=True
    )
    expected = list(track(tiny_model().eval(), frames, masks[0], stride=4))
    with pretend() as gpu:
        tracks = list(track(tiny_model().eval().to("cuda:1"), frames, masks[0], stride=4))
        assert {labels.device.type for labels in tracks} == {"cpu"}
        assert all(float((a == b).float().mean()) > 0.99 for a, b in zip(expected, tracks, strict=True))
        assert gpu.touched == {1}


def test_a_model_saved_on_a_device_opens_on_another(tmp_path):
    model = AutoDenseModel.from_pretrained("lila-lite0")
    image = torch.rand(1, 3, 32, 48)
    expected = model(image).pixels
    with pretend() as gpu:
        model.to("cuda:1").save_pretrained(tmp_path / "model")
        for device in ("cuda:0", "cpu"):
            gpu.clear()
            other = AutoDenseModel.from_pretrained(tmp_path / "model", device=device)
            close(expected, other(image).pixels)
            assert gpu.touched == ({0} if device == "cuda:0" else set())


# ---------------------------------------------------------------------------------------------------- runs and verbs


@pytest.mark.parametrize(
    "protocol",
    [
        "camvid-linear-grid4-v2",
        "camvid-attention-grid4-v1",
        "camvid-retrieval-v2",
        "davis2016-linear-grid4-v1",
        "davis2016-knn-grid8-v1",
    ],
)
def test_evaluate(protocol, tmp_path):
    root = (camvid if protocol.startswith("camvid") else davis2016)(tmp_path / "data")
    overrides = ["train.steps=3"] if "attention" in protocol else []
    scores = []
    with pretend() as gpu:
        for device in ("cpu", "cuda:1"):
            model = tiny_model().eval().to(device)
            scores.append(evaluate(model, protocol, root, tmp_path / device, overrides=overrides, limit=2).value)
        assert gpu.touched == {1}
    assert scores[1] == pytest.approx(scores[0], abs=0.02)


def uneven(root):
    """CamVid's layout; in each split one image is of another size."""
    camvid(root, 11, 11)
    for split in ("train", "val"):
        picture, label = clip(1, (16, 36))[0]
        save(root / f"{split}/images/0003.png", picture)
        labels(root / f"{split}/labels/0003.png", label)
    return root


@pytest.fixture
def encoded(monkeypatch):
    """How many images each forward of a model encodes."""
    counts, encode = [], DenseModel.encode

    def counted(model, images):
        counts.append(len(images))
        return encode(model, images)

    monkeypatch.setattr(DenseModel, "encode", counted)
    return counts


SCORED = [3, 1, 4, 3, 1, 1, 2]  # by eight, and where the size changes; at last the pictures
STEPS = ["probe.name=conv", "probe.args={}", "reads=both", "train={steps: 3, batch: 4, crop: [16, 24]}"]
BATCHES = {
    "in closed form": ("camvid-linear-grid4-v2", [], [3, 1, 4, 3] * 2 + SCORED),
    "by steps": ("camvid-linear-grid4-v2", STEPS, [4] * 3 * 2 + SCORED),
    "clips": ("davis2016-knn-grid8-v1", [], [5] * 3),
}


@pytest.mark.parametrize("case", BATCHES)
def test_an_evaluation_in_batches_is_that_of_its_images(case, tmp_path, monkeypatch, encoded):
    protocol, overrides, batches = BATCHES[case]
    root = (uneven if protocol.startswith("camvid") else davis2016)(tmp_path / "data")
    results, counts = [], []
    with pretend() as gpu:
        model = tiny_model().eval().to("cuda:1")
        for most in (8, 1):
            monkeypatch.setattr(samples, "BATCH", most)
            encoded.clear()
            out = tmp_path / str(most)
            results.append(evaluate(model, protocol, root, out, overrides=overrides, keep=True, seeds=[0, 1]))
            counts.append([*encoded])
        assert gpu.touched == {1}
    assert counts[0] == batches
    assert set(counts[1]) == {1}
    assert sum(counts[0]) == sum(counts[1])
    assert results[0].value == pytest.approx(results[1].value, abs=1e-6)
    one, two = (sorted((tmp_path / most / "predictions").rglob("*.png")) for most in "81")
    assert [path.name for path in one] == [path.name for path in two] != []
    assert all(torch.equal(load_mask(a), load_mask(b)) for a, b in zip(one, two, strict=True))


def test_a_fault_in_a_batch_names_its_image_and_without_memory_images_go_one_by_one(tmp_path, monkeypatch, encoded):
    root, forward = camvid(tmp_path / "data", 9, 9), DenseModel.forward
    arguments = ("camvid-linear-grid4-v2", root)
    poison = load(root / "train/images/0004.png")

    def poisoned(model, images, **options):
        if any(torch.equal(image, poison) for image in images):
            raise NonFiniteError("The features hold NaN")
        return forward(model, images, **options)

    with pretend():
        model = tiny_model().eval().to("cuda:1")
        whole = evaluate(model, *arguments, tmp_path / "whole")
        monkeypatch.setattr(DenseModel, "forward", poisoned)
        with pytest.raises(NonFiniteError, match=r"^0004: The features hold NaN"):
            evaluate(model, *arguments, tmp_path / "nan")
        monkeypatch.setattr(DenseModel, "forward", forward)
        monkeypatch.setattr(DenseModel, "encode", without_room(most := [1]))
        encoded.clear()
        assert evaluate(model, *arguments, tmp_path / "one").value == pytest.approx(whole.value, abs=1e-6)
        assert max(encoded) == 1
        most[0] = 0
        with pytest.raises(MemoryBudgetError) as said:
            evaluate(model, *arguments, tmp_path / "none")
    assert "evaluate: OutOfMemoryError: CUDA out of memory: 1 images. cuda:" in str(said.value)
    assert "take smaller images (image.short_side), which is another protocol, or another device" in str(said.value)
    assert "max_memory" not in str(said.value)


def test_evaluations_of_processes_that_share_a_gpu_are_refused(tmp_path, monkeypatch):
    def gather(every, own):
        every[:] = [own, own]

    root = camvid(tmp_path / "data", 1, 1)
    with pretend():
        model = tiny_model().eval().to("cuda:1")
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(evaluation, "wait_for_everyone", lambda: None)
        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        with pytest.raises(ConfigError, match="Processes 0, 1 share a GPU: start as many on a machine as it has"):
            evaluate(model, "camvid-linear-grid4-v2", root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_train_resumes_and_averages_on_the_device(precision, tmp_path, monkeypatch):
    install(tmp_path / "site", monkeypatch)
    more = {"average": {"start": 2}, "mixed_precision": precision, "data": {"samples": 7, "seeded": True}}
    runs = {}
    for name, device, steps in (("cpu", "cpu", [6]), ("once", "cuda:1", [6]), ("twice", "cuda:1", [3, 6])):
        if name == "cpu" and precision == "fp16":
            continue
        with pretend() as gpu:
            for count in steps:
                train(TrainConfig.from_dict(settings(tmp_path / name, steps=count, device=device, **more)))
            assert gpu.touched == (set() if device == "cpu" else {1})
        runs[name] = [row["loss"] for row in read_log(tmp_path / name / "log.jsonl")]
        assert len(runs[name]) == 6
    assert runs["once"] == runs["twice"]
    if "cpu" in runs:
        assert runs["once"] == pytest.approx(runs["cpu"], rel=1e-4 if precision == "no" else 3e-2)


def test_a_bfloat16_backbone_is_read_to_the_device_and_the_decoder_begins_as_ever(tmp_path, monkeypatch):
    install(tmp_path / "site", monkeypatch)
    file = vit_file(tmp_path / "vit.safetensors", 2, 32)
    args = {"weights": str(file), "depth": 2, "embed_dim": 32, "num_heads": 8, "layers": [0, 1]}
    opened, first = [], dict[str, dict]()

    def look(model, objective):
        opened.append({value.device.type for value in model.backbone.parameters()})
        first[name] = {key: value.cpu().clone() for key, value in model.decoder.state_dict().items()}

    from sandbox_train.parts import Shift

    monkeypatch.setattr(Shift, "check", lambda objective, model: look(model, objective))
    logged = {}
    for name, device, dtype in (("plain", "cpu", {}), ("cpu", "cpu", HALF_DTYPE), ("cuda", "cuda:1", HALF_DTYPE)):
        backbone = {"name": "timm:vit_base_patch14_dinov2.lvd142m", "args": {**args, **dtype}}
        model = {"backbone": backbone, "decoder": {"name": "sandbox"}}
        with pretend() as gpu:
            train(TrainConfig.from_dict(settings(tmp_path / name, steps=3, device=device, model=model)))
            assert gpu.touched == ({1} if device == "cuda:1" else set())
        logged[name] = [row["loss"] for row in read_log(tmp_path / name / "log.jsonl")]
    assert opened[-1] == {"cuda"}  # when the objective first sees the model
    for name in ("cpu", "cuda"):
        assert all(torch.equal(value, first["plain"][key]) for key, value in first[name].items())
        assert logged[name] == pytest.approx(logged["plain"], rel=3e-2)


def verbs(root):
    """Every verb that runs a model, with what it must be given."""
    image, mask, clip_folder = root / "p/0.png", root / "p/mask.png", root / "clip"
    model = "efficientnet-lite0(weights=null)+upsample"
    return {
        "features": ["features", model, str(image), "--out", str(root / "features")],
        "predict": ["predict", "--model", model, "--support", f"{image}:{mask}", "--query", str(image), "--out", str(root / "predict")],
        "track": ["track", str(clip_folder), "--mask", str(mask), "--model", model, "--out", str(root / "track")],
        "evaluate": ["evaluate", model, "--protocol", "camvid-linear-grid4-v2", "--data", str(root / "camvid"), "--limit", "1", "--out", str(root / "evaluate")],
        "measure": ["measure", model, "--images", str(image), "--json", str(root / "measure.json")],
        "pseudo-label": ["pseudo-label", str(root / "p"), "--model", model, "--segmenter", "slic(segments=4)", "--out", str(root / "tasks"), "side=48", "classes=2"],
        "cues": ["cues", str(clip_folder), "--cues", "flow:dis", "--gaps", "1", "--out", str(root / "cues")],
        "bench": ["bench", "--backbones", "rgb-xy", "--heads", "linear", "--tasks", f"maxa-depth(name=rgbd-folder, root={root / 'rgbd'})", "--steps", "2", "--batch", "2", "--size", "16", "24", "--image-size", "24", "32", "--out", str(root / "bench")],
        "train": ["train", str(root / "run.yaml")],
    }  # fmt: skip


def laid_out(tmp_path):
    """What the verbs are given."""
    for index, (picture, mask) in enumerate(clip(4)):
        save(tmp_path / f"p/{index}.png", picture)
        save(tmp_path / f"clip/{index:05d}.png", picture)
        if index == 0:
            save(tmp_path / "p/mask.png", mask)
    camvid(tmp_path / "camvid", 1, 1)
    rgbd(tmp_path / "rgbd")
    run = {"out": str(tmp_path / "run"), "steps": 2, "batch_size": 2, "model": "rgb-xy+linear(dim=1)",
           "objective": {"name": "maxa-depth", "args": {"size": [16, 24], "image_size": [24, 32]}}, "data": {"name": "rgbd-folder", "root": str(tmp_path / "rgbd")}}  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(run))


@pytest.mark.parametrize(
    "verb", ["features", "predict", "track", "measure", "evaluate", "pseudo-label", "cues", "bench", "train"]
)
def test_every_verb_takes_a_device(verb, tmp_path):
    laid_out(tmp_path)
    with pretend() as gpu:
        assert cli.main([*verbs(tmp_path)[verb], "--device", "cuda:1"]) == 0
        assert gpu.touched == {1}
        assert gpu.launches


WINDOWS = "--max-memory 77GB computes large images in windows that fit; or take smaller images, or another device"
OUT_OF_MEMORY = {
    "features": WINDOWS, "predict": WINDOWS, "track": WINDOWS, "measure": "take smaller images, or another device",
    "pseudo-label": "take smaller images, or another device",
    "evaluate": "take smaller images (image.short_side), which is another protocol, or another device",
}  # fmt: skip


@pytest.mark.parametrize("verb", [*OUT_OF_MEMORY, "train"])
def test_a_verb_out_of_memory_says_what_its_own_options_can_do(verb, tmp_path, monkeypatch, capsys):
    laid_out(tmp_path)
    with pretend():
        monkeypatch.setattr(DenseModel, "encode", without_room([0]))
        assert cli.main([*verbs(tmp_path)[verb], "--device", "cuda:1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"error: {verb}: OutOfMemoryError: CUDA out of memory: ")
    free = "cuda:1 has 85.9 GB of 85.9 free now: "
    assert said.endswith(f". {free}{OUT_OF_MEMORY[verb]}" if verb != "train" else "or lower batch_size")


def test_evaluating_and_then_training_in_one_start_of_two_processes_keeps_their_devices(tmp_path):
    assert not ends(tmp_path, 1, "both")


def test_a_variable_that_asks_for_the_cpu_beside_a_device_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with pretend(), pytest.raises(ConfigError, match=r"ACCELERATE_USE_CPU=1 would change the run.*device"):
        train(TrainConfig.from_dict(settings(tmp_path / "run", device="cuda:1")))
