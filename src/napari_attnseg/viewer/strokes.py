"""Strokes to train from, and the layer in which the model being trained shows what it sees.

In a strokes layer 0 is unlabelled, 1 is background, 2 the first class, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.viewer.hub import is_result
from napari_attnseg.viewer.layers import METADATA, transform_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer
    from napari.viewer import ViewerModel

BACKGROUND = "#4f8ef7"
CLASS_COLORS = (
    "#ff9f1c",
    "#2ec4b6",
    "#e71d36",
    "#8ac926",
    "#9b5de5",
    "#00bbf9",
    "#fee440",
    "#f15bb5",
)
_SEEN_THROUGH = ((0.24, 0.86, 0.52, 0.0), (0.24, 0.86, 0.52, 1.0))
"""Nothing where the model is sure of background; green, which no first class has, elsewhere."""


def class_color(index: int) -> str:
    """Colour of class ``index`` (0 is background)."""
    return BACKGROUND if index == 0 else CLASS_COLORS[(index - 1) % len(CLASS_COLORS)]


def spatial_shape(layer: Layer) -> tuple[int, ...]:
    """A layer's (Y, X) or (Z, Y, X)."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return tuple(int(n) for n in (data.shape[:-1] if getattr(layer, "rgb", False) else data.shape))


def is_strokes(layer: Layer | None) -> bool:
    """Whether a labels layer was made by :func:`new_strokes`."""
    entry = layer.metadata.get(METADATA) if layer is not None else None
    return isinstance(entry, dict) and bool(entry.get("strokes"))


