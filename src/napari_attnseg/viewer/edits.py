"""Hand edits win, and every change can be taken back.

Three things are kept apart: what the *model* says (``HandEdits.model``), what the person holds
(tile by tile, packed), and what the layer shows, which is the second over the first. Strokes and
answers touch different ones of these, so an answer that comes while a person paints, or after a
stroke was taken back, changes nothing of the other.

Strokes, answers, threshold moves and post-processing are steps of one timeline. napari's Ctrl+Z
and Ctrl+Shift+Z call ``undo`` and ``redo`` on the layer; these walk along that timeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_attnseg.io.journal import Page
from napari_attnseg.viewer.edits_shown import ShownLabels
from napari_attnseg.viewer.journal_planes import HELD, MODEL, Planes
from napari_attnseg.viewer.journal_steps import Step, Timeline
from napari_attnseg.viewer.journal_tiles import Key, box, tiles_of, tiles_under
from napari_attnseg.viewer.label_types import checked
from napari_attnseg.viewer.memory import empty_volume

if TYPE_CHECKING:
    from napari.layers import Labels

_STROKES = {"paint": "stroke", "erase": "erased stroke", "fill": "fill", "polygon": "polygon"}
"""Tools of napari and what one step of each is called."""


class HandEdits(ShownLabels):
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
    misfit = Signal()  # the layer was given pixels of another shape: it cannot be kept any more

    def __init__(
        self,
        layer: Labels,
        shape: tuple[int, int, int],
        visible: Callable[[], Iterable[int]] | None = None,
        empty: bool = False,
        model: npt.NDArray[np.uint8] | None = None,
        folder: Path | None = None,
    ) -> None:
        planes = Planes(shape, empty_volume(shape, np.uint8) if model is None else model)
        super().__init__(layer, planes, Timeline(folder), visible or (lambda: range(shape[0])))
        self.tuning: Any = None
        self.about: Callable[[], Any] = lambda: None
        self._answer: Step | None = None
        self._open = False
        self._under: list[Key] | None = None
        if not empty:
            self.model[:] = self.data  # what the layer holds at the start is the model's answer
            self._planes.answered.update(range(shape[0]))
        self._listen(True)
        # the key bindings and menus of napari call these two on the layer itself
        layer.undo = lambda: self.travel(back=True)
        layer.redo = lambda: self.travel(back=False)

    def leave(self) -> None:
        """The layer is somebody else's from now on: napari's own undo, and nothing kept."""
        self._listen(False)
        self._behind, self.recorder = None, None
        for name in ("undo", "redo"):
            vars(self.layer).pop(name, None)

    @property
    def answering(self) -> bool:
        """Whether answers that come now belong to a step."""
        return self._answer is not None

    def restore(self, pages: Mapping[Page, bytes]) -> None:
        """Take up tiles that were kept before; it is no step. Raises ``ValueError`` when they do
        not fit; then some may be there already."""
        self.complete()
        for page, data in pages.items():
            self._planes.put_packed(page, data)
        for key in {key for _, key in pages}:
            self._show(key)
        self._refresh()

    def mask(self, z: int) -> npt.NDArray[np.bool_]:
        """Where slice ``z`` is held by hand, (Y, X)."""
        self.absorb(z)
        return self._planes.mask(z)

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
        self._planes.answered.add(z)
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

    def reset(self) -> int:
        """Drop all edits, show the model's answer, and return how many pixels were dropped.

        It is one step: Ctrl+Z brings the edits back.
        """
        self.complete()
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
        self.complete()
        self._close_stroke()
        self._settle_pending()
        view = self.data.view()
        view.flags.writeable = False
        new = checked(change(view), self.shape, view.dtype)
        return self._process(name, new)

    def _process(self, name: str, new: npt.NDArray[Any]) -> int:
        step, keys, total = Step("process", name), [], 0
        for z in range(self.shape[0]):
            changed = self.data[z] != new[z]
            if found := int(np.count_nonzero(changed)):
                total += found
                keys += [
                    k for k in tiles_of(z, self.shape) if changed[box(k, self.shape)[1:]].any()
                ]

        def hold(key: Key) -> None:
            values = new[box(key, self.shape)]
            self._hold(step, key, self._planes.tile(key) != values, values)
            self._unsaid.append((HELD, key))

        if keys:
            self.timeline.push(step)
            self._go_through(keys, hold)
        return total

    # --- going back and forth -------------------------------------------------------------------

    def travel(self, back: bool) -> Step | None:
        """Take the last step back, or bring the last one that was taken back again; the step.

        Of a large one the slice that is seen changes at once, the others in turns to come. It is
        one step all the same: whatever touches a tile before its turn finds it changed.
        """
        self.complete()
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
            pages = found.take_pages()
            if pages:
                target.append(found)
            if found.kind in ("run", "tuning"):
                self._answer, aside = None, []
                self.tuning = found.before if back else found.after
        self.timeline.undo.extend(aside)
        if found is not None:
            self._swap(found, pages)
            self.timeline.bound()
            self.travelled.emit(found, back)
        return found

    # --- inside -------------------------------------------------------------------------------

    def _listen(self, on: bool) -> None:
        told = {
            "paint": self._on_paint,
            "labels_update": self._close_stroke,
            "set_data": self._close_stroke,
            "data": self._on_data,
        }
        for name, call in told.items():
            event = getattr(self.layer.events, name)
            event.connect(call) if on else event.disconnect(call)

    def _on_data(self, event: Any = None) -> None:
        if not self.fits:
            self._open = False
            self.misfit.emit()

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
            step.keep(page, self._planes.packed(page))
            self.timeline.bound()

    def _swap(self, step: Step, pages: dict[Page, bytes]) -> None:
        def swap(key: Key) -> None:
            for page in ((MODEL, key), (HELD, key)):
                if page in pages:
                    step.keep(page, self._planes.packed(page))
                    self._planes.put_packed(page, pages[page])

        if pages and self.recorder is not None:  # first, so that what is painted later is later
            self.recorder.changed("travel", pages)
        self._go_through([key for _, key in pages], swap)

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
        if self._open and self.fits:
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

    def _finish(self, step: Step, keys: list[Key]) -> None:
        pages = list(step.pages)
        self.timeline.push(step)
        for key in keys:
            self._show(key)
        self._tell(step.kind, pages)
        self._refresh()
