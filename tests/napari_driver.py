"""Drives the plugin in napari itself: `napari_driver.py FOLDER PART`, results as JSON and arrays; see test_napari.py.

A part is a process, and layers are removed only where that is what is looked at: with software rendering vispy
may crash when it draws after a float image was removed, without any plugin.
"""

import json
import os
import sys
import time
from pathlib import Path

import napari
import numpy as np
from dense_ctx_napari.output import LABELS, UNCERTAINTY
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication

OUT = Path(sys.argv[1])
SIZE = (96, 128)
results = {}


def picture(seed=0, shift=0):
    values = np.random.default_rng(seed).integers(20, 60, (*SIZE, 3))
    values[24:72, 40 + shift : 88 + shift] += 160
    return values.astype(np.uint8)


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        QApplication.processEvents()
        time.sleep(0.005)
        if time.monotonic() > end:
            raise SystemExit(f"waited for {condition.__name__}: {widget.status.text()!r}, {messages()}")
    QApplication.processEvents()


def rest(seconds=0.4):
    end = time.monotonic() + seconds

    def over():
        return time.monotonic() > end and not widget._answers.running and not widget._long.running

    until(over)


def messages():
    return [str(record.message) for record in notification_manager.records]


def opened(image=None):
    if image is not None:
        widget.images.setCurrentText(image)
    widget.strokes.setCurrentIndex(0)
    widget.open_session()
    if widget.annotator is None and widget.image_layer is not None:
        until(lambda: widget.annotator is not None or not widget._long.running)
    return widget.annotator is not None


def paint(label, *places):
    widget.strokes_layer.selected_label = label
    for place in places:
        widget.strokes_layer.paint(place, label)
    rest()


def refusal(name, image=None):
    """What is said of an image layer."""
    notification_manager.records.clear()
    if image is not None:
        widget.images.setCurrentText(image)
    widget.open_session()
    rest()
    results[name] = messages()


def save(name):
    rest()
    viewer.screenshot(str(OUT / f"{name}.png"), canvas_only=False, flash=False)


def one_image():
    viewer.add_image(picture(), name="photo")
    assert opened()
    widget.strokes_layer.brush_size = 6
    paint(1, (8, 8), (8, 100))
    results["one class"] = widget.status.text()
    paint(2, (50, 60))
    np.save(OUT / "strokes-1.npy", widget.strokes_layer.data)
    np.save(OUT / "labels-1.npy", widget.output.labels.data)
    widget.uncertainty.setChecked(True)
    paint(3, (84, 20), (84, 110))
    np.save(OUT / "strokes-2.npy", widget.strokes_layer.data)
    np.save(OUT / "labels-2.npy", widget.output.labels.data)
    np.save(OUT / "uncertainty.npy", viewer.layers[UNCERTAINTY].data)
    widget.uncertainty.setChecked(False)
    results["uncertainty is hidden"] = not viewer.layers[UNCERTAINTY].visible
    widget.classes.item(1, 1).setText("box")
    widget.strokes_layer.undo(), widget.strokes_layer.undo()
    rest()
    np.save(OUT / "labels-undone.npy", widget.output.labels.data)
    widget.format.setCurrentText("coco")
    widget.export_labels(OUT / "exported")
    rest()
    results["export"] = messages()
    colour = widget.strokes_layer.colormap.map(2)[:3]
    results["colour"] = [round(255 * float(part)) for part in colour]
    viewer.layers.remove(LABELS)
    paint(1, (8, 60))
    results["labels come back"] = LABELS in viewer.layers
    widget.strokes_layer.data = np.full(SIZE, 300, np.int32)
    rest()
    results["label 300"] = messages()[-1]
    widget.export_labels(OUT / "labels-1.npy")
    rest()
    results["export to a file"] = messages()[-1]


def stack():
    frames = np.stack([picture(i, 6 * i) for i in range(5)])
    viewer.add_image(frames, name="clip", rgb=True)
    viewer.dims.set_current_step(0, 0)
    assert opened()
    results["propagate is offered"] = widget.propagate.isVisibleTo(widget)
    widget.strokes_layer.brush_size = 6
    paint(1, (0, 8, 8), (0, 84, 100))
    paint(2, (0, 50, 60))
    np.save(OUT / "strokes-stack.npy", widget.strokes_layer.data)
    widget.propagate_labels()
    rest()
    np.save(OUT / "labels-stack.npy", widget.output.labels.data)
    viewer.dims.set_current_step(0, 3)
    rest()
    np.save(OUT / "labels-frame-3.npy", widget.output.labels.data[3])
    paint(2, (3, 60, 100))
    np.save(OUT / "strokes-corrected.npy", widget.strokes_layer.data)
    np.save(OUT / "labels-corrected.npy", widget.output.labels.data)


