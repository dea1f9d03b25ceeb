"""The engine's answers on their way into the layers of one viewer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import Failed
from napari_attnseg.control.volumes import result_bytes
from napari_attnseg.errors import InputError
from napari_attnseg.viewer.received import Received
from napari_attnseg.viewer.results import MapGrid, ResultLayers

MAPS = ("probability", "step", "received")
AT_ONCE_S = 0.0015
"""Writing maps in one turn of the window, and one slice at least."""


class Answers:
    """Writes what ``live`` answers into ``layers``; ``None`` lets answers fall.

    ``begun`` is called with the layers when a run has made its labels, and when all are there.
    napari needs a tenth of a second for each; with ``dispatch``, which puts a call off to a turn
    of its own, they are made one a turn, if need be beyond the end of the run (see ``making``).
    """

    def __init__(
        self,
        live: LiveController,
        begun: Callable[[ResultLayers], None],
        dispatch: Callable[[Callable[[], None]], None] = lambda call: call(),
    ) -> None:
        self.layers: ResultLayers | None = None
        self._live = live
        self._begun = begun
        self._dispatch = dispatch
        self._arrays: dict[str, np.ndarray | None] = {}
        self._done: list[int] = []
        self._behind: deque[int] = deque()
        self._newer: set[int] = set()
        self._turns: deque[Callable[[ResultLayers], object]] = deque()
        self._received = Received(live)
        live.started.connect(self._on_started)
        live.slice_done.connect(self._on_slice)
        live.finished.connect(self._on_finished)
        live.failed.connect(self._on_finished)
        live.engine_lost.connect(self._on_finished)
        live.retuned.connect(self._on_retuned)
        live.row_done.connect(self._on_row)
        live.objects_done.connect(self._on_objects)

    @property
    def making(self) -> bool:
        """Whether layers of a run are still to be made, or to be shown as they were left."""
        return bool(self._turns)

    def run(self) -> None:
        """Segment the image into the layers; raises ``InputError``.

        Also when scratch has room for what the engine writes, but not for the layers as well:
        better now than in the middle.
        """
        layers = self.layers
        if layers is not None and (wanted := layers.bytes_to_come()):
            self._live.scratch.ensure_room(wanted + result_bytes(layers.shape))
        if layers is not None:
            layers.make_ready()  # now: the turn of the window in which they appear is long enough
        try:
            self._live.run()
        except InputError:
            if layers is not None:
                layers.drop_ready()
            raise

    def clear(self) -> None:
        """Let go of the engine's files."""
        self._arrays = {}
        self._turns.clear()
        self._behind.clear()

    def _on_started(self, event: Any) -> None:
        layers, files = self.layers, self._live.state.results
        if layers is None or files is None:
            return
        self._catch_up()
        self._arrays = {name: _plain(files.array(name)) for name in ("labels", *MAPS)}
        self._done, self._newer = [], set()
        if 0 not in files.grid:
            layers.grid = MapGrid(files.grid, files.map_scale, files.map_offset)
        self._turns.clear()
        if not self._tried(lambda layers: layers.ensure_labels(), layers):
            return
        wanted = [what for what in MAPS if self._arrays[what] is not None]
        maps = [partial(self._add_map, what=what) for what in wanted]
        self._turns.extend([self._begun, *maps, self._begun])
        self._dispatch(partial(self._turn, layers, self._arrays))

    def _turn(self, layers: ResultLayers, arrays: dict[str, np.ndarray | None]) -> None:
        """One thing now, the next in a turn to come."""
        if self._arrays is not arrays:  # a newer run has turns of its own
            return
        if self.layers is not layers:  # another image was chosen meanwhile
            self.clear()
            return
        if self._turns and self._tried(self._turns.popleft(), layers) and self._turns:
            self._dispatch(partial(self._turn, layers, arrays))

    def _tried(self, call: Callable[[ResultLayers], object], layers: ResultLayers) -> bool:
        """Whether it was done; else the disk has filled up since Run was pressed."""
        try:
            call(layers)
        except InputError as error:
            self.clear()
            self._live.cancel()
            self._live.failed.emit(Failed(0, type(error).__name__, str(error)))
            return False
        return True

    def _add_map(self, layers: ResultLayers, what: str) -> None:
        """The layer, if it is missing, with the slices that came before it."""
        layers.ensure_map(what, None if what == "probability" else layers.grid)
        array = self._arrays[what]
        newer = self._newer if what == "probability" else ()
        for z in self._done if array is not None else ():
            if z not in newer:
                self._write(layers, what, z, array[z])  # type: ignore[index]
        if what == "received":
            self._received.follow(layers)

    @staticmethod
    def _write(layers: ResultLayers, what: str, z: int, values: np.ndarray) -> None:
        """One slice; where a run has left the attention received out, an answer stays."""
        if what != "received" or values.any():
            layers.write(what, z, values)

    def _on_slice(self, event: Any) -> None:
        labels = self._arrays.get("labels")
        if self.layers is None:
            return
        self._done.append(event.z)
        self._newer.discard(event.z)
        if labels is not None:
            self.layers.write_labels(event.z, labels[event.z])
        self._behind.append(event.z)
        if len(self._behind) == 1:
            self._dispatch(self._catch_up_some)

    def _catch_up_some(self) -> None:
        """The maps of slices whose labels are there, for as long as nobody notices: they are
        hidden, mostly, and a turn for labels and maps together was felt while scrolling."""
        until = time.perf_counter() + AT_ONCE_S
        while self._behind and time.perf_counter() < until:
            self._write_maps(self._behind.popleft())
        if self._behind:
            self._dispatch(self._catch_up_some)

    def _catch_up(self) -> None:
        while self._behind:
            self._write_maps(self._behind.popleft())

    def _write_maps(self, z: int) -> None:
        for what in MAPS:
            array = self._arrays.get(what)
            if array is not None and self.layers is not None:
                self._write(self.layers, what, z, array[z])

    def _on_finished(self, event: Any = None) -> None:
        layers = self.layers
        if layers is None or self._live.state.busy:  # a small question failed, the run goes on
            return
        layers.drop_ready()
        if provenance := getattr(event, "summary", {}).get("provenance"):
            layers.provenance = provenance
        if self._turns:  # a run that was quicker than the turns of the window
            self._turns.append(self._settle)
        else:
            self._settle(layers)

    def _settle(self, layers: ResultLayers) -> None:
        self._catch_up()
        self._arrays = {}
        layers.settle()

    def _on_retuned(self, event: Any, labels: Any, probability: Any, plain: Any) -> None:
        if self.layers is None:
            return
        self._catch_up()  # what a run has said before stays older
        self._newer.add(event.z)
        self.layers.ensure_labels()
        self.layers.write_labels(event.z, labels)
        if probability is not None:
            self.layers.write("probability", event.z, probability)

    def _on_row(self, event: Any, row: Any, received: Any) -> None:
        layers = self.layers
        if layers is None:
            return
        for what, values in (("row", row), ("received", received)):
            if values is None:
                continue
            grid = MapGrid(values.shape, event.map_scale, event.map_offset)
            fresh = layers.layer(what) is None
            layer = layers.ensure_map(what, grid)
            layers.write(what, event.z, values)
            if what == "row":
                layer.visible = layer.visible or fresh
            layers.fit_contrast(what)

    def _on_objects(self, event: Any, ids: np.ndarray) -> None:
        if self.layers is not None:
            self.layers.show_objects(ids)


def _plain(array: np.ndarray | None) -> np.ndarray | None:
    """A view without the ways of ``numpy.memmap``, which take longer to cut out a slice than to
    copy it."""
    return None if array is None else np.asarray(array)
