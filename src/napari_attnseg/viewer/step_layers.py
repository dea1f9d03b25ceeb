"""Every iteration of a refinement as layers along an axis called *step*.

Such a layer has one axis more in front than the image. napari lets layers share their last axes,
so the image stays in sight while the slider of the first axis goes from step to step. In a volume
the steps belong to one slice: their layers are one slice thick and lie on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_attnseg.viewer.layers import METADATA, transform_of
from napari_attnseg.viewer.refined import CHANGE, MASK, PROBABILITY, RefinedLayers

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer

STEP = "step"
"""Name of the axis."""
STILL = 0.01
"""A change of the probability below this is none to speak of."""
_COLD_HOT = ((0.13, 0.45, 1.0, 1.0), (0.35, 0.6, 0.9, 0.0), (0.95, 0.6, 0.3, 0.0), (1, 0.4, 0, 1))
"""Blue for what is lost in a step, orange for what is won, clear where nothing moves."""


class StepLayers:
    """Layers along the steps of one slice; each is made once, then only its pixels change.

    ``moved`` tells the step that the person scrubbed to.
    """

    moved = Signal(int)

    def __init__(self, results: RefinedLayers) -> None:
        self.results, self.viewer = results, results.viewer
        self.layers: dict[str, Layer] = {}
        self.count = 0
        self._told = -1
        self._hid: Labels | None = None
        self.viewer.dims.events.point.connect(self._on_point)

    # --- where one is -------------------------------------------------------------------------

    @property
    def axis(self) -> int:
        """Index of the step axis among the viewer's, or -1 while there is none."""
        at = self.viewer.dims.ndim - self.results.source.ndim - 1
        return at if at >= 0 and any(self.alive(name) for name in self.layers) else -1

    @property
    def step(self) -> int:
        """The step that is seen; the last one while there is no axis."""
        if self.axis < 0:
            return self.count
        return int(np.clip(round(self.viewer.dims.point[self.axis]), 0, max(self.count, 0)))

    def go(self, step: int) -> None:
        """Scrub to ``step``."""
        if self.axis >= 0:
            self.viewer.dims.set_point(self.axis, float(np.clip(step, 0, self.count)))

    def alive(self, what: str) -> bool:
        """Whether the layer called ``what`` stands in the layer list."""
        return what in self.layers and self.layers[what] in self.viewer.layers

    # --- what is shown ------------------------------------------------------------------------

    def take(self, what: str, z: int, values_TYX: npt.NDArray[Any], first: int = 0) -> Layer:
        """Show ``values_TYX`` (steps, Y, X) of slice ``z``; entry 0 is step ``first``."""
        flat = self.results.source.ndim == 2
        data = np.array(values_TYX if flat else values_TYX[:, None])
        last = first + len(values_TYX) - 1
        begun = self.axis < 0
        at_end = begun or self.step >= self.count
        self.count = max(last, 0)
        layer = self.layers.get(what)
        if layer is not None and self.alive(what):
            self._renew(layer, data, z, first)
        else:
            self.layers.pop(what, None)
            layer = self.layers[what] = self._new(what, data, z, first)
        if at_end:
            self.go(self.count)
        return layer

    def hide_final(self) -> None:
        """The refined mask steps back: it is the last step, and would lie over all of them."""
        labels = self.results.labels
        if self._hid is None and labels is not None and labels.visible:
            labels.visible, self._hid = False, labels

    def remove(self, *names: str) -> None:
        """Take layers away (all, unless named); the refined mask is seen again without any."""
        for what in names or tuple(self.layers):
            layer = self.layers.pop(what, None)
            if layer is not None and layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        if not self.layers and self._hid is not None:
            if self.results.alive(self._hid):
                self._hid.visible = True
            self._hid = None

    def close(self) -> None:
        """Stop listening and take all layers away."""
        self.viewer.dims.events.point.disconnect(self._on_point)
        self.remove()

    # --- inside -------------------------------------------------------------------------------

    def _on_point(self, event: Any = None) -> None:
        step = self.step
        if self.axis >= 0 and step != self._told:
            self._told = step
            self.moved.emit(step)

    def _renew(self, layer: Any, data: npt.NDArray[Any], z: int, first: int) -> None:
        place = step_transform(self.results.source, z, first)["translate"]
        if layer.data.shape == data.shape:
            layer.data[...] = data
            if np.allclose(layer.translate, place):
                layer.refresh(extent=False, highlight=False, thumbnail=False)
            else:
                layer.translate = place
        else:
            layer.data = data
            layer.translate = place
        if layer is self.layers.get(CHANGE):
            fit_signed(layer)

    def _new(self, what: str, data: npt.NDArray[Any], z: int, first: int) -> Layer:
        results = self.results
        place = step_transform(results.source, z, first)
        about: dict[str, Any] = {
            "name": results.name(what.replace(" ", "_")),
            "metadata": {METADATA: {"result_of": results.source.name, "what": what}},
            **place,
        }
        layer = self._labels(data, about) if what == MASK else _image(what, data, about)
        chosen = self.viewer.layers.selection.active
        self.viewer.layers.insert(self._index(what), layer)
        if chosen is not None and chosen in self.viewer.layers:
            self.viewer.layers.selection.active = chosen
        return layer

    def _labels(self, data: npt.NDArray[Any], about: dict[str, Any]) -> Labels:
        from napari.layers import Labels

        final = self.results.ensure_labels()
        layer = Labels(data, opacity=final.opacity, colormap=final.colormap, **about)
        layer.features = final.features
        layer.editable = False  # corrections belong on the refined mask
        return layer

    def _index(self, what: str) -> int:
        """Over the refined mask, the newest on top; the probability lies under it, and strokes
        stay over all of them."""
        layers, final = self.viewer.layers, self.results.labels
        at = layers.index(final) if final is not None and final in layers else len(layers) - 1
        if what == PROBABILITY:
            return at
        mine = [layers.index(x) for x in self.layers.values() if x in layers]
        return max([at, *mine]) + 1


