"""Images under a protocol: the number is the one made by hand, however the work is cut, stopped and taken up."""

import json

import numpy as np
import pytest
import torch
from dense_ctx_metrics.depth import DepthErrors
from dense_ctx_metrics.normals import NormalErrors
from dense_ctx_metrics.segmentation import Segmentation, confusion_matrix
from evaluation_data import H, W, camvid, rgbd, same_revision
from safetensors.torch import load_file

from dense_ctx import registry
from dense_ctx.data import open_set
from dense_ctx.errors import CheckpointError, FileError, InputError
from dense_ctx.evaluate import evaluate, fit, load_protocol, samples
from dense_ctx.evaluate import images as dense
from dense_ctx.evaluate.job import Job
from dense_ctx.evaluate.samples import extract
from dense_ctx.evaluate.scorer import Scorer
from dense_ctx.testing import tiny_model

SHORT = ["train.steps=6", "train.batch=2"]
TRAINED = ["probe.name=conv", "reads=both", "train={steps: 6, batch: 2}"]  # in place of least squares


@pytest.fixture(autouse=True)
def _revision(monkeypatch):
    same_revision(monkeypatch)


@pytest.fixture
def root(tmp_path):
    return camvid(tmp_path / "camvid")


def features_of(model, image, grid):
    height, width = image.shape[-2:]
    with torch.no_grad():
        return model(image[None], size=(round(height / grid), round(width / grid)))


def kept_probe(out, task="segmentation", seed=0, name="conv", **args):
    probe = registry().create("probe", name, task=task, **args)
    probe.load_state_dict(load_file(out / f"parts/probe-{seed}.safetensors"))
    return probe


def test_segmentation_equals_the_value_by_hand(root, tmp_path):
    model = tiny_model()
    result = evaluate(model, "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)
    probe = kept_probe(tmp_path / "out", reads="pixels")
    counts = torch.zeros(11, 11, dtype=torch.int64)
    for sample in open_set("camvid", root, "val"):
        predicted = probe.predict(features_of(model, sample.image, 4), size=(H, W))[0].argmax(0)
        counts += confusion_matrix(predicted, sample.target, 11, ignore_index=-1)
    scores = Segmentation.of(counts)
    assert result.value == result.scores["miou"] == pytest.approx(scores.miou, abs=1e-12)
    assert result.scores["pixel_accuracy"] == pytest.approx(scores.pixel_accuracy, abs=1e-12)
    assert [result.parts[name] for name in open_set("camvid", root, "val").classes] == [
        None if np.isnan(value) else pytest.approx(value) for value in scores.per_class
    ]
    assert result.n == {"images": 4, "pixels": 4 * (H - 2) * W}
    assert result.protocol_id == "camvid-linear-grid4-v1 [train.batch=2 train.steps=6]"


def test_a_longer_training_learns_the_scene(root, tmp_path):
    """Colours tell the classes, so a probe on colours that learns at all finds them."""
    from dense_ctx.model import AutoDenseModel

    model = AutoDenseModel.from_parts("rgb-xy", "upsample", backbone_args={"position": 0.0})
    result = evaluate(model, "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=["train.steps=120", "grid=1",
                      "probe.args.lr=0.05"], cache="100MB")  # fmt: skip
    assert result.value > 0.9


def test_retrieval_equals_the_value_by_hand(root, tmp_path):
    model = tiny_model()
    result = evaluate(
        model, "camvid-retrieval-grid8-v1", root, tmp_path / "out", overrides=["grid=4", "probe.args.k=5"]
    )
    bank = registry().create("probe", "knn", task="segmentation", k=5, temperature=0.02, memory=30000, stride=1, seed=0)
    for sample in open_set("camvid", root, "train"):
        bank.partial_fit(features_of(model, sample.image, 4), sample.target[2::4, 2::4][None])
    counts = torch.zeros(11, 11, dtype=torch.int64)
    for sample in open_set("camvid", root, "val"):
        predicted = bank.predict(features_of(model, sample.image, 4), size=(H, W))[0].argmax(0)
        counts += confusion_matrix(predicted, sample.target, 11, ignore_index=-1)
    assert result.value == pytest.approx(Segmentation.of(counts).miou, abs=1e-12)


