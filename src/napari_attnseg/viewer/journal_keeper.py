"""Follows one window: which steps its answers are, and a journal of every labels layer."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.control.message_base import Calm
from napari_attnseg.errors import InputError
from napari_attnseg.io.journal import Journal, Page
from napari_attnseg.io.journal_folder import close_folder, new_folder
from napari_attnseg.settings import Tuning
from napari_attnseg.viewer.edits import HandEdits
from napari_attnseg.viewer.journal_layers import PaintedLayers, image_of
from napari_attnseg.viewer.journal_refined import refined_facts
from napari_attnseg.viewer.journal_steps import Step
from napari_attnseg.viewer.session_image import KEPT_BYTES

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_attnseg.control.state import LiveState
    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers


class Keeper:
    """Journals and steps of one hub.

    Runs and moves of live values are made steps of the layer they change; taking such a step back
    takes the values back too. Every labels layer that answers are written into has a journal.
    """

    def __init__(self, hub: Hub, later: Callable[[Callable[[], None]], None]) -> None:
        self._hub = weakref.ref(hub)
        self._later = later
        self._folder: Path | None = None
        self._books: dict[int, Book] = {}
        self._pixels: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._number = 0
        self.painted = PaintedLayers(hub, self.begin)
        self._known = (hub.live.state.checkpoint, hub.live.state.tuning)
        self._run_folder = ""
        self._arriving = self._dead = False  # the first: a model with its own values
        live = hub.live
        hub.results_changed.connect(self.attach)
        hub.model_changed.connect(self._on_model)
        live.started.connect(self._on_started)
        live.retuned.connect(self._on_retuned)
        live.state_changed.connect(self._on_state)
        live.released.connect(self._on_released)
        live.finished.connect(self._on_finished)
        hub.viewer.layers.events.removed.connect(self._on_removed)

    def attach(self, results: ResultLayers | None, **more: Any) -> Book | None:
        """Begin the journal of ``results`` when it has labels and none yet; ``None``: it has not.

        What is there already is written first; ``more`` are facts to begin with.
        """
        hub, edits = self._hub(), results.edits if results is not None else None
        if hub is None or results is None or edits is None or self._dead:
            return None
        known = self._books.get(id(results))
        if known is not None and known.edits is edits:
            return known
        if known is not None:
            known.close()
        edits.tuning = hub.tuning if edits.tuning is None else edits.tuning
        journal = self.begin(results.source, facts_of(hub, results) | more)
        if journal is None:
            return None
        book = Book(results, journal, more, lambda: self._seen(results))
        edits.about = lambda: results.provenance
        edits.travelled.connect(lambda step, back: self._on_travelled(results, step, back))
        self._books[id(results)] = book
        return book

    def begin(self, image: Layer | None, facts: dict[str, Any]) -> Journal | None:
        """An empty journal of a labels layer over ``image``; ``None`` (and a note) when the disk
        refuses. The pixels of an image without a file are kept beside it."""
        if self._dead:
            return None
        try:
            folder = self._folder = self._folder or new_folder()
            self._number += 1
            name = f"{self._number}-{time.monotonic_ns()}"
            if image is not None and not facts["image"]["path"]:
                facts["image"] |= self._kept_beside(folder, image)
            return Journal(folder / f"{name}.journal", facts, self._complain)
        except InputError as error:
            self._complain(str(error))
            return None

    def marks(self) -> list[tuple[Any, int]]:
        """Every journal of a layer that is there, and how far it is; for :meth:`saved_at`."""
        hub = self._hub()
        layers = hub.viewer.layers if hub is not None else ()
        books: list[Any] = [b for b in self._books.values() if b.source in layers]
        return [(book, book.changes) for book in [*books, *self.painted.books]]

    @staticmethod
    def saved_at(marks: list[tuple[Any, int]]) -> None:
        """A file holds all labels as they were at :meth:`marks`: what has not changed since is
        saved."""
        for book, changes in marks:
            if book.changes == changes:
                book.saved(True)

    def stamp(self, results: ResultLayers | None) -> int:
        """A number that is another one after every change of the labels."""
        book = self._books.get(id(results))
        return book.changes if book is not None else 0

    def saved(self, results: ResultLayers | None, stamp: int | None = None) -> None:
        """An export or a session file holds the labels as they are now, or as they were at
        ``stamp``: then it counts unless they have changed since."""
        book = self._books.get(id(results))
        if book is not None and stamp in (None, book.changes):
            book.saved(True)

    def kept(self, results: ResultLayers) -> bool:
        """Whether the journal of ``results`` is on the disk as it is now; waits for it."""
        book = self._books.get(id(results))
        return book is not None and book.journal.wait()

    def forget(self, layer: Layer) -> None:
        """A labels layer was removed or is not ours any more: nothing more is written of it. The
        journal stays with the others until the window closes: a person may have slipped."""
        for key in [k for k, book in self._books.items() if book.edits.layer is layer]:
            self._books.pop(key).close()

    def close(self) -> None:
        """The window was closed in order."""
        self.painted.close()
        for book in self._books.values():
            book.close()
        self._books.clear()
        if self._folder is not None:
            close_folder(self._folder)
            self._folder = None

    def refined(self, results: ResultLayers) -> None:
        """A refined mask has an answer: from the first one on it has a journal."""
        hub, book = self._hub(), self._books.get(id(results))
        if hub is None or book is None or book.edits is not results.edits:
            self.attach(results)
            return
        now = {"provenance": dict(results.provenance), **refined_facts(hub, results)}
        if now != book.noted:
            book.noted = now
            book.journal.facts(**now)

    # --- inside ---------------------------------------------------------------------------------

    def _seen(self, results: ResultLayers) -> int | None:
        hub = self._hub()
        return hub.visible_z() if hub is not None and hub.source is results.source else None

    def _kept_beside(self, folder: Path, image: Layer) -> dict[str, str]:
        """The name of the file with the pixels of ``image``, which is written in a thread."""
        known, name = self._pixels.get(id(image), (lambda: None, ""))
        if known() is not image:
            pixels = kept_pixels(image)
            if pixels is None:
                return {}
            name = f"{self._number}-{time.monotonic_ns()}.npy"
            self._pixels[id(image)] = weakref.ref(image), name
            threading.Thread(target=_keep, args=(folder / name, pixels), daemon=True).start()
        return {"kept": name}

    def _on_removed(self, event: Any) -> None:
        self.forget(event.value)

    def _edits(self) -> HandEdits | None:
        """Of the chosen image and model: theirs are the values that the sliders show."""
        hub = self._hub()
        results = hub.results if hub is not None else None
        return results.edits if results is not None else None

    def _answered(self) -> ResultLayers | None:
        """What the engine answers for: another image may have been chosen since Run."""
        hub = self._hub()
        return hub._answers.layers if hub is not None else None

    def _on_started(self, event: Any) -> None:
        hub, layers = self._hub(), self._answered()
        edits = layers.edits if layers is not None else None
        if hub is None or edits is None or hub.live.state.results is None:
            return
        folder = hub.live.state.results.folder
        edits.tuning = hub.tuning if edits.tuning is None else edits.tuning
        if folder != self._run_folder or not edits.answering:
            edits.begin_run()
        self._run_folder = folder
        self.attach(layers)

    def _on_retuned(self, *_: Any) -> None:
        self.attach(self._answered())

    def _on_model(self, *_: Any) -> None:
        self._arriving = False

    def _on_state(self, state: LiveState) -> None:
        (model, tuning), edits = self._known, self._edits()
        self._known = (state.checkpoint, state.tuning)
        self._arriving = self._arriving or state.checkpoint != model
        if edits is None or self._known == (model, tuning) or self._arriving:
            return  # the values of another model are no move
        edits.tuned(state.tuning)
        hub = self._hub()
        if hub is not None:
            self._note(hub.results, tuning=state.tuning.to_json())

    def _on_released(self) -> None:
        edits = self._edits()
        if edits is not None:
            edits.released()

    def _on_finished(self, event: Any) -> None:
        layers = self._answered()
        if layers is not None:
            self._note(layers, provenance=dict(layers.provenance))

    def _note(self, results: ResultLayers | None, **facts: Any) -> None:
        book = self._books.get(id(results))
        if book is not None:
            book.journal.facts(**facts)
            book.looked()

    def _on_travelled(self, results: ResultLayers, step: Step, back: bool) -> None:
        hub = self._hub()
        if hub is None:
            return
        if step.kind in ("run", "tuning"):
            results.provenance, step.about = step.about or {}, results.provenance
            self._note(results, provenance=dict(results.provenance))
            self._values_back(hub, results)
        other = ("Taken back", "brings it again") if back else ("Again", "takes it back")
        keys = "Ctrl+Shift+Z" if back else "Ctrl+Z"
        hub.live.note.emit(Calm(f"{other[0]}: {step_words(step)}. {keys} {other[1]}."))

    def _values_back(self, hub: Hub, results: ResultLayers) -> None:
        """The sliders show the values of the chosen labels; answers for ``results`` that are under
        way are no longer wanted, those for other labels are."""
        assert results.edits is not None
        chosen = hub.results is results
        tuning = results.edits.tuning if chosen else hub.tuning
        if hub._answers.layers is results:
            hub.live.step_back(tuning)
        elif chosen:
            hub.live.set_model(hub.checkpoint, hub.device, tuning)

    def _complain(self, sentence: str) -> None:
        self._dead = self._folder is None

        def say() -> None:
            hub = self._hub()
            if hub is not None and not hub.closed:
                hub.live.note.emit(sentence)

        self._later(say)


class Book:
    """The journal of one labels layer; it is told of every change by :class:`HandEdits`.

    ``seen`` tells the slice that the person looks at, or ``None`` when he looks at another image.
    """

    def __init__(
        self,
        results: ResultLayers,
        journal: Journal,
        more: dict[str, Any],
        seen: Callable[[], int | None],
    ) -> None:
        assert results.edits is not None
        self.edits, self.source, self.journal = results.edits, results.source, journal
        self._saved = bool(more.get("saved"))
        self._seen = seen
        self._z: int | None = None
        self._kind = self.edits.data.dtype.str
        self.changes = 0
        self.noted: dict[str, Any] = {}
        self.edits.recorder = self
        pages = self.edits.planes.pages()
        if pages:
            self.journal.tiles("restored" if more else "answer", pages)

    def changed(self, what: str, pages: Mapping[Page, bytes]) -> None:
        """See :class:`napari_attnseg.viewer.edits.Recorder`."""
        self.changes += 1
        self.saved(False)
        self.looked()
        kind = self.edits.data.dtype.str
        if kind != self._kind:  # a person has converted the layer
            self._kind = kind
            self.journal.facts(dtype=kind)
        self.journal.tiles(what, dict(pages))

    def looked(self) -> None:
        """A restore goes to the slice that was last worked at."""
        z = self._seen()
        if z not in (None, self._z):
            self._z = z
            self.journal.facts(z=z)

    def saved(self, on: bool) -> None:
        """Whether somebody else keeps the labels as they are now."""
        if on != self._saved:
            self._saved = on
            self.journal.facts(saved=on)

    def close(self) -> None:
        """Nothing more is written."""
        self.edits.recorder = None
        self.journal.close()


def facts_of(hub: Hub, results: ResultLayers) -> dict[str, Any]:
    """What is needed to bring labels back, besides their pixels: image, model, live values."""
    from napari_attnseg import __version__

    mine, labels = hub.results is results, results.labels
    tuning = hub.tuning if mine else (results.edits.tuning if results.edits else None)
    return {
        "program": f"napari-attnseg {__version__}",
        "image": image_of(hub, results.source),
        "model": next((name for name, known in hub.every_result if known is results), ""),
        "model_digest": results.card.digest if results.card else "",
        "device": hub.device,
        "tuning": tuning.to_json() if tuning is not None else {},
        "provenance": dict(results.provenance),
        "z": hub.visible_z() if hub.source is results.source else 0,
        "shape": list(results.shape),
        "dtype": np.dtype(labels.data.dtype).str if labels is not None else "|u1",
        "labels": labels.name if labels is not None else "",
    } | refined_facts(hub, results)


def step_words(step: Step) -> str:
    """``"segmentation of 31 slices"``, ``"threshold 0.1 to 0.25"``."""
    if isinstance(step.before, Tuning) and isinstance(step.after, Tuning):
        old, new = step.before.to_json(), step.after.to_json()
        moved = [
            f"{k} {_short(old.get(k))} to {_short(new[k])}" for k in new if old.get(k) != new[k]
        ]
        if moved:
            return ", ".join(moved)
    many = f" of {step.slices} slices" if step.slices > 1 else ""
    return f"{step.name}{many}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def kept_pixels(layer: Any) -> Any:
    """The pixels of a layer that has no file, if they are not too many."""
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    nbytes = int(np.prod(data.shape)) * np.dtype(data.dtype).itemsize
    return data if nbytes <= KEPT_BYTES else None


def _keep(path: Path, data: Any) -> None:
    """In a thread: the pixels of an image that has no file, whole or not at all."""
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            np.save(file, np.asarray(data), allow_pickle=False)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
