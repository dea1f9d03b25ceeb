"""Masks and maps of all contestants of a bake-off side by side, as layers in napari's grid mode.

Every cell of the grid is three layers, from below: the image, the contestant's map and its mask.
The first cell holds the truth. Where there is no map, a layer of nothing keeps the three together.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.viewer.bakeoff_mosaic import Mosaic, mosaic_of
from napari_attnseg.viewer.layers import METADATA, contrast_limits, map_transform

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer, Points
    from napari.viewer import ViewerModel

MASKS, MAPS, BOTH = "masks", "maps", "both"
WHAT = (MASKS, MAPS, BOTH)
"""What may be shown over the images."""
TRUTH = "truth"
PER_CELL = 3
MOST_CELLS = 7
"""More are one mosaic: napari's own grid takes 0.3 s for every layer of a dozen cells."""
LETTERS = 26
_UNKNOWN = 255
_COLORS = ("#ff9f1c", "#2ec4b6", "#e71d36", "#8ac926", "#9b5de5", "#00bbf9", "#fee440", "#f15bb5")


class BakeOffGrid:
    """The layers of one test image at a time; ``leave`` takes them away and puts everything back as
    it was."""

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self.what = MASKS
        self._cells: list[tuple[Layer, Layer, Layer]] = []
        self._names: Points | None = None  # of a mosaic
        self._before: dict[str, Any] = {}
        self._hidden: list[Layer] = []

    @property
    def shown(self) -> bool:
        """Whether any of its layers is in the list."""
        return any(layer in self.viewer.layers for cell in self._cells for layer in cell)

    @property
    def mosaic(self) -> bool:
        """Whether all cells are one picture."""
        return self._names is not None

    def show(self, found: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """Bring the pictures of one image (see ``BakeOffPicturesDone``); ``names`` by row key."""
        image = found["image"]
        pixels, truth = np.load(image["file"]), np.load(found["truth"])
        wanted: list[dict[str, Any]] = [{"mask_data": truth, "name": TRUTH}]
        for cell in found["cells"]:
            told = {"mask_data": np.load(cell["mask"]), "name": names.get(cell["key"], cell["key"])}
            wanted.append({**cell, **told})
        many = len(wanted) > MOST_CELLS
        cells = (
            [self._mosaic(pixels, image, wanted)]
            if many
            else [self._cell(pixels, image, cell) for cell in wanted]
        )
        if self._refill(cells):
            return
        if self.shown:
            self._take_away()
        else:
            self._keep()
        self.viewer.canvas.grid.enabled = False  # every change of the list would lay it out anew
        self._cells = cells
        for at, layer in enumerate(layer for cell in cells for layer in cell):
            self.viewer.layers.insert(at, layer)
        if self._names is not None:
            self.viewer.layers.insert(PER_CELL, self._names)
        self.choose(self.what)
        self._arrange()

    def choose(self, what: str) -> None:
        """Show ``"masks"``, ``"maps"`` or ``"both"`` over the images."""
        self.what = what
        grid = self.viewer.canvas.grid
        was, grid.enabled = grid.enabled, False
        for image, found, mask in self._cells:
            image.visible = True
            found.visible = what != MASKS and found.metadata[METADATA]["what"] == "bake-off map"
            mask.visible = what != MAPS
        grid.enabled = was

    def leave(self) -> None:
        """Take the layers away; other layers and the grid are as before."""
        if not self._before:
            return
        self._take_away()
        for layer in self._hidden:
            if layer in self.viewer.layers:
                layer.visible = True
        self.viewer.canvas.grid.update(self._before)
        self._before, self._hidden = {}, []
        self.viewer.reset_view()

    # --- inside -------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Remember how the viewer is, and hide what is not ours."""
        if not self._before:
            grid = self.viewer.canvas.grid
            names = ("enabled", "stride", "shape", "spacing")
            self._before = {name: getattr(grid, name) for name in names}
        others = [layer for layer in self.viewer.layers if layer.visible]
        self._hidden += [layer for layer in others if layer not in self._hidden]
        for layer in others:
            layer.visible = False

    def _refill(self, cells: list[tuple[Image, Image, Labels]]) -> bool:
        """New pixels in the layers that are there, which is far quicker than new layers; false
        where these do not fit."""
        old = [layer for cell in self._cells for layer in cell]
        new = [layer for cell in cells for layer in cell]
        same = [(_what(a), _rgb(a)) for a in old] == [(_what(b), _rgb(b)) for b in new]
        if not same or any(layer not in self.viewer.layers for layer in old):
            return False
        for a, b in zip(old, new, strict=True):
            a.data, a.name, a.metadata = b.data, b.name, b.metadata
            a.scale, a.translate = b.scale, b.translate
            if hasattr(b, "contrast_limits") and not _rgb(b):
                a.contrast_limits_range, a.contrast_limits = b.contrast_limits, b.contrast_limits
        self.viewer.reset_view()
        return True

    def _take_away(self) -> None:
        self.viewer.canvas.grid.enabled = False
        gc.freeze()  # napari searches all memory for what to free at every layer that goes
        try:
            for layer in [*(layer for cell in self._cells for layer in cell), self._names]:
                if layer is not None and layer in self.viewer.layers:
                    self.viewer.layers.remove(layer)
        finally:
            gc.unfreeze()
        self._cells, self._names = [], None

    def _arrange(self) -> None:
        self.viewer.dims.ndisplay = 2
        grid = self.viewer.canvas.grid
        if len(self._cells) > 1:
            grid.update({"stride": PER_CELL, "shape": (-1, -1), "spacing": 6.0, "enabled": True})
        self.viewer.layers.selection.active = self._cells[0][-1]
        self.viewer.reset_view()

    def _mosaic(
        self, pixels: npt.NDArray[Any], image: Mapping[str, Any], wanted: list[dict[str, Any]]
    ) -> tuple[Image, Image, Labels]:
        """All cells as one; their names are kept for ``show``, or told to those that are there."""
        from napari.layers import Image

        found = mosaic_of(pixels, wanted)
        scale = [float(s) * found.thinned for s in image["scale"]]
        look = {} if image["rgb"] else {"contrast_limits": contrast_limits(pixels)}
        given: dict[str, Any] = {"name": "images", "rgb": image["rgb"], "scale": scale, **look}
        below = Image(found.image, metadata=_entry(image["name"], "image", "all"), **given)
        maps = Image(
            found.maps,
            name="maps, each over its own range",
            colormap=_from_clear("magma"),
            opacity=0.75,
            blending="translucent",
            contrast_limits=(0, 1),
            scale=scale,
            metadata=_entry(image["name"], "map", "all"),
        )
        cell = {"mask_data": found.masks, "name": "all contestants"}
        self._tell_names(found, scale, image["name"])
        return below, maps, self._mask(below, image["name"], cell)

    def _tell_names(self, found: Mosaic, scale: list[float], image: str) -> None:
        from napari.layers import Points

        features = {"name": list(found.names)}
        if self._names is not None and self._names in self.viewer.layers:
            self._names.data = found.places * scale
            self._names.features = features
            return
        self._names = Points(
            found.places * scale,
            name="names and Dice",
            size=0.01,
            opacity=1,
            face_color="transparent",
            border_color="transparent",
            features=features,
            text={"string": "{name}", "size": 8, "color": "white", "anchor": "lower_left"},
            metadata=_entry(image, "names", "all"),
        )
        self._names.editable = False

    def _cell(
        self, pixels: npt.NDArray[Any], image: Mapping[str, Any], cell: Mapping[str, Any]
    ) -> tuple[Image, Image, Labels]:
        below = self._image(pixels, image, cell)
        return below, self._map(below, image["name"], cell), self._mask(below, image["name"], cell)

    def _image(
        self, pixels: npt.NDArray[Any], image: Mapping[str, Any], cell: Mapping[str, Any]
    ) -> Image:
        from napari.layers import Image

        dice = cell.get("dice")
        look = {} if image["rgb"] else {"contrast_limits": contrast_limits(pixels)}
        layer = Image(
            pixels,
            name=_short(cell["name"]) + (f", Dice {dice:.2f}" if dice is not None else ""),
            rgb=image["rgb"],
            scale=image["scale"],
            metadata=_entry(image["name"], "image", cell["name"]),
            **look,
        )
        layer.name_overlay.font_size = 8
        layer.name_overlay.visible = True  # says in the cell whose it is
        return layer

    def _map(self, below: Image, name: str, cell: Mapping[str, Any]) -> Image:
        from napari.layers import Image

        if "map" not in cell:
            nothing = np.zeros((1, 1), np.float32)
            return Image(
                nothing,
                name=f"{cell['name']}: no map",
                scale=below.scale,
                metadata=_entry(name, "nothing", cell["name"]),
                visible=False,
                contrast_limits=(0, 1),
                opacity=0,
            )
        values = np.load(cell["map"])
        low, high = float(values.min()), float(values.max())
        return Image(
            values,
            name=f"{cell['name']}: map ({cell['map_name']})",
            colormap="magma",
            opacity=0.75,
            blending="translucent",
            contrast_limits=(low, high if high > low else low + 1),
            metadata=_entry(name, "map", cell["name"]),
            **map_transform(below, tuple(cell["map_scale"]), tuple(cell["map_offset"])),
        )

    def _mask(self, below: Image, name: str, cell: Mapping[str, Any]) -> Labels:
        from napari.layers import Labels
        from napari.utils.colormaps import DirectLabelColormap

        colors: dict[int | None, Any] = {0: "transparent", None: "#888888", _UNKNOWN: "#88888880"}
        colors.update({i + 1: color for i, color in enumerate(_COLORS)})
        return Labels(
            cell["mask_data"],
            name=f"{cell['name']}: mask",
            opacity=0.5,
            scale=below.scale,
            colormap=DirectLabelColormap(color_dict=colors),
            metadata=_entry(name, "mask", cell["name"]),
        )


def _from_clear(name: str) -> Any:
    """A colormap whose lowest colour lets everything through: where there is no map."""
    from napari.utils import Colormap
    from napari.utils.colormaps import ensure_colormap

    colours = np.array(ensure_colormap(name).colors)
    colours[0, 3] = 0
    return Colormap(colours, name=f"{name} from clear")


def _short(name: str) -> str:
    """What fits into a cell of the grid together with a figure."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 3].rstrip()}..."


def _what(layer: Layer) -> tuple[str, str]:
    """Whose layer of a cell it is, and of which kind."""
    entry = layer.metadata[METADATA]
    return str(entry["cell"]), str(entry["what"])


def _rgb(layer: Layer) -> bool:
    return bool(getattr(layer, "rgb", False))


def _entry(image: str, what: str, cell: str) -> dict[str, Any]:
    """Our note in a layer's metadata: it is a result, not an image to segment."""
    return {METADATA: {"result_of": image, "what": f"bake-off {what}", "cell": cell}}
