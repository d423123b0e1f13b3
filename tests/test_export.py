"""Exported files: equal to the model at any size, refused where they cannot be, and nothing half-written."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from dense_ctx_export import TorchExportModel, export
from dense_ctx_export.onnx_export import sealed
from dense_ctx_export.source import source_of
from dense_ctx_export.tracing import interpolate
from dense_ctx_predict import Predictor
from dense_ctx_runtime import OnnxModel
from dense_ctx_runtime.onnx_model import BLANK, SEAL
from PIL import Image

from dense_ctx import AutoDenseModel, DenseModel, InContext
from dense_ctx.config import Output
from dense_ctx.errors import CheckpointError, ConfigError, FileError, InputError, NotFittedError, UnknownNameError
from dense_ctx.testing.tiny import TinyBackbone, TinyDecoder, tiny_model

RNG = np.random.default_rng(0)
FLAT = np.kron(RNG.random((5, 7, 3)) * 200, np.ones((9, 8, 1)))
PHOTO = (FLAT + RNG.random((45, 56, 3)) * 55).astype(np.uint8)
MASK = (np.arange(45)[:, None] + np.arange(56) > 50).astype(np.uint8) + (np.arange(45)[:, None] < 9)


def picture(height, width, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def context(method="ridge", **options):
    return InContext(tiny_model(), method, **options).fit(PHOTO, MASK)


@pytest.fixture(scope="module")
def features_file(tmp_path_factory):
    return tiny_model().export(tmp_path_factory.mktemp("features") / "tiny.onnx", image=PHOTO)


def close(a, b, limit=1e-4):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= limit * np.abs(b).max()


@pytest.mark.parametrize("size", [(16, 24), (17, 40), (45, 9), (64, 3)])
def test_features_of_any_size_are_the_model_s(features_file, size):
    written, model, image = OnnxModel(features_file), tiny_model(), picture(*size)
    given, wanted = written(image), model(image)
    close(given.pixels, wanted.pixels)
    close(given.patches, wanted.patches)
    close(given.cls, wanted.cls)
    assert given.extent == wanted.extent
    assert [type(item) for item in given] == [np.ndarray] * 3


def test_images_come_as_the_library_takes_them(features_file, tmp_path):
    artefact = OnnxModel(features_file, threads=1)
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    ways = [PHOTO, tmp_path / "photo.png", Image.fromarray(PHOTO), PHOTO.astype(np.float32) / 255]
    first, *others = artefact(ways)
    for other in others:
        close(other.pixels, first.pixels, 1e-6)
    for bad, message in [
        (PHOTO.astype(np.float32), "divide by 255"),
        (np.zeros((3, 8, 8), np.uint8), "channels go last"),
        (np.full((8, 8, 3), np.nan, np.float32), "NaN or infinity"),
        (None, "An image is a path"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
    ]:
        with pytest.raises(InputError, match=message):
            artefact(bad)
    with pytest.raises(FileError, match="No image"):
        artefact(tmp_path / "none.png")
    with pytest.raises(InputError, match="no fitted head"):
        artefact.predict(PHOTO)


def test_the_file_says_what_it_is(features_file):
    facts = OnnxModel(features_file).facts
    assert (facts.task, facts.stride, facts.strides, facts.dims, facts.dim) == ("features", 8, (4, 8), (6, 10), 5)
    assert (facts.mean, facts.std, facts.opset, facts.size) == ((0.5,) * 3, (0.5,) * 3, 20, None)
    sizes = {tuple(check["size"]) for check in facts.verified}
    assert len({size for size in sizes if size[0] != size[1]}) == 3
    assert {check["input"] for check in facts.verified} == {"random", "photograph"}
    assert all(0 <= check["error"] <= 1e-4 for check in facts.verified)
    other = tiny_model()
    with torch.no_grad():
        other.decoder.project[0].bias.add_(1)
    assert source_of(other, None, 20).facts.source_digest != facts.source_digest


HEADS = [("ridge", {}), ("linear", {"iterations": 5}), ("knn", {"stride": 2, "k": 5}), ("ensemble", {"penalty": 0.01})]


@pytest.mark.parametrize(("method", "options"), HEADS)
def test_fitted_heads_predict_what_the_context_does(method, options, tmp_path):
    fitted = context(method, **options)
    path = export(fitted, tmp_path / "a.onnx", image=PHOTO)
    written, ties = OnnxModel(path), source_of(fitted, None, 20).ties
    for size in [(45, 56), (33, 70), (90, 21)]:
        image = picture(*size)
        clear = ~ties(image).numpy() if ties else np.ones(size, bool)
        assert clear.mean() > 0.5
        close(written.scores(image)[:, clear], fitted.predict_proba(image)[:, clear])
        assert np.array_equal(written.predict(image)[clear], fitted.predict(image)[clear])
        assert written.predict(image).dtype == np.int64
    assert np.array_equal(written.predict([PHOTO])[0], written.predict(PHOTO))
    with pytest.raises(InputError, match="predicts segmentation"):
        written(PHOTO)


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize("method", ["ridge", "knn"])
def test_one_size_is_one_input(format, method, tmp_path):
    fitted = context(method)
    path = export(fitted, tmp_path / "a", format, size=(45, 56), image=PHOTO)
    artefact = OnnxModel(path) if format == "onnx" else TorchExportModel(path)
    close(artefact.scores(PHOTO), fitted.predict_proba(PHOTO), 0.2 if method == "knn" else 1e-4)  # ties
    assert artefact.facts.size == (45, 56)
    if format == "onnx":
        graph = onnx.load(path).graph
        assert [(i.name, [d.dim_value for d in i.type.tensor_type.shape.dim]) for i in graph.input] == [
            ("image", [1, 3, 45, 56])
        ]
    with pytest.raises(InputError, match=r"30 x 56 \(H x W\); this file takes 45 x 56 only"):
        artefact.predict(PHOTO[:30])


def test_a_torch_program_of_any_size(tmp_path):
    fitted = context("linear", iterations=5)
    artefact = TorchExportModel(export(fitted, tmp_path / "a.pt2", "torch-export", image=PHOTO))
    for size in [(33, 70), (90, 21)]:
        close(artefact.scores(picture(*size)), fitted.predict_proba(picture(*size)))
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:  # neither a pickle nor the image that it was traced with
        sizes = {name.partition("/")[2]: archive.getinfo(name).file_size for name in archive.namelist()}
        assert sizes["data/sample_inputs/model.pt"] == 0
        assert not any(archive.read(name).startswith((b"PK", b"\x80\x02")) for name in archive.namelist())
    (tmp_path / "b.pt2").write_bytes((tmp_path / "a.pt2").read_bytes()[:2000])
    content = bytearray((tmp_path / "a.pt2").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        weights = [item for item in archive.infolist() if "/weights/" in item.filename]
        content[content.index(archive.read(max(weights, key=lambda item: item.file_size)))] ^= 1
    (tmp_path / "changed.pt2").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what was written"):
        TorchExportModel(tmp_path / "changed.pt2")
    with pytest.raises(CheckpointError, match="damaged or no program"):
        TorchExportModel(tmp_path / "b.pt2")
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.rand(1, 2),))
    torch.export.save(program, tmp_path / "c.pt2")
    with pytest.raises(CheckpointError, match="dense_ctx did not write"):
        TorchExportModel(tmp_path / "c.pt2")


def test_values_and_normals(tmp_path):
    normals = np.random.default_rng(3).normal(size=(3, 45, 56)).astype(np.float32)
    fitted = InContext(tiny_model(), "ridge").fit(PHOTO, normals / np.linalg.norm(normals, axis=0))
    predictor = Predictor(fitted, task="normals")
    artefact = OnnxModel(export(predictor, tmp_path / "a.onnx", size=(45, 56), image=PHOTO))
    close(artefact.predict(PHOTO), predictor.predict(PHOTO))
    assert artefact.task == "normals"
    assert artefact.classes == ()


def test_classes_have_their_names_and_colours(tmp_path):
    predictor = Predictor(context(), names={0: "sky", 2: "sea"}, colours={2: (1, 2, 3)})
    artefact = OnnxModel(export(predictor, tmp_path / "a.onnx", size=(45, 56), image=PHOTO))
    assert [(c.id, c.name, c.colour) for c in artefact.classes] == [(c.id, c.name, c.colour) for c in predictor.classes]


def trained(**output):
    torch.manual_seed(0)
    backbone = TinyBackbone()
    model = DenseModel(backbone, TinyDecoder(backbone.dims, backbone.strides, dim=4))
    from dense_ctx.config import ModelConfig, Part

    model.model_config = ModelConfig(Part("tiny"), Part("tiny"), output=Output(**output))
    return model


@pytest.mark.parametrize(
    "sizes",
    [{"image_size": (36, 44), "size": (18, 22)}, pytest.param({}, marks=pytest.mark.slow),
     pytest.param({"image_size": (32, 40)}, marks=pytest.mark.slow)],
)  # fmt: skip
def test_trained_heads(sizes, tmp_path):
    model = trained(task="segmentation", classes=("a", "b", "c"), **sizes)
    predictor = Predictor(model)
    artefact = OnnxModel(model.export(tmp_path / "a.onnx", image=PHOTO))
    for size in [(45, 56), (20, 70)]:
        close(artefact.scores(picture(*size)), predictor.scores(picture(*size)))
    depth = trained(task="depth", sigmoid=True, **sizes)
    artefact = OnnxModel(depth.export(tmp_path / "b.onnx", image=PHOTO, size=(45, 56)))
    close(artefact.scores(PHOTO), Predictor(depth).scores(PHOTO))


def test_position_tables_of_any_grid():
    from dense_ctx_backbones import positions

    table = torch.randn(1, 30, 4)
    for new in [(5, 6), (9, 4), (3, 11), (5, 8)]:
        assert torch.allclose(interpolate(table, (5, 6), new), positions.interpolate(table, (5, 6), new), atol=1e-5)
    assert torch.equal(interpolate(table, (5, 6), (5, 6)), table)


@pytest.mark.parametrize("name", ["dinov2-s14", pytest.param("dinov2-reg-s14", marks=pytest.mark.slow)])
def test_vits_with_dpt_at_any_size(name, tmp_path):
    options = {"weights": None, "depth": 2, "embed_dim": 48, "num_heads": 2, "layers": [0, 1], "img_size": 98}
    model = AutoDenseModel.from_parts(name, "dpt", backbone_args=options, decoder_args={"dim": 6, "width": 8})
    artefact = OnnxModel(model.export(tmp_path / "a.onnx", image=PHOTO))
    for size in [(98, 98), (60, 85), (30, 45)]:
        close(artefact(picture(*size)).pixels, model(picture(*size)).pixels)


def test_maxa_is_exported_at_one_size_and_refused_at_any(tmp_path):
    options = {"weights": None, "depth": 1, "embed_dim": 48, "num_heads": 2, "layers": [0], "img_size": 56}
    args = {"dim": 5, "width": 8, "heads": 2, "size": [32, 40]}
    model = AutoDenseModel.from_parts("dinov2-s14", "maxa", backbone_args=options, decoder_args=args)
    with pytest.raises(ConfigError, match=r"cannot be exported for images of any size \(with size=\(H, W\), it may be"):
        model.export(tmp_path / "a.onnx", image=PHOTO)
    assert list(tmp_path.iterdir()) == []
    artefact = OnnxModel(model.export(tmp_path / "a.onnx", image=PHOTO, size=(45, 56)))
    close(artefact(PHOTO).pixels, model(PHOTO).pixels)


class Random(TinyDecoder):
    """A decoder whose graph cannot equal it: it adds noise."""

    def forward(self, features, images, size):
        return super().forward(features, images, size) + torch.rand(())


def test_what_differs_is_refused_and_leaves_nothing(tmp_path):
    backbone = TinyBackbone()
    model = DenseModel(backbone, Random(backbone.dims, backbone.strides))
    (tmp_path / "a.onnx").write_bytes(b"before")
    with pytest.raises(ConfigError, match=r"differs from the model by .* at most 1e-04 is accepted"):
        model.export(tmp_path / "a.onnx", image=PHOTO, size=(45, 56))
    assert (tmp_path / "a.onnx").read_bytes() == b"before"
    assert [item.name for item in tmp_path.iterdir()] == ["a.onnx"]


def test_refusals(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(NotFittedError, match="not fitted"):
        export(InContext(tiny_model()), path)
    with pytest.raises(ConfigError, match="The probe 'conv' cannot be exported; ridge, linear, knn and ensemble can"):
        export(context("conv", updates=1), path)
    with pytest.raises(UnknownNameError, match="onnx"):
        export(tiny_model(), path, "onxx")
    for size in ["480x640", (0, 5), (5,), 7]:
        with pytest.raises(InputError, match=r"is not \(H, W\) in pixels"):
            export(tiny_model(), path, size=size)
    with pytest.raises(InputError, match="expected 18 to 23"):
        export(tiny_model(), path, opset=11)
    with pytest.raises(FileError, match="No image at"):
        export(tiny_model(), path, image=tmp_path / "none.jpg", size=(16, 24))
    fixed = trained(task="depth", size=(16, 20))
    with pytest.raises(ConfigError, match="outputs of one size for images of every size"):
        fixed.export(path)
    assert list(tmp_path.iterdir()) == []


def test_opset(tmp_path):
    path = tiny_model().export(tmp_path / "a.onnx", opset=18, size=(16, 24), image=PHOTO)
    assert [o.version for o in onnx.load(path).opset_import if o.domain == ""] == [18]
    assert OnnxModel(path).facts.opset == 18


def test_bad_files_are_named(features_file, tmp_path):
    content, path = features_file.read_bytes(), tmp_path / "a.onnx"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"damaged or no ONNX file \([\d,]+ bytes\)"):
        OnnxModel(path)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match="is damaged: its sha256 is not the one written"):
        OnnxModel(path)
    path.write_bytes(b"a text")
    with pytest.raises(CheckpointError, match="damaged or no ONNX file"):
        OnnxModel(path)
    graph = onnx.load(features_file)
    del graph.metadata_props[:]
    onnx.save(graph, path)
    with pytest.raises(CheckpointError, match="not one that dense_ctx wrote"):
        OnnxModel(path)
    with pytest.raises(FileError, match="Cannot read"):
        OnnxModel(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2, "dense_ctx": "9.1"}, "has format 2, written by dense_ctx 9.1; this version reads 1"),
        ({"stride": "8"}, "values that this version never writes"),
        ({"task": "poetry"}, "values that this version never writes"),
        ({"more": 1}, "not complete"),
    ],
)
def test_other_metadata_is_refused(features_file, tmp_path, change, message):
    graph = onnx.load(features_file)
    facts = json.loads(graph.metadata_props[0].value) | change
    graph.metadata_props[0].value = json.dumps(facts)
    graph.metadata_props[1].value = BLANK.decode()
    assert graph.metadata_props[1].key.encode() == SEAL.partition(b"\x12")[0]
    (tmp_path / "a.onnx").write_bytes(sealed(graph.SerializeToString()))
    with pytest.raises(CheckpointError, match=message):
        OnnxModel(tmp_path / "a.onnx")


def test_threads_and_providers(features_file):
    with pytest.raises(InputError, match="threads=0 is not at least 1"):
        OnnxModel(features_file, threads=0)
    with pytest.raises(InputError, match="no NoneExecutionProvider"):
        OnnxModel(features_file, providers=["NoneExecutionProvider"])


def test_the_command(tmp_path, capsys):
    from dense_ctx.cli import main

    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    out = tmp_path / "a.onnx"
    words = ["export", "efficientnet-lite0(weights=null)+upsample(layers=[0])", "--out", str(out)]
    assert main([*words, "--image", str(tmp_path / "photo.png"), "--size", "45x56", "--opset", "19"]) == 0
    assert OnnxModel(out).facts.opset == 19
    printed = capsys.readouterr().out
    assert "features of efficientnet-lite0+upsample" in printed
    assert "photograph" in printed
    assert main([*words, "--size", "45"]) == 2
    assert "--size 45 is not HxW" in capsys.readouterr().err


@pytest.mark.parametrize(("format", "file"), [("onnx", "a.pt2"), ("torch-export", "a.ONNX")])
def test_the_suffix_of_another_format_is_refused(format, file, tmp_path):
    with pytest.raises(InputError, match="has the suffix of the format"):
        tiny_model().export(tmp_path / file, format=format, size=(16, 24), image=PHOTO)
    assert not list(tmp_path.iterdir())


def test_a_file_of_which_nothing_could_be_compared_is_refused(tmp_path):
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[:20] = 1
    twice = InContext(tiny_model(), "knn", k=1, stride=4).fit([PHOTO, PHOTO], [mask, mask])
    with pytest.raises(ConfigError, match="nothing could be compared"):
        export(twice, tmp_path / "a.onnx", size=(16, 24), image=PHOTO)
    assert not list(tmp_path.iterdir())


def test_the_page_in_the_browser_takes_no_trained_head(tmp_path):
    saved = AutoDenseModel.from_parts("rgb-xy", "linear", decoder_args={"dim": 2})
    saved.model_config = replace(saved.model_config, output=Output("segmentation", ("ground", "box")))
    folder = saved.save_pretrained(tmp_path / "model")
    command = [sys.executable, "examples/browser/build.py", str(tmp_path / "page"), "--model", str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1
    assert "has a trained head; the page fits its own" in done.stderr
    assert not (tmp_path / "page").exists()
