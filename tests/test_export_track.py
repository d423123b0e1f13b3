"""Exported trackers: equal to `track` on a clip, at any size, without torch; refused where they cannot be."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from dense_ctx_demo.demo import annotation, clip_path
from dense_ctx_dpt import resizing as decoders_resizing
from dense_ctx_export import export, resizing
from dense_ctx_export.onnx_export import sealed
from dense_ctx_export.quantisation import quantise
from dense_ctx_export.votes import attach_votes
from dense_ctx_predict import track
from dense_ctx_predict.tracking import MaskTracker
from dense_ctx_probes.local_knn import Propagator
from dense_ctx_runtime import OnnxModel, OnnxTracker
from dense_ctx_runtime.onnx_model import BLANK
from dense_ctx_runtime.windows import tiles
from onnx import TensorProto, helper
from torch.nn import functional

from dense_ctx import AutoDenseModel, DenseModel
from dense_ctx.data.video import Video
from dense_ctx.errors import CheckpointError, ConfigError, FileError, InputError, NonFiniteError
from dense_ctx.images import nearest
from dense_ctx.testing.tiny import TinyBackbone, TinyDecoder, tiny_model

SETTINGS = {"n_last_frames": 2, "size_mask_neighborhood": 3, "topk": 4, "temperature": 0.1}


def clip(count):
    """Frames uint8 [144, 176, 3] of the demo's clip, and the first one's mask."""
    frames = [frame for _, frame in zip(range(count), Video(clip_path()), strict=False)]
    return frames, annotation(0).numpy()


def model_of_many_channels():
    """With few, all cells resemble each other, and rounding decides which vote."""
    torch.manual_seed(0)
    backbone = TinyBackbone((24, 48))
    return DenseModel(backbone, TinyDecoder(backbone.dims, backbone.strides, dim=64))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    frames, _ = clip(1)
    path = tmp_path_factory.mktemp("track") / "track.onnx"
    return export(MaskTracker(model_of_many_channels()), path, image=frames[0])


def compare(path, model, frames, mask, limit=1e-5, **options):
    """Track with both; returns the largest difference of soft labels, and the share of pixels whose id differs."""
    written, apart, pixels = OnnxTracker(path, threads=1), [], []
    own = MaskTracker(model, **options)
    first = own.frame(frames[0])
    labels = torch.from_numpy(mask).unique(return_inverse=True)[1]
    grid = first.features.pixels.shape[-2:]
    soft = functional.one_hot(nearest(labels, grid)).movedim(-1, 0).float()
    settings = {name: options[name] for name in SETTINGS if name in options}
    propagator = Propagator(first.features.pixels[0], soft, **settings)
    going = written.start(frames[0], mask)
    masks = track(model, frames, mask, **options)
    assert np.array_equal(next(masks), going.mask)
    for frame, wanted in zip(frames[1:], masks, strict=True):
        output = going.step(frame)
        assert output.dtype == np.int64
        soft = propagator.step(own.frame(frame).features.pixels[0])
        apart.append(np.abs(going.labels - soft.movedim(0, -1).numpy()).max())
        pixels.append((output != wanted.numpy()).mean())
        assert abs(going.certainty - float(propagator.certainty[1:].min())) < 1e-4
    assert max(apart) <= limit
    return max(apart), max(pixels)


def test_a_clip_is_tracked_as_track_does(file):
    frames, mask = clip(5)
    _, pixels = compare(file, model_of_many_channels(), frames, mask)
    assert pixels <= 1e-4
    assert len(np.unique(mask)) > 2


def test_any_size_and_any_ids(file):
    rng = np.random.default_rng(0)
    for height, width in [(45, 70), (9, 40), (33, 3)]:
        frames = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(3)]
        mask = np.full((height, width), 300)
        mask[: height // 2] = 7
        masks = list(OnnxTracker(file).track(frames, mask))
        assert [item.shape for item in masks] == [(height, width)] * 3
        assert {int(i) for item in masks for i in np.unique(item)} <= {7, 300}
        compare(file, model_of_many_channels(), frames, mask)


def test_the_file_says_what_it_is(file):
    facts = OnnxTracker(file).facts
    assert facts.task == "track"
    settings = {"n_last_frames": 7, "size_mask_neighborhood": 12, "topk": 5, "temperature": 0.1}
    assert facts.track == {"stride": 8, **settings}
    assert len({tuple(check["size"]) for check in facts.verified if check["size"][0] != check["size"][1]}) == 4
    assert all(0 < check["error"] <= 1e-5 for check in facts.verified)
    graph = onnx.load(file).graph
    assert [item.name for item in graph.output] == ["keys", "labels", "cosines"]
    onnx.checker.check_model(onnx.load(file))


def test_clips_by_turns_share_a_file(file):
    frames, mask = clip(3)
    tracker = OnnxTracker(file)
    one, other = tracker.start(frames[0], mask), tracker.start(frames[2], 1 - (mask > 0))
    for frame in frames[1:]:
        one.step(frame)
        other.step(frame)
    assert np.array_equal(one.mask, list(tracker.track(frames, mask))[-1])
    assert set(np.unique(other.mask)) <= {0, 1}


def test_bad_input_is_named(file, tmp_path):
    frames, mask = clip(2)
    tracker = OnnxTracker(file)
    for arguments, message in [
        ((frames, mask[:, 1:]), r"Frame 0: The mask is 144 x 175 \(H x W\); the image is 144 x 176"),
        (([frames[0], frames[1][:100]], mask), r"Frame 1: it is 100 x 176 .* the first was 144 x 176"),
        ((frames, np.zeros_like(mask)), "holds only label 0: nothing to track"),
        (([], mask), "The video has no frames"),
        ((frames, mask[..., None].repeat(3, 2)), r"The mask is \[H, W\]"),
        ((frames, mask + 0.5), "floats that are not whole numbers"),
        (([frames[0], frames[0].astype(np.float32)], mask), "divide by 255"),
    ]:
        with pytest.raises(InputError, match=message):
            list(tracker.track(*arguments))
    with pytest.raises(FileError, match="No image"):
        tracker.start(tmp_path / "none.png", mask)
    with pytest.raises(InputError, match=r"open it with dense_ctx_runtime\.OnnxTracker"):
        OnnxModel(file)(frames[0])
    with pytest.raises(InputError, match="OnnxTracker"):
        OnnxModel(file).predict(frames[0])
    with pytest.raises(InputError, match="carries masks through clips"):
        quantise(file, frames * 2, tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())


def rewritten(file, path, **change):
    """The file with other facts."""
    graph = onnx.load(file)
    graph.metadata_props[0].value = json.dumps(json.loads(graph.metadata_props[0].value) | change)
    graph.metadata_props[1].value = BLANK.decode()
    path.write_bytes(sealed(graph.SerializeToString()))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2, "dense_ctx": "9.1"}, "has format 2, written by dense_ctx 9.1; this version reads 1"),
        ({"track": None}, "values that this version never writes"),
        ({"task": "features"}, "values that this version never writes"),
        ({"track": {"stride": 0, "n_last_frames": 7, "size_mask_neighborhood": 12, "topk": 5}}, "never writes"),
        ({"track": {"stride": 8}}, "not complete"),
    ],
)
def test_files_of_other_kinds_are_refused(file, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        OnnxTracker(rewritten(file, tmp_path / "a.onnx", **change))


def test_a_file_of_another_task_does_not_track(file, tmp_path):
    path = rewritten(file, tmp_path / "a.onnx", task="features", track=None)
    with pytest.raises(InputError, match="holds a model for features, and does not track: open it with OnnxModel"):
        OnnxTracker(path)


def test_features_that_are_not_finite_are_refused(file, tmp_path):
    graph = onnx.load(file)
    weights = next(item for item in graph.graph.initializer if len(item.dims) == 4)
    weights.CopyFrom(onnx.numpy_helper.from_array(np.full(weights.dims, np.nan, np.float32), weights.name))
    graph.metadata_props[1].value = BLANK.decode()
    (tmp_path / "a.onnx").write_bytes(sealed(graph.SerializeToString()))
    frames, mask = clip(1)
    with pytest.raises(NonFiniteError, match="NaN or infinity in keys"):
        OnnxTracker(tmp_path / "a.onnx").start(frames[0], mask)


def test_what_cannot_be_exported(tmp_path):
    for options, message in [
        ({"recall": 0.1}, r"recall=0\.1 cannot be exported"),
        ({"max_memory": "1GB"}, "does not tile frames"),
    ]:
        with pytest.raises(ConfigError, match=message):
            export(MaskTracker(tiny_model(), **options), tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match='Tracking is exported to "onnx" only'):
        export(MaskTracker(tiny_model()), tmp_path / "a.pt2", "torch-export", size=(16, 24))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ the graph of votes by itself


def voting(dim, **settings):
    """A session whose first input is a frame's keys [1, dim, h, w]."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["frame"], ["map"])], "votes",
        [value("frame", TensorProto.FLOAT, [1, dim, "h", "w"])], [value("map", TensorProto.FLOAT, [1, dim, "h", "w"])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    attach_votes(model, settings, dim, None)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def last_step(frames, labels, session, grid, **settings):
    """Soft labels [h, w, K] and cosines of the last frame, by the graph, from the context that `Propagator` has."""
    propagator, context = Propagator(frames[0], labels, **settings), [labels]
    for frame in frames[1:]:
        context.append(propagator.step(frame))
    keys = functional.normalize(frames, dim=1)
    inputs = {
        "frame": keys[-1:].numpy(), "context_keys": keys[:-1].movedim(1, -1).contiguous().numpy(),
        "context_labels": torch.stack(context[:-1]).movedim(1, -1).contiguous().numpy(),
        **tiles(grid, settings["size_mask_neighborhood"]),
    }  # fmt: skip
    written, soft, cosines = session.run(None, inputs)
    assert np.array_equal(written, keys[-1].movedim(0, -1).numpy())
    return soft, cosines, context[-1].movedim(0, -1).numpy(), propagator


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("grid", "change"),
    [((9, 14), {}), ((1, 13), {}), ((1, 1), {}), ((13, 21), {}), ((13, 21), {"size_mask_neighborhood": 1}),
     ((13, 21), {"size_mask_neighborhood": 0}), ((13, 21), {"topk": 1}), ((13, 21), {"temperature": 0.5})],
)  # fmt: skip
def test_votes_are_the_propagator_s_with_each_setting(grid, change):
    settings = SETTINGS | change
    frames, labels = noise(4, 8, *grid), noise(3, *grid, seed=1).abs()
    soft, _, wanted, _ = last_step(frames, labels, voting(8, **settings), grid, **settings | {"n_last_frames": 3})
    assert np.abs(soft - wanted).max() < 1e-5 * wanted.max()
    if change:  # and the setting counts
        *_, other, _ = last_step(frames, labels, voting(8, **SETTINGS), grid, **SETTINGS | {"n_last_frames": 3})
        assert np.abs(other - wanted).max() > 1e-3


