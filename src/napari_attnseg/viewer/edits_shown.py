"""The pixels of a labels layer over what lies under them, and large changes of them in turns.

What the layer shows is made of two planes (:mod:`viewer.journal_planes`). Tiles that differ from it
were painted by somebody: they are held before anything else happens to them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_attnseg.io.journal import Page
from napari_attnseg.viewer.dispatching import has_turns, in_turns
from napari_attnseg.viewer.edits_behind import LARGE, Behind
from napari_attnseg.viewer.journal_planes import HELD, Planes
from napari_attnseg.viewer.journal_steps import Step, Timeline
from napari_attnseg.viewer.journal_tiles import Key, box, tiles_of
from napari_attnseg.viewer.label_types import holds, type_for

if TYPE_CHECKING:
    from napari.layers import Labels

Waiting = Callable[[], "contextlib.AbstractContextManager[object]"]
_waiting: Waiting = contextlib.nullcontext


def set_waiting(waiting: Waiting) -> None:
    """What shows that a large step takes a moment; importing any dock sets Qt's pointer."""
    global _waiting
    _waiting = waiting


class Recorder(Protocol):
    """Who keeps what happens, see :mod:`viewer.journal`."""

    def changed(self, what: str, pages: Mapping[Page, bytes]) -> None:
        """Tiles of the model's answer or of the held pixels are these now, packed."""


class ShownLabels:
    """Planes and pixels of one labels layer; see :class:`viewer.edits.HandEdits`."""

    def __init__(
        self,
        layer: Labels,
        planes: Planes,
        timeline: Timeline,
        visible: Callable[[], Iterable[int]],
    ) -> None:
        self.layer = layer
        self.shape = planes.shape
        self.timeline = timeline
        self.recorder: Recorder | None = None
        self._planes, self._held = planes, planes.held
        self._visible = visible
        self._pending: Step | None = None
        self._telling = False
        self._behind: Behind | None = None
        self._unsaid: list[Page] = []

    @property
    def data(self) -> npt.NDArray[Any]:
        """The layer's pixels as (Z, Y, X), a view."""
        return np.asarray(self.layer.data).reshape(self.shape)

    @property
    def fits(self) -> bool:
        """Whether the layer's pixels have the shape that they had."""
        shape = tuple(self.layer.data.shape)
        return shape == self.shape or (1, *shape) == self.shape

    @property
    def count(self) -> int:
        """How many pixels are held by hand; what code set counts once it was absorbed."""
        return self._held.count

    @property
    def planes(self) -> Planes:
        """What lies under the labels; a change that is on its way is completed first."""
        self.complete()
        return self._planes

    @property
    def model(self) -> npt.NDArray[np.uint8]:
        """What the model says, (Z, Y, X), under the edits."""
        return self._planes.model

    def absorb(self, z: int) -> None:
        """Take over whatever was painted (or set by code) on slice ``z`` since our last write."""
        for key in self._behind.of(z) if self._behind is not None else ():
            self._settle(key, over=True)
        shown = self._planes.shown(z)
        if not np.array_equal(self.data[z], shown):
            self._take(tiles_of(z, self.shape))

    def complete(self) -> None:
        """Make what is left of a large change now: somebody wants all of the labels."""
        behind = self._behind
        if behind is None:
            return
        left = behind.all()
        with _waiting() if len(left) > LARGE else contextlib.nullcontext():
            for key in left:
                self._settle(key)
        self._end_behind()

    # --- a large change ---------------------------------------------------------------------------

    def _go_through(self, keys: Iterable[Key], change: Callable[[Key], None]) -> None:
        """``change`` each tile: at once, or if they are many in turns of the window."""
        behind = self._behind = Behind(keys, change)
        if len(behind.all()) <= LARGE or not has_turns():
            self.complete()
            return
        visible = list(self._visible())
        for key in behind.of(visible[0]) if len(visible) == 1 else ():
            self._settle(key)
        self._refresh()
        in_turns(lambda: self._go_on(behind))

    def _go_on(self, behind: Behind) -> None:
        if self._behind is not behind:  # completed already
            return
        near = next(iter(self._visible()), 0)
        seen = bool(behind.of(near))
        behind.turn(near, self._settle)
        self._settle_pending(keep=False)
        if not behind:
            self._end_behind()
            return
        if seen:
            self.layer.refresh(extent=False, highlight=False, thumbnail=False)
        in_turns(lambda: self._go_on(behind))

    def _settle(self, key: Key, over: bool = False) -> None:
        """Make the change of a tile now. What was painted on it meanwhile is held before it, or
        ``over`` it."""
        behind = self._behind
        if behind is None or key not in behind:
            return
        now = self.data[box(key, self.shape)]
        where = now != self._planes.tile(key)
        painted = now.copy() if where.any() else None
        if painted is not None and not over:
            self._hold_pending(key, where, painted)
        behind.change(key)
        if painted is not None and over:
            self._hold_pending(key, where, painted)
        self._show(key)

    def _end_behind(self) -> None:
        self._behind = None
        self._settle_pending(keep=False)
        self._say("process")
        self.timeline.bound()
        self._refresh()

    # --- pixels -----------------------------------------------------------------------------------

    def _show(self, key: Key) -> bool:
        place, shown = box(key, self.shape), self._planes.tile(key)
        if np.array_equal(self.data[place], shown):
            return False
        if shown.dtype != np.uint8 and not holds(self.data.dtype, shown):
            self.layer.data = self.layer.data.astype(type_for(shown))
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
        for key in keys:
            self._settle(key, over=True)
            now = self.data[box(key, self.shape)]
            where = now != self._planes.tile(key)
            if where.any():
                self._hold_pending(key, where, now)

    def _hold_pending(
        self, key: Key, where: npt.NDArray[np.bool_], values: npt.NDArray[Any]
    ) -> None:
        self._pending = self._pending or Step("code", "change")
        self._hold(self._pending, key, where, values)

    def _hold(
        self, step: Step, key: Key, where: npt.NDArray[np.bool_], values: npt.NDArray[Any]
    ) -> int:
        step.keep((HELD, key), self._held.packed(key))
        return self._planes.hold(key, where, values)

    def _settle_pending(self, keep: bool = True) -> None:
        """What was painted or set since the last step is a step of its own."""
        step, self._pending = self._pending, None
        if step is None:
            return
        pages = list(step.pages)
        if keep:
            self.timeline.push(step)
        self._tell(step.kind, pages)

    def _tell(self, what: str, pages: list[Page]) -> None:
        self._say("process")
        if self.recorder is not None and pages:
            self.recorder.changed(what, {page: self._planes.packed(page) for page in pages})

    def _say(self, what: str) -> None:
        """What a change on its way has done so far comes before what others do."""
        pages, self._unsaid = self._unsaid, []
        if pages:
            self._tell(what, pages)

    def _refresh(self) -> None:
        """Repaint, and tell those who follow the layer's pixels that they were changed."""
        self.layer.refresh(extent=False)
        self._telling = True
        try:
            self.layer.events.paint(value=[])
        finally:
            self._telling = False
