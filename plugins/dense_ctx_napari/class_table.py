"""The table of classes: label, colour and name; the selected row is what the brush paints."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from .annotator import LAST

Colour = tuple[int, int, int]
FIRST_NAMES = ("background", "object")
_ROWS = 6  # of the table's height
_SWATCH = 16  # pixels of a side


class ClassTable(QTableWidget):
    """Rows of labels 1, 2 ... with a name that can be edited.

    Signals: chosen(label), a row was selected; renamed(label, name).
    """

    chosen = Signal(int)
    renamed = Signal(int, str)

    def __init__(self) -> None:
        super().__init__(0, 2)
        self.setHorizontalHeaderLabels(["label", "class"])
        self.verticalHeader().hide()
        self.horizontalHeader().setSectionResizeMode(1, QHeaderView.Stretch)
        self.setColumnWidth(0, 64)
        self.setSelectionBehavior(QAbstractItemView.SelectRows)
        self.setSelectionMode(QAbstractItemView.SingleSelection)
        height = self.horizontalHeader().sizeHint().height() + _ROWS * self.verticalHeader().defaultSectionSize()
        self.setMinimumHeight(height)
        self._names: dict[int, str] = {}
        self.itemSelectionChanged.connect(self._on_selection)
        self.itemChanged.connect(self._on_edit)

    def name(self, label: int) -> str:
        """The name of a label; "class N" of one without a row."""
        return self._names.get(label, f"class {label}")

    @property
    def labels(self) -> list[int]:
        """The labels, in order of the rows."""
        return list(self._names)

    def add(self, label: int, colour: Colour, name: str | None = None) -> None:
        """Add a row, or give an existing one this colour, and this name if one is given."""
        text = name or (FIRST_NAMES[label - 1] if label <= len(FIRST_NAMES) else f"class {label}")
        self.blockSignals(True)
        try:
            if label not in self._names:
                self._names[label] = text
                row = self.rowCount()
                self.setRowCount(row + 1)
                number = QTableWidgetItem(str(label))
                number.setFlags(Qt.ItemIsEnabled | Qt.ItemIsSelectable)
                self.setItem(row, 0, number)
                self.setItem(row, 1, QTableWidgetItem(text))
            row = self.labels.index(label)
            if name is not None:
                self._names[label] = name
                self.item(row, 1).setText(name)
            swatch = QPixmap(_SWATCH, _SWATCH)
            swatch.fill(QColor(*colour))
            self.item(row, 0).setIcon(QIcon(swatch))
        finally:
            self.blockSignals(False)

    def next_label(self) -> int | None:
        """The least label without a row; None: all have one."""
        return next((label for label in range(1, LAST + 1) if label not in self._names), None)

    def choose(self, label: int) -> None:
        """Select the row of a label, if it has one, without a signal."""
        if label in self._names:
            self.blockSignals(True)
            self.selectRow(self.labels.index(label))
            self.blockSignals(False)

    def _on_selection(self) -> None:
        rows = self.selectionModel().selectedRows()
        if rows:
            self.chosen.emit(self.labels[rows[0].row()])

    def _on_edit(self, item: QTableWidgetItem) -> None:
        if item.column() == 1:
            label, name = self.labels[item.row()], item.text().strip()
            before, duplicate = self._names[label], name in (self._names[i] for i in self.labels if i != label)
            if not name or duplicate:
                name = before
            self.blockSignals(True)
            item.setText(name)
            self.blockSignals(False)
            if name != before:
                self._names[label] = name
                self.renamed.emit(label, name)
