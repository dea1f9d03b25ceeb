"""Images on their way to the engine's scratch, in a thread: hashing and copying takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from napari_attnseg.control.messages import Failed, Finished, ImageRef
from napari_attnseg.control.scratch import Scratch, save_image
from napari_attnseg.errors import AttnSegError, InputError, plain_sentence

AT_ONCE_BYTES = 8 << 20
"""Images up to this size are handed over at once: that takes less than a frame."""
Tell = Callable[[bool, "Finished | Failed | None"], None]


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as it is handed over: see ``LiveController.open_image``."""

    array: Any
    rgb: bool = False
    flips: tuple[bool, bool, bool] = (False, False, False)
    spacing: tuple[float, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return int(self.array.size) * int(self.array.dtype.itemsize)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        z, y, x = (int(n) for n in self.array.shape[:3])
        return z, y, x

    def save(self, scratch: Scratch) -> ImageRef:
        """Write the pixels, once for equal ones; raises ``InputError``."""
        return save_image(scratch, self.array, self.rgb, self.flips, self.spacing)


class Handover:
    """One image on its way at a time; a newer one, or ``drop``, makes the older one unwanted.

    ``dispatch`` runs a function in the thread of the window. The pixels are read while the
    window lives on: who changes them meanwhile has to hand them over again.
    """

    def __init__(self, scratch: Scratch, dispatch: Callable[[Callable[[], None]], None]) -> None:
        self._scratch = scratch
        self._dispatch = dispatch
        self._wanted: object = None

    @property
    def busy(self) -> bool:
        """Whether an image is on its way."""
        return self._wanted is not None

    def bring(self, pixels: Pixels, then: Callable[[ImageRef], object], tell: Tell) -> None:
        """``then`` with the image: now when it is small, else when a thread has brought it.

        Of a thread, ``tell`` hears that it began, ``(True, None)``, and that it ended,
        ``(False, None)`` or ``(False, Failed)``. Without one, ``InputError`` is raised.
        """
        if pixels.nbytes <= AT_ONCE_BYTES:
            self.drop()
            then(pixels.save(self._scratch))
            return

        def failed(error: AttnSegError) -> None:
            tell(False, Failed(0, type(error).__name__, str(error)))

        def done(ref: ImageRef) -> None:
            try:
                then(ref)
            except AttnSegError as error:
                failed(error)
            except Exception:
                tell(False, None)
                raise
            else:
                tell(False, None)

        tell(True, None)
        self.start(pixels, done, failed)

    def start(
        self,
        pixels: Pixels,
        done: Callable[[ImageRef], None],
        failed: Callable[[AttnSegError], None],
    ) -> None:
        """Bring ``pixels``; ``done`` or ``failed`` is called by ``dispatch``."""
        ticket = self._wanted = object()

        def arrive(call: Callable[[], None]) -> None:
            if self._wanted is ticket:
                self._wanted = None
                call()

        def work() -> None:
            try:
                ref = pixels.save(self._scratch)
            except AttnSegError as error:
                self._dispatch(lambda e=error: arrive(lambda: failed(e)))  # type: ignore[misc]
            except Exception as error:  # a lazy array may raise anything while it is read
                said = InputError(plain_sentence(error) or _unreadable(error))
                self._dispatch(lambda: arrive(lambda: failed(said)))
            else:
                self._dispatch(lambda: arrive(lambda: done(ref)))

        threading.Thread(target=work, name="attnseg-handover", daemon=True).start()

    def drop(self) -> bool:
        """The image on its way is not wanted any more; false when there was none."""
        wanted, self._wanted = self._wanted, None
        return wanted is not None


def _unreadable(error: Exception) -> str:
    return (
        f"the pixels of the layer cannot be read ({type(error).__name__}: {error}); "
        "check its file, or open it again"
    )
