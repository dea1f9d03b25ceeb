"""What the live lane works on and what it has: frozen values that docks read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from napari_attnseg.control.messages import ImageRef
from napari_attnseg.control.order import following
from napari_attnseg.io.pages import follow
from napari_attnseg.settings import TunableValue, Tuning


@dataclass(frozen=True)
class Results:
    """The files of one run; arrays are read-only memory maps, valid where ``slice_done`` came.

    ``labels`` uint8 (Z,Y,X), ``probability`` float32 (Z,Y,X), ``step`` and ``received`` float32
    (Z,h,w) on the attention grid; cell (i, j) has its centre at pixel
    ``map_offset + map_scale*(i, j)``. Empty before ``started``.
    """

    image: ImageRef
    checkpoint: str
    folder: str
    files: tuple[tuple[str, str], ...] = ()
    grid: tuple[int, int] = (0, 0)
    stride: float = 1.0
    map_scale: tuple[float, float] = (1.0, 1.0)
    map_offset: tuple[float, float] = (0.0, 0.0)

    def array(self, name: str) -> np.ndarray | None:
        """The map called ``name``, or ``None`` when this model has none."""
        path = dict(self.files).get(name)
        return None if path is None else follow(np.load(path, mmap_mode="r", allow_pickle=False))


@dataclass(frozen=True)
class LiveState:
    """What the next request will be made of. ``shape`` is (Z, Y, X) of the image.

    ``z``, ``axis``: the slice that is looked at, and along which view axis (0: slice by slice).
    ``compare``: live answers also carry the labels with the values ``against`` in place of the
    present ones (none: plain attention). ``tile``: side of the image tiles that the person
    agreed to (0: whole slices). ``along``: the axis that the model's slices are taken along (see
    ``volumes.AXES``).
    """

    image: ImageRef | None = None
    shape: tuple[int, int, int] = (0, 0, 0)
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    axis: int = 0
    compare: bool = False
    against: tuple[tuple[str, TunableValue], ...] = ()
    tile: int = 0
    along: str = "axial"
    busy: bool = False
    results: Results | None = None

    @property
    def ready(self) -> bool:
        """Whether an image and a model are chosen."""
        return self.image is not None and bool(self.checkpoint)


def outward(z: int, count: int) -> tuple[int, ...]:
    """All slices, the seen one first, then its neighbours outward."""
    return following(range(count), z)
