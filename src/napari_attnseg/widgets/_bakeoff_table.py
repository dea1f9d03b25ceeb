"""The live table of a bake-off: one row per contestant, sortable, readable in a narrow dock."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QFont
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

from napari_attnseg.widgets._train_model import count
from napari_attnseg.widgets._train_words import duration

NAME, DICE, TIME, IOU, STATE, PARAMETERS, GMACS = range(7)
COLUMNS = {
    "Attention": "Double-click a row: its network becomes the model of the other docks",
    "Dice": "Mean over the test images, then mean ± standard deviation over seeds",
    "Time": "Training time of one run, mean over seeds",
    "IoU": "Mean over the test images, then mean ± standard deviation over seeds",
    "State": "What has been done of this row",
    "Parameters": "Numbers that the network learns",
    "GMACs": "Multiply-adds of one image at the working size, in thousand millions",
}
WIDTHS = {NAME: 104, DICE: 108, TIME: 46, IOU: 108, STATE: 110, PARAMETERS: 78, GMACS: 60}
LEAST_HIGH, MOST_HIGH = 90, 420
"""Pixels; more rows scroll."""
LETTERS = 15
"""That fit into the first column."""
WAITING = "waiting"


def spread(mean: float | None, sd: float | None) -> str:
    """``"0.812 ± 0.011"``; without the second for one seed, empty without a value."""
    if mean is None:
        return ""
    return f"{mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")


def seconds(value: float | None) -> str:
    """``"40 s"``, ``"0.4 s"``, ``"3 min"``."""
    if value is None:
        return ""
    return duration(value) or f"{value:.1f} s"


def lines(name: str) -> str:
    """A name on as many lines as it needs, so that the figures beside it stay in sight."""
    return textwrap.fill(name, LETTERS, max_lines=3, placeholder=" ...")


class _Row(QTreeWidgetItem):
    """Sorts by figures, not by words; what has no figure comes as if it were the least."""

    def __init__(self, key: str, name: str, label: str) -> None:
        super().__init__([lines(name)])
        self.key, self.name, self.model = key, name, ""
        self.figures: dict[int, float] = {}
        self.setToolTip(NAME, label or name)
        for column in range(1, len(COLUMNS)):
            self.setTextAlignment(
                column, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            )
        self.setTextAlignment(STATE, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)

    def __lt__(self, other: QTreeWidgetItem) -> bool:
        tree = self.treeWidget()
        column = tree.sortColumn() if tree is not None else NAME
        if column in (NAME, STATE) or not isinstance(other, _Row):
            return self.text(column).casefold() < other.text(column).casefold()
        least = float("-inf")
        return self.figures.get(column, least) < other.figures.get(column, least)


class ResultTable(QTreeWidget):
    """Rows by their key. ``chosen`` carries the key of a row that was double-clicked."""

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, _Row] = {}
        self.seeds = 0
        self.setHeaderLabels(list(COLUMNS))
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(False)
        self.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        header = self.header()
        assert header is not None
        header.setStretchLastSection(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setMinimumSectionSize(30)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)  # as planned, until asked
        header.sectionResized.connect(lambda *_: self._fit())
        top = self.headerItem()
        for column, (what, tip) in enumerate(COLUMNS.items()):
            self.setColumnWidth(column, WIDTHS[column])
            if top is not None:
                top.setToolTip(column, f"{tip}. Click to sort by {what}.")
        self.setSortingEnabled(True)
        self.itemDoubleClicked.connect(lambda item, _: self.chosen.emit(item.key))

    def begin(
        self, keys: Sequence[str], names: Sequence[str], labels: Sequence[str], seeds: int
    ) -> None:
        """New rows, all waiting."""
        self.clear()
        self.seeds = seeds
        self.rows = {
            key: _Row(key, name, label)
            for key, name, label in zip(keys, names, labels, strict=True)
        }
        for row in self.rows.values():
            self._tell_state(row, WAITING)
        self.setSortingEnabled(False)
        self.addTopLevelItems(list(self.rows.values()))
        header = self.header()
        assert header is not None
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        self._fit()

    def take(self, event: Any) -> None:
        """Show the figures of one row (``BakeOffRow``)."""
        row = self.rows.get(event.key)
        if row is None:
            return
        row.model = event.model
        words = {
            DICE: (event.dice, spread(event.dice, event.dice_sd)),
            TIME: (event.seconds, seconds(event.seconds)),
            IOU: (event.iou, spread(event.iou, event.iou_sd)),
            PARAMETERS: (event.parameters, count(event.parameters)),
            GMACS: (event.macs, f"{event.macs / 1e9:.3g}"),
        }
        for column, (value, text) in words.items():
            if value is not None:
                row.figures[column] = float(value)
                row.setText(column, text)
        if event.warning:
            row.setText(NAME, lines(f"⚠ {row.name}"))
            row.setToolTip(NAME, f"{row.name} {event.warning}")
        done = len(event.seeds)
        self.tell(event.key, "done" if done == self.seeds else self._so_far(done))
        if event.error:
            self.tell(event.key, f"failed ({done} of {self.seeds} done)" if done else "failed")
            for column in (NAME, DICE, STATE):
                row.setToolTip(column, f"{row.name}: {event.error}")
        self._mark_best()
        self._fit()

    def tell(self, key: str, state: str) -> None:
        """Say how far a row is."""
        row = self.rows.get(key)
        if row is not None:
            self._tell_state(row, state)

    def settle(self, words: str = "") -> None:
        """The work is over: what is under way is not any more."""
        for row in self.rows.values():
            if row.text(STATE).startswith(("epoch", "testing")):
                self._tell_state(row, words or WAITING)

    def _fit(self) -> None:
        """As high as the rows, so that what can be said of them stands right below."""
        header, bar = self.header(), self.horizontalScrollBar()
        if header is None or bar is None:
            return
        self.doItemsLayout()
        rows = sum(self.visualItemRect(row).height() for row in self.rows.values())
        rest = header.sizeHint().height() + bar.sizeHint().height() + 2 * self.frameWidth()
        self.setFixedHeight(min(MOST_HIGH, max(LEAST_HIGH, rows + rest + 2)))

    def _so_far(self, done: int) -> str:
        return f"{done} of {self.seeds} seeds" if done else WAITING

    def _tell_state(self, row: _Row, state: str) -> None:
        row.setText(STATE, state)
        if DICE not in row.figures:
            row.setText(DICE, state.split(",")[0])

    def _mark_best(self) -> None:
        """The highest Dice is bold, never that of masks that are the same everywhere."""
        sound = [r for r in self.rows.values() if not r.text(NAME).startswith("⚠")]
        known = [r.figures[DICE] for r in sound if DICE in r.figures]
        best = max(known) if len(set(known)) > 1 else None
        for row in self.rows.values():
            font = QFont(self.font())
            font.setBold(row in sound and row.figures.get(DICE) == best and best is not None)
            row.setFont(DICE, font)
            row.setFont(NAME, font)
