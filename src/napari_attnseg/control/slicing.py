"""How a volume is cut into slices: which one is looked at, along which axis the model works."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from psygnal import Signal

from napari_attnseg.cards import read_card, resolve_checkpoint
from napari_attnseg.control.asides import Asides
from napari_attnseg.control.latest import Latest
from napari_attnseg.control.messages import ImageRef, Reorder
from napari_attnseg.control.state import LiveState
from napari_attnseg.control.volumes import AXES, Forecast, axes_bytes, axes_named
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
    _cost: Latest

    @abstractmethod
    def _set(self, **values: Any) -> None: ...

    @abstractmethod
    def _drop_work(self) -> None: ...

    @abstractmethod
    def _target(self) -> dict[str, Any]: ...

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

    def request_forecast(self, sample: ImageRef | None = None, z: int = 0) -> None:
        """What a run over all slices would cost in memory, disk and time; ``forecasted`` follows.

        Measured on the seen slice, whose answer is kept for the run; or on slice ``z`` of
        ``sample``, which stands for an image that is not here yet (see ``handover.Sample``).
        """
        with self._lock:
            if not (self.state.ready or (sample is not None and self.state.checkpoint)):
                return
            out, slices = str(self.scratch.path), (sample or self.state).shape[0]
            along = self.state.along if slices > 1 else AXES[0]
            room = self.scratch.stage_bytes() if slices > 1 and along == AXES[0] else 0
            about = self._target() | {"along": along}
            if sample is not None:
                about |= {"image": sample, "z": z}
            self._cost.ask(Forecast(slices=slices, out=out, stage_bytes=room, **about))

    def drop_forecast(self) -> None:
        """What was asked about the cost is about another choice."""
        with self._lock:
            self._cost.cancel()


def classes_of(checkpoint: str) -> int:
    """Output channels of a model; 1 when its card cannot be read, which the engine will tell."""
    try:
        return read_card(resolve_checkpoint(checkpoint)).classes
    except AttnSegError:
        return 1