def new_strokes(viewer: ViewerModel, image: Image, class_names: Sequence[str]) -> Labels:
    """An empty strokes layer over ``image``, chosen, with the brush in hand for class 1.

    Raises:
        InputError: the image has more than three spatial axes.
    """
    shape = spatial_shape(image)
    if len(shape) not in (2, 3):
        raise InputError(
            f"layer {image.name!r} has {len(shape)} axes, expected 2 or 3; take one time point or "
            "channel of it into a layer of its own"
        )
    layer = viewer.add_labels(
        np.zeros(shape, np.uint8),
        name=f"{image.name}_strokes",
        opacity=0.8,
        metadata={METADATA: {"strokes": True}},
        **transform_of(image),
    )
    recolor(layer, class_names)
    layer.brush_size = max(3, min(shape[-2:]) // 64)
    layer.n_edit_dimensions = 2
    hold_brush(viewer, layer, 2)
    return layer


def recolor(layer: Labels, class_names: Sequence[str]) -> None:
    """Give a strokes layer the colours and names of the classes."""
    from napari.utils.colormaps import DirectLabelColormap

    table: dict[Any, Any] = {0: "transparent", None: "#888888"}
    table |= {i + 1: class_color(i) for i in range(len(class_names))}
    layer.colormap = DirectLabelColormap(color_dict=table)
    layer.properties = {"class": ["unlabelled", *class_names]}


def hold_brush(viewer: ViewerModel, layer: Labels, label: int) -> None:
    """Choose ``layer`` and paint with ``label``."""
    viewer.layers.selection.active = layer
    layer.selected_label = label
    layer.mode = "paint"


def labels_array(layer: Labels, image: Image) -> npt.NDArray[Any]:
    """A labels layer as (Z, Y, X), checked against the image that it labels.

    Raises:
        InputError: the sizes differ.
    """
    have, want = spatial_shape(layer), spatial_shape(image)
    if have != want and (1, *have) != want and have != (1, *want):
        raise InputError(
            f"labels {layer.name!r} are {have} but image {image.name!r} is {want}; choose the "
            "labels that were drawn on this image, or press New strokes"
        )
    array = np.asarray(layer.data)
    return array[None] if array.ndim == 2 else array


def matching_labels(viewer: ViewerModel, image: Image | None) -> Labels | None:
    """The labels layer most likely drawn on ``image``: newest first, our answers last."""
    if image is None:
        return None
    shape = spatial_shape(image)
    fitting = [x for x in viewer.layers if x._type_string == "labels" and spatial_shape(x) == shape]
    fitting.sort(key=lambda x: (not is_result(x), is_strokes(x)))
    return fitting[-1] if fitting else None


class PreviewLayer:
    """The probability that the model being trained gives, over ``image``; one slice at a time.

    ``image=None``: a plane of its own (the first validation picture of a folder).
    """

    def __init__(self, viewer: ViewerModel, image: Image | None) -> None:
        self.viewer, self.image = viewer, image
        self.layer: Image | None = None
        self.ground: Image | None = None
        self._ground_time = 0
        self.last: tuple[int, npt.NDArray[Any]] | None = None
        self._away = False

    @property
    def name(self) -> str:
        """Name of the layer."""
        return f"{self.image.name}_training_preview" if self.image else "validation_preview"

    def show_ground(self, path: Path) -> None:
        """The validation picture under the preview: ``path`` (.npy) as the engine wrote it."""
        if self.image is not None or not path.is_file():
            return
        time = path.stat().st_mtime_ns
        if time == self._ground_time:
            return
        self._ground_time = time
        pixels = np.load(path, allow_pickle=False)
        rgb = pixels.ndim == 3
        if self.ground is not None and self.ground in self.viewer.layers:
            self.viewer.layers.remove(self.ground)
        self.ground = self.viewer.add_image(
            pixels[..., :3] if rgb else pixels,
            rgb=rgb,
            name="validation_image",
            metadata={METADATA: {"result_of": "training"}},
        )
        if self.layer is not None and self.layer in self.viewer.layers:
            self.viewer.layers.remove(self.layer)  # it comes back on top, in the new size

    def show(self, z: int, probability: npt.NDArray[Any]) -> None:
        """Put (Y, X) ``probability`` into slice ``z``; a preview of other pixels is dropped."""
        if self.image is not None and self.image not in self.viewer.layers:
            return
        shape = spatial_shape(self.image) if self.image is not None else probability.shape
        if probability.shape != shape[-2:] or (len(shape) == 3 and not 0 <= z < shape[0]):
            return
        self.last = (z, probability)
        if self.layer is None or self.layer not in self.viewer.layers:
            self.layer = self._add(shape)
        if len(shape) == 3:
            self.layer.data[z] = probability
            self.layer.refresh(extent=False, highlight=False, thumbnail=False)
        else:
            self.layer.data = probability.astype(self.layer.data.dtype)
        if self._away:
            self._set_visible(True)

    def step_back(self) -> None:
        """The training has ended: a plane of its own no longer lies over the person's image, but
        stays in the layer list. The next preview brings it back."""
        if self.image is None:
            self._set_visible(False)

    def _set_visible(self, on: bool) -> None:
        self._away = not on
        for layer in (self.ground, self.layer):
            if layer is not None and layer in self.viewer.layers:
                layer.visible = on

    def _add(self, shape: tuple[int, ...]) -> Image:
        """Under the strokes, above the image; the person's choice of layer and tool stays."""
        from napari.utils.colormaps import Colormap

        active = self.viewer.layers.selection.active
        large = int(np.prod(shape)) > 64_000_000
        layer = self.viewer.add_image(
            np.zeros(shape, np.float16 if large else np.float32),
            name=self.name,
            colormap=Colormap(_SEEN_THROUGH, name="attnseg-preview"),
            contrast_limits=(0.45, 0.65),
            opacity=0.55,
            blending="translucent",
            metadata={METADATA: {"result_of": self.image.name if self.image else "training"}},
            **(transform_of(self.image) if self.image is not None else {}),
        )
        layer.contrast_limits_range = (0.0, 1.0)
        if self.image is not None:
            self.viewer.layers.move(
                self.viewer.layers.index(layer), self.viewer.layers.index(self.image) + 1
            )
        self.viewer.layers.selection.active = active
        return layer
