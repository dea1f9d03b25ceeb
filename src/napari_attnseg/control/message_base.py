"""What every message is made of: the bases of requests and events, and a reference to an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class ImageRef:
    """An image the engine can open: a ``.npy`` file in view order (Z, Y, X) or (Z, Y, X, C), or,
    where ``dtype`` is given, any file in which the pixels lie as ``offset``, ``shape`` and
    ``strides`` say (see ``io.mapped.Place``).

    ``flips``: which view axes must be reversed to stand as in training (see
    ``Geometry.flips``). ``spacing_mm``: per view axis, or empty when unknown. ``key`` changes
    whenever the pixels change, so that caches never answer for older pixels.
    """

    key: str
    path: str
    rgb: bool = False
    flips: tuple[bool, bool, bool] = (False, False, False)
    spacing_mm: tuple[float, ...] = ()
    dtype: str = ""
    offset: int = 0
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    stamp: tuple[int, int] = (0, 0)

    def open(self) -> npt.NDArray[Any]:
        """The pixels as a read-only map; raises ``OSError`` or ``ValueError``."""
        import numpy as np

        from napari_attnseg.io.mapped import Place, open_place
        from napari_attnseg.io.pages import follow

        if not self.dtype:
            return follow(np.load(self.path, mmap_mode="r", allow_pickle=False))
        where = self.path, self.dtype, self.offset, self.shape, self.strides, self.stamp
        return open_place(Place(*where))


@dataclass(frozen=True)
class Request:
    """Base of all requests; ``id`` is given by the client and returns in every event."""

    id: int = 0


@dataclass(frozen=True)
class Event:
    """Base of all events; ``id`` is the request's."""

    id: int = 0


class Calm(str):
    """Words that tell of no problem: docks show them in a quiet place."""


@dataclass(frozen=True)
class Note(Event):
    """Something the person must know while work goes on (for example: fell back to CPU).

    ``calm``: it is no problem.
    """

    text: str = ""
    calm: bool = False

    @property
    def words(self) -> str:
        """``text``; a :class:`Calm` when it tells of no problem."""
        return Calm(self.text) if self.calm else self.text
