"""The plugin in napari itself, under Xvfb: `pytest -m clients tests/test_napari.py`.

napari and a Qt come from pip (tests/client_environments.py), the screen from Debian's package xvfb. A driver,
tests/napari_driver.py, paints in the labels layer; what it showed is compared with a session that was asked directly.
"""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from client_environments import client_python
from PIL import Image

TESTS = Path(__file__).parent
NAPARI = "napari[pyqt6]==0.9.2"
SIZE = (96, 128)


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """A function that runs a part of the driver, once; gives its results and the folder of its arrays."""
    if shutil.which("xvfb-run") is None:
        pytest.skip("no xvfb-run (Debian: apt-get install xvfb)")
    program = client_python("napari", NAPARI, with_dense_ctx=True)

    @cache
    def run(part):
        out = tmp_path_factory.mktemp(part)
        # softpipe: Mesa's drawing without LLVM, which is what vispy crashes in
        environment = {**os.environ, "NAPARI_CONFIG": str(out / "config.yaml"), "GALLIUM_DRIVER": "softpipe"}
        done = subprocess.run(
            ["xvfb-run", "-a", "-s", "-screen 0 1600x1000x24", program, TESTS / "napari_driver.py", out, part],
            capture_output=True, text=True, timeout=900, env=environment,
        )  # fmt: skip
        print(done.stdout, done.stderr[-4000:])
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads((out / "results.json").read_text()), out

    return run


def picture(seed=0, shift=0):
    values = np.random.default_rng(seed).integers(20, 60, (*SIZE, 3))
    values[24:72, 40 + shift : 88 + shift] += 160
    return values.astype(np.uint8)


def answers(images, strokes, frames=None):
    """Labels of a session that gets the same strokes as masks; with `frames`, propagated labels of these."""
    from dense_ctx_session import Session

    clip = frames is not None
    with Session("lila-lite0", images, frames=clip) as session:
        for label in np.unique(strokes)[1:].tolist():
            session.add_class(f"class {label}", class_id=label - 1)
        for index, frame in enumerate(strokes if clip else [strokes]):
            if frame.any():
                session.mask_label(index, np.where(frame == 0, 255, frame - 1).astype(np.uint8))
        if clip:
            list(session.propagate())
        labels = [session.labels(index) + 1 for index in frames or [0]]
        return labels, session.uncertainty(0) if not clip else None


@pytest.mark.clients
def test_strokes_are_answered_as_a_session_answers_them(drive):
    results, out = drive("one_image")
    assert results["opened from the menu"] == "StrokesWidget"
    assert "second class" in results["one class"]
    first, second = np.load(out / "labels-1.npy"), np.load(out / "labels-2.npy")
    assert {*np.unique(first)} == {1, 2}
    assert {*np.unique(second)} == {1, 2, 3}
    np.testing.assert_array_equal(first, answers(picture(), np.load(out / "strokes-1.npy"))[0][0])
    direct, uncertainty = answers(picture(), np.load(out / "strokes-2.npy"))
    np.testing.assert_array_equal(second, direct[0])
    np.testing.assert_allclose(np.load(out / "uncertainty.npy"), uncertainty, atol=1e-4)
    box = np.zeros(SIZE, bool)
    box[24:72, 40:88] = True
    assert ((first == 2) & box).sum() / ((first == 2) | box).sum() > 0.7  # cells of 4 pixels
    np.testing.assert_array_equal(np.load(out / "labels-undone.npy"), first)
    assert results["uncertainty is hidden"]
    assert results["labels come back"]


@pytest.mark.clients
def test_what_is_exported_has_the_classes_of_the_widget(drive):
    results, out = drive("one_image")
    assert results["export"] == [f"Labels written to {out / 'exported' / 'labels.json'}"]
    data = json.loads((out / "exported" / "labels.json").read_text())
    assert [item["name"] for item in data["categories"]] == ["box", "class 3"]  # background is what is left
    assert data["categories"][0]["color"] == results["colour"]
    assert data["images"][0]["file_name"] == "photo.png"
    assert (data["images"][0]["height"], data["images"][0]["width"]) == SIZE
    assert "expected 1 to 254 for classes" in results["label 300"]
    assert "labels-1.npy" in results["export to a file"]


@pytest.mark.clients
def test_a_stack_is_propagated_and_corrected(drive):
    results, out = drive("stack")
    assert results["propagate is offered"]
    frames = [picture(i, 6 * i) for i in range(5)]
    direct, _ = answers(frames, np.load(out / "strokes-stack.npy"), frames=range(5))
    pixels = np.load(out / "labels-stack.npy")
    for index in range(5):
        np.testing.assert_array_equal(pixels[index], direct[index])
    np.testing.assert_array_equal(np.load(out / "labels-frame-3.npy"), pixels[3])
    corrected, strokes = np.load(out / "labels-corrected.npy"), np.load(out / "strokes-corrected.npy")
    assert strokes[3].any()
    assert (corrected[3] != pixels[3]).any()
    assert (corrected[3][strokes[3] > 0] == strokes[3][strokes[3] > 0]).all()
    np.testing.assert_array_equal(corrected[:3], pixels[:3])


@pytest.mark.clients
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no image layer", "There is no image layer: open an image"),
        ("another size", "The labels layer 'other' is 50 x 60, the image layer 'photo' 96 x 128"),
        ("another place", "The labels layer 'shifted' lies elsewhere than the image layer 'photo'"),
        ("four axes", "'volume' is 3 x 2 x 40 x 50; expected one image (Y, X) or a stack of frames (T, Y, X)"),
        ("too small", "'thin' is 4 x 50; expected sides of 8 or more"),
        ("huge", "'scene' has 900 megapixels"),
        ("no model", "no-such-model"),
        ("NaN", "The image layer 'gaps' holds NaN or infinity"),
    ],
)
def test_what_cannot_be_labelled_is_said_in_a_notification(drive, case, words):
    results, _ = drive("refusals")
    assert len(results[case]) == 1
    assert words in results[case][0]


@pytest.mark.clients
def test_grey_float_16_bit_rgba_and_multiscale_images(drive):
    results, out = drive("kinds")
    labels = {path.stem.removeprefix("kind-"): np.load(path) for path in out.glob("kind-*.npy")}
    assert len(labels) == 7
    for name in ("grey 16 bits", "grey float"):
        assert (labels[name] == labels["grey"]).mean() > 0.999
    for name in ("rgba", "multiscale"):
        np.testing.assert_array_equal(labels[name], labels["rgb"])
    assert all(results[f"same place {name}"] for name in labels)
    for values in labels.values():
        assert {*np.unique(values)} == {1, 2}


@pytest.mark.clients
def test_a_layer_that_is_removed_at_work_closes_the_session(drive):
    results, _ = drive("removed")
    for case in ("removed", "removed while opening"):
        message, closed = results[case]
        assert "was removed: its session is closed" in message
        assert closed


@pytest.mark.clients
def test_the_picture_of_the_documentation(drive):
    _, out = drive("shown")
    picture = Image.open(out / "astronaut.png")
    assert picture.width > 1000
    print(out / "astronaut.png")


@pytest.mark.clients
def test_the_manifest_is_valid():
    python = client_python("napari", NAPARI, with_dense_ctx=True)
    done = subprocess.run(
        [python, "-m", "npe2", "validate", "dense-ctx", "--imports"], capture_output=True, text=True,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "valid" in done.stdout.lower()
