"""Hand edits win, and every change can be taken back.

Three things are kept apart: what the *model* says (``HandEdits.model``), what the person holds
(tile by tile, packed), and what the layer shows, which is the second over the first. Strokes and
answers touch different ones of these, so an answer that comes while a person paints, or after a
stroke was taken back, changes nothing of the other.

Strokes, answers, threshold moves and post-processing are steps of one timeline. napari's Ctrl+Z
and Ctrl+Shift+Z call ``undo`` and ``redo`` on the layer; these walk along that timeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_attnseg.errors import InputError
from napari_attnseg.io.journal import Page
from napari_attnseg.viewer.journal_planes import HELD, MODEL, Planes
from napari_attnseg.viewer.journal_steps import Step, Timeline
from napari_attnseg.viewer.journal_tiles import Key, box, tiles_of, tiles_under
from napari_attnseg.viewer.memory import empty_volume

if TYPE_CHECKING:
    from napari.layers import Labels

_STROKES = {"paint": "stroke", "erase": "erased stroke", "fill": "fill", "polygon": "polygon"}
"""Tools of napari and what one step of each is called."""


_LARGE = 64
"""Tiles of a step that is worth a busy mouse pointer: some 50 ms."""
Waiting = Callable[[], "contextlib.AbstractContextManager[object]"]
_waiting: Waiting = contextlib.nullcontext


def set_waiting(waiting: Waiting) -> None:
    """What shows that a large step takes a moment; importing any dock sets Qt's pointer."""
    global _waiting
    _waiting = waiting


class Recorder(Protocol):
    """Who keeps what happens, see :mod:`viewer.journal`."""

    def changed(self, what: str, pages: Iterable[Page]) -> None:
        """Tiles of the model's answer or of the held pixels are no longer what they were."""


