"""The layers that hold the answers for one image and one model.

Each is created once, named ``<image>_<model>_<what>``, given the image's own transform, and from
then on only its pixels change. The person may hide, rename, recolour or delete any of them.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_attnseg.control.volumes import FULL_PRECISION_VOXELS
from napari_attnseg.viewer.edits import HandEdits
from napari_attnseg.viewer.inserting import insert
from napari_attnseg.viewer.layers import METADATA, layer_source, map_transform, transform_of
from napari_attnseg.viewer.looking import viewed_axis, visible_slice
from napari_attnseg.viewer.memory import store_bytes, volume_store

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.viewer import ViewerModel

    from napari_attnseg.cards import Card
    from napari_attnseg.control.scratch import Scratch

_THROTTLE_SECONDS = 0.5
_COLORS = ("#ff9f1c", "#2ec4b6", "#e71d36", "#8ac926", "#9b5de5", "#00bbf9", "#fee440", "#f15bb5")
_LOOKS: dict[str, dict[str, Any]] = {
    "probability": {"colormap": "magma", "contrast_limits": (0.0, 1.0)},
    "step": {"colormap": "viridis"},
    "received": {"colormap": "inferno"},
    "row": {"colormap": "inferno", "blending": "additive"},  # where nothing is, nothing darkens
}


@dataclass(frozen=True)
class MapGrid:
    """Where a coarse map lies: cell (i, j) of ``shape`` is centred on pixel offset + scale*(i, j).

    Pixel centres are whole numbers, rows first.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]