def refusals():
    from dask.array import zeros

    refusal("no image layer")
    viewer.add_image(picture(), name="photo")
    viewer.add_labels(np.zeros((50, 60), np.uint8), name="other")
    widget.strokes.setCurrentText("other")
    refusal("another size", "photo")
    viewer.add_labels(np.zeros(picture().shape[:2], np.uint8), name="shifted", translate=(0, 20))
    widget.strokes.setCurrentText("shifted")
    refusal("another place", "photo")
    widget.strokes.setCurrentIndex(0)
    viewer.add_image(np.zeros((3, 2, 40, 50), np.uint8), name="volume")
    refusal("four axes", "volume")
    viewer.add_image(np.zeros((4, 50), np.uint8), name="thin")
    refusal("too small", "thin")
    viewer.add_image(zeros((30_000, 30_000), dtype=np.uint8, chunks=2048), name="scene", multiscale=False)
    refusal("huge", "scene")
    widget.model.setCurrentText("no-such-model")
    refusal("no model", "photo")
    widget.model.setCurrentText("lila-lite0")
    values = picture().astype(np.float32) / 255
    values[3, 3] = np.nan
    viewer.add_image(values, name="gaps", rgb=True)
    assert opened("gaps")
    paint(1, (50, 50))
    paint(2, (8, 8))
    results["NaN"] = messages()[-1:]


def kinds():
    """Other images than 8-bit RGB that show the same, and what is answered."""
    grey = picture()[..., 0]
    alpha = np.dstack([picture(), np.full(SIZE, 255, np.uint8)])
    cases = {
        "grey": (grey, {}),
        "grey 16 bits": (grey.astype(np.uint16) * 37 + 11, {"contrast_limits": (11, 255 * 37 + 11)}),
        "grey float": (grey.astype(np.float32) / 255 * 9 - 4, {"contrast_limits": (-4, 5)}),
        "rgba": (alpha, {"rgb": True}),
        "rgb": (picture(), {"rgb": True}),
        "multiscale": ([picture(), picture()[::2, ::2]], {"rgb": True, "multiscale": True}),
        "scaled": (picture(), {"rgb": True, "scale": (0.5, 0.25), "translate": (7, 9)}),
    }
    for name, (data, options) in cases.items():
        if "contrast_limits" not in options and name.startswith("grey"):
            options["contrast_limits"] = (0, 255)
        layer = viewer.add_image(data, name=name, **options)
        assert opened(name)
        edits = widget.strokes_layer.data_setitem
        edits((np.array([8, 8, 84]), np.array([8, 100, 100])), 1)  # by pixels: a brush is as round as the scales
        edits((np.array([50, 50]), np.array([60, 64])), 2)
        rest()
        np.save(OUT / f"kind-{name}.npy", widget.output.labels.data)
        results[f"same place {name}"] = bool(np.allclose(layer.extent.world, widget.output.labels.extent.world))


def removed():
    viewer.add_image(picture(), name="photo")
    assert opened()
    paint(1, (8, 8))
    widget.strokes_layer.selected_label = 2
    widget.strokes_layer.paint((50, 60), 2)
    widget._ask()
    viewer.layers.remove("photo")  # while the answer is worked out
    rest()
    results["removed"] = [messages()[-1], widget.annotator is None]
    viewer.add_image(picture(), name="second")
    widget.images.setCurrentText("second")
    widget.open_session()
    viewer.layers.remove("second")  # while the model is opened
    rest()
    results["removed while opening"] = [messages()[-1], widget.annotator is None]


def shown():
    """The picture of the documentation."""
    from skimage import data

    viewer.window.resize(1280, 760)
    viewer.add_image(data.astronaut(), name="astronaut")
    assert opened()
    strokes = widget.strokes_layer
    strokes.brush_size = 14
    background = (
        [(y, 30) for y in range(20, 300, 6)]
        + [(30, x) for x in range(30, 160, 6)]
        + [(60, 400), (100, 480), (230, 440)]
    )
    paint(1, *background)
    paint(2, *[(y, 220) for y in range(90, 160, 6)], *[(60, x) for x in range(200, 250, 6)])
    widget.add_class.click()
    widget.classes.item(1, 1).setText("head")
    widget.classes.item(2, 1).setText("suit")
    paint(
        3,
        *[(y, 120 + y // 8) for y in range(320, 500, 6)],
        *[(y, 330) for y in range(280, 400, 6)],
        (470, 440),
        (400, 420),
    )
    viewer.layers.selection.active = strokes
    save("astronaut")


viewer = napari.Viewer()
action = next(a for a in viewer.window.plugins_menu.actions() if a.text().startswith("Labels from strokes"))
action.trigger()
widget = next(iter(viewer.window.dock_widgets.values()))
if not hasattr(widget, "open_session"):
    widget = widget.native if hasattr(widget, "native") else widget.widget()
widget.model.setCurrentText("lila-lite0")
results["opened from the menu"] = type(widget).__name__
parts = {part.__name__: part for part in (one_image, stack, refusals, kinds, removed, shown)}
parts[sys.argv[2]]()
(OUT / "results.json").write_text(json.dumps(results, indent=1))
os._exit(0)  # closing would remove the layers
