"""StrokesWidget: choose an image layer, paint strokes, see the labels follow."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import show_error, show_info
from napari.viewer import Viewer
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from dense_ctx.errors import DenseCtxError

from . import work
from .annotator import LAST, Annotator
from .form import NEW, Form
from .jobs import Failure, Jobs
from .layers import Array, LayerSource, require_same_axes, require_same_place
from .output import Output, new_layer

STROKES = "strokes"
_WAIT = 60  # milliseconds without an event, before strokes are read


class StrokesWidget(Form):
    """The widget of napari's plugin menu.

    Args:
        napari_viewer: by which name napari gives it.

    Attributes: annotator: None until a session is open. output: the layers of the answer.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer = napari_viewer
        self.annotator: Annotator | None = None
        self.image_layer: Image | None = None
        self.strokes_layer: Labels | None = None
        self.output = Output(viewer)
        self._answered: dict[int, int] = {}  # the session's revision that a frame's answer is of
        self._began = 0.0
        self._answers = Jobs(self._on_answer, self._show_state)
        self._long = Jobs(self._on_long, self._show_state)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._ask)
        for event in (viewer.layers.events.inserted, viewer.layers.events.removed, viewer.layers.events.renamed):
            event.connect(self._list_layers)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.current_step.connect(self._wait)
        self.start.clicked.connect(self.open_session)
        self.add_class.clicked.connect(self._add_class)
        self.classes.chosen.connect(self._choose_label)
        self.classes.renamed.connect(self._rename)
        self.propagate.clicked.connect(self.propagate_labels)
        self.stop.clicked.connect(self._long.stop)
        self.uncertainty.toggled.connect(self._on_uncertainty)
        self.export.clicked.connect(self._export)
        self._list_layers()
        self._show_state()

    # the layers

    def _list_layers(self, event: Any = None) -> None:
        layers = self.viewer.layers
        own = (self.output.labels, self.output.uncertainty)
        self.images.offer([layer.name for layer in layers if isinstance(layer, Image) and layer not in own])
        self.strokes.offer([NEW, *(layer.name for layer in layers if isinstance(layer, Labels) and layer not in own)])
        self._show_state()

    def _on_removed(self, event: Any) -> None:
        if event.value in (self.image_layer, self.strokes_layer) and event.value is not None:
            self._fail(
                f"The layer {event.value.name!r} was removed: its session is closed; choose layers and start again"
            )
            self._close_session()
        elif event.value is self.output.labels:
            self.output.labels = None
            self._answered.clear()
        elif event.value is self.output.uncertainty:
            self.output.uncertainty = None
            self.uncertainty.setChecked(False)

    def open_session(self) -> None:
        """Open a session of the chosen image layer and strokes; what is wrong with them is shown."""
        self._close_session()
        if self.images.currentText() not in self.viewer.layers:
            self._fail("There is no image layer: open an image (File > Open), or drop one onto the window")
            return
        image = self.viewer.layers[self.images.currentText()]
        try:
            source = LayerSource(image)
            strokes = self._strokes_of(source, image)
        except DenseCtxError as error:
            self._fail(str(error))
            return
        self.image_layer, self.strokes_layer = image, strokes
        for event in (strokes.events.paint, strokes.events.set_data, strokes.events.data):
            event.connect(self._wait)
        strokes.events.selected_label.connect(self._on_selected_label)
        for label in (1, 2, *self.classes.labels):
            self._add_row(label)
        self.viewer.layers.selection.active = strokes
        strokes.mode = "paint"
        self.classes.choose(strokes.selected_label)
        model = self.model.currentText().strip()
        self.status.setText(f"Opening {model} ...")
        self._long.ask(partial(work.opened, model, source, image), {"desc": f"Opening {model}", "total": 0})
        self._show_state()

    def _strokes_of(self, source: LayerSource, image: Image) -> Labels:
        if self.strokes.currentText() != NEW:
            strokes = self.viewer.layers[self.strokes.currentText()]
            require_same_axes(strokes, source)
            require_same_place(strokes, image, source.shape)
            return strokes
        strokes = new_layer(self.viewer, Labels, np.zeros(source.shape, np.uint8), STROKES, image)
        self.strokes.setCurrentText(strokes.name)
        return strokes

    def _close_session(self) -> None:
        self._answers.stop()
        self._long.stop()
        if self.strokes_layer is not None:
            events = self.strokes_layer.events
            for event in (events.paint, events.set_data, events.data):
                event.disconnect(self._wait)
            events.selected_label.disconnect(self._on_selected_label)
        if self.annotator is not None:
            Jobs.alone(self.annotator.close)
        self.annotator = self.image_layer = self.strokes_layer = None
        self._answered.clear()
        self._show_state()

    # strokes and answers

    def _wait(self, event: Any = None) -> None:
        if self.annotator is not None:
            self._timer.start(_WAIT)

    @property
    def _frame(self) -> int:
        """The frame that is shown."""
        if self.strokes_layer is None or self.strokes_layer.ndim == 2:
            return 0
        place = self.strokes_layer.world_to_data(self.viewer.dims.point)[0]
        return int(np.clip(round(place), 0, self.strokes_layer.data.shape[0] - 1))

    def _ask(self) -> None:
        """Have the shown frame's answer, if strokes or the frame have changed."""
        if self.annotator is None or self.strokes_layer is None:
            return
        request = self._frame, self._answered.get(self._frame), self.uncertainty.isChecked()
        names = {label: self.classes.name(label) for label in self.classes.labels}
        facts = partial(work.class_facts, self.strokes_layer, names)
        self._answers.ask(partial(work.answer, self.annotator, self.strokes_layer.data, facts, *request))
        self._show_state()

    def _on_answer(self, result: Any) -> None:
        if isinstance(result, Failure):
            self._fail(result.message)
            return
        annotator: Annotator = result[0]
        frame, revision, labels, uncertainty, seconds = result[1:]
        if annotator is not self.annotator:
            return  # of a session that was closed meanwhile
        for item in annotator.session.classes:
            self._add_row(item.id + 1)
        if labels is not None:
            self._answered[frame] = revision
            self._show(frame, labels)
            self.status.setText(f"{self._item(frame)}Answered in {seconds:.1f} s")
        if len(annotator.session.classes) < 2:
            self.status.setText("Paint strokes of a second class: two are needed for an answer")
        if uncertainty is not None:
            self._show(frame, uncertainty=uncertainty)

    def _item(self, frame: int) -> str:
        return f"Frame {frame}. " if self.annotator is not None and self.annotator.session.is_clip else ""

    def _show(self, frame: int, labels: Array | None = None, uncertainty: Array | None = None) -> None:
        image, strokes = self.image_layer, self.strokes_layer
        if image is None or strokes is None:
            return
        if labels is not None:
            self.output.show_labels(image, strokes, frame, labels)
        if uncertainty is not None:
            self.output.show_uncertainty(image, strokes, uncertainty)
        self._list_layers()

    def _on_uncertainty(self, wanted: bool) -> None:
        if wanted:
            self._answered.clear()
            self._wait()
        else:
            self.output.hide_uncertainty()

    # classes

    def _colour(self, label: int) -> tuple[int, int, int]:
        return work.colour_of(self.strokes_layer, label)

    def _add_row(self, label: int) -> None:
        self.classes.add(label, self._colour(label))

    def _add_class(self) -> None:
        label = self.classes.next_label()
        if label is not None and self.strokes_layer is not None:
            self._add_row(label)
            self.strokes_layer.selected_label = label

    def _choose_label(self, label: int) -> None:
        if self.strokes_layer is not None:
            self.strokes_layer.selected_label = label

    def _on_selected_label(self, event: Any = None) -> None:
        if self.strokes_layer is not None:
            label = int(self.strokes_layer.selected_label)
            if 1 <= label <= LAST:
                self._add_row(label)
                self.classes.choose(label)

    def _rename(self, label: int, name: str) -> None:
        if self.annotator is not None:
            try:
                self.annotator.rename(label, name)
            except DenseCtxError as error:
                self._fail(str(error))

    # what takes long

    def propagate_labels(self) -> None:
        """Carry the labels through the stack, frame by frame."""
        if self.annotator is None or self._long.running:
            return
        frames = len(self.annotator.session.items)
        self._long.ask(partial(work.propagated, self.annotator), {"desc": "Propagating", "total": frames})
        self._show_state()

    def _export(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder to write the labels to")
        if folder:
            self.export_labels(Path(folder))

    def export_labels(self, folder: Path) -> None:
        """Write the labels of all frames to a folder, in the chosen format."""
        if self.annotator is not None:
            form = self.format.currentText()
            job = partial(work.exported, self.annotator, folder, form)
            self._long.ask(job, {"desc": f"Writing {form}", "total": 0})
            self._show_state()

    def _on_long(self, result: Any) -> None:
        if isinstance(result, Failure):
            self._fail(result.message)
            if self.annotator is None:
                self._close_session()
        elif isinstance(result, str):
            self.status.setText(result)
            show_info(result)
        elif result[0] == "session":
            self._on_session(*result[1:])
        else:
            annotator: Annotator = result[1]
            frame, labels = result[2:]
            if annotator is self.annotator:
                self._show(frame, labels)
                self._answered[frame] = annotator.session.revision
                self.status.setText(f"Frame {frame} labelled")

    def _on_session(self, annotator: Annotator, image: Image) -> None:
        if image is not self.image_layer:  # removed, or another one was chosen, while the model was opened
            Jobs.alone(annotator.close)
            return
        self.annotator = annotator
        self.status.setText("Paint strokes of two classes or more: the labels follow")
        self._wait()

    # state

    def _fail(self, message: str) -> None:
        self.status.setText(message)
        show_error(message)

    def _show_state(self) -> None:
        opened = self.annotator is not None
        clip = self.annotator is not None and self.annotator.session.is_clip
        busy = self._long.running
        self.enable(opened=opened, clip=clip, busy=busy, working=busy or self._answers.running)

    def closeEvent(self, event: Any) -> None:
        """Close the session with the widget."""
        self._close_session()
        super().closeEvent(event)