def _image(what: str, data: npt.NDArray[Any], about: dict[str, Any]) -> Image:
    from napari.layers import Image
    from napari.utils import Colormap

    look: dict[str, Any] = {"contrast_limits": (0.0, 1.0), "opacity": 0.7}
    if what == CHANGE:
        look["colormap"] = Colormap(_COLD_HOT, name="cold-hot", controls=(0, 0.45, 0.55, 1))
    else:
        look["colormap"] = "magma" if what == PROBABILITY else "viridis"
    layer = Image(data, rgb=False, blending="translucent", **look, **about)
    if what == CHANGE:
        fit_signed(layer)
    else:
        layer.contrast_limits_range = (0.0, 1.0)
    return layer


def fit_signed(layer: Any) -> None:
    """The same colours for all steps, symmetric about no change. The first steps change most:
    strong colours begin where most of the changing pixels lie, or later steps would look empty."""
    size = np.abs(layer.data)
    moving = size[size > STILL]
    top = float(np.percentile(moving, 90)) if moving.size else 1.0
    if abs(top - layer.contrast_limits[1]) > 1e-3 * top or layer.contrast_limits[0] != -top:
        layer.contrast_limits_range = (-max(top, 1.0), max(top, 1.0))
        layer.contrast_limits = (-top, top)


def step_transform(source: Layer, z: int, first: int = 0) -> dict[str, Any]:
    """The transform of ``source`` with a step axis in front; of a volume that of its slice ``z``.

    One step is one unit of the new axis, entry 0 stands at ``first``.
    """
    n = source.ndim
    corner = np.zeros(n)
    if n == 3:
        corner[0] = z
    place = source.affine.inverse(np.asarray(source.data_to_world(corner)))
    shear = np.asarray(source.shear, dtype=float)
    plain = transform_of(source)
    return plain | {
        "scale": (1.0, *map(float, source.scale)),
        "translate": (float(first), *map(float, place)),
        "rotate": _with_step(np.asarray(source.rotate, dtype=float)),
        "shear": _with_step(shear) if shear.ndim == 2 else np.concatenate([np.zeros(n), shear]),
        "affine": _with_step(np.asarray(source.affine.affine_matrix)),
        "units": ("pixel", *source.units),
        "axis_labels": (STEP, *source.axis_labels),
    }


def _with_step(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A matrix that leaves one more axis in front as it is."""
    grown = np.eye(len(matrix) + 1)
    grown[1:, 1:] = matrix
    return grown
