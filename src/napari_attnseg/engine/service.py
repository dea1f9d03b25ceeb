"""What the engine does for each request; sessions live here, in the process that owns torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.control import bakeoff as b
from napari_attnseg.control import messages as m
from napari_attnseg.control import questions as q
from napari_attnseg.control import refining as r
from napari_attnseg.control.checks import Overfit
from napari_attnseg.control.volumes import AXES
from napari_attnseg.engine.forecast import Forecaster
from napari_attnseg.engine.pace import LivePace
from napari_attnseg.engine.results import LiveFiles, open_scratch, save_array
from napari_attnseg.engine.retuning import retuned
from napari_attnseg.engine.sessions import Sessions
from napari_attnseg.engine.volume_run import VolumeRun, place_of_maps
from napari_attnseg.errors import EngineError

if TYPE_CHECKING:
    from napari_attnseg.engine.axes_run import AxesRun
    from napari_attnseg.engine.refine_answers import Refiner


class Engine:
    """Answers requests with events; ``close`` gives memory and device back."""

    def __init__(self) -> None:
        self._sessions = Sessions()
        self._running: tuple[int, VolumeRun | AxesRun] | None = None
        self._stopping: set[int] = set()
        self._live: tuple[str, LiveFiles] | None = None
        self._pace = LivePace()
        self._forecaster = Forecaster()
        self._refiner: Refiner | None = None
        self._preview_z: Callable[[int], None] = lambda z: None

    def handle(self, request: m.Request) -> Iterator[m.Event | None]:
        """Events of one request; problems are raised as the classes of ``errors``."""
        answers: dict[type[m.Request], Callable[[Any], Iterator[m.Event | None]]] = {
            m.Predict: self._predict,
            m.Reorder: self._reorder,
            m.Retune: self._retune,
            m.Fingerprint: self._fingerprint,
            m.AttentionRow: self._row,
            q.LevelMaps: self._levels,
            q.Forecast: self._forecast,
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
        self._live = self._refiner = None

    # --- long ------------------------------------------------------------------------------------

    def _predict(self, work: m.Predict) -> Iterator[m.Event | None]:
        with self._sessions.held(work) as session:
            ways = lambda: self._stopped(work.id), lambda: self._sessions.news(session, work.id)
            if work.axis == AXES[0]:
                run: VolumeRun | AxesRun = VolumeRun(session, work, *ways)
            else:
                from napari_attnseg.engine.axes_run import AxesRun

                run = AxesRun(session, work, *ways)
            self._sessions.told(session)  # ``Started`` tells it
            self._running = work.id, run
            try:
                yield from run.events()
            finally:
                self._running = None
                self._forecaster.paced(session, getattr(run, "pace", None))

    def _forecast(self, work: q.Forecast) -> Iterator[m.Event | None]:
        session = self._sessions.open(work)
        found = yield from self._forecaster.answer(session, work)
        yield from self._sessions.news(session, work.id)
        yield found

    def _reorder(self, work: m.Reorder) -> Iterator[m.Event]:
        if self._running is not None and self._running[0] == work.target:
            self._running[1].reorder(work.z, work.axis)
        yield from ()

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
        session = self._sessions.open(work)
        files = self._live_files(work.out, session.shape[1:])
        with self._pace.answering((work.checkpoint, work.device, work.tile, work.image, work.z)):
            answer = retuned(session, work, files)
        yield from self._sessions.news(session, work.id)
        yield answer

    def _live_files(self, out: str, shape: tuple[int, int]) -> LiveFiles:
        key = f"{out}:{shape}"
        if self._live is None or self._live[0] != key:
            self._live = key, LiveFiles(Path(out), shape)
        return self._live[1]

    def _fingerprint(self, work: m.Fingerprint) -> Iterator[m.Event]:
        session = self._sessions.open(work)
        reference = np.array(open_scratch(work.reference)[0]) if work.reference else None
        found = session.fingerprint(work.z, work.tuning, work.points, reference)
        yield from self._sessions.news(session, work.id)
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
        session = self._sessions.open(work)
        out = Path(work.out)
        row = path = ""
        if work.y >= 0:
            values = session.attention_row(work.z, work.y, work.x, work.tuning)
            row = save_array(out / "row.npy", values)
        received = session.received(work.z, work.tuning)
        if received is not None:
            path = save_array(out / "received_now.npy", received)
        place = place_of_maps(session)
        yield from self._sessions.news(session, work.id)
        yield m.RowDone(work.id, work.z, row, path, work.y, work.x, place.scale, place.offset)

    def _levels(self, work: q.LevelMaps) -> Iterator[m.Event]:
        from napari_attnseg.engine.questions import level_maps

        session = self._sessions.open(work)
        yield from level_maps(session, work)
        yield from self._sessions.news(session, work.id)

    def _refine(self, work: r.Refine | r.Affinity) -> Iterator[m.Event | None]:
        from napari_attnseg.engine.refine_answers import Refiner

        session = self._sessions.open(work)
        self._refiner = self._refiner or Refiner()
        for event in self._refiner.events(session, work):
            if event is not None:
                yield from self._sessions.news(session, work.id)
            yield event
            if not self._sessions.has(session, work.image):  # another image came in between
                yield m.Finished(work.id, "cancelled")
                return

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
