"""How a volume is cut into slices: which one is looked at, along which axis the model works."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from psygnal import Signal

from napari_attnseg.cards import read_card, resolve_checkpoint
from napari_attnseg.control.asides import Asides
from napari_attnseg.control.messages import Reorder
from napari_attnseg.control.state import LiveState
from napari_attnseg.control.volumes import AXES, axes_bytes, axes_named
from napari_attnseg.errors import AttnSegError

LATER = (
    "the model goes through the volume along other axes, so a value cannot be tried on the slice "
    "that you see; press Run for the mask with it"
)


class Slicing(Asides):
    """The choices of the live lane that concern slices."""

    stepped = Signal(object)  # StepDone: a slice along another axis is computed
    state: LiveState
    _run: int

    @abstractmethod
    def _set(self, **values: Any) -> None: ...

    @abstractmethod
    def _drop_work(self) -> None: ...

    @property
    def along(self) -> str:
        """The axis that the next run takes slices along; a single slice has no other."""
        return self.state.along if self.state.shape[0] > 1 else AXES[0]

    def gathering(self, shape: tuple[int, int, int]) -> int:
        """Bytes on disk in which a run over an image of ``shape`` (Z, Y, X) gathers its answers
        before they are results."""
        axis = self.state.along
        if axis == AXES[0] or shape[0] == 1:
            return 0
        return axes_bytes(shape, axis, classes_of(self.state.checkpoint))

    def set_tile(self, tile: int) -> None:
        """Cut slices into tiles from the next run on, with the person's consent: 0 = whole."""
        with self._lock:
            if tile != self.state.tile:
                self._drop_work()
                self._set(tile=tile, results=None)

    def set_along(self, axis: str) -> None:
        """From the next run on take slices along ``axis``, a word of ``AXES`` or ``ALL_AXES``.

        Unless axial, no value can be tried live. Raises ``InputError`` for other words.
        """
        axes_named(axis)
        with self._lock:
            if axis != self.state.along:
                self._drop_work()
                self._set(along=axis, results=None)

    def set_slice(self, z: int, axis: int = 0) -> None:
        """The slice that the person looks at, along view axis ``axis``: live answers are for this
        one, and what is left of a run follows (see ``Reorder``)."""
        with self._lock:
            if (z, axis) != (self.state.z, self.state.axis):
                self._set(z=z, axis=axis)
                if self._run:
                    self.client.send(Reorder(target=self._run, z=z, axis=axis))


def classes_of(checkpoint: str) -> int:
    """Output channels of a model; 1 when its card cannot be read, which the engine will tell."""
    try:
        return read_card(resolve_checkpoint(checkpoint)).classes
    except AttnSegError:
        return 1
