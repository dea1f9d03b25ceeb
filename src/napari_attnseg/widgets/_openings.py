"""Large files are read behind the window; small ones at once, as napari expects it of a reader."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import QThread

from napari_attnseg.errors import plain_sentence
from napari_attnseg.io.many import ManyVolumes
from napari_attnseg.viewer import reader
from napari_attnseg.viewer.hub import unwrapped
from napari_attnseg.viewer.unpacking import forget_ahead, read_ahead
from napari_attnseg.widgets._bridge import to_main_thread

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import ViewerModel

    from napari_attnseg.viewer.layers import LayerData

PACKED_BYTES, PLAIN_BYTES = 4 << 20, 32 << 20
"""Files of so many bytes take longer than a window may stand still."""
Then = Callable[["Layer"], object]
Ask = Callable[[Path, ManyVolumes], "int | None"]


class Openings:
    """The files of one window that are on their way. Signals come in the window's thread."""

    began = Signal(str)  # words
    ended = Signal(str)  # a sentence when the file could not be used, else empty

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.waiting = 0

    def open(self, path: Path, ask: Ask, then: Then | None = None) -> None:
        """Read ``path`` in a thread and add its layer, which ``then`` is called with. ``ask``
        chooses one of several volumes."""
        self.waiting += 1
        self.began.emit(f"Opening {path.name} ...")
        self._read(path, ask, then)

    def ahead(self, images: list[tuple[Path, Any]], then: Callable[[], object]) -> None:
        """``then`` when images (path and part) are read, large ones behind the window; what goes
        wrong with one is for ``then`` to find."""
        late = [(path, part) for path, part in images if takes_long(path)]
        if not late:
            then()
            return
        self.waiting += 1
        self.began.emit(f"Opening {late[0][0].name} ...")

        def work() -> None:
            for path, part in late:
                with contextlib.suppress(Exception):
                    read_ahead(path, part)
            to_main_thread(done)

        def done() -> None:
            self._end("")
            try:
                if self._alive() is not None:
                    then()
            finally:
                forget_ahead()

        threading.Thread(target=work, name="attnseg-open", daemon=True).start()

    def _read(self, path: Path, ask: Ask, then: Then | None, *which: Any) -> None:
        def work() -> None:
            call: Callable[[], None]
            try:
                call = partial(self._place, reader.read_layer(path, *which), then)
            except ManyVolumes as many:
                call = partial(self._choose, path, ask, then, many)
            except Exception as error:  # a thread that dies in silence would wait for ever
                words = plain_sentence(error) or f"{path.name} could not be opened ({error!r})"
                call = partial(self._end, words)
            to_main_thread(call)

        threading.Thread(target=work, name="attnseg-open", daemon=True).start()

    def _choose(self, path: Path, ask: Ask, then: Then | None, many: ManyVolumes) -> None:
        chosen = ask(path, many) if self._alive() is not None else None
        if chosen is None:
            self._end("")
        else:
            self._read(path, ask, then, chosen, many)

    def _place(self, data: LayerData, then: Then | None) -> None:
        from napari.layers import Layer

        viewer = self._alive()
        if viewer is None:
            self._end("")
            return
        layer = viewer.add_layer(Layer.create(*data))
        self._end("")
        if then is not None:
            then(layer)

    def _end(self, problem: str) -> None:
        self.waiting -= 1
        self.ended.emit(problem)

    def _alive(self) -> ViewerModel | None:
        viewer = self._viewer()
        window = getattr(getattr(viewer, "window", None), "_qt_window", None)
        return viewer if window is None or isalive(window) else None


_known: weakref.WeakKeyDictionary[Any, Openings] = weakref.WeakKeyDictionary()


def openings_for(viewer: ViewerModel) -> Openings:
    """The one of ``viewer``; readers and docks ask for it."""
    viewer = unwrapped(viewer)
    if viewer not in _known:
        _known[viewer] = Openings(viewer)
    return _known[viewer]


def takes_long(path: Path) -> bool:
    """Whether reading would hold a window that lives; a script before it gets layers at once."""
    thread = QThread.currentThread()
    return bool(thread is not None and thread.loopLevel() > 0 and is_large(path))


def is_large(path: Path) -> bool:
    """Whether a file, or what lies in a folder itself, is large; one that is mapped is not."""
    try:
        if path.is_dir():
            return sum(x.stat().st_size for x in os.scandir(path) if x.is_file()) > PLAIN_BYTES
        size = path.stat().st_size
    except OSError:  # reading says what is wrong
        return False
    name = path.name.lower()
    return size > (PACKED_BYTES if name.endswith((".gz", ".nrrd", ".mha")) else PLAIN_BYTES)