@pytest.mark.parametrize("align", ["none", "median"])
def test_depth_equals_the_value_by_hand(tmp_path, align):
    root = rgbd(tmp_path / "walk")
    model = tiny_model()
    settings = ["image.short_side=null", f"scoring.align={align}", *TRAINED,
                "probe.args={kernel: 1, loss: silog, bins: 16}"]  # fmt: skip
    result = evaluate(model, "rgbd-depth-linear-grid4-v1", root, tmp_path / "out", overrides=settings)
    probe = kept_probe(tmp_path / "out", "regression", loss="silog", bins=16, low=0.001, high=10.0)
    rows = []
    val = open_set("rgbd-folder", root, "val")
    for sample in val:
        predicted = probe.predict(features_of(model, sample.image, 4), size=(H, W))[0]
        rows.append(DepthErrors.of(predicted, sample.target, align=align).to_dict())
    assert result.n == {"images": len(val), "images_without_depth": 0}
    for key, value in result.scores.items():
        assert value == pytest.approx(np.mean([row[key] for row in rows]), abs=1e-9), key
    assert result.value == result.scores["rmse"]


def test_normals_equal_the_value_by_hand(tmp_path):
    root = rgbd(tmp_path / "walk")
    model = tiny_model()
    settings = ["image.short_side=null", *TRAINED, "probe.args={kernel: 5, loss: cosine}"]
    result = evaluate(model, "rgbd-normals-grid4-v1", root, tmp_path / "out", overrides=settings)
    probe = kept_probe(tmp_path / "out", "regression", kernel=5, loss="cosine")
    errors = NormalErrors()
    for sample in open_set("rgbd-folder", root, "val", target="normals"):
        errors.update(probe.predict(features_of(model, sample.image, 4), size=(H, W))[0], sample.target)
    assert result.scores == pytest.approx(errors.scores(), abs=1e-9)
    assert result.n["pixels"] == errors.count


