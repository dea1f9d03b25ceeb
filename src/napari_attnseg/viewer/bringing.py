"""Image layers on their way to the engine: at once when small, behind the window when large."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_attnseg.control.handover import Handover, Pixels
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import Failed, Finished, ImageRef
from napari_attnseg.errors import AttnSegError
from napari_attnseg.viewer.layers import layer_source

if TYPE_CHECKING:
    from napari.layers import Image

Dispatch = Callable[[Callable[[], None]], None]
AT_ONCE_BYTES = 8 << 20
"""Images up to this size are handed over at once: that takes less than a frame."""


class Bringing:
    """Makes an image layer the image of the live lane; cheap when it is that already.

    While a large one is on its way ``live`` is busy. What goes wrong then is told by
    ``live.failed``.
    """

    def __init__(self, live: LiveController, dispatch: Dispatch) -> None:
        self._live = live
        self._handover = Handover(live.scratch, dispatch)
        self._opened: tuple[int, int] | None = None

    @property
    def busy(self) -> bool:
        """Whether an image is on its way."""
        return self._handover.busy

    def at_hand(self, layer: Image) -> bool:
        """Whether :meth:`now` takes no time to speak of."""
        return self._knows(layer) or pixels_of(layer).nbytes <= AT_ONCE_BYTES

    def forget(self) -> None:
        """Look at the pixels again next time: they may have been changed in place."""
        self._opened = None

    def now(self, layer: Image) -> None:
        """Hand ``layer`` over and return when it is there; raises ``InputError``."""
        if not self._knows(layer):
            pixels = pixels_of(layer)
            self._take(layer, pixels, pixels.save(self._live.scratch))

    def then(self, layer: Image, call: Callable[[], object]) -> None:
        """``call`` when ``layer`` is there: now, or later in the window's thread."""
        if self.at_hand(layer):
            self.now(layer)
            call()
            return
        pixels = pixels_of(layer)

        def done(ref: ImageRef) -> None:
            try:
                self._take(layer, pixels, ref)
                call()
            except AttnSegError as error:
                failed(error)
            else:
                self._live.bring(False)

        def failed(error: AttnSegError) -> None:
            self._live.bring(False, Failed(0, type(error).__name__, str(error)))

        self._live.bring(True)
        self._handover.start(pixels, done, failed)

    def cancel(self) -> None:
        """Nothing is on its way any more."""
        if self._handover.busy:
            self._handover.drop()
            self._live.bring(False, Finished(0, "cancelled"))

    def _knows(self, layer: Image) -> bool:
        same = self._opened == (id(layer), id(layer.data))
        return same and self._live.state.image is not None

    def _take(self, layer: Image, pixels: Pixels, ref: ImageRef) -> None:
        self._live.take_image(ref, pixels.shape)
        self._opened = (id(layer), id(layer.data))


def pixels_of(layer: Image) -> Pixels:
    """The pixels of a layer as the engine wants them; raises ``InputError``."""
    source = layer_source(layer)
    return Pixels(source.array, source.rgb, source.flips, tuple(source.spacing))
