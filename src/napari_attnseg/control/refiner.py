"""The refinement as a dock sees it: values, strokes, live answers. Knows no Qt, napari or torch."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal

from napari_attnseg.control.client import EngineClient
from napari_attnseg.control.latest import Latest
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import EngineLost, Event, Failed, Finished, ImageRef, Note
from napari_attnseg.control.refining import Affinity, AffinityDone, Refine, Refined
from napari_attnseg.control.scratch import Scratch, pixel_key, read_buffer
from napari_attnseg.control.state import LiveState
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tuning

COARSE_KINDS = ("labels", "probability")
STEP_FILES = ("labels", "probability", "change", "attention")
KEPT_STEPS = 3
"""Folders with iterates that stay for the layers that show them."""
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class RefineState:
    """What the next question will be made of; paths are of scratch files, "" = none."""

    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    coarse: str = ""
    coarse_kind: str = ""
    strokes: str = ""
    reference: str = ""
    strength: float = 1.0
    iterations: int = 6
    carry: int = 0


class RefineController:
    """Asks the live engine for refined masks of the image and slice that ``live`` holds.

    The newest question wins; answers to an older image, checkpoint or coarse map are dropped.
    Signals arrive in the thread of the client's ``dispatch``; arrays in ``refined`` are copies,
    those in ``steps_ready`` read-only maps of files that stay for a while.
    """

    refined = Signal(object, object, object)  # Refined, labels (Y,X) uint8, probability (Y,X)
    steps_ready = Signal(object, object)  # Refined, {"labels": (T+1,Y,X), "probability", ...}
    affinity_done = Signal(object)  # AffinityDone
    failed = Signal(object)  # Failed
    engine_lost = Signal(str)  # cause; only when a question of ours was lost
    note = Signal(str)
    state_changed = Signal(object)  # RefineState
    busy_changed = Signal(bool)

    def __init__(self, client: EngineClient, scratch: Scratch, live: LiveController) -> None:
        self.client, self.scratch, self.live = client, scratch, live
        self.state = RefineState()
        self.generation = 0
        """Counts what was painted; an answer's ``generation`` tells what it has seen."""
        self._lock = threading.RLock()
        self._live, self._steps, self._affinity = (Latest(client) for _ in range(3))
        self._strokes: np.memmap | None = None
        self._image: ImageRef | None = live.state.image
        self._out = ""
        self._step_folders: list[Path] = []
        self._unwanted: dict[int, Path] = {}  # of steps that the engine may still be writing
        self._buffer = 0
        self._busy = False
        self._unsubscribe = client.subscribe(self._on_event)
        live.state_changed.connect(self._on_live_state)

    # --- what is refined -----------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether an image and a checkpoint are chosen."""
        return self.live.state.image is not None and bool(self.state.checkpoint)

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._busy

    def set_checkpoint(
        self, checkpoint: str, device: str = "auto", tuning: Tuning | None = None
    ) -> None:
        """Choose the refined checkpoint (path or shipped name) and, usually its card's, tuning."""
        tuning = self.state.tuning if tuning is None else tuning
        self._change(checkpoint=checkpoint, device=device, tuning=tuning)

    def set_coarse(self, array: Any = None, kind: str = "") -> None:
        """Refine these labels or this probability, (Z,Y,X) in view order; ``None``: the
        checkpoint's own coarse mask. Equal pixels are written once.

        Raises ``InputError`` for another ``kind`` or shape and changes nothing.
        """
        if array is None:
            self._change(coarse="", coarse_kind="")
            return
        if kind not in COARSE_KINDS:
            raise InputError(f"got coarse map of kind {kind!r}, expected labels or probability")
        self._change(coarse=self._saved(array, "coarse"), coarse_kind=kind)

    def set_reference(self, array: Any = None) -> None:
        """Class ids (Z,Y,X) against which every step is measured; ``None``: none."""
        with self._lock:
            self._set(reference="" if array is None else self._saved(array, "reference"))

    def set_values(self, **values: Any) -> None:
        """``iterations``, ``strength``, ``carry``, ``tuning`` of the questions that follow."""
        with self._lock:
            self._set(**values)

    # --- strokes -------------------------------------------------------------------------------

    def set_strokes(self, array: Any = None) -> None:
        """Hold these strokes, (Z,Y,X): 0 free, 1 background, k + 1 = class k; ``None``: none.

        They are copied into scratch; what is painted later comes by :meth:`paint`. Raises
        ``InputError`` for another size than the image's.
        """
        with self._lock:
            shape = None if array is None else self._checked_shape(array, "strokes")
            self.generation += 1
            if shape is None:
                self._forget_strokes()
                return
            if self._strokes is None or self._strokes.shape != shape:
                self.scratch.ensure_room(int(np.prod(shape, dtype=np.int64)))
                path = self.scratch.folder("strokes") / "strokes.npy"
                self._strokes = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
                self._set(strokes=str(path))
            for z in range(shape[0]):
                self._strokes[z] = array[z]

    def paint(self, z: int, pixels: Any, corner: tuple[int, int] = (0, 0)) -> Window:
        """Strokes of slice ``z`` are now ``pixels`` (h, w), from ``corner`` (y, x) on.

        Returns the window (y0, y1, x0, x1) that was written. An empty layer of strokes is begun
        when there is none.
        """
        with self._lock:
            if self._strokes is None:
                self.set_strokes(np.broadcast_to(np.uint8(0), self.live.state.shape))
            assert self._strokes is not None
            y, x = corner
            h, w = pixels.shape
            self._strokes[z, y : y + h, x : x + w] = pixels
            self.generation += 1
            return y, y + h, x, x + w

    # --- questions -----------------------------------------------------------------------------

    def refresh(self, z: int | None = None) -> None:
        """Ask for the refined mask of the seen slice (or of ``z``); ``refined`` follows."""
        with self._lock:
            if not self.ready:
                return
            flying = self._live.flying
            taken = flying.buffer if isinstance(flying, Refine) else self._buffer
            self._buffer = 1 - taken  # the answer that is read next is never overwritten
            self._out = self._out or str(self.scratch.folder("refine"))
            self._live.ask(self._question(z, self._out, buffer=self._buffer))
            self._settle()

    def request_steps(self, z: int | None = None, attention: bool = False) -> None:
        """Ask for every iterate of the seen slice; ``steps_ready`` follows."""
        with self._lock:
            if not self.ready:
                return
            # a folder of its own, made by the engine: layers may show those of answers before
            out = self.scratch.path / f"steps-{self.client.new_id()}"
            self._steps.ask(self._question(z, str(out), steps=True, attention=attention))
            self._settle()

    def request_affinity(self, y: int, x: int, z: int | None = None) -> None:
        """Ask with which weights pixel (y, x) takes from its neighbours; ``affinity_done``."""
        with self._lock:
            if not self.ready:
                return
            s = self.state
            about = {**self._target(z), "coarse": s.coarse, "coarse_kind": s.coarse_kind}
            self._affinity.ask(Affinity(y=y, x=x, **about))
            self._settle()

    def close(self) -> None:
        """Stop listening; the owner closes client and scratch."""
        self._unsubscribe()
        self.live.state_changed.disconnect(self._on_live_state, missing_ok=True)
        self._strokes = None

    # --- inside --------------------------------------------------------------------------------

    def _target(self, z: int | None) -> dict[str, Any]:
        s, seen = self.state, self.live.state
        return {
            "image": seen.image,
            "checkpoint": s.checkpoint,
            "device": s.device,
            "tuning": s.tuning,
            "tile": seen.tile,
            "z": seen.z if z is None else z,
        }

    def _question(self, z: int | None, out: str, **wish: Any) -> Refine:
        s = self.state
        names = ("coarse", "coarse_kind", "strokes", "reference", "strength", "iterations", "carry")
        about: dict[str, Any] = {**self._target(z), **{name: getattr(s, name) for name in names}}
        return Refine(out=out, generation=self.generation, **about, **wish)

    def _checked_shape(self, array: Any, what: str) -> tuple[int, int, int]:
        shape, wanted = tuple(int(n) for n in array.shape), self.live.state.shape
        if shape != wanted:
            raise InputError(
                f"got {what} of {_size(shape)}, expected {_size(wanted)} as the image has; "
                f"choose {what} made on this image"
            )
        return wanted

    def _saved(self, array: Any, what: str) -> str:
        self._checked_shape(array, "labels" if what == "reference" else "a coarse map")
        path = self.scratch.path / f"{what}-{pixel_key(array)}.npy"
        return str(path if path.is_file() else self.scratch.save(array, path.stem))

    def _change(self, **values: Any) -> None:
        """Another thing is refined from now on: what is on its way is not wanted any more."""
        with self._lock:
            if replace(self.state, **values) != self.state:
                self._drop()
                self._set(**values)

    def _set(self, **values: Any) -> None:
        before, self.state = self.state, replace(self.state, **values)
        if self.state != before:
            self.state_changed.emit(self.state)

    def _forget_strokes(self) -> None:
        path, self._strokes = self.state.strokes, None
        self._set(strokes="")
        if path:
            self.scratch.drop(Path(path).parent)

    def _all(self) -> tuple[Latest, ...]:
        return self._live, self._steps, self._affinity

    def _drop(self) -> None:
        steps = self._steps.flying
        if isinstance(steps, Refine):
            self._unwanted[steps.id] = Path(steps.out)
        for latest in self._all():
            latest.drop()
        self._settle()

    def _settle(self) -> None:
        busy = any(latest.flying is not None for latest in self._all())
        if busy != self._busy:
            self._busy = busy
            self.busy_changed.emit(busy)

    def _on_live_state(self, state: LiveState) -> None:
        with self._lock:
            if state.image == self._image:
                return
            self._image = state.image
            self._drop()
            self._out = ""  # buffers of another size
            self._forget_strokes()
            self._set(coarse="", coarse_kind="", reference="")

    def _on_event(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, EngineLost):
                self._on_lost(event)
                return
            latest = next((k for k in self._all() if k.holds(event.id)), None)
            if latest is None:
                if isinstance(event, (Refined, Failed, Finished)):
                    self._clear_away(event.id)
                return
            if isinstance(event, Note):
                self.note.emit(event.text)
            elif isinstance(event, (Failed, Finished)):
                asked = latest.answered(event.id)
                if latest is self._steps and isinstance(asked, Refine):
                    self._remove(Path(asked.out))  # it may hold some of the steps
                self._settle()
                if isinstance(event, Failed):
                    self.failed.emit(event)
            elif isinstance(event, Refined):
                (self._on_steps if latest is self._steps else self._on_refined)(event)
            elif isinstance(event, AffinityDone):
                latest.answered(event.id)
                self._settle()
                self.affinity_done.emit(event)

    def _on_refined(self, event: Refined) -> None:
        request = self._live.answered(event.id)
        assert isinstance(request, Refine)
        # the next question, if one waits, is already on its way into the other buffer
        folder = Path(request.out)
        labels = read_buffer(folder / "refined_labels.npy", event.buffer)
        probability = read_buffer(folder / "refined_probability.npy", event.buffer)
        self._settle()
        if labels is not None and probability is not None:
            self.refined.emit(event, labels, probability)

    def _on_steps(self, event: Refined) -> None:
        request = self._steps.answered(event.id)
        assert isinstance(request, Refine)
        paths = {name: Path(request.out) / f"steps_{name}.npy" for name in STEP_FILES}
        arrays = {
            name: np.load(path, mmap_mode="r", allow_pickle=False)
            for name, path in paths.items()
            if path.is_file()
        }
        self._step_folders.append(Path(request.out))
        while len(self._step_folders) > KEPT_STEPS:
            self._remove(self._step_folders.pop(0))
        self._settle()
        if arrays:
            self.steps_ready.emit(event, arrays)

    def _clear_away(self, request_id: int) -> None:
        """Steps that nobody waits for any more are finished: their files go."""
        found = self._unwanted.pop(request_id, None)
        if found is not None:
            self._remove(found)

    def _remove(self, folder: Path) -> None:
        """In a thread: removing what was mapped takes its time."""
        threading.Thread(target=self.scratch.drop, args=(folder,), daemon=True).start()

    def _on_lost(self, event: EngineLost) -> None:
        waited = self._busy
        self._drop()
        for number in tuple(self._unwanted):
            self._clear_away(number)
        if waited:
            self.engine_lost.emit(event.cause)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
