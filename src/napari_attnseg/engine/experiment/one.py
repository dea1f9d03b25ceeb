"""One run of an experiment: train, test, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_attnseg.control.messages import EpochDone, Finished
from napari_attnseg.engine.experiment.judge import chosen_walker, examine, gains
from napari_attnseg.engine.experiment.plan import Run
from napari_attnseg.engine.experiment.records import Record, data_words, record_path, write_json
from napari_attnseg.engine.layout_data import LayoutSource, evaluate_layout
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.train import train, versions
from napari_attnseg.engine.trainer_state import state_path
from napari_attnseg.errors import CheckpointError
from napari_attnseg.settings import TrainSettings


class Stopped(Exception):
    """``should_stop`` turned true."""


@dataclass(frozen=True)
class Place:
    """Where and how the runs of a plan are done. ``closely``: tests look at outlines and
    iterations too. ``kept``: keys of the rows whose checkpoints stay."""

    source: LayoutSource
    out: Path
    device: str
    stop: Callable[[], bool]
    closely: bool
    kept: frozenset[str]

    def model(self, key: str) -> Path:
        """The checkpoint of the run called ``key``."""
        return self.out / "runs" / f"{key}.safetensors"


def one_run(
    run: Run, place: Place, records: Mapping[str, Record | None]
) -> Generator[Any, None, Record]:
    """Train (or, for a peer, take the coarse model), test and record; yields the training's
    events and ``None`` as a heartbeat. ``records``: those of finished runs."""
    if run.row.peer:
        record = yield from _peer(run, place)
    else:
        record = yield from _network(run, place)
    coarse = records.get(run.coarse)
    if coarse is not None:
        record["metrics"] |= gains({**record["metrics"], **record}, coarse)
    write_json(record_path(place.out, run), record)
    state_path(place.model(run.key)).unlink(missing_ok=True)
    if run.row.key not in place.kept:
        place.model(run.key).unlink(missing_ok=True)
    return record


def _network(run: Run, place: Place) -> Generator[Any, None, Record]:
    """Train one network to its end and test it."""
    model = place.model(run.key)
    finished: Finished | None = None
    seconds = 0.0
    for event in _trained(run, place, model):
        if isinstance(event, EpochDone):
            seconds += event.seconds
        finished = event if isinstance(event, Finished) else finished
        yield event
    if finished is None or finished.reason == "cancelled":
        raise Stopped
    start = time.monotonic()
    session = Session(model, place.device)
    yield None
    layout = place.source.layout
    figures = examine(session, layout) if place.closely else evaluate_layout(session, layout)
    summary = {**finished.summary, "reason": finished.reason}
    return _record(run, place, session, figures, summary, (seconds, time.monotonic() - start))


def _peer(run: Run, place: Place) -> Generator[Any, None, Record]:
    """Test a random walker on the coarse model's answers."""
    yield None
    start, layout = time.monotonic(), place.source.layout
    session = Session(place.model(run.coarse), place.device)
    walker = chosen_walker(session, layout)
    yield None
    middle = time.monotonic()
    figures = examine(session, layout, walker)
    summary = {"sure": walker.sure, "beta": walker.beta, "ms": figures.pop("milliseconds")}
    times = (middle - start, time.monotonic() - middle)
    return _record(run, place, session, figures, summary, times)


def _record(
    run: Run,
    place: Place,
    session: Session,
    figures: dict[str, Any],
    summary: dict[str, Any],
    seconds: tuple[float, float],
) -> Record:
    """All that is kept of a run; ``seconds`` of training and of the test."""
    card = session.card
    return {
        "key": run.key,
        "row": run.row.label,
        "seed": run.seed,
        "metrics": {k: v for k, v in figures.items() if k != "per_image"},
        "summary": summary,
        "digest": f"{card.digest}:{run.row.peer}" if run.row.peer else card.digest,
        "parameters": card.parameters,
        "device": str(session.device),
        "versions": versions(),
        "train_seconds": round(seconds[0], 2),
        "test_seconds": round(seconds[1], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "validation": card.provenance.get("split"),
        "data": data_words(place.source.layout),
        "settings": run.settings.to_json(),
        "per_image": figures["per_image"],
    }


def _trained(run: Run, place: Place, model: Path) -> Generator[Any, None, None]:
    """The training's events; it goes on from a saved state, or anew when that does not fit."""
    resume = state_path(model).is_file()
    title = f"{run.row.label}, seed {run.seed}"
    given: dict[str, Any] = {"device": place.device, "should_stop": place.stop, "title": title}
    settings = _settings(run, place)
    try:
        yield from train(settings, place.source, model, resume=resume, **given)
    except CheckpointError:
        if not resume:
            raise
        yield from train(settings, place.source, model, resume=False, **given)


def _settings(run: Run, place: Place) -> TrainSettings:
    """The run's settings with the path of its coarse checkpoint."""
    if not run.coarse:
        return run.settings
    return replace(run.settings, coarse=str(place.model(run.coarse)))
