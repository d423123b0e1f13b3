"""A part that raises inside `predict` or `track` is named with its plugin, as in `evaluate`."""

import numpy as np
import pytest
from dense_ctx_labels.labelme import Labelme
from dense_ctx_labels.png import PalettePng
from dense_ctx_probes.ensemble import EnsembleProbe
from dense_ctx_probes.propagation import PropagationProbe
from PIL import Image

from dense_ctx import cli
from dense_ctx.errors import PluginError

MODEL = ["--model", "rgb-xy", "--device", "cpu"]
CAUSE = "ZeroDivisionError: a mean of no pixels"


@pytest.fixture
def files(tmp_path):
    """A picture, its mask, and a clip of three frames."""
    rng = np.random.default_rng(0)
    for name in ("photo.png", "clip/0.png", "clip/1.png", "clip/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 36, 3), dtype=np.uint8)).save(tmp_path / name)
    Image.fromarray((np.arange(36) < 12).astype(np.uint8)[None].repeat(24, 0)).save(tmp_path / "mask.png")
    return tmp_path


def fail(*args, **kwargs):
    raise ZeroDivisionError("a mean of no pixels")


def refused(capsys, *words):
    assert cli.main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "\n" not in line
    return line


def predicted(files, *more):
    pair = f"{files / 'photo.png'}:{files / 'mask.png'}"
    return ["predict", *MODEL, "--support", pair, "--query", files / "photo.png", "--out", files / "out", *more]


@pytest.mark.parametrize("method", ["partial_fit", "predict"])
def test_track(files, monkeypatch, capsys, method):
    monkeypatch.setattr(PropagationProbe, method, fail)
    line = refused(capsys, "track", files / "clip", "--mask", files / "mask.png", "--out", files / "out", *MODEL)
    assert line.startswith("error: probe 'propagation' of plugin 'probes' of dense-ctx ")
    assert line.endswith(f"failed: {CAUSE}")


@pytest.mark.parametrize("method", ["partial_fit", "predict"])
def test_predict(files, monkeypatch, capsys, method):
    monkeypatch.setattr(EnsembleProbe, method, fail)
    line = refused(capsys, *predicted(files))
    assert line.startswith("error: probe 'ensemble' of plugin 'probes' of dense-ctx ")
    assert line.endswith(f"failed: {CAUSE}")


@pytest.mark.parametrize("method", ["state_dict", "outputs"])
def test_saving_what_was_learnt(files, monkeypatch, method):
    from dense_ctx_predict.context_files import save_context

    from dense_ctx import AutoDenseModel, InContext

    context = InContext(AutoDenseModel.from_parts("rgb-xy")).fit(files / "photo.png", files / "mask.png")
    monkeypatch.setattr(EnsembleProbe, method, fail)
    with pytest.raises(PluginError, match=rf"probe 'ensemble' of plugin 'probes' of dense-ctx .* failed: {CAUSE}"):
        save_context(context, files / "context")
    assert not (files / "context").exists()


@pytest.mark.parametrize("method", ["open", "read"])
def test_a_format_of_labels(files, monkeypatch, capsys, method):
    monkeypatch.setattr(*((Labelme, "load") if method == "read" else (PalettePng, "open")), fail)
    (files / "labels.json").write_text("{}")
    words = ["predict", *MODEL, "--query", files / "photo.png", "--out", files / "out"]
    if method == "open":
        line = refused(capsys, *words, "--labels-in", files / "mask.png", "--labels-from", "png")
        assert line.startswith("error: label-format 'png' of plugin 'labels' of dense-ctx ")
    else:
        monkeypatch.setattr("dense_ctx_labels.auto.recognised", lambda path: "labelme")
        line = refused(capsys, *words, "--support", f"{files / 'photo.png'}:{files / 'labels.json'}")
        assert line.startswith("error: label-format 'labelme' of plugin 'labels' of dense-ctx ")
    assert line.endswith(f"failed: {CAUSE}")
    assert not (files / "out" / "masks").exists()


@pytest.mark.parametrize("method", ["check_target", "write_maps"])
def test_writing_labels(files, monkeypatch, capsys, method):
    monkeypatch.setattr(PalettePng, method, fail)
    line = refused(capsys, *predicted(files, "--labels-out", files / "labels", "--labels-to", "png"))
    assert line.startswith("error: label-format 'png' of plugin 'labels' of dense-ctx ")
    assert line.endswith(f"failed: {CAUSE}")
