"""What an attention shows that is no picture over the image: weights, profiles, matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_attnseg.widgets._parts import hint
from napari_attnseg.widgets._themed import Themed, still_plot

if TYPE_CHECKING:
    from napari_attnseg.control.questions import LevelMapFile

HEIGHT = 110
MATRIX_HEIGHT = 170
BAR = "#4c9be8"
NAMED = 12
"""So many bars can have their names below them."""


class FigureView(Themed):
    """Bars of weights, a line of a profile, or a small matrix, with a line that says what it is."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.values: NDArray[np.float32] = np.zeros(0, np.float32)
        self.plot = still_plot()
        self.plot.getPlotItem().layout.setContentsMargins(0, 4, 4, 2)
        self.words = hint()
        box = QVBoxLayout(self)
        box.setContentsMargins(16, 0, 0, 4)
        box.setSpacing(0)
        box.addWidget(self.plot)
        box.addWidget(self.words)
        self.restyle()

    def show_figure(self, found: LevelMapFile, values: NDArray[Any]) -> None:
        """Draw ``values`` as the map's kind asks."""
        self.values = np.asarray(values, np.float32)
        self.plot.clear()
        self.plot.setFixedHeight(MATRIX_HEIGHT if found.kind == "matrix" else HEIGHT)
        if found.kind == "matrix":
            self._draw_matrix()
        elif found.kind == "axes":
            self._draw_profile(found.axis)
        else:
            self._draw_bars(found)

    def _draw_bars(self, found: LevelMapFile) -> None:
        """One bar per weight; of branches with a weight per channel their means."""
        per_channel = self.values.ndim == 2
        heights = self.values.mean(1) if per_channel else self.values
        names = found.labels if len(found.labels) == len(heights) else ()
        self.plot.addItem(
            pg.BarGraphItem(
                x=np.arange(len(heights)), height=heights, width=0.8, brush=BAR, pen=BAR
            )
        )
        low, high = min(0.0, float(heights.min(initial=0))), float(heights.max(initial=0))
        self.plot.setYRange(low, high if high > low else low + 1, padding=0.02)
        self.plot.setXRange(-0.6, len(heights) - 0.4, padding=0)
        few = names and len(names) <= NAMED
        ticks = [list(enumerate(short(n) for n in names))] if few else None
        self.plot.getAxis("bottom").setTicks(ticks)
        self.words.setText(bar_words(found.kind, heights, names, per_channel))

    def _draw_profile(self, axis: int) -> None:
        """The mean over channels along one axis, within the range of the channels."""
        mean = self.values.mean(0)
        at = np.arange(len(mean))
        low, high = self.values.min(0), self.values.max(0)
        ends = [pg.PlotCurveItem(at, edge, pen=None) for edge in (low, high)]
        for end in ends:
            self.plot.addItem(end)
        self.plot.addItem(pg.FillBetweenItem(*ends, brush=pg.mkBrush(76, 155, 232, 60)))
        self.plot.addItem(pg.PlotCurveItem(at, mean, pen=pg.mkPen(BAR, width=2)))
        self.plot.setXRange(0, max(1, len(mean) - 1), padding=0)
        self.plot.setYRange(float(low.min()), float(high.max()) + 1e-6, padding=0.02)
        self.plot.getAxis("bottom").setTicks(None)
        where = "rows, top to bottom" if axis == 0 else "columns, left to right"
        self.words.setText(
            f"Along the {where}: mean of {len(self.values)} channels; the band spans all of them."
        )

    def _draw_matrix(self) -> None:
        """Rows from the top, as one writes matrices."""
        image = pg.ImageItem(np.flipud(self.values), axisOrder="row-major")
        signed = float(self.values.min(initial=0)) < 0
        top = float(np.abs(self.values).max(initial=0)) or 1.0
        image.setLookupTable(pg.colormap.get("CET-D1A" if signed else "magma").getLookupTable())
        image.setLevels((-top if signed else 0.0, top))
        self.plot.addItem(image)
        rows, columns = self.values.shape
        self.plot.setXRange(0, columns, padding=0)
        self.plot.setYRange(0, rows, padding=0)
        for name in ("left", "bottom"):
            self.plot.getAxis(name).setTicks([[]])
        low = -top if signed else 0.0
        self.words.setText(
            f"{rows} x {columns} channels, colours from {low:.2g} to {top:.2g}; row: the channel "
            "that receives."
        )

    def restyle(self) -> None:
        """Take the theme's colours."""
        self.colour(self.plot.getAxis("left"), self.plot.getAxis("bottom"))


def bar_words(
    kind: str, heights: NDArray[Any], names: tuple[str, ...] = (), per_channel: bool = False
) -> str:
    """What the bars say: how many, their range and the strongest."""
    what = {"channel": "channel", "branch": "branch"}.get(kind, "part")
    order = np.argsort(heights)[::-1][:3]
    strongest = ", ".join(names[i] if names else f"{i}" for i in order)
    plural = "es" if what.endswith("ch") else "s"
    words = f"{len(heights)} {what}{plural}, {heights.min():.2g} to {heights.max():.2g}"
    words += "; mean over channels" if per_channel else ""
    return f"{words}. Strongest: {strongest}."


def short(name: str, most: int = 8) -> str:
    """A name that fits below a bar."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
