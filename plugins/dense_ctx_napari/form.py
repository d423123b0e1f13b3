"""Form: the controls of the widget and which of them can be used; what they do is the widget's."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from dense_ctx import registry
from dense_ctx.errors import PluginError
from dense_ctx.model_spec import DEFAULT_MODEL

from .class_table import ClassTable

NEW = "<new>"
DEFAULT_FORMAT = "png"


class Choice(QComboBox):
    """A list whose choice stays while its items change."""

    def __init__(self, hint: str, editable: bool = False) -> None:
        super().__init__()
        self.setToolTip(hint)
        self.setEditable(editable)
        self.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Fixed)
        self.setMinimumContentsLength(8)
        self.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)

    def offer(self, names: list[str]) -> None:
        """Show these names; the one that is chosen stays chosen if it is among them."""
        choice = self.currentText()
        self.clear()
        self.addItems(names)
        if choice in names:
            self.setCurrentText(choice)


class Form(QWidget):
    """The controls, from top to bottom in the order of their use."""

    def __init__(self) -> None:
        super().__init__()
        self.images = Choice("Image layer: one image, or a stack of frames")
        self.strokes = Choice("Labels layer of the strokes; 0 is not annotated")
        self.model = Choice("A model's name, or BACKBONE+DECODER, as for dense-ctx", editable=True)
        self.model.offer([DEFAULT_MODEL, *registry().names("model")])
        self.start = QPushButton("Start")
        self.classes = ClassTable()
        self.add_class = QPushButton("Add class")
        self.propagate, self.stop = QPushButton("Propagate"), QPushButton("Stop")
        self.propagate.setToolTip("Carry the labels of painted frames through the stack")
        self.uncertainty = QCheckBox("Show uncertainty")
        self.format = Choice("Format of the files, NAME or NAME(key=value, ...) of `dense-ctx labels`", editable=True)
        self.format.offer(_written_formats())
        self.export = QPushButton("Export ...")
        self.bar = QProgressBar()
        self.bar.setRange(0, 0)
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(6)
        self.status = QLabel("Choose an image layer and press Start")
        self.status.setWordWrap(True)
        self._arrange()

    def _arrange(self) -> None:
        top = QFormLayout()
        for name, control in (("Image", self.images), ("Strokes", self.strokes), ("Model", self.model)):
            top.addRow(name, control)
        layout = QVBoxLayout(self)
        layout.addLayout(top)
        layout.addWidget(self.start)
        layout.addWidget(self.classes)
        layout.addWidget(self.add_class)
        for row in ((self.propagate, self.stop), (self.format, self.export)):
            line = QHBoxLayout()
            for control in row:
                line.addWidget(control)
            layout.addLayout(line)
        layout.addWidget(self.uncertainty)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        layout.addStretch()

    def enable(self, *, opened: bool, clip: bool, busy: bool, working: bool) -> None:
        """Which controls can be used.

        Args:
            opened: a session is open. clip: of a stack. busy: something that takes long runs. working: anything does.
        """
        self.start.setText("Start again" if opened else "Start")
        self.start.setEnabled(not busy)
        for control in (self.classes, self.add_class, self.uncertainty):
            control.setEnabled(opened)
        self.propagate.setVisible(clip)
        self.stop.setVisible(clip)
        self.propagate.setEnabled(clip and not busy)
        self.stop.setEnabled(clip and busy)
        self.format.setEnabled(opened and not busy)
        self.export.setEnabled(opened and not busy)
        self.bar.setVisible(working)


def _written_formats() -> list[str]:
    names = [DEFAULT_FORMAT]
    for entry in registry().entries("label-format"):
        try:
            writer = registry().resolve(entry).writes
        except PluginError:  # its package is not installed
            continue
        if writer and entry.name not in names:
            names.append(entry.name)
    return names
