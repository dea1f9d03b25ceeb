"""The 3D view of an attention relief, and the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.viewer.attention3d import attention_views, camera_of, kind_of, upwards

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

TILT = 48.0
"""Degrees that the camera leaves the slice's normal by."""


def look_from_below(viewer: ViewerModel) -> None:
    """Stand at the image's lower edge and look down on the slice: hills rise on the screen.

    Columns still run rightwards. On which side 48 degrees lie depends on the person's choice of
    axis directions, so the camera itself is asked.
    """
    camera = camera_of(viewer)
    camera.angles = (0.0, 0.0, -TILT)
    if camera.up_direction[0] * upwards(viewer) < 0:
        camera.angles = (0.0, 0.0, TILT)


class Stage3D:
    """Goes to the 3D view so that a relief can be seen, and back to what there was before.

    A volume is shown as the one slice the relief stands on (a 3D rendering would bury it), and
    other layers of it are hidden meanwhile.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._hidden: list[Layer] = []
        self._plane: tuple[Image, str] | None = None
        self._point: tuple[float, ...] = ()
        self._chosen: Layer | None = None

    @property
    def entered(self) -> bool:
        """Whether :meth:`enter` changed something that :meth:`leave` will put back."""
        return bool(self._hidden) or self._plane is not None

    def remember_choice(self) -> None:
        """Note the layer that is chosen before a view is made and chosen instead."""
        active = self._viewer.layers.selection.active
        if active is not None and kind_of(active) is None:
            self._chosen = active

    def enter(self, layer: Image, z: int) -> None:
        """Turn to 3D with slice ``z`` of ``layer`` as the ground, seen from the side."""
        views = attention_views(self._viewer)
        for other in self._viewer.layers:
            if other.visible and other is not layer and other not in views:
                other.visible = False
                self._hidden.append(other)
        if layer.ndim == 3 and not layer.rgb:
            self._plane = self._plane or (layer, str(layer.depiction))
            layer.depiction = "plane"
            middle = (np.asarray(layer.data.shape[:3]) - 1) / 2.0
            layer.plane.position = (float(z), float(middle[1]), float(middle[2]))
            layer.plane.normal = (1.0, 0.0, 0.0)
            layer.plane.thickness = 1.0
        if self._viewer.dims.ndisplay != 3:
            self._point = tuple(self._viewer.dims.point)
            self._viewer.dims.ndisplay = 3
            self._viewer.reset_view()
            look_from_below(self._viewer)

    def leave(self) -> None:
        """Back to the same slice in 2D, with the layers as they were; reliefs and scatters go.

        They reach beyond the image, and napari's slice slider would not meet its slices any more.
        """
        for view in attention_views(self._viewer):
            if kind_of(view) != "image":
                self._viewer.layers.remove(view)
        self._viewer.dims.ndisplay = 2
        if len(self._point) == self._viewer.dims.ndim:
            self._viewer.dims.point = self._point
        if self._plane is not None:
            layer, depiction = self._plane
            layer.depiction = depiction
            self._plane = None
        hidden, self._hidden = self._hidden, []
        for other in hidden:
            other.visible = True
        if self._chosen is not None and self._chosen in self._viewer.layers:
            self._viewer.layers.selection.active = self._chosen
