"""NaN and infinity, injected into images, features, weights, cues, depth, states and probes: each stops, by its name.

Before, features of NaN had an mIoU of 0.0079 and a J&F of 0.0, as if they had been measured.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from bench_parts import registered
from dense_ctx_bench.run import run_bench
from dense_ctx_measures.boundary import boundary_quality
from dense_ctx_measures.invariance import feature_invariance
from dense_ctx_measures.temporal import temporal_consistency
from dense_ctx_predict import track
from dense_ctx_predict.context_files import load_context, save_context
from dense_ctx_predict.feature_files import write_features
from dense_ctx_probes.text import TextEmbeddings
from evaluation_data import camvid, clip, davis2016, rgbd
from safetensors.torch import load_file, save_file
from test_bench import bench
from train_parts import config, install

from dense_ctx import InContext, cli
from dense_ctx.data import ImageSet, open_set
from dense_ctx.errors import CheckpointError, DenseCtxError, InputError, NonFiniteError
from dense_ctx.evaluate import evaluate
from dense_ctx.files import file_digest
from dense_ctx.images import load
from dense_ctx.numerics import require_finite
from dense_ctx.persistence.artefact import MANIFEST
from dense_ctx.persistence.tensors import _sealed
from dense_ctx.testing import tiny_model
from dense_ctx.tiling import tiled_forward
from dense_ctx.train import state, train

IMAGE = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(48) < 20).long().expand(32, 48).contiguous()
NAN, INF = float("nan"), float("inf")


def spoilt(image=IMAGE, value=NAN):
    image = image.clone()
    image[1, 3, 5] = value
    return image


def broken(part="backbone", value=NAN):
    """A model with one weight that is not finite."""
    model = tiny_model()
    with torch.no_grad():
        next(getattr(model, part).parameters())[0, 0, 0, 0] = value
    return model


class Spoilt(ImageSet):
    """A data set with one value spoilt: of an image or an annotation."""

    def __init__(self, images, index, what, value):
        self.images, self.index, self.what, self.value = images, index, what, value
        self.kind, self.classes, self.names = images.kind, images.classes, images.names

    def __getitem__(self, index):
        sample = self.images[index]
        if index != self.index:
            return sample
        values = getattr(sample, self.what).clone()
        values.view(-1)[7] = self.value
        return dataclasses.replace(sample, **{self.what: values})


def evaluated(folder, model=None, spoil=None, part="val", protocol="camvid-linear-grid4-v2"):
    root = (camvid if "camvid" in protocol else rgbd)(folder / "data")
    name = "camvid" if "camvid" in protocol else "rgbd-folder"
    sets = {split: open_set(name, root, split) for split in ("train", "val")}
    if spoil:
        sets[part] = Spoilt(sets[part], 1, *spoil)
    return evaluate(model or tiny_model(), protocol, (sets["train"], sets["val"]), folder / "out")


def clips(folder, model):
    return evaluate(model, "davis2016-linear-grid4-v1", davis2016(folder / "davis"), folder / "out")


def fitted(model=None, method="ridge"):
    return InContext(model or tiny_model(), method).fit(IMAGE, MASK)


def fitted_then(spoil):
    context = fitted()
    with torch.no_grad():
        next(context.model.decoder.parameters()).fill_(spoil)
    return context.predict(IMAGE)


def loaded_probe(folder):
    context = fitted()
    path = save_context(context, folder / "probe") / "probe.safetensors"
    tensors = load_file(path)
    tensors["gram"][0, 0] = NAN
    save_file(tensors, path)
    if (folder / "probe" / "manifest.json").exists():  # with a digest that fits: whoever wrote it meant it
        manifest = json.loads((folder / "probe" / "manifest.json").read_text())
        manifest["sha256"]["probe.safetensors"] = file_digest(path)
        (folder / "probe" / "manifest.json").write_text(json.dumps(manifest))
    return load_context(folder / "probe", context.model)


def stored_probe(folder):
    evaluated(folder)
    path = folder / "out" / "parts" / "probe-0.safetensors"
    tensors = load_file(path)
    next(value for value in tensors.values() if value.is_floating_point()).view(-1)[0] = INF
    save_file(tensors, path, {"sha256": _sealed(tensors, {})})
    for part in (folder / "out" / "parts").glob("shard-*.json"):
        part.unlink()
    return evaluated(folder)


def predicting(value, how, folder):
    """A fitted probe whose coefficients went wrong."""
    context = fitted()
    context.probe_._coefficients = torch.full_like(context.probe_.coef_, value)
    return context.predict(IMAGE, **how)


def bench_record(folder, part="backbone", **options):
    with registered():
        import dense_ctx_bench.cells as cells
        from bench_parts import Trained  # noqa: F401

        create = cells.create_backbone

        def spoil(name, **args):
            backbone = create(name, **args)
            with torch.no_grad():
                next(backbone.parameters())[0, 0, 0, 0] = NAN
            return backbone

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cells, "create_backbone", spoil)
            from dense_ctx.config import Part

            records = run_bench(
                bench(folder, backbones=(Part("benched-tiny"),), heads=(Part("linear"),), seeds=(0,), **options)
            )
    assert records[0]["status"] == "failed"
    raise NonFiniteError(records[0]["error"])  # what the record says


def trained_to_nan(folder):
    """The loss is finite, the weights are not: they do not count as a good state."""

    def poison(model, step):
        if step == 4:
            with torch.no_grad():
                next(model.decoder.parameters()).fill_(NAN)
        return {}

    out = folder / "run"
    try:
        return train(config(out, steps=4, validate={"every": 2}), validate=poison)
    finally:
        assert [path.name for path in state.listed(out)] == ["step_2"]


def state_on_disk(folder):
    out = folder / "run"
    train(config(out, steps=4))
    for step in state.listed(out):
        path = step / state.TENSORS
        tensors = load_file(path)
        next(value for name, value in tensors.items() if name.startswith("module.model.decoder")).fill_(NAN)
        save_file(tensors, path)
        manifest = json.loads((step / MANIFEST).read_text())
        manifest["sha256"][state.TENSORS] = file_digest(path)
        (step / MANIFEST).write_text(json.dumps(manifest))
    return train(config(out, steps=6))


def published(folder):
    from dense_ctx import AutoDenseModel

    model = AutoDenseModel.from_parts("rgb-xy", "linear", decoder_args={"dim": 3})
    with torch.no_grad():
        next(model.decoder.parameters()).view(-1)[0] = NAN
    return model.save_pretrained(folder / "model")


def embeddings(folder):
    vectors = torch.eye(3)
    vectors[1, 1] = NAN
    path = folder / "text.safetensors"
    TextEmbeddings(("a", "b", "c"), vectors, "m", ("{}",)).save(path)
    return TextEmbeddings.load(path)


def cue(folder):
    from dense_ctx_lila.cue_cache.shards import ShardWriter

    maps = torch.zeros(2, 2, 1, 4, 4)
    maps[1, 0, 0, 2, 2] = NAN
    with ShardWriter(folder / "clip.safetensors") as writer:
        writer.append(maps)


def huge(folder, dtype):
    """Features above 65504, which float16 has no number for."""
    model = tiny_model()
    with torch.no_grad():
        model.decoder.project[0].bias.fill_(1e6)
    return write_features(model, IMAGE, folder / "f.npy", dtype=dtype)


def flow(value):
    field = torch.zeros(2, 32, 48)
    field[0, 4, 4] = value
    return temporal_consistency(tiny_model(), [IMAGE, IMAGE], flow=lambda a, b: field, gaps=(1,), scales=(1.0,))


def tiff(folder):
    from PIL import Image

    values = np.random.default_rng(0).random((32, 48)).astype(np.float32)
    values[3, 4] = NAN
    Image.fromarray(values).save(folder / "float.tiff")
    return load(folder / "float.tiff")


def depth_target(value):
    target = torch.rand(1, 32, 48)
    target[0, 3, 3] = value
    return InContext(tiny_model()).fit(IMAGE, target)


def tracked(model, frames):
    return list(track(model, frames, MASK))


def video():
    return [torch.from_numpy(picture).permute(2, 0, 1) for picture, _ in clip(4, size=(32, 48))]


# place -> (what is done with a folder, words of the message)
PLACES = {
    "image, model": (lambda f: tiny_model()(spoilt()), "image holds NaN"),
    "image, batch": (lambda f: tiny_model()(torch.stack([IMAGE, spoilt(value=INF)])), "image holds NaN or infinity"),
    "image, float TIFF": (tiff, "float.tiff"),
    "image, InContext.fit": (lambda f: InContext(tiny_model()).fit(spoilt(), MASK), "image holds NaN"),
    "image, InContext.predict": (lambda f: fitted().predict(spoilt(value=INF)), "image holds NaN or infinity"),
    "image, track": (lambda f: tracked(tiny_model(), [IMAGE, IMAGE, spoilt()]), "Frame 2: "),
    "image, write_features": (lambda f: write_features(tiny_model(), spoilt(), f / "f.npy"), "image holds NaN"),
    "image, boundary": (lambda f: boundary_quality(tiny_model(), [(IMAGE, MASK), (spoilt(), MASK)]), "Image 1: "),
    "image, invariance": (lambda f: feature_invariance(tiny_model(), [spoilt()]), "image"),
    "image, temporal": (lambda f: temporal_consistency(tiny_model(), [IMAGE, spoilt()], gaps=(1,)), "frame 1: "),
    "image, evaluate": (lambda f: evaluated(f, spoil=("image", NAN)), "the image of sample '0001'"),
    "image, evaluate's training": (lambda f: evaluated(f, spoil=("image", INF), part="train"), "sample '0001'"),
    "backbone, model": (lambda f: broken()(IMAGE), "TinyBackbone and TinyDecoder in torch.float32"),
    "decoder, model": (lambda f: broken("decoder", INF)(IMAGE), "infinity in pixels"),
    "backbone, tiles": (
        lambda f: tiled_forward(broken(), torch.rand(1, 3, 200, 200), 10**7),
        "in patches, cls, pixels",
    ),
    "backbone, track": (lambda f: tracked(broken(), [IMAGE, IMAGE]), "Frame 0: The features"),
    "backbone, InContext.fit": (lambda f: fitted(broken()), "in patches"),
    "decoder, InContext.predict": (lambda f: fitted_then(NAN), "in pixels"),
    "backbone, write_features": (lambda f: write_features(broken(), IMAGE, f / "f.npy"), "in patches"),
    "backbone, boundary": (lambda f: boundary_quality(broken(), [(IMAGE, MASK)]), "image 0: The features"),
    "backbone, invariance": (lambda f: feature_invariance(broken(), [IMAGE]), "The features"),
    "backbone, temporal": (lambda f: temporal_consistency(broken(), [IMAGE, IMAGE], gaps=(1,)), "frame 0: "),
    "features, float16": (lambda f: huge(f, "float16"), 'dtype="float32"'),
    "backbone, evaluate images": (lambda f: evaluated(f, broken()), "0000: The features"),
    "decoder, evaluate clips": (lambda f: clips(f, broken("decoder")), "camel, frame 0: The features"),
    "backbone, bench": (lambda f: bench_record(f), "NaN, infinity"),
    "backbone, bench without cache": (lambda f: bench_record(f, cache=False), "NaN or infinit"),
    "depth, evaluate": (
        lambda f: evaluated(f, spoil=("target", INF), protocol="rgbd-depth-linear-grid4-v1"),
        "annotation of sample",
    ),
    "depth, InContext": (lambda f: depth_target(INF), "target holds infinity"),
    "flow, temporal": (lambda f: flow(INF), "holds infinity"),
    "weights, training state": (trained_to_nan, "step 4, which is not saved.*The last good state is .*step_2"),
    "weights, stored state": (
        state_on_disk,
        "All states .*step_4: NaN or infinity in module.model.decoder",
    ),
    "weights, published model": (published, "NaN or infinity, so it is not saved"),
    "probe, load_context": (loaded_probe, "The fitted probe: NaN or infinity in gram"),
    "probe, evaluation": (stored_probe, "probe-0.safetensors: NaN or infinity"),
    "probe, prediction": (lambda f: predicting(NAN, {}, f), "prediction of the probe 'ridge'"),
    "probe, prediction in tiles": (
        lambda f: predicting(INF, {"max_memory": "300MB"}, f),
        "prediction of the probe 'ridge'",
    ),
    "text embeddings": (embeddings, "text.safetensors"),
    "cue": (cue, "NaN, infinity"),
}


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    install(tmp_path / "site", monkeypatch)


@pytest.mark.parametrize("place", PLACES)
def test_not_finite_is_named_and_stops(place, tmp_path):
    inject, words = PLACES[place]
    with pytest.raises((InputError, NonFiniteError, CheckpointError, DenseCtxError), match=words):
        inject(tmp_path)


def test_at_least_thirty_places():
    assert len(PLACES) >= 30


def test_what_is_finite_passes(tmp_path):
    """The same calls without the injection."""
    assert load(IMAGE).equal(IMAGE)
    assert len(tracked(tiny_model(), video())) == 4
    assert huge(tmp_path, "float32").exists()
    assert flow(NAN).frames == 2
    assert depth_target(NAN).task_ == "regression"
    assert evaluated(tmp_path).value > 0


def test_a_sum_that_overflows_is_no_fault():
    require_finite("large numbers", a=torch.full((4,), 3e38), b=torch.full((100,), 6e4, dtype=torch.float16), c=None)
    with pytest.raises(NonFiniteError, match=r"few: NaN or infinity in a, b, c, d and 1 more\. Advice"):
        require_finite("few", "Advice", **{name: torch.tensor([NAN]) for name in "abcde"})
    require_finite("whole numbers", a=torch.tensor([1, 2]), empty=torch.empty(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_is_looked_at_without_a_whole_copy(dtype):
    features = torch.rand(1, 8, 264, 260).to(dtype)[:, :, :256, :256]  # the padding is cut off
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        require_finite("features", pixels=features)
    blocks = [event.self_cpu_memory_usage / event.count for event in profile.key_averages()]
    assert max(blocks) < 0.1 * 4 * features.numel()
    features[0, 3, 5, 7] = NAN
    with pytest.raises(NonFiniteError, match="infinity in pixels"):
        require_finite("features", pixels=features)


def test_a_training_forward_does_not_wait_for_the_device():
    model = broken().train()
    assert not bool(model(IMAGE).pixels.isfinite().all()), "the loop checks the loss, once a step"


def test_half_that_overflows_is_refused_on_the_command_line(tmp_path, monkeypatch, capsys):
    from PIL import Image

    picture = tmp_path / "a.png"
    Image.fromarray((IMAGE.permute(1, 2, 0) * 255).byte().numpy()).save(picture)
    model = tiny_model()
    with torch.no_grad():
        model.decoder.project[0].bias.fill_(1e6)
    monkeypatch.setattr("dense_ctx_predict.features_command.model_of", lambda args: model)
    assert cli.main(["features", "tiny", str(picture), "--half", "--out", str(tmp_path / "out")]) == 2
    assert "as float16: NaN or infinity in pixels" in capsys.readouterr().err
    assert not (tmp_path / "out" / "a.safetensors").exists()
    assert cli.main(["features", "tiny", str(picture), "--out", str(tmp_path / "out")]) == 0
