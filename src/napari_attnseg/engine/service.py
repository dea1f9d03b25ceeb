"""What the engine does for each request; sessions live here, in the process that owns torch."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.control import bakeoff as b
from napari_attnseg.control import messages as m
from napari_attnseg.control import questions as q
from napari_attnseg.control import refining as r
from napari_attnseg.control.checks import Overfit
from napari_attnseg.engine.pace import LivePace
from napari_attnseg.engine.results import LiveFiles, ResultFiles, save_array
from napari_attnseg.errors import EngineError, InputError
from napari_attnseg.settings import PLAIN_THRESHOLD

if TYPE_CHECKING:
    from napari_attnseg.engine.refine_answers import Refiner
    from napari_attnseg.engine.session import MapScale, Prediction, Session

MAX_SESSIONS = 2
"""Models kept loaded; the one unused for longest leaves first."""
Work = m.Predict | m.Retune | m.Fingerprint | m.AttentionRow | q.LevelMaps | r.Refine | r.Affinity


def open_scratch(path: str) -> np.ndarray:
    """An array handed over in scratch, as a read-only map."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the scratch file {Path(path).name} cannot be read ({error}); "
            "select the layer again and repeat"
        ) from error


def _place(session: Session) -> MapScale:
    """Where the attention grid lies; an empty grid for models without a threshold (their maps are
    those of their levels) and for tiles."""
    from napari_attnseg.engine.session import MapScale

    if session.tiled or all(t.name != "threshold" for t in session.model.tunables):
        return MapScale((1.0, 1.0), (0.0, 0.0), (0, 0))
    return session.map_scale()


def _started(session: Session, work: m.Predict, files: ResultFiles) -> m.Started:
    place = _place(session)
    return m.Started(
        work.id,
        str(session.device),
        len(work.order),
        session.notes,
        files.files,
        place.grid,
        place.scale[0],
        place.scale,
        place.offset,
    )