@pytest.mark.parametrize(
    ("protocol", "target"), [("rgbd-depth-linear-grid4-v1", "depth"), ("rgbd-normals-grid4-v1", "normals")]
)
def test_least_squares_equal_the_normal_equations(tmp_path, protocol, target):
    """Ridge regression on standardised features and targets, of all labelled cells of the training part."""
    root, model = rgbd(tmp_path / "walk"), tiny_model()
    result = evaluate(model, protocol, root, tmp_path / "out", overrides=["image.short_side=null"], seeds=[0, 1])
    assert result.std == 0.0  # fewer cells than the sample holds: nothing is drawn
    rows, values = [], []
    for sample in open_set("rgbd-folder", root, "train", target=target):
        label = sample.target[:, 2::4, 2::4]
        valid = label.isfinite().all(0)
        rows.append(features_of(model, sample.image, 4).pixels[0][:, valid].T.double())
        values.append(label[:, valid].T.double())
    x, y = torch.cat(rows), torch.cat(values)
    mean, scale = x.mean(0), x.std(0, correction=0)
    unit = (x - mean) / scale
    system = unit.T @ unit / len(x) + 0.3 * y.shape[1] * torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(system, unit.T @ (y - y.mean(0)) / len(x)) / scale[:, None]
    estimator = kept_probe(tmp_path / "out", "regression", name="linear", penalty=0.3)
    torch.testing.assert_close(estimator.coef_[0], weight.float(), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(estimator.coef_[1], (y.mean(0) - mean @ weight).float(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("reads", ["pixels", "patches", "both"])
def test_what_the_probe_reads(root, tmp_path, reads):
    """Under one protocol a probe reads the decoder, the encoder, or both; the other one has no say."""
    model = tiny_model()
    settings = [*SHORT, f"reads={reads}"]
    scores = evaluate(model, "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=settings)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(-3)  # other decoder features, same encoder
    other = evaluate(model, "camvid-linear-grid4-v1", root, tmp_path / "other", overrides=settings)
    heads = set(load_file(tmp_path / "out/parts/probe-0.safetensors"))
    assert any(key.startswith("head.pixels") for key in heads) == (reads != "patches")
    assert any(key.startswith("head.patches") for key in heads) == (reads != "pixels")
    first, second = (load_file(tmp_path / f"{name}/parts/probe-0.safetensors") for name in ("out", "other"))
    same = all(torch.equal(first[key], second[key]) for key in first)
    assert same == (reads == "patches")
    assert (scores.scores == other.scores) == same
    assert scores.model["digest"] != other.model["digest"]


def test_reads_of_closed_form_probes():
    protocol = load_protocol("camvid-retrieval-grid8-v1")
    model, image = tiny_model(), torch.rand(1, 3, H, W)
    pixels = extract(model, image, protocol).pixels
    assert pixels.shape == (1, 5, 3, 4)
    patches = extract(model, image, protocol.override(["reads=patches"])).pixels
    both = extract(model, image, protocol.override(["reads=both"])).pixels
    assert patches.shape[1:] == (10, *pixels.shape[2:])
    assert torch.equal(both, torch.cat([pixels, patches], 1))


# ---------------------------------------------------------------------- stopped, and taken up again


def interrupted(monkeypatch, target, name, after, error=KeyboardInterrupt):
    """Let `target.name` work `after` times, then raise."""
    real, calls = getattr(target, name), []

    def once_too_often(*args, **kwargs):
        if len(calls) == after:
            raise error("stop")
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, once_too_often)
    return calls


def test_an_interrupted_scoring_goes_on_where_it_was(root, tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "SHARD", 2)
    arguments = (tiny_model(), "camvid-linear-grid4-v1", root)
    whole = evaluate(*arguments, tmp_path / "whole", overrides=SHORT)
    with monkeypatch.context() as patch:
        interrupted(patch, dense.ImageEvaluation, "_score", 3)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*arguments, tmp_path / "cut", overrides=SHORT)
    parts = sorted(path.name for path in (tmp_path / "cut/parts").iterdir())
    assert parts == ["probe-0.safetensors", "shard-000000.json"]  # the second shard was half done: not there
    assert not (tmp_path / "cut/result.json").exists()
    times = {name: (tmp_path / "cut/parts" / name).stat().st_mtime_ns for name in parts}
    with monkeypatch.context() as patch:
        scored = interrupted(patch, dense.ImageEvaluation, "_score", 99)
        trained = interrupted(patch, fit.ProbeFit, "_fit", 99)
        again = evaluate(*arguments, tmp_path / "cut", overrides=SHORT)
    assert [int(call[1].name) for call in scored] == [2, 3]
    assert trained == []
    assert times == {name: (tmp_path / "cut/parts" / name).stat().st_mtime_ns for name in parts}
    assert again.digest() == whole.digest()
    third = evaluate(*arguments, tmp_path / "cut", overrides=SHORT)  # all is there: nothing to do, the same result
    assert third.digest() == whole.digest()


@pytest.mark.parametrize(
    ("protocol", "data"), [("camvid-linear-grid4-v1", camvid), ("rgbd-depth-attention-grid4-v1", rgbd)]
)
def test_an_interrupted_training_gives_the_same_probe_to_the_bit(tmp_path, monkeypatch, protocol, data):
    monkeypatch.setattr(fit, "SAVE_EVERY", 2)
    settings = ["train.steps=7", "train.batch=2", "train.flip=true"]
    if data is rgbd:
        settings += ["image.short_side=null", "probe.args.loss=silog", "probe.args.bins=8"]
    arguments = (tiny_model(), protocol, data(tmp_path / "data"))
    whole = evaluate(*arguments, tmp_path / "whole", overrides=settings)
    with monkeypatch.context() as patch:
        interrupted(patch, fit, "_batch_features", 5)
        with pytest.raises(KeyboardInterrupt):
            evaluate(*arguments, tmp_path / "cut", overrides=settings)
    assert [path.name for path in (tmp_path / "cut/parts").iterdir()] == ["probe-0.begun"]
    with monkeypatch.context() as patch:
        steps = interrupted(patch, fit, "_batch_features", 99)
        again = evaluate(*arguments, tmp_path / "cut", overrides=settings)
    assert len(steps) == 3  # four of seven were kept
    probes = [tmp_path / name / "parts/probe-0.safetensors" for name in ("whole", "cut")]
    assert probes[0].read_bytes() == probes[1].read_bytes()
    assert again.digest() == whole.digest()


def test_a_damaged_probe_is_named(root, tmp_path):
    evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)
    path = tmp_path / "out/parts/probe-0.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"probe-0.safetensors is damaged.*make it again"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)


def test_a_damaged_part_is_named(root, tmp_path):
    evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)
    (tmp_path / "out/parts/shard-000000.json").write_text("{")
    with pytest.raises(FileError, match=r"shard-000000\.json is not JSON"):
        evaluate(tiny_model(), "camvid-linear-grid4-v1", root, tmp_path / "out", overrides=SHORT)