class ResultLayers:
    """Labels, probability and attention maps of ``source`` as seen by one model.

    ``labels`` is the uint8 Labels layer or ``None`` before the first answer; ``edits`` guards
    it. ``maps`` holds every other layer by its word (``"probability"``, ``"step"``, ...).
    ``scratch``: where the pixels of large layers lie (without one: in memory).
    """

    lost = Signal(object, str)  # a labels layer that is ours no more or again, and why

    def __init__(
        self,
        viewer: ViewerModel,
        source: Image,
        model: str,
        card: Card | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        self.viewer = viewer
        self.source = source
        self.model = model
        self.card = card
        self._scratch = scratch
        seen = layer_source(source)
        self.shape: tuple[int, int, int] = seen.array.shape[:3]
        self._volume = seen.volume  # so that napari's own Save knows the space of the labels
        self.labels: Labels | None = None
        self.edits: HandEdits | None = None
        self.maps: dict[str, Layer] = {}
        self.grid: MapGrid | None = None
        self.provenance: Mapping[str, Any] = {}
        self._refreshed: dict[str, float] = {}
        self._former: weakref.ref[HandEdits] | None = None
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.events.inserted.connect(self._on_inserted)
        self._ready: tuple[Labels, npt.NDArray[np.uint8]] | None = None

    # --- names and places ---------------------------------------------------------------------

    def name(self, what: str) -> str:
        """``<image>_<model>_<what>``."""
        return f"{self.source.name}_{self.model}_{what}"

    def visible_z(self) -> int:
        """The slice the person looks at (0 for a 2D image)."""
        return visible_slice(self.viewer, self.source, self.shape[0])

    def alive(self, layer: Layer | None) -> bool:
        """Whether ``layer`` still stands in the layer list."""
        return layer is not None and layer in self.viewer.layers

    def layer(self, what: str) -> Layer | None:
        """The living layer called ``what`` (``"labels"`` included), or ``None``."""
        found = self.labels if what == "labels" else self.maps.get(what)
        return found if self.alive(found) else None

    @property
    def shown(self) -> npt.NDArray[np.uint8]:
        """The labels as they are seen, (Z, Y, X): those of a large volume as the map of a file."""
        assert self.labels is not None
        if self.edits is not None:
            self.edits.complete()
        data = self.labels.data
        return data if isinstance(data, np.memmap) and data.ndim == 3 else self._pixels(self.labels)

    # --- creation -----------------------------------------------------------------------------

    def ensure_labels(self) -> Labels:
        """The labels layer, created empty (and selected) when it is not there."""
        if self.labels is None or not self.alive(self.labels):
            self.make_ready()
            assert self._ready is not None
            (self.labels, model), self._ready = self._ready, None
            self._insert(self.labels, len(self.viewer.layers), choose=True)
            self.edits = self._hand_edits(self.labels, model)
        return self.labels

    def make_ready(self) -> None:
        """Make what :meth:`ensure_labels` will need, a fifth of its time and all of its disk."""
        if self._ready is None and self.layer("labels") is None:
            model = volume_store(self.shape, np.uint8, self._scratch)
            layer = self._new_labels("labels", self._colors(), self._class_names())
            self._ready = layer, model

    def drop_ready(self) -> None:
        """The labels are not needed after all."""
        self._ready = None

    def ensure_map(self, what: str, grid: MapGrid | None = None, **look: Any) -> Image:
        """The image layer called ``what``: full size, or on ``grid``; created hidden, below."""
        found = self.maps.get(what)
        shape = self.shape if grid is None else (self.shape[0], *grid.shape)
        if self.alive(found) and self._pixels(found).shape == shape:
            return found
        if self.alive(found):
            self.viewer.layers.remove(found)
        return self._new_map(what, shape, grid, look)

    def add_labels(
        self, what: str, colors: Mapping[int, Any], names: Mapping[int, str] | None = None
    ) -> Labels:
        """A new empty uint8 Labels layer over the image, on top, in the given colours."""
        layer = self.maps[what] = self._new_labels(what, colors, names)
        self._insert(layer, len(self.viewer.layers))
        return layer

    def _new_labels(
        self, what: str, colors: Mapping[int, Any], names: Mapping[int, str] | None
    ) -> Labels:
        from napari.layers import Labels
        from napari.utils.colormaps import DirectLabelColormap

        table: dict[int | None, Any] = {0: "transparent", None: "#888888"}
        table.update((label, color) for label, color in colors.items())
        told = {0: "background"} | dict(names or {})  # the status bar names what the mouse is on
        named = {"index": [*told], "class": [*told.values()]}
        layer = Labels(
            self._empty(np.uint8),
            name=self.name(what),
            colormap=DirectLabelColormap(color_dict=table),
            features=named if names else None,
            opacity=0.55,
            metadata={METADATA: self._entry(what)},
            **transform_of(self.source),
        )
        layer.selected_label = 1
        return layer

    def adopt(self, what: str, layer: Layer) -> None:
        """Take a layer that was made elsewhere among the maps, below the labels."""
        self.maps[what] = layer
        self._insert(layer, self._below_labels())

    def bytes_to_come(self) -> int:
        """Bytes of scratch that the labels and the probability of a run will need."""
        labels, probability = (self.layer(what) is None for what in ("labels", "probability"))
        return run_bytes(self.shape, labels, probability)

    # --- writing ------------------------------------------------------------------------------

    def write(self, what: str, z: int, values: npt.NDArray[Any]) -> None:
        """Put one slice into a map layer and repaint it if it is the one on screen."""
        layer = self.maps.get(what)
        if self.alive(layer):
            self._pixels(layer)[z] = values
            self.repaint(layer, z)

    def write_labels(self, z: int, labels_YX: npt.NDArray[Any]) -> None:
        """Put the model's answer for slice ``z`` under the hand edits."""
        if self.edits is not None and self.alive(self.labels) and self.edits.write(z, labels_YX):
            self.repaint(self.labels, z)

    def repaint(self, layer: Layer, z: int) -> None:
        """Refresh what is on screen and nothing else (no extent, highlight or thumbnail)."""
        if not layer.visible:
            return
        if self._shows_only(z) or (self._crosses_slices() and self._due(layer.name)):
            layer.refresh(extent=False, highlight=False, thumbnail=False)

    def show_objects(self, ids: npt.NDArray[Any]) -> Labels:
        """Numbered objects (Z, Y, X) as a labels layer in napari's own colours."""
        from napari.layers import Labels

        data = volume_store(ids.shape, ids.dtype, self._scratch)
        for z, plane in enumerate(ids):  # a copy: the engine's file goes, and napari paints here
            data[z] = plane
        data = data[0] if self.source.ndim == 2 else data
        found = self.layer("objects")
        if found is not None:
            found.data = data
            return found
        layer = Labels(
            data,
            name=self.name("objects"),
            metadata={METADATA: self._entry("objects")},
            **transform_of(self.source),
        )
        self.maps["objects"] = layer
        self._insert(layer, self._below_labels() + 1)
        return layer

    def settle(self) -> None:
        """At the end of long work: a last full repaint, thumbnails and contrast included."""
        for what, layer in {"labels": self.labels, **self.maps}.items():
            if self.alive(layer):
                if what in ("step", "received"):
                    self.fit_contrast(what)
                layer.refresh(extent=False)

    def fit_contrast(self, what: str) -> None:
        """Spread the colours of a map over its values."""
        layer = self.layer(what)
        if layer is None:
            return
        values = self._pixels(layer)
        top = float(np.nanmax(values)) if values.size else 0.0
        if top > 0 and abs(top - layer.contrast_limits[1]) > 1e-3 * top:
            layer.contrast_limits_range = (0.0, top)
            layer.contrast_limits = (0.0, top)

    # --- inside -------------------------------------------------------------------------------

    def _on_removed(self, event: Any) -> None:
        """The labels left the layer list: what lies under them is kept for as long as somebody
        holds the layer."""
        if event.value is self.labels and self.edits is not None:
            self._former = weakref.ref(self.edits)  # the layer itself holds them
            self.labels = self.edits = None
            self.lost.emit(event.value, "")

    def _on_inserted(self, event: Any) -> None:
        """The labels came back, with their steps, unless others stand in their place."""
        edits = self._former() if self._former is not None else None
        if edits is not None and edits.layer is event.value and self.labels is None:
            self.labels, self.edits, self._former = edits.layer, edits, None
            self.lost.emit(event.value, "")

    def _on_misfit(self) -> None:
        """Somebody gave the labels pixels that do not lie on the image any more."""
        labels, edits = self.labels, self.edits
        if labels is None or edits is None:
            return
        self.labels = self.edits = None
        edits.leave()
        labels.metadata.pop(METADATA, None)
        got, wanted = tuple(labels.data.shape), self.shape[-self.source.ndim :]
        self.lost.emit(
            labels,
            f"The labels of {self.source.name} were given pixels of shape {got} in place of "
            f"{wanted}: their layer is yours now and was left as it is. The next answer comes in a "
            "new layer.",
        )

    def _hand_edits(self, layer: Labels, model: npt.NDArray[np.uint8] | None = None) -> HandEdits:
        """The edits of an empty layer; their large steps lie where the volumes lie."""
        folder = None if self._scratch is None else self._scratch.path
        edits = HandEdits(layer, self.shape, self._paintable, True, model, folder)
        edits.misfit.connect(self._on_misfit)
        return edits

    def _entry(self, what: str) -> dict[str, Any]:
        """Our note in a layer's metadata; labels carry the space they must be saved in."""
        entry: dict[str, Any] = {"result_of": self.source.name, "what": what}
        labels = what in ("labels", "objects", "plain", "difference")
        return entry | {"volume": self._volume} if labels and self._volume is not None else entry

    def _new_map(
        self, what: str, shape: tuple[int, ...], grid: MapGrid | None, look: Mapping[str, Any]
    ) -> Image:
        from napari.layers import Image

        place = (
            transform_of(self.source)
            if grid is None
            else map_transform(self.source, grid.scale, grid.offset)
        )
        plain = {"contrast_limits": (0.0, 1.0), "visible": False, "blending": "translucent"}
        style = {**plain, **_LOOKS.get(what, {}), **look}
        layer = Image(
            self._empty(fineness(shape), shape),
            name=self.name(what),
            opacity=0.7,
            rgb=False,
            metadata={METADATA: self._entry(what)},
            **style,
            **place,
        )
        self.maps[what] = layer
        # the row must be seen over the mask: it is asked for while looking at the mask
        self._insert(layer, self._below_labels() + (what == "row" and self.alive(self.labels)))
        return layer

    def _insert(self, layer: Layer, index: int, choose: bool = False) -> None:
        insert(self.viewer.layers, index, layer, choose)

    def _below_labels(self) -> int:
        layers = self.viewer.layers
        return layers.index(self.labels) if self.alive(self.labels) else len(layers)

    def _empty(self, dtype: Any, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
        array = volume_store(shape or self.shape, dtype, self._scratch)
        return array[0] if self.source.ndim == 2 else array

    def _pixels(self, layer: Layer) -> npt.NDArray[Any]:
        data = np.asarray(layer.data)
        return data[None] if data.ndim == 2 else data

    def _colors(self) -> dict[int, Any]:
        given = tuple(self.card.class_colors) if self.card else ()
        count = max(len(self._class_names()) + 1, 2)
        return {
            i: given[i] if i < len(given) and given[i] else _COLORS[(i - 1) % len(_COLORS)]
            for i in range(1, max(count, 10))
        }

    def _class_names(self) -> dict[int, str]:
        names = tuple(self.card.class_names) if self.card else ()
        return {i: name for i, name in enumerate(names) if i}

    def _paintable(self) -> Any:
        """Slices that a stroke can have touched."""
        if self.shape[0] == 1:
            return (0,)
        flat = self.labels is None or self.labels.n_edit_dimensions == 2
        if flat and not self._crosses_slices():
            return (self.visible_z(),)
        return range(self.shape[0])

    def _crosses_slices(self) -> bool:
        """Whether the view shows more than one slice (3D, or cut along another axis)."""
        return self.shape[0] > 1 and viewed_axis(self.viewer) != 0

    def _shows_only(self, z: int) -> bool:
        return not self._crosses_slices() and z == self.visible_z()

    def _due(self, key: str) -> bool:
        if self.viewer.dims.ndisplay == 3:  # a volume repaint takes seconds in software
            return False
        now = time.monotonic()
        if now - self._refreshed.get(key, 0.0) < _THROTTLE_SECONDS:
            return False
        self._refreshed[key] = now
        return True


def fineness(shape: tuple[int, ...]) -> Any:
    """What a map's values are kept as: half precision is in steps of 0.0005 near 1."""
    return np.float16 if math.prod(shape) > FULL_PRECISION_VOXELS else np.float32


def run_bytes(shape: tuple[int, ...], labels: bool = True, probability: bool = True) -> int:
    """Bytes of scratch for the layers of a run that are still to be made: the labels (what is
    shown, and what the model says) and the probability."""
    label = 2 * store_bytes(shape, np.uint8) if labels else 0
    return label + (store_bytes(shape, fineness(shape)) if probability else 0)