class Engine:
    """Answers requests with events; ``close`` gives memory and device back."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[Any, ...], Session] = OrderedDict()
        self._images: dict[tuple[Any, ...], m.ImageRef] = {}
        self._told: dict[Session, set[str]] = {}
        self._held: Session | None = None
        self._stopping: set[int] = set()
        self._live: tuple[str, LiveFiles] | None = None
        self._pace = LivePace()
        self._refiner: Refiner | None = None
        self._preview_z: Callable[[int], None] = lambda z: None

    def handle(self, request: m.Request) -> Iterator[m.Event | None]:
        """Events of one request; problems are raised as the classes of ``errors``."""
        answers: dict[type[m.Request], Callable[[Any], Iterator[m.Event | None]]] = {
            m.Predict: self._predict,
            m.Retune: self._retune,
            m.Fingerprint: self._fingerprint,
            m.AttentionRow: self._row,
            q.LevelMaps: self._levels,
            r.Refine: self._refine,
            r.Affinity: self._refine,
            q.Cka: self._cka,
            q.Weigh: self._weigh,
            m.SplitObjects: self._split,
            m.Describe: self._describe,
            m.Diagnose: self._diagnose,
            m.Train: self._train,
            Overfit: self._overfit,
            m.SetPreview: self._set_preview,
            b.BakeOff: self._bake_off,
            b.BakeOffPictures: self._pictures,
        }
        answer = answers.get(type(request))
        if answer is None:
            raise EngineError(f"the engine does not know the request {type(request).__name__}")
        return answer(request)

    def stop(self, request_id: int) -> None:
        """Long work ``request_id`` ends at its next step with ``Finished``."""
        self._stopping.add(request_id)

    def close(self) -> None:
        """Drop models and caches."""
        self._sessions.clear()
        self._images.clear()
        self._told.clear()
        self._live = self._refiner = None

    # --- sessions --------------------------------------------------------------------------------

    def _session(self, work: Work) -> Session:
        """The session of this checkpoint and device, with this image set.

        While slices of one image are being segmented its session keeps that image; questions
        about another one are answered by a session of their own.
        """
        from napari_attnseg.cards import resolve_checkpoint
        from napari_attnseg.engine.session import Session

        path = resolve_checkpoint(work.checkpoint)
        state = path.stat()
        tile = getattr(work, "tile", 0)
        key: tuple[Any, ...] = (str(path), state.st_mtime_ns, state.st_size, work.device, tile)
        known = self._sessions.get(key)
        if known is not None and known is self._held and self._images[key] != work.image:
            key = (*key, "beside")
        if key not in self._sessions:
            self._make_room()
            self._sessions[key] = Session(path, device=work.device, tile=tile or None)
        self._sessions.move_to_end(key)
        session = self._sessions[key]
        if self._images.get(key) != work.image:
            ref = work.image
            session.set_image(
                open_scratch(ref.path), rgb=ref.rgb, flips=ref.flips, spacing_mm=ref.spacing_mm
            )
            self._images[key] = ref
            self._told[session] = set()
        return session

    def _make_room(self) -> None:
        """Let the models unused for longest go, but the one that is at work."""
        while len(self._sessions) >= MAX_SESSIONS:
            oldest = next(k for k, session in self._sessions.items() if session is not self._held)
            self._told.pop(self._sessions.pop(oldest), None)
            self._images.pop(oldest, None)

    def _news(self, session: Session, request_id: int) -> Iterator[m.Event]:
        """What the session noticed about this image and has not told yet."""
        told = self._told[session]
        for text in session.notes:
            if text not in told:
                told.add(text)
                yield m.Note(request_id, text)

    # --- long ------------------------------------------------------------------------------------

    def _predict(self, work: m.Predict) -> Iterator[m.Event | None]:
        session = self._held = self._session(work)
        try:
            yield from self._slices(session, work)
        finally:
            self._held = None

    def _slices(self, session: Session, work: m.Predict) -> Iterator[m.Event | None]:
        from napari_attnseg.engine.device import spare_processor

        files = ResultFiles(Path(work.out), session.shape, _place(session).grid)
        self._told[session].update(session.notes)
        yield _started(session, work, files)
        computed = 0
        for done, z in enumerate(work.order, 1):
            if self._stopped(work.id):
                yield m.Finished(work.id, "cancelled", files.files, {"done": done - 1})
                return
            began = time.perf_counter()
            # the slice the person waits for takes the whole machine, the others leave it smooth
            spare = spare_processor if done > 1 else contextlib.nullcontext
            answer = yield from self._in_steps(work.id, session.stepwise(z, work.tuning), spare)
            if answer is None:
                yield m.Finished(work.id, "cancelled", files.files, {"done": done - 1})
                return
            with spare():
                computed += bool(answer.woken)
                files.labels[z], files.probability[z] = answer.labels, answer.probability
                files.write_map("step", z, answer.step)
                if work.received or done == 1:
                    files.write_map("received", z, answer.received)
            yield m.SliceDone(work.id, z, done, len(work.order), time.perf_counter() - began)
            yield from self._news(session, work.id)
        summary = {
            "done": len(work.order),
            "computed": computed,  # the others were known from before
            "provenance": session.provenance(work.tuning),
        }
        yield m.Finished(work.id, "done", files.files, summary)

    def _in_steps(
        self, number: int, steps: Iterator[None], spare: Callable[[], Any]
    ) -> Generator[None, None, Any]:
        """What ``steps`` return, with heartbeats between them; ``None`` when it was stopped."""
        while True:
            with spare():
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value
            yield None
            if self._stopped(number):
                return None

    def _train(self, work: m.Train) -> Iterator[m.Event | None]:
        from napari_attnseg.engine.lessons import training

        wish = [work.preview_z]
        self._preview_z = lambda z: wish.__setitem__(0, z)
        try:
            yield from training(work, wish, lambda: self._stopped(work.id))
        finally:
            self._preview_z = lambda z: None

    def _overfit(self, work: Overfit) -> Iterator[m.Event | None]:
        from napari_attnseg.engine.lessons import checking

        yield from checking(work, lambda: self._stopped(work.id))

    def _set_preview(self, work: m.SetPreview) -> Iterator[m.Event]:
        self._preview_z(work.z)
        yield from ()

    def _stopped(self, request_id: int) -> bool:
        found = request_id in self._stopping
        self._stopping.discard(request_id)
        return found

    # --- live ------------------------------------------------------------------------------------

    def _retune(self, work: m.Retune) -> Iterator[m.Event]:
        began = time.perf_counter()
        session = self._session(work)
        with self._pace.answering((work.checkpoint, work.device, work.tile, work.image, work.z)):
            answer = session.predict(work.z, work.tuning)
        files = self._live_files(work.out, session.shape[1:])
        files.labels[work.buffer] = answer.labels
        files.probability[work.buffer] = answer.probability
        counts = self._against_plain(session, work, answer, files) if work.compare else (0, 0, 0)
        yield from self._news(session, work.id)
        yield m.Retuned(
            work.id,
            work.z,
            work.buffer,
            answer.over,
            answer.cells,
            int(np.count_nonzero(answer.labels)),
            answer.woken,
            *counts,
            seconds=time.perf_counter() - began,
        )

    @staticmethod
    def _against_plain(
        session: Session, work: m.Retune, answer: Prediction, files: LiveFiles
    ) -> tuple[int, int, int]:
        """Write the other tuning's labels (plain attention's by default); pixels gained, lost
        and kept against it."""
        other = work.against
        if other is None:
            if "threshold" not in session.tuning.values:
                raise InputError(
                    "this model has no threshold, so there is nothing to compare; "
                    "turn the comparison off"
                )
            other = work.tuning.replace(threshold=PLAIN_THRESHOLD)
        before = session.predict(work.z, other).labels
        files.plain()[work.buffer] = before
        now, then = answer.labels > 0, before > 0
        kept = int(np.count_nonzero(now & then))
        return int(np.count_nonzero(now)) - kept, int(np.count_nonzero(then)) - kept, kept

    def _live_files(self, out: str, shape: tuple[int, int]) -> LiveFiles:
        key = f"{out}:{shape}"
        if self._live is None or self._live[0] != key:
            self._live = key, LiveFiles(Path(out), shape)
        return self._live[1]

    def _fingerprint(self, work: m.Fingerprint) -> Iterator[m.Event]:
        session = self._session(work)
        reference = np.array(open_scratch(work.reference)[0]) if work.reference else None
        found = session.fingerprint(work.z, work.tuning, work.points, reference)
        yield from self._news(session, work.id)
        yield m.Fingerprinted(
            work.id,
            work.z,
            *(
                tuple(values.ravel().tolist())
                for values in (
                    found.thresholds,
                    found.area,
                    found.components,
                    found.dice,
                    found.iou,
                    found.step,
                )
            ),
        )

    def _row(self, work: m.AttentionRow) -> Iterator[m.Event]:
        session = self._session(work)
        out = Path(work.out)
        row = path = ""
        if work.y >= 0:
            values = session.attention_row(work.z, work.y, work.x, work.tuning)
            row = save_array(out / "row.npy", values)
        received = session.received(work.z, work.tuning)
        if received is not None:
            path = save_array(out / "received_now.npy", received)
        place = _place(session)
        yield from self._news(session, work.id)
        yield m.RowDone(work.id, work.z, row, path, work.y, work.x, place.scale, place.offset)

    def _levels(self, work: q.LevelMaps) -> Iterator[m.Event]:
        from napari_attnseg.engine.questions import level_maps

        session = self._session(work)
        yield from level_maps(session, work)
        yield from self._news(session, work.id)

    def _refine(self, work: r.Refine | r.Affinity) -> Iterator[m.Event | None]:
        from napari_attnseg.engine.refine_answers import Refiner

        session = self._session(work)
        self._refiner = self._refiner or Refiner()
        for event in self._refiner.events(session, work):
            if event is not None:
                yield from self._news(session, work.id)
            yield event
            if not self._holds(session, work.image):  # another image came in between
                yield m.Finished(work.id, "cancelled")
                return

    def _holds(self, session: Session, image: m.ImageRef) -> bool:
        return any(s is session and self._images.get(k) == image for k, s in self._sessions.items())

    # --- other questions -------------------------------------------------------------------------

    def _weigh(self, work: q.Weigh) -> Iterator[m.Event]:
        from napari_attnseg.engine.describe import weigh

        size = (work.size[0], work.size[1])
        found = weigh(work.model, work.options, work.in_channels, work.classes, size)
        yield q.Weighed(work.id, found)

    def _cka(self, work: q.Cka) -> Iterator[m.Event]:
        from napari_attnseg.engine.questions import compare_layers

        yield from compare_layers(work, self._stopped)

    def _bake_off(self, work: b.BakeOff) -> Iterator[m.Event | None]:
        from napari_attnseg.engine.bakeoff import bake_off

        yield from bake_off(work, lambda: self._stopped(work.id))

    def _pictures(self, work: b.BakeOffPictures) -> Iterator[m.Event | None]:
        from napari_attnseg.engine.bakeoff import pictures

        yield from pictures(work)

    def _split(self, work: m.SplitObjects) -> Iterator[m.Event]:
        from napari_attnseg.engine.objects import split_objects

        labels = open_scratch(work.labels)
        ids, count = split_objects(
            np.asarray(labels), work.watershed, work.min_distance, work.min_size
        )
        save_array(Path(work.out), ids)
        yield m.ObjectsDone(work.id, work.out, count)

    def _describe(self, work: m.Describe) -> Iterator[m.Event]:
        from napari_attnseg.engine.describe import describe

        yield m.Described(work.id, describe())

    def _diagnose(self, work: m.Diagnose) -> Iterator[m.Event]:
        from napari_attnseg.engine.device import diagnose, report_text

        report = diagnose(work.device)
        yield m.Diagnosed(work.id, report, report_text(report))