class HandEdits:
    """Keeps the labels layer of one image: the model's answer under the person's edits.

    ``layer`` holds uint8 class ids of shape (Y, X) or (Z, Y, X), or whole numbers of another type
    once a person has converted it; ``shape`` is (Z, Y, X).
    ``visible`` says which slices a stroke can have touched when napari does not tell (all, unless
    given); ``empty`` that the layer holds nothing yet (a volume of zeros takes no memory until it
    is written). ``model``: a writable array (Z, Y, X) uint8 of zeros for what the model says, for
    example on disk when the volume is large; nobody else may write it. ``folder``: where large
    steps are kept. Only this object writes the layer's pixels.
    """

    travelled = Signal(object, bool)  # Step, whether it was taken back (else brought again)

    def __init__(
        self,
        layer: Labels,
        shape: tuple[int, int, int],
        visible: Callable[[], Iterable[int]] | None = None,
        empty: bool = False,
        model: npt.NDArray[np.uint8] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.layer = layer
        self.shape = shape
        self._visible = visible or (lambda: range(shape[0]))
        self.planes = Planes(shape, empty_volume(shape, np.uint8) if model is None else model)
        self.timeline = Timeline(folder)
        self.recorder: Recorder | None = None
        self.tuning: Any = None
        self.about: Callable[[], Any] = lambda: None
        self._held = self.planes.held
        self._answer: Step | None = None
        self._pending: Step | None = None
        self._open = self._telling = False
        self._under: list[Key] | None = None
        if not empty:
            self.model[:] = self.data  # what the layer holds at the start is the model's answer
            self.planes.answered.update(range(shape[0]))
        layer.events.paint.connect(self._on_paint)
        layer.events.labels_update.connect(self._close_stroke)
        layer.events.set_data.connect(self._close_stroke)
        # the key bindings and menus of napari call these two on the layer itself
        layer.undo = lambda: self.travel(back=True)
        layer.redo = lambda: self.travel(back=False)

    @property
    def data(self) -> npt.NDArray[Any]:
        """The layer's pixels as (Z, Y, X), a view."""
        return np.asarray(self.layer.data).reshape(self.shape)

    @property
    def count(self) -> int:
        """How many pixels are held by hand; what code set counts once it was absorbed."""
        return self._held.count

    @property
    def model(self) -> npt.NDArray[np.uint8]:
        """What the model says, (Z, Y, X), under the edits."""
        return self.planes.model

    @property
    def answering(self) -> bool:
        """Whether answers that come now belong to a step."""
        return self._answer is not None

    def restore(self, pages: Mapping[Page, bytes]) -> None:
        """Take up tiles that were kept before; it is no step. Raises ``ValueError`` when they do
        not fit; then some may be there already."""
        for page, data in pages.items():
            self.planes.put_packed(page, data)
        for key in {key for _, key in pages}:
            self._show(key)
        self._refresh()

    def mask(self, z: int) -> npt.NDArray[np.bool_]:
        """Where slice ``z`` is held by hand, (Y, X)."""
        self.absorb(z)
        return self.planes.mask(z)

    # --- what the model says --------------------------------------------------------------------

    def begin_run(self) -> None:
        """The answers that come now belong to a new run: one step."""
        self._begin(Step("run", "segmentation", self.tuning, self.tuning, sealed=True))

    def tuned(self, tuning: Any) -> None:
        """The live values move: until :meth:`released`, moves and their answers are one step."""
        last = self._answer
        if last is not None and not last.sealed and self._is_last(last):
            last.after = tuning
        elif tuning != self.tuning:
            self._begin(Step("tuning", "change of the values", self.tuning, tuning))
        self.tuning = tuning

    def released(self) -> None:
        """The hand let the slider go: the next move is a step of its own."""
        if self._answer is not None:
            self._answer.sealed = True

    def write(self, z: int, labels_YX: npt.NDArray[Any]) -> bool:
        """Put the model's answer for slice ``z`` under the edits; true when pixels changed."""
        self._close_stroke()
        self.absorb(z)
        self.planes.answered.add(z)
        if self._answer is not None:
            self._answer.heard = True
        new, pages = np.asarray(labels_YX, np.uint8), []
        for key in tiles_of(z, self.shape):
            place = box(key, self.shape)
            old = self.model[place]
            if np.array_equal(old, new[place[1:]]):
                continue
            if self._answer is not None:
                self._keep(self._answer, (MODEL, key))
            self.model[place] = new[place[1:]]
            pages.append((MODEL, key))
        self._tell("answer", pages)
        return any([self._show_answer(key) for _, key in pages])

    # --- what the person holds ------------------------------------------------------------------

    def absorb(self, z: int) -> None:
        """Take over whatever was painted (or set by code) on slice ``z`` since our last write."""
        shown = self.planes.shown(z)
        if not np.array_equal(self.data[z], shown):
            self._take(tiles_of(z, self.shape))

    def reset(self) -> int:
        """Drop all edits, show the model's answer, and return how many pixels were dropped.

        It is one step: Ctrl+Z brings the edits back.
        """
        dropped = self.count
        if not dropped:
            return 0
        self._close_stroke()
        self._settle_pending()
        step, keys = Step("reset", "reset of the hand edits"), self._held.everywhere()
        for key in keys:
            step.keep((HELD, key), self._held.packed(key))
        self._held.clear()
        self._finish(step, keys)
        return dropped

    def apply(self, name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> int:
        """Let ``change`` make other labels (Z, Y, X) of those that are shown; pixels changed.

        It is one step called ``name``; changed pixels are held like painted ones. ``change`` gets
        a read-only view. Raises ``InputError`` for labels of another shape or that the layer's
        type does not hold; nothing is changed then.
        """
        self._close_stroke()
        self._settle_pending()
        view = self.data.view()
        view.flags.writeable = False
        new = self._checked(change(view))
        with _waiting():
            return self._process(name, new)

    def _process(self, name: str, new: npt.NDArray[Any]) -> int:
        view = self.data
        step, keys, total = Step("process", name), [], 0
        for z in range(self.shape[0]):
            if np.array_equal(view[z], new[z]):
                continue
            for key in tiles_of(z, self.shape):
                place = box(key, self.shape)
                where = self.data[place] != new[place]
                if where.any():
                    keys.append(key)
                    total += self._hold(step, key, where, new[place])
        if keys:
            self._finish(step, keys)
        return total

    # --- going back and forth -------------------------------------------------------------------

    def travel(self, back: bool) -> Step | None:
        """Take the last step back, or bring the last one that was taken back again; the step."""
        self._close_stroke()
        self._settle_pending()
        source, target = self.timeline.undo, self.timeline.redo
        if not back:
            source, target = target, source
        aside = []
        while source and source[-1].empty and not self._awaited(source[-1]):
            step = source.pop()  # values moved and nothing changed
            if step is self._answer:
                aside.append(step)
        found = source.pop() if source else None
        if found is not None:
            with _waiting() if found.tiles > _LARGE else contextlib.nullcontext():
                self._swap(found)
            if not found.empty:
                target.append(found)
            if found.kind in ("run", "tuning"):
                self._answer, aside = None, []
                self.tuning = found.before if back else found.after
        self.timeline.undo.extend(aside)
        if found is not None:
            self.timeline.bound()
            self._refresh()
            self.travelled.emit(found, back)
        return found

    # --- inside -------------------------------------------------------------------------------

    def _begin(self, step: Step) -> None:
        self._close_stroke()
        self._settle_pending()
        step.about = self.about()
        self._answer = step
        self.timeline.push(step)

    def _awaited(self, step: Step) -> bool:
        """Whether a step has changed nothing because its first answer is still on its way."""
        return step is self._answer and not step.heard

    def _is_last(self, step: Step) -> bool:
        return bool(self.timeline.undo) and self.timeline.undo[-1] is step

    def _keep(self, step: Step, page: Page) -> None:
        if not step.knows(page):
            step.keep(page, self.planes.packed(page))
            self.timeline.bound()

    def _swap(self, step: Step) -> None:
        pages = step.take_pages()
        for page in pages:
            self._take([page[1]])
        self._settle_pending(keep=False)
        for page, data in pages.items():
            step.keep(page, self.planes.packed(page))
            self.planes.put_packed(page, data)
        for key in {key for _, key in pages}:
            self._show(key)
        self._tell("travel", list(pages))

    def _show(self, key: Key) -> bool:
        place, shown = box(key, self.shape), self.planes.tile(key)
        if np.array_equal(self.data[place], shown):
            return False
        if shown.dtype != np.uint8 and not _holds(self.data.dtype, shown):
            self.layer.data = self.layer.data.astype(_type_for(shown))
        self.data[place] = shown
        return True

    def _show_answer(self, key: Key) -> bool:
        """Like :meth:`_show`, for a tile of which is known that the model's answer changed."""
        if self._held.packed(key):
            return self._show(key)
        place = box(key, self.shape)
        self.data[place] = self.model[place]
        return True

    def _take(self, keys: Iterable[Key]) -> None:
        """Hold what differs from what we have shown."""
        data = self.data
        for key in keys:
            now = data[box(key, self.shape)]
            where = now != self.planes.tile(key)
            if where.any():
                self._pending = self._pending or Step("code", "change")
                self._hold(self._pending, key, where, now)

    def _hold(
        self, step: Step, key: Key, where: npt.NDArray[np.bool_], values: npt.NDArray[Any]
    ) -> int:
        step.keep((HELD, key), self._held.packed(key))
        return self.planes.hold(key, where, values)

    def _on_paint(self, event: Any = None) -> None:
        """A step entered napari's history (some tools tell before they change the pixels)."""
        if self._telling:
            return
        self._close_stroke()
        self._under = tiles_under(getattr(event, "value", None), self.shape)
        self._open = not self._take_stroke()
        history = getattr(self.layer, "_undo_history", None)
        if history is not None:  # napari keeps the step as well, and a fill in 3D is large
            history.clear()

    def _close_stroke(self, event: Any = None) -> None:
        """The pixels of a step announced earlier are there now."""
        if self._open:
            self._open = False
            self._take_stroke()

    def _take_stroke(self) -> bool:
        if self._under is None:
            for z in self._visible():
                self.absorb(z)
        else:
            self._take(self._under)
        if self._pending is None:
            return False
        tool = str(self.layer.mode)
        self._pending.kind = tool if tool in _STROKES else "code"
        self._pending.name = _STROKES.get(tool, "change")
        self._settle_pending()
        return True

    def _settle_pending(self, keep: bool = True) -> None:
        """What was painted or set since the last step is a step of its own."""
        step, self._pending = self._pending, None
        if step is None:
            return
        pages = list(step.pages)
        if keep:
            self.timeline.push(step)
        self._tell(step.kind, pages)

    def _finish(self, step: Step, keys: list[Key]) -> None:
        pages = list(step.pages)
        self.timeline.push(step)
        for key in keys:
            self._show(key)
        self._tell(step.kind, pages)
        self._refresh()

    def _tell(self, what: str, pages: list[Page]) -> None:
        if self.recorder is not None and pages:
            self.recorder.changed(what, pages)

    def _refresh(self) -> None:
        """Repaint, and tell those who follow the layer's pixels that they were changed."""
        self.layer.refresh(extent=False)
        self._telling = True
        try:
            self.layer.events.paint(value=[])
        finally:
            self._telling = False

    def _checked(self, labels: Any) -> npt.NDArray[Any]:
        new, kind = np.asarray(labels), self.data.dtype
        if new.shape != self.shape or new.dtype.kind not in "bui" or not _holds(kind, new):
            top = np.iinfo(kind).max
            raise InputError(
                f"got labels of shape {new.shape} and type {new.dtype}, expected {self.shape} of "
                f"whole numbers from 0 to {top}; nothing was changed"
            )
        return new.astype(kind, copy=False)


def _holds(kind: np.dtype[Any], ids: npt.NDArray[Any]) -> bool:
    """Whether all ``ids`` are numbers of this type."""
    if ids.dtype in (kind, np.bool_) or not ids.size:
        return True
    limits = np.iinfo(kind)
    return bool(limits.min <= ids.min() and ids.max() <= limits.max)


def _type_for(ids: npt.NDArray[Any]) -> np.dtype[Any]:
    """The smallest type that napari converts labels to and that holds ``ids``."""
    return next(k for k in map(np.dtype, ("uint16", "int32", "int64")) if _holds(k, ids))
