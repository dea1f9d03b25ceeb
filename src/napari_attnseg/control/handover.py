"""Images on their way to the engine's scratch, in a thread: hashing and copying takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from napari_attnseg.control.messages import Failed, Finished, ImageRef
from napari_attnseg.control.scratch import Scratch, save_image, save_sample
from napari_attnseg.errors import AttnSegError, InputError, plain_sentence
from napari_attnseg.io.mapped import place_of

AT_ONCE_BYTES = 8 << 20
"""Images up to this size are handed over at once: that takes less than a frame."""
Tell = Callable[[bool, "Finished | Failed | None"], None]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Cargo(Protocol[T_co]):
    """What can be handed over: it knows its size and how to write itself."""

    @property
    def nbytes(self) -> int: ...

    def save(self, scratch: Scratch) -> T_co: ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as it is handed over: see ``LiveController.open_image``."""

    array: Any
    rgb: bool = False
    flips: tuple[bool, bool, bool] = (False, False, False)
    spacing: tuple[float, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes that are to be read and written: none for pixels that lie in a file already."""
        if place_of(self.array) is not None:
            return 0
        return int(self.array.size) * int(self.array.dtype.itemsize)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        z, y, x = (int(n) for n in self.array.shape[:3])
        return z, y, x

    def save(self, scratch: Scratch) -> ImageRef:
        """Write the pixels, once for equal ones; raises ``InputError``."""
        return save_image(scratch, self.array, self.rgb, self.flips, self.spacing)


@dataclass(frozen=True, eq=False)
class Sample:
    """Slice ``z`` of an image, which stands for all of them: what a run over the image costs can
    be measured on it, and nothing else has to be read and copied."""

    pixels: Pixels
    z: int

    @property
    def nbytes(self) -> int:
        """Bytes that are to be read and written."""
        return self.pixels.nbytes // self.pixels.shape[0]

    def save(self, scratch: Scratch) -> ImageRef:
        """Write the slice; raises ``InputError``."""
        p = self.pixels
        return save_sample(scratch, p.array, self.z, p.rgb, p.flips, p.spacing)


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image, handed over already or not, and its labels (Z, Y, X), written as ``name``."""

    image: ImageRef | Pixels | None
    labels: Any
    name: str

    @property
    def nbytes(self) -> int:
        """Bytes that are still to be written."""
        image = self.image.nbytes if isinstance(self.image, Pixels) else 0
        return image + int(self.labels.size) * int(self.labels.dtype.itemsize)

    def save(self, scratch: Scratch) -> tuple[ImageRef | None, str]:
        """The image in scratch and the path of the labels; raises ``InputError``."""
        image = self.image.save(scratch) if isinstance(self.image, Pixels) else self.image
        return image, str(scratch.save(self.labels, self.name))


class NewestSaved:
    """Writes the newest of arrays that may come quicker than they can be written."""

    def __init__(self, scratch: Scratch, failed: Callable[[AttnSegError], None]) -> None:
        self._scratch, self._failed = scratch, failed
        self._lock = threading.Lock()
        self._next: tuple[Any, str] | None = None
        self._running = False

    def put(self, array: Any, name: str) -> None:
        """``array`` as ``name``: small ones at once, large ones in a thread."""
        if int(array.size) * int(array.dtype.itemsize) <= AT_ONCE_BYTES:
            self._scratch.save(array, name)
            return
        with self._lock:
            self._next = (array, name)
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._work, name="attnseg-labels", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                todo, self._next = self._next, None
                self._running = todo is not None
            if todo is None:
                return
            try:
                self._scratch.save(*todo)
            except AttnSegError as error:
                self._failed(error)


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

    def bring(self, pixels: Cargo[T], then: Callable[[T], object], tell: Tell) -> None:
        """``then`` with what was written: now when it is small, else when a thread has brought it.

        Of a thread, ``tell`` hears that it began, ``(True, None)``, and that it ended,
        ``(False, None)`` or ``(False, Failed)``. Without one, ``InputError`` is raised.
        """
        if pixels.nbytes <= AT_ONCE_BYTES:
            self.drop()
            then(pixels.save(self._scratch))
            return

        def failed(error: AttnSegError) -> None:
            tell(False, Failed(0, type(error).__name__, str(error)))

        def done(ref: T) -> None:
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
        pixels: Cargo[T],
        done: Callable[[T], None],
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
