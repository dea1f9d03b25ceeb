"""Image layers on their way to the engine: at once when small, behind the window when large."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_attnseg.control.handover import AT_ONCE_BYTES, Handover, Pixels
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import Finished, ImageRef
from napari_attnseg.viewer.dispatching import Dispatch
from napari_attnseg.viewer.layers import layer_source

if TYPE_CHECKING:
    from napari.layers import Image


class Bringing:
    """Makes an image layer the image of the live lane; cheap when it is that already.

    While a large one is on its way ``live`` is busy. What goes wrong then is told by
    ``live.failed``.
    """

    def __init__(self, live: LiveController, dispatch: Dispatch) -> None:
        self._live = live
        self._handover = Handover(live.scratch, dispatch)
        self._opened: tuple[int, int] | None = None
        self._coming: tuple[int, int] | None = None
        self._calls: list[Callable[[], object]] = []

    @property
    def busy(self) -> bool:
        """Whether an image is on its way."""
        return self._handover.busy

    def at_hand(self, layer: Image) -> bool:
        """Whether :meth:`now` takes no time to speak of."""
        return self._knows(layer) or pixels_of(layer).nbytes <= AT_ONCE_BYTES

    def handed(self, layer: Image) -> ImageRef | None:
        """What the engine was handed of ``layer``, if that is the image of the live lane."""
        return self._live.state.image if self._knows(layer) else None

    def forget(self) -> None:
        """Look at the pixels again next time: they may have been changed in place."""
        self._opened = None

    def now(self, layer: Image) -> None:
        """Hand ``layer`` over and return when it is there; raises ``InputError``."""
        if not self._knows(layer):
            pixels = pixels_of(layer)
            self._take(_identity(layer), pixels, pixels.save(self._live.scratch))

    def then(self, layer: Image, call: Callable[[], object]) -> None:
        """``call`` when ``layer`` is there: now, or later in the window's thread.

        While it is on its way already, ``call`` waits behind those that came before.
        """
        if self.at_hand(layer):
            self.now(layer)
            call()
            return
        pixels, coming = pixels_of(layer), _identity(layer)
        if self.busy and coming == self._coming:
            self._calls.append(call)
            return

        def done(ref: ImageRef) -> None:
            self._take(coming, pixels, ref)
            calls, self._calls = self._calls, []
            for wanted in calls:
                wanted()

        self._coming, self._calls = coming, [call]
        self._handover.bring(pixels, done, self._live.bring)

    def cancel(self) -> None:
        """Nothing is on its way any more."""
        if self._handover.drop():
            self._live.bring(False, Finished(0, "cancelled"))

    def _knows(self, layer: Image) -> bool:
        return self._opened == _identity(layer) and self._live.state.image is not None

    def _take(self, identity: tuple[int, int], pixels: Pixels, ref: ImageRef) -> None:
        self._live.take_image(ref, pixels.shape)
        kept = "" if ref.dtype else ref.path  # a file of somebody else's is not ours to drop
        self._live.scratch.hold(("layer", identity[0]), kept)  # until the layer is closed
        self._opened = identity


def _identity(layer: Image) -> tuple[int, int]:
    return id(layer), id(layer.data)


def pixels_of(layer: Image) -> Pixels:
    """The pixels of a layer as the engine wants them; raises ``InputError``."""
    source = layer_source(layer)
    return Pixels(source.array, source.rgb, source.flips, tuple(source.spacing))