def test_training_features_are_held_as_far_as_the_budget_goes(root, monkeypatch):
    protocol = load_protocol("camvid-linear-grid4-v1")
    job = Job(tiny_model().eval(), protocol, Scorer(protocol), None, (0,), False, None)
    calls, views = [], [(index, 0) for index in range(3)]
    monkeypatch.setattr(samples, "extract", lambda *args: calls.append(args) or extract(*args))
    whole = list(fit.ProbeFit(job, open_set("camvid", root, "train"), 0)._items(views))
    size = sum(t.numel() * t.element_size() for t in (whole[0][0], whole[0][1].pixels, whole[0][1].patches))
    for budget, again in ((0, 3), (2 * size, 1), (2 * size - 1, 2), (10**9, 0)):
        probes = fit.ProbeFit(job, open_set("camvid", root, "train"), budget)
        calls.clear()
        for _ in range(2):
            for (target, features), (same, found) in zip(probes._items(views), whole, strict=True):
                assert torch.equal(target, same)
                assert torch.equal(features.pixels, found.pixels)
        assert len(calls) == 3 + again


def test_the_cache_changes_nothing(root, tmp_path):
    results = []
    for number, cache in enumerate((0, "10KB", "1GB")):
        model, forwards = tiny_model(), []
        model.backbone.register_forward_hook(lambda *_, forwards=forwards: forwards.append(1))
        results.append(
            evaluate(model, "camvid-linear-grid4-v1", root, tmp_path / str(number), overrides=SHORT, cache=cache)
        )
        results[-1] = (results[-1].digest(), len(forwards))
    assert len({digest for digest, _ in results}) == 1
    assert results[2][1] < results[0][1]  # with room for all, each training image is encoded once


# ---------------------------------------------------------------------- seeds


def test_the_same_seed_gives_the_same_result_and_another_does_not(root, tmp_path):
    arguments = (tiny_model(), "camvid-linear-grid4-v1", root)
    first, second = (evaluate(*arguments, tmp_path / str(i), overrides=SHORT) for i in range(2))
    assert first.digest() == second.digest()
    files = [json.loads((tmp_path / f"{i}/result.json").read_text()) for i in range(2)]
    for file in files:
        file.pop("run")
    assert files[0] == files[1]
    other = evaluate(*arguments, tmp_path / "other", overrides=SHORT, seeds=[1])
    assert other.value != first.value
    both = evaluate(*arguments, tmp_path / "both", overrides=SHORT, seeds=[0, 1])
    assert both.value == pytest.approx((first.value + other.value) / 2)
    assert both.std == pytest.approx(abs(first.value - other.value) / 2**0.5)
    assert both.per_seed["0"] == first.scores
    assert both.per_seed["1"] == other.scores
    assert first.std is None
    key = next(name for name, value in first.parts.items() if value is not None)
    assert both.parts[key] == pytest.approx((first.parts[key] + other.parts[key]) / 2)
    for seeds in ([], [0, 0]):
        with pytest.raises(InputError, match="at least one, each once"):
            evaluate(*arguments, tmp_path / "none", overrides=SHORT, seeds=seeds)


def test_seeds_draw_the_bank_of_a_probe_in_closed_form(root, tmp_path):
    """The retrieval protocol samples its memory by seed: two seeds are two samples."""
    settings = ["grid=4", "probe.args.memory=40", "probe.args.k=3"]
    evaluate(tiny_model(), "camvid-retrieval-grid8-v1", root, tmp_path / "out", overrides=settings, seeds=[0, 1])
    first, second = (load_file(tmp_path / f"out/parts/probe-{seed}.safetensors") for seed in (0, 1))
    assert any(first[key].shape != second[key].shape or not torch.equal(first[key], second[key]) for key in first)


def test_a_fraction_of_the_training_images_is_drawn_by_seed(root, tmp_path):
    few = ["data.fraction=0.4", "grid=4"]
    result = evaluate(tiny_model(), "camvid-retrieval-grid8-v1", root, tmp_path / "few", overrides=few)
    protocol = load_protocol("camvid-retrieval-grid8-v1", ["data.fraction=0.4"])
    job = Job(tiny_model(), protocol, Scorer(protocol), None, (0,), False, None)
    probes = fit.ProbeFit(job, range(5), 0)
    supports = [probes._support(seed) for seed in range(8)]
    assert all(len(support) == 2 for support in supports)
    assert len({tuple(support) for support in supports}) > 1
    assert result.protocol_id == "camvid-retrieval-grid8-v1 [data.fraction=0.4 grid=4]"
