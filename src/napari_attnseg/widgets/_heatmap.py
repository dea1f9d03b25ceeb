"""A matrix of likenesses as a heat map whose cells say what they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.widgets._parts import hint
from napari_attnseg.widgets._themed import Themed, still_plot

HEIGHT = 290


class LayerHeatmap(Themed):
    """Rows: layers of the first model, from the bottom up; columns: those of the second."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.values: NDArray[np.float64] = np.zeros((0, 0))
        self.rows: tuple[str, ...] = ()
        self.columns: tuple[str, ...] = ()
        self.plot = still_plot()
        self.plot.setFixedHeight(HEIGHT)
        self.plot.getPlotItem().layout.setContentsMargins(0, 8, 2, 6)
        self.image = pg.ImageItem(axisOrder="row-major")
        colours = pg.colormap.get("magma")
        self.image.setLookupTable(colours.getLookupTable())
        self.bar = pg.ColorBarItem(values=(0, 1), colorMap=colours, interactive=False, width=10)
        self.plot.addItem(self.image)
        self.bar.setImageItem(self.image, insert_in=self.plot.getPlotItem())
        self.readout = hint()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        box.addWidget(self.plot)
        box.addWidget(self.readout)
        self.plot.scene().sigMouseMoved.connect(self._on_mouse)
        self.restyle()

    def show_table(self, table: dict[str, Any], row_title: str, column_title: str) -> None:
        """``table``: ``layers_a``, ``layers_b``, ``values`` (``None``: no figure)."""
        self.rows, self.columns = tuple(table["layers_a"]), tuple(table["layers_b"])
        self.values = np.array(table["values"], dtype=np.float64)
        low = min(0.0, float(np.nanmin(self.values, initial=0.0)))
        self.image.setImage(self.values, levels=(low, 1.0))
        self.bar.setLevels((low, 1.0))
        h, w = self.values.shape
        self.plot.setXRange(0, w, padding=0)
        self.plot.setYRange(0, h, padding=0)
        self.plot.setLabel("left", f"layers of {row_title}")
        self.plot.setLabel("bottom", f"layers of {column_title}")
        self._say(None)

    def cell_at(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column under plot coordinates, or ``None`` outside."""
        i, j = int(np.floor(y)), int(np.floor(x))
        h, w = self.values.shape
        return (i, j) if 0 <= i < h and 0 <= j < w else None

    def words(self, i: int, j: int) -> str:
        """What a cell says."""
        value = self.values[i, j]
        figure = "no figure: a layer that does not vary" if np.isnan(value) else f"{value:.3f}"
        return f"<b>{broken(self.rows[i])}</b> and <b>{broken(self.columns[j])}</b>: {figure}"

    def _on_mouse(self, position: Any) -> None:
        at = self.plot.getPlotItem().vb.mapSceneToView(position)
        self._say(self.cell_at(at.x(), at.y()))

    def _say(self, cell: tuple[int, int] | None) -> None:
        if cell is not None:
            self.readout.setText(self.words(*cell))
        elif self.values.size:
            self.readout.setText("Point at a cell to read its layers and value.")

    def restyle(self) -> None:
        """Take the theme's colours."""
        self.colour(self.plot.getAxis("left"), self.plot.getAxis("bottom"), self.bar.axis)
        self.plot.getPlotItem().vb.setBackgroundColor("#8a8a8a")


def broken(name: str) -> str:
    """A module's name that may wrap after each dot (zero-width spaces)."""
    return name.replace(".", ".\u200b")