def test_exact_repeats_tie_and_all_of_them_vote():
    settings = SETTINGS | {"size_mask_neighborhood": 0, "n_last_frames": 1}
    labels = torch.rand(2, 4, 6)
    soft, cosines, *_ = last_step(torch.ones(2, 3, 4, 6), labels, voting(3, **settings), (4, 6), **settings)
    assert np.allclose(soft, labels.mean((1, 2)).numpy(), atol=1e-6)
    assert np.allclose(cosines, 1)


def test_resizing_by_matrices_is_the_decoders():
    for before, after in [
        ((24, 30), (7, 11)),
        ((5, 7), (9, 20)),
        ((12, 4), (6, 9)),
        ((16, 40), (8, 3)),
        ((3, 3), (1, 1)),
    ]:
        x = noise(1, 2, *before)
        for name in ("resize", "at_size"):
            reference = getattr(decoders_resizing, name)(x, after)
            torch.testing.assert_close(getattr(resizing, name)(x, after), reference, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ the command, and real models


def test_the_command_refuses(tmp_path, capsys):
    from dense_ctx.cli import main

    words = ["export", "efficientnet-lite0(weights=null)+upsample", "--out", str(tmp_path / "a.onnx")]
    for more, message in [
        (["--task", "trak"], "--task trak: expected track"),
        (["--task", "track(window=3)"], "window"),
        (["--task", "track", "--int8", str(tmp_path)], "--int8 cannot be combined with --task track"),
    ]:
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    from PIL import Image

    from dense_ctx.cli import main

    Image.fromarray(clip(1)[0][0]).save(tmp_path / "photo.png")
    words = ["export", "efficientnet-lite0(weights=null)+upsample(layers=[1])", "--out", str(tmp_path / "a.onnx")]
    words += ["--image", str(tmp_path / "photo.png"), "--size", "45x56"]
    assert main([*words, "--task", "track(stride=4, topk=3)"]) == 0
    assert "track of efficientnet-lite0+upsample" in capsys.readouterr().out
    facts = OnnxTracker(tmp_path / "a.onnx").facts
    assert (facts.track["stride"], facts.track["topk"], facts.size) == (4, 3, (45, 56))
    with pytest.raises(InputError, match=r"144 x 176 \(H x W\); this file takes 45 x 56 only"):
        OnnxTracker(tmp_path / "a.onnx").start(*(item[0] if isinstance(item, list) else item for item in clip(1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lila-lite0", "efficientnet-lite0+upsample"])
@pytest.mark.parametrize("size", ["dynamic", (432, 528)])
def test_real_models_on_a_real_clip(name, size, tmp_path):
    """The demo's clip, three times as large: 54 x 66 cells, ten frames, so that the oldest are replaced."""
    parts = name.split("+")
    model = AutoDenseModel.from_parts(*parts) if len(parts) > 1 else AutoDenseModel.from_pretrained(name)
    path = export(MaskTracker(model), tmp_path / "track.onnx", size=size)
    assert all(check["ties"] < 0.03 for check in OnnxTracker(path).facts.verified)
    frames, mask = clip(10)
    large = [np.kron(frame, np.ones((3, 3, 1), np.uint8)) for frame in frames]
    _, pixels = compare(path, model, large, np.kron(mask, np.ones((3, 3), np.int64)))
    assert pixels <= 1e-4
