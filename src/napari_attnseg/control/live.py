"""The live lane as the docks see it: state, commands, signals. Knows no Qt, napari or torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal

from napari_attnseg.control import messages as m
from napari_attnseg.control.client import EngineClient
from napari_attnseg.control.handover import Pixels
from napari_attnseg.control.latest import Latest
from napari_attnseg.control.order import following
from napari_attnseg.control.questions import Forecasted, StepDone
from napari_attnseg.control.scratch import Scratch, read_buffer, read_copy
from napari_attnseg.control.slicing import LATER, Slicing
from napari_attnseg.control.state import LiveState, Results
from napari_attnseg.control.volumes import AXES, result_bytes
from napari_attnseg.errors import InputError
from napari_attnseg.settings import TunableValue, Tuning


class LiveController(Slicing):
    """Runs, tunes and asks the live engine; answers to an older image or model are dropped.

    Signals arrive in the thread of the client's ``dispatch``. ``retuned`` carries the event, the
    labels (Y,X) uint8, the probability (Y,X) float32 and, with ``compare``, the labels under
    plain attention (else ``None``); all are copies.
    """

    started = Signal(object)  # Started (results are in ``state.results``)
    slice_done = Signal(object)  # SliceDone
    finished = Signal(object)  # Finished
    retuned = Signal(object, object, object, object)  # Retuned, labels, probability, plain|None
    fingerprinted = Signal(object)  # Fingerprinted
    forecasted = Signal(object)  # Forecasted
    row_done = Signal(object, object, object)  # RowDone, row (h,w)|None, received (h,w)|None
    engine_lost = Signal(str)
    released = Signal()  # a hand let a value go
    busy_changed = Signal(bool)
    state_changed = Signal(object)  # LiveState

    def __init__(self, client: EngineClient, scratch: Scratch) -> None:
        super().__init__(client, scratch)
        self.state = LiveState()
        self._run = 0
        self._bringing = False
        self._order: tuple[int, ...] = ()
        self._mapped: set[int] = set()
        self._maps = True
        self._asked_last: tuple[str, Tuning, int, str] | None = None
        self._buffer = 0
        self.looked_at: Callable[[], tuple[int, ...]] = tuple
        """Pixel (y, x) about which a 3D model answers live; empty: the middle of the slice."""
        self._retune = Latest(client)
        self._row = Latest(client)
        self._curve = Latest(client)
        self._cost = Latest(client)
        self._latest = (self._retune, self._row, self._curve, self._cost)
        self._unsubscribe = client.subscribe(self._on_event)

    # --- what is worked on ---------------------------------------------------------------------

    def open_image(
        self,
        array: Any,
        rgb: bool = False,
        flips: tuple[bool, bool, bool] = (False, False, False),
        spacing: Sequence[float] = (),
    ) -> m.ImageRef:
        """Hand over an image in view order, (Z,Y,X) or (Z,Y,X,3); work on an older one is dropped.

        Equal pixels give an equal reference, and nothing is written or dropped twice. Raises
        ``InputError`` for pixels that are no numbers, a wrong shape, or a full scratch.
        """
        pixels = Pixels(array, rgb, flips, tuple(float(s) for s in spacing))
        ref = pixels.save(self.scratch)
        self.take_image(ref, pixels.shape)
        return ref

    def take_image(self, ref: m.ImageRef, shape: tuple[int, int, int]) -> None:
        """Work on an image (Z,Y,X) that lies in scratch already; see ``Handover``."""
        with self._lock:
            if self.state.image != ref:
                self._drop_work()
                z = min(self.state.z, shape[0] - 1)
                self._set(image=ref, shape=shape, z=z, results=None, compare=False, against=())

    def forget_image(self) -> None:
        """The image is gone: there is none to work on."""
        with self._lock:
            self._drop_work()
            self._set(image=None, results=None, compare=False, against=())

    def bring(self, on: bool, ended: m.Finished | m.Failed | None = None) -> None:
        """Whether an image is on its way here: that counts as busy. ``ended``: why it did not
        come."""
        with self._lock:
            self._bringing = on
            self._settle()
            if ended is not None:
                (self.finished if isinstance(ended, m.Finished) else self.failed).emit(ended)

    def set_model(
        self, checkpoint: str, device: str = "auto", tuning: Tuning | None = None
    ) -> None:
        """Choose checkpoint (path or shipped name), device and, usually the card's, tuning."""
        with self._lock:
            if (self.state.checkpoint, self.state.device) != (checkpoint, device):
                self._drop_work()
                self._set(
                    checkpoint=checkpoint, device=device, results=None, compare=False, against=()
                )
            if tuning is not None and tuning != self.state.tuning:
                self._set(tuning=tuning)

    # --- long work -----------------------------------------------------------------------------

    def run(self, order: Sequence[int] | None = None) -> int:
        """Segment the slices of ``order`` (default: all, the seen one first).

        A run that was broken off goes on where it was; with other values, another model or
        another image it goes into new results. Raises ``InputError`` when nothing is chosen yet,
        or when scratch has no room; then a running run goes on.
        """
        with self._lock:
            if not self.state.ready:
                raise InputError("got no image or no model, expected both; choose them first")
            if (folder := self._broken_off()) is None:
                shape = self.state.shape
                self.scratch.ensure_room(result_bytes(shape) + self.gathering(shape))
                folder = str(self.scratch.rolling_folder("run"))
            return self._start(order, folder)

    def release(self) -> None:
        """The slider came to rest: bring the other slices of the run to the present tuning."""
        with self._lock:
            self.released.emit()
            if self.state.results is None or not self._order:
                return
            if self.along != AXES[0]:
                self.note.emit(LATER)
                return
            order = following(self._order, self.state.z, self.state.axis)
            self._start(order, self.state.results.folder)

    def cancel(self) -> None:
        """Stop the run; slices that were finished stay. ``finished`` follows."""
        if self._run:
            self.client.cancel(self._run)

    def step_back(self, tuning: Tuning) -> None:
        """Take up values whose answers are known: nothing is asked for, and whatever is under way
        is no longer wanted."""
        with self._lock:
            run, order = self._run, self._order
            self._drop_work()
            self._order, self._asked_last = order, None  # the next run shows every slice anew
            self._set(tuning=tuning)
            if run:
                self.finished.emit(m.Finished(run, "cancelled"))

    # --- live answers --------------------------------------------------------------------------

    def set_tuning(self, tuning: Tuning, z: int | None = None) -> None:
        """Move the live values: the seen slice follows, the others wait for ``release``."""
        with self._lock:
            self._set(tuning=tuning, z=self.state.z if z is None else z)
            self.refresh()

    def compare(self, on: bool, **against: TunableValue) -> None:
        """Whether live answers also carry the labels with the values ``against`` (none: those of
        plain attention), and gained/lost/kept counts."""
        with self._lock:
            self._set(compare=on, against=tuple(sorted(against.items())) if on else ())
            self.refresh()

    @property
    def answering(self) -> bool:
        """Whether the answer to a moved value is still to come."""
        with self._lock:
            return self._retune.flying is not None

    def refresh(self) -> None:
        """Ask again for the seen slice at the present tuning."""
        with self._lock:
            if not self.state.ready or self.along != AXES[0]:
                return
            flying, s = self._retune.flying, self.state
            taken = flying.buffer if isinstance(flying, m.Retune) else self._buffer
            self._buffer = 1 - taken  # the answer that is read next is never overwritten
            other = s.tuning.replace(**dict(s.against)) if s.against else None
            wish: dict[str, Any] = {"compare": s.compare, "against": other, "buffer": self._buffer}
            wish["near"] = self.looked_at()
            self._retune.ask(m.Retune(out=self._folder(), **wish, **self._target()))

    def request_fingerprint(self, reference: np.ndarray | None = None, points: int = 64) -> None:
        """Curves over the threshold for the seen slice; ``reference``: (Y,X) class ids."""
        with self._lock:
            if not self.state.ready:
                return
            path = ""
            if reference is not None:
                plane = np.ascontiguousarray(reference)[None]
                path = str(self.scratch.save(plane, "reference"))
            self._curve.ask(m.Fingerprint(reference=path, points=points, **self._target()))

    def request_row(self, y: int = -1, x: int = -1, z: int | None = None) -> None:
        """What pixel (y, x) attends to; ``y < 0``: only the attention received."""
        with self._lock:
            if not self.state.ready:
                return
            target = self._target() | ({} if z is None else {"z": z})
            self._row.ask(m.AttentionRow(y=y, x=x, out=self._folder(), **target))

    def diagnose(self, device: str | None = None) -> int:
        """Report on driver, torch, devices and self-test; ``diagnosed`` follows."""
        return super().diagnose(device or self.state.device)

    def close(self) -> None:
        """Stop listening; the owner closes client and scratch."""
        self._unsubscribe()

    def _target(self) -> dict[str, Any]:
        s = self.state
        return {
            "image": s.image,
            "checkpoint": s.checkpoint,
            "device": s.device,
            "tuning": s.tuning,
            "tile": s.tile,
            "z": s.z,
        }

    def _folder(self) -> str:
        """Where answers for this image and model go, whether or not it was run."""
        s = self.state
        if s.results is None and s.image is not None:
            self._set(
                results=Results(s.image, s.checkpoint, str(self.scratch.rolling_folder("live")))
            )
        assert self.state.results is not None
        return self.state.results.folder

    def _question(self, folder: str) -> tuple[str, Tuning, int, str]:
        return folder, self.state.tuning, self.state.tile, self.along

    def _broken_off(self) -> str | None:
        """Where a run for the present question has been writing already."""
        results = self.state.results
        known = results is not None and self._asked_last == self._question(results.folder)
        return results.folder if results is not None and known else None

    def _start(self, order: Sequence[int] | None, folder: str) -> int:
        s = self.state
        assert s.image is not None
        self._cost.cancel()  # else the first slice would wait for it
        if self._run:  # the next run needs the same model, and what is cached of the slices
            self.client.cancel(self._run, now=False)
        self._order = following(range(s.shape[0]), s.z, s.axis) if order is None else tuple(order)
        results = s.results
        if results is None or results.folder != folder:
            results = Results(s.image, s.checkpoint, folder)
            self._mapped = set()
        self._maps = not set(self._order) <= self._mapped  # the second time they cost too much
        self._run = self.client.new_id()
        self._asked_last = self._question(folder)
        self._set(results=results, busy=True)
        about = {name: value for name, value in self._target().items() if name != "z"}
        wish: dict[str, Any] = {"order": self._order, "out": folder, "received": self._maps}
        wish["axis"] = self.along
        if s.shape[0] > 1 and self.along == AXES[0]:
            room = self.scratch.stage_bytes()
            wish |= {"stages": str(self.scratch.stages), "stage_bytes": room}
        self.client.send(m.Predict(self._run, **about, **wish))
        return self._run

    def _set(self, **values: Any) -> None:
        before, self.state = self.state, replace(self.state, **values)
        if self.state != before:
            self.state_changed.emit(self.state)
        if self.state.busy != before.busy:
            self.busy_changed.emit(self.state.busy)

    def _settle(self) -> None:
        self._set(busy=bool(self._run) or self._bringing)

    def _drop_work(self) -> None:
        run, self._run = self._run, 0
        for latest in self._latest:
            latest.drop()
        if run:
            self.client.cancel(run)
        self._order = ()
        self._settle()

    def _on_event(self, event: m.Event) -> None:
        with self._lock:
            if isinstance(event, m.EngineLost):
                self._on_lost(event)
            elif event.id == self._run and self._run:
                self._on_run(event)
            elif event.id in self._others:
                self._on_other(event)
            elif isinstance(event, (m.Failed, m.Finished)):
                self._on_live_end(event)
            elif isinstance(event, m.Retuned):
                self._on_retuned(event)
            elif isinstance(event, m.RowDone):
                self._on_row(event)
            elif isinstance(event, m.Note) and self._asked(event.id):
                self.note.emit(event.text)
            elif isinstance(event, m.Fingerprinted) and self._curve.answered(event.id):
                self.fingerprinted.emit(event)
            elif isinstance(event, Forecasted) and self._cost.answered(event.id):
                self.forecasted.emit(event)

    def _asked(self, number: int) -> list[Latest]:
        return [k for k in self._latest if k.holds(number)]

    def _on_run(self, event: m.Event) -> None:
        if isinstance(event, m.Started) and self.state.results:
            files = tuple(sorted(event.files.items()))
            results = replace(
                self.state.results,
                files=files,
                grid=event.grid,
                stride=event.stride,
                map_scale=event.map_scale,
                map_offset=event.map_offset,
            )
            self._set(results=results)
            self.started.emit(event)
            for text in event.notes:
                self.note.emit(text)
        elif isinstance(event, StepDone):
            self.stepped.emit(event)
        elif isinstance(event, m.SliceDone):
            if self._maps:
                self._mapped.add(event.z)
            self.slice_done.emit(event)
        elif isinstance(event, m.Note):
            self.note.emit(event.words)
        elif isinstance(event, (m.Finished, m.Failed)):
            self._run = 0
            self._settle()
            (self.finished if isinstance(event, m.Finished) else self.failed).emit(event)

    def _on_live_end(self, event: m.Event) -> None:
        for latest in self._asked(event.id):
            latest.drop()
            # why a forecast cannot be given, Run will say
            if isinstance(event, m.Failed) and latest is not self._cost:
                self.failed.emit(event)

    def _on_retuned(self, event: m.Retuned) -> None:
        request = self._retune.answered(event.id)
        if not isinstance(request, m.Retune):
            return
        # the next request, if one waits, is already on its way into the other buffer
        folder = Path(request.out)
        labels = read_buffer(folder / "live_labels.npy", event.buffer)
        probability = read_buffer(folder / "live_probability.npy", event.buffer)
        plain = None
        if request.compare:
            plain = read_buffer(folder / "live_plain.npy", event.buffer)
        if labels is not None:
            self.retuned.emit(event, labels, probability, plain)

    def _on_row(self, event: m.RowDone) -> None:
        if not self._row.holds(event.id):
            return
        row, received = read_copy(event.row), read_copy(event.received)
        self._row.answered(event.id)
        self.row_done.emit(event, row, received)

    def _on_lost(self, event: m.EngineLost) -> None:
        for latest in self._latest:
            latest.drop()
        self._others -= set(event.lost)
        if self._run in event.lost:
            self._run = 0
            self._settle()
        self.engine_lost.emit(event.cause)
