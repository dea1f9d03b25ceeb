"""The table of the Measure dock: a row per class, its parts folded under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTreeWidget, QTreeWidgetItem

from napari_attnseg.io.agreement import Agreement
from napari_attnseg.io.measures import Measures, Region
from napari_attnseg.viewer.measure import size_words

CLASS, SIZE, PARTS, MEAN = range(4)
COLUMNS = {
    "Class": "Click a row: the view goes to the middle of the class, or of one of its parts",
    "Size": "Volume, of a picture area, from the true voxel size; pixels where none is known",
    "Parts": "Pieces that do not touch, not even over a corner",
    "Mean": "Mean of the image's values inside (of a CT: HU)",
}
SHOWN_PARTS = 100
"""Rows per class; the CSV has all."""
LEAST_HIGH, LEAST_ROWS, MOST_ROWS = 14, 2, 10
SWATCH = 12


class _Tree(QTreeWidget):
    """A table that is as high as its rows, up to a point, and never wider than the dock."""

    def __init__(self, columns: Mapping[str, str], first: int) -> None:
        super().__init__()
        self.setColumnCount(len(columns))
        self.setHeaderLabels(list(columns))
        for i, tip in enumerate(columns.values()):
            self.headerItem().setToolTip(i, tip)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setUniformRowHeights(True)
        self.setIndentation(14)
        self.setStyleSheet("font-size: 11px;")
        header = self.header()
        header.setMinimumSectionSize(30)
        header.setStretchLastSection(False)
        for i in range(len(columns)):
            mode = QHeaderView.ResizeMode
            header.setSectionResizeMode(i, mode.Stretch if i == first else mode.ResizeToContents)
            if i != first:
                right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                self.headerItem().setTextAlignment(i, right)

    def fit(self, rows: int) -> None:
        """As high as so many rows, within bounds."""
        seen = min(max(rows, LEAST_ROWS), MOST_ROWS)
        high = max(self.sizeHintForRow(0), LEAST_HIGH)
        self.setFixedHeight(seen * high + self.header().sizeHint().height() + 4)

    def _line(self, words: Sequence[str], color: Any = None) -> QTreeWidgetItem:
        item = QTreeWidgetItem(list(words))
        for i in range(1, len(words)):
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            item.setTextAlignment(i, right)
        if color is not None:
            swatch = QPixmap(SWATCH, SWATCH)
            swatch.fill(QColor.fromRgbF(*(float(c) for c in np.ravel(color)[:3])))
            item.setIcon(0, QIcon(swatch))
        return item


class MeasureTable(_Tree):
    """Classes of one mask. ``chosen`` carries the region of the row that was clicked."""

    chosen = Signal(object)  # Region

    def __init__(self) -> None:
        super().__init__(COLUMNS, CLASS)
        self._of: dict[int, QTreeWidgetItem] = {}
        self.currentItemChanged.connect(self._on_current)
        self.itemClicked.connect(lambda item, _: self._tell(item))
        self.itemExpanded.connect(lambda _: self._fit())
        self.itemCollapsed.connect(lambda _: self._fit())

    @property
    def current(self) -> Region | None:
        """The region of the selected row."""
        item = self.currentItem()
        return None if item is None else item.data(CLASS, Qt.ItemDataRole.UserRole)

    def show_measures(self, measures: Measures, colors: Mapping[int, Any]) -> None:
        """Fill anew; what was selected and unfolded stays so."""
        was = self.current
        open_ = {id for id, item in self._of.items() if item.isExpanded()}
        with QSignalBlocker(self):
            self.clear()
            self._of = {}
            for region in measures.classes:
                item = self._item(measures, region, colors.get(region.id))
                self.addTopLevelItem(item)
                self._of[region.id] = item
                self._add_parts(item, measures, region)
                item.setExpanded(region.id in open_)
            if was is not None:
                self._choose(was.id, was.part)
        self._fit()

    def empty(self) -> None:
        """No rows."""
        with QSignalBlocker(self):
            self.clear()
            self._of = {}

    def select(self, id: int) -> None:
        """Select the row of a class without going there."""
        with QSignalBlocker(self):
            self._choose(id, 0)

    def _choose(self, id: int, part: int) -> None:
        item = self._of.get(id)
        if item is not None and 0 < part <= item.childCount():
            item = item.child(part - 1)
        if item is not None:
            self.setCurrentItem(item)
            self.scrollToItem(item)

    def _item(self, measures: Measures, region: Region, color: Any = None) -> QTreeWidgetItem:
        space = measures.space
        one = space.voxel if space.unit == "mm" else None
        size = size_words(region.voxels, one, 2 if space.flat else 3)
        mean = "" if region.mean is None else figure(region.mean)
        name = f"part {region.part}" if region.part else region.name
        parts = "" if region.part else f"{region.parts:,}"
        item = self._line([name, size, parts, mean], color)
        item.setData(CLASS, Qt.ItemDataRole.UserRole, region)
        item.setToolTip(CLASS, f"{region.name} (id {region.id}), {region.voxels:,} voxels")
        return item

    def _add_parts(self, item: QTreeWidgetItem, measures: Measures, region: Region) -> None:
        if region.parts < 2:
            return
        for part in measures.parts_of(region.id)[:SHOWN_PARTS]:
            item.addChild(self._item(measures, part))
        if region.parts > SHOWN_PARTS:
            rest = self._line([f"{region.parts - SHOWN_PARTS:,} more, in the CSV", "", "", ""])
            rest.setFlags(Qt.ItemFlag.NoItemFlags)
            item.addChild(rest)

    def _fit(self) -> None:
        tops = [self.topLevelItem(i) for i in range(self.topLevelItemCount())]
        self.fit(len(tops) + sum(t.childCount() for t in tops if t.isExpanded()))

    def _on_current(self, item: QTreeWidgetItem | None, before: Any) -> None:
        if item is not None and self.hasFocus():  # arrow keys
            self._tell(item)

    def _tell(self, item: QTreeWidgetItem) -> None:
        region = item.data(CLASS, Qt.ItemDataRole.UserRole)
        if region is not None:
            self.chosen.emit(region)


AGREEMENT = {
    "Class": "Classes that occur in the mask or in the reference",
    "Dice": "Overlap: 1 where both are the same, 0 where they share nothing",
    "IoU": "What both have, over what either has",
    "HD95": "95 % of the surface lies nearer than this to the other's (mm, else pixels)",
    "Surface": "Surface Dice: share of both surfaces that lies within the tolerance",
}


class AgreementTable(_Tree):
    """Figures of every class against the reference."""

    def __init__(self) -> None:
        super().__init__(AGREEMENT, 0)

    def show_agreements(self, found: Sequence[Agreement], colors: Mapping[int, Any]) -> None:
        """Fill anew."""
        self.clear()
        for a in found:
            far = "-" if a.hd95 is None else figure(a.hd95)
            words = [a.name, f"{a.dice:.3f}", f"{a.iou:.3f}", far, f"{a.surface_dice:.3f}"]
            item = self._line(words, colors.get(a.id))
            item.setToolTip(0, f"{a.tp:,} voxels in both, {a.fp:,} too many, {a.fn:,} missed")
            self.addTopLevelItem(item)
        self.fit(len(found))


def figure(value: float) -> str:
    """Four digits at most, none where they say nothing."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def region_words(measures: Measures, region: Region) -> str:
    """Everything measured of a region, in lines."""
    space = measures.space
    unit = space.unit
    power = "" if space.flat else "²"
    name = f"{region.name}, part {region.part} of {region.parts}" if region.part else region.name
    size = f"{region.voxels:,} {'pixels' if space.flat else 'voxels'}"
    edge = "perimeter" if space.flat else "surface"
    lines = [f"<b>{name}</b>: {size}, {edge} {figure(region.surface)} {unit}{power}"]
    if region.mean is not None and region.sd is not None:
        lines.append(f"values {figure(region.mean)} ± {figure(region.sd)}")
    axes = "yx" if space.flat else "zyx"
    spans = [
        f"{axis} {low} to {high - 1}"
        for axis, low, high in zip("zyx", region.low, region.high, strict=True)
        if axis in axes
    ]
    lines.append("box " + ", ".join(spans))
    if unit == "mm" and not space.flat:
        place = ", ".join(
            f"{axis} {at:.1f}" for axis, at in zip(space.axes, region.world_centroid, strict=True)
        )
        lines.append(f"centre {place} mm")
    return "<br>".join(lines)
