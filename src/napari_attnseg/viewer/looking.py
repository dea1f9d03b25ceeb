"""What the person looks at: which slice of a volume, and along which of its axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.viewer import ViewerModel


def visible_slice(viewer: ViewerModel, layer: Layer, depth: int) -> int:
    """Index of the slice of ``layer`` (with ``depth`` slices) under the viewer's dims point."""
    if layer.ndim == 2 or depth == 1:
        return 0
    point = np.asarray(viewer.dims.point)[-layer.ndim :]
    z = float(np.asarray(layer.world_to_data(point))[0])
    return int(np.clip(np.floor(z + 0.5), 0, depth - 1))


def viewed_axis(viewer: ViewerModel) -> int:
    """The view axis (0: Z, 1: Y, 2: X) along which a volume is seen in slices.

    0 in a 3D display would mean that one slice is enough; there all are seen, as from the side: 1.
    """
    dims = viewer.dims
    if dims.ndim < 3:
        return 0
    hidden = [axis - (dims.ndim - 3) for axis in dims.not_displayed if axis >= dims.ndim - 3]
    return hidden[0] if hidden else 1


def seen(viewer: ViewerModel, layer: Layer | None) -> tuple[int, int]:
    """The visible slice of an image layer, and the axis along which it is looked at."""
    if layer is None or layer.ndim == 2:
        return 0, 0
    return visible_slice(viewer, layer, int(layer.data.shape[0])), viewed_axis(viewer)


def first_image(viewer: ViewerModel, among: Any) -> Image | None:
    """The selected image layer if it is ``among`` (a predicate) those wanted, else the last."""
    from napari.layers import Image

    images = [x for x in viewer.layers if isinstance(x, Image) and among(x)]
    active = viewer.layers.selection.active
    return active if active in images else (images[-1] if images else None)
