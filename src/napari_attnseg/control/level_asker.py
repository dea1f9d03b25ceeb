"""Asks the live engine for the attention maps of every level; the newest question wins."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from psygnal import Signal

from napari_attnseg.control.latest import Latest
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import EngineLost, Event, Failed, Finished
from napari_attnseg.control.questions import LevelMaps, LevelMapsDone
from napari_attnseg.control.scratch import read_copy
from napari_attnseg.control.state import LiveState


class LevelAsker:
    """Questions for the image, model and values that ``live`` holds.

    ``done`` carries the event and copies of the maps, in its order; answers to an older image or
    model are dropped.
    """

    done = Signal(object, object)  # LevelMapsDone, tuple[ndarray (h,w), ...]
    failed = Signal(object)  # Failed

    def __init__(self, live: LiveController, folder: str = "levels") -> None:
        """``folder``: name of the scratch folder of the answers; of several askers each has one."""
        self.live = live
        self._folder = folder
        self._lock = threading.RLock()
        self._latest = Latest(live.client)
        self._out = ""
        self._about = (live.state.image, live.state.checkpoint)
        self._unsubscribe = live.client.subscribe(self._on_event)
        live.state_changed.connect(self._on_state)

    def ask(
        self,
        y: int = -1,
        x: int = -1,
        others: Sequence[tuple[int, int]] = (),
        stacks: Collection[tuple[str, str]] = (),
        near: tuple[int, ...] = (),
    ) -> None:
        """Maps of the seen slice at the present values; ``y >= 0``: rows of pixel (y, x) too, and
        of ``others``. ``stacks``: maps (place, name) wanted with all their channels. ``near``:
        pixel (y, x) about which a 3D model is asked."""
        s = self.live.state
        if not s.ready or s.image is None:
            return
        with self._lock:
            # one folder for all: the next question leaves when the answer has been read
            self._out = self._out or str(self.live.scratch.folder(self._folder))
            self._latest.ask(
                LevelMaps(
                    image=s.image,
                    checkpoint=s.checkpoint,
                    device=s.device,
                    tuning=s.tuning,
                    z=s.z,
                    y=y,
                    x=x,
                    out=self._out,
                    tile=s.tile,
                    others=tuple(others),
                    stacks=tuple(sorted(stacks)),
                    near=near,
                )
            )

    def close(self) -> None:
        """Stop listening."""
        self._unsubscribe()
        self.live.state_changed.disconnect(self._on_state, missing_ok=True)

    def _on_state(self, state: LiveState) -> None:
        about = (state.image, state.checkpoint)
        with self._lock:
            if about != self._about:
                self._about = about
                self._latest.drop()

    def _on_event(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, EngineLost):
                self._latest.drop()
            elif not self._latest.holds(event.id):
                return
            elif isinstance(event, LevelMapsDone):
                maps = tuple(read_copy(m.path) for m in event.maps)
                self._latest.answered(event.id)
                if all(m is not None for m in maps):
                    self.done.emit(event, maps)
            elif isinstance(event, Failed):
                self._latest.drop()
                self.failed.emit(event)
            elif isinstance(event, Finished):
                self._latest.drop()
