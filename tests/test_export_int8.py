"""int8 files: near the float32 file, smaller, and a word where an image is unlike the calibration's."""

import numpy as np
import onnx
import pytest
import torch
from dense_ctx_export import export
from dense_ctx_export.quantisation import quantise
from dense_ctx_runtime import OnnxModel
from dense_ctx_runtime.graph_model import OutsideCalibration

from dense_ctx import AutoDenseModel, InContext
from dense_ctx.errors import InputError


def photo(seed, brightness=1.0):
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.random((4, 5, 3)), np.ones((16, 16, 1)))
    return ((0.8 * coarse + 0.2 * rng.random((64, 80, 3))) * 255 * brightness).astype(np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    model = AutoDenseModel.from_parts("efficientnet-lite0", "upsample", backbone_args={"layers": [0, 1]})
    folder = tmp_path_factory.mktemp("int8")
    mask = (np.arange(64)[:, None] + np.arange(80) > 70).astype(np.uint8)
    fitted = InContext(model, "ridge").fit(photo(0), mask)
    path = export(fitted, folder / "float.onnx", size=(64, 80), image=photo(0))
    quantise(path, [photo(seed) for seed in range(8)], folder / "int8.onnx")
    return folder


def test_it_is_smaller_and_near(files):
    whole, small = files / "float.onnx", files / "int8.onnx"
    types = [tensor.data_type for tensor in onnx.load(small).graph.initializer if len(tensor.dims) == 4]
    assert types.count(onnx.TensorProto.INT8) > 8
    a, b = OnnxModel(whole).scores(photo(1)), OnnxModel(small).scores(photo(1))
    assert 0 < np.abs(a - b).mean() < 0.1
    assert len(OnnxModel(small).facts.quantisation["spreads"]) == 8
    assert not OnnxModel(small)._session.get_session_options().enable_mem_pattern, "it holds twice a forward's memory"


@pytest.mark.parametrize("kind", ["grid", "dark", "black"])
def test_an_image_unlike_the_calibration_s_is_said(files, recwarn, kind):
    model = OnnxModel(files / "int8.onnx")
    for seed in (20, 21):
        model.predict(photo(seed))
    assert not [item for item in recwarn if item.category is OutsideCalibration]
    strange = photo(20, 0.1 if kind == "dark" else 0.0)
    if kind == "grid":
        strange[::2, ::2] = 255
    pattern = r"each of the 8 calibration images: the nearest is [1-9][\d.]* times as far"
    with pytest.warns(OutsideCalibration, match=pattern):
        model.predict(strange)
    with pytest.raises(InputError, match="calibrate with images like this one"):
        model.predict(strange, strict=True)
    OnnxModel(files / "float.onnx").predict(strange, strict=True)


def test_a_map_of_few_positions_is_not_compared(files):
    """Deviations over fewer positions are smaller, whatever the image."""
    model = OnnxModel(files / "int8.onnx")
    facts = model.facts.quantisation
    patches = np.zeros((1, len(facts["spreads"][0]), 1, facts["positions"]), np.float32)
    with pytest.raises(InputError, match="calibration images"):
        model._check_calibration(patches, True)
    model._check_calibration(patches[..., : facts["positions"] // 2 - 1], True)


def test_refusals(files, tmp_path):
    out = tmp_path / "a.onnx"
    with pytest.raises(InputError, match="3 calibration images; expected at least 4"):
        quantise(files / "float.onnx", [photo(0)] * 3, out)
    with pytest.raises(InputError, match="is int8 already"):
        quantise(files / "int8.onnx", [photo(0)] * 4, out)
    photos = [photo(seed) for seed in range(4)]
    with pytest.raises(
        InputError, match=r"1 of 5 calibration images repeat another one: image 5 is image 3\. Give each"
    ):
        quantise(files / "float.onnx", [*photos, photo(2)], out)
    with pytest.raises(InputError, match="takes 64 x 80 only"):
        quantise(files / "float.onnx", [item[:32] for item in photos], out)
    with pytest.raises(InputError, match="has the suffix of the format torch-export"):
        quantise(files / "float.onnx", photos, tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    from PIL import Image

    from dense_ctx.cli import main

    for seed in range(4):
        Image.fromarray(photo(seed)).save(tmp_path / f"{seed}.png")
    words = ["export", "efficientnet-lite0+upsample(layers=[0])", "--out", str(tmp_path / "a.onnx"), "--size", "64x80"]
    words += ["--image", str(tmp_path / "0.png"), "--int8", str(tmp_path)]
    assert main(words) == 0
    assert "MB, float32 has" in capsys.readouterr().out
    assert len(OnnxModel(tmp_path / "a.onnx").facts.quantisation["spreads"]) == 4
    assert main([*words, "--format", "torch-export"]) == 2
    assert "--int8 would have no effect" in capsys.readouterr().err
