"""Run a plan: train, test, record; go on where a stopped or killed experiment stood."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from napari_attnseg.control.messages import EpochDone, Finished
from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.experiment.cost import cost_of
from napari_attnseg.engine.experiment.plan import Plan, Row, Run
from napari_attnseg.engine.experiment.records import (
    Record,
    data_words,
    kept,
    record_path,
    write_json,
)
from napari_attnseg.engine.experiment.report import write_report
from napari_attnseg.engine.layout_data import LayoutSource, evaluate_layout
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.train import train, versions
from napari_attnseg.engine.trainer_state import state_path
from napari_attnseg.errors import CheckpointError
from napari_attnseg.io.image import read_image
from napari_attnseg.io.layout import Layout
from napari_attnseg.settings import Preprocessing

LOOKED_AT = 12
"""Training images looked at for channels and units."""
SOFT_TISSUE = (-160.0, 240.0)
"""Hounsfield units that become 0 and 1 in CT."""


@dataclass(frozen=True)
class Step:
    """What is going on. ``what``: ``"kept"``, ``"training"`` (with ``event``), ``"done"`` (with
    ``record``) or ``"costs"`` (with ``row``)."""

    what: str
    number: int = 0
    total: int = 0
    run: Run | None = None
    row: Row | None = None
    event: Any = None
    record: Record | None = None


Steps = Generator[Step | None, None, bool]


class _Stopped(Exception):
    """``should_stop`` turned true."""


def suited(layout: Layout) -> tuple[Preprocessing | None, str]:
    """Preprocessing that suits grey images and CT, with a note; ``None``: colour, the recipe's."""
    places = np.linspace(0, len(layout.train) - 1, min(LOOKED_AT, len(layout.train)))
    images = [read_image(layout.train[int(i)].image) for i in places.round()]
    if any(image.rgb for image in images):
        return None, ""
    if any(float(np.nanmin(image.view[:, ::4, ::4])) < -500 for image in images):
        low, high = SOFT_TISSUE
        window = Preprocessing(intensity="window", low=low, high=high)
        return window, f"CT: {low:g} to {high:g} Hounsfield units become 0 to 1, one channel"
    return Preprocessing(), "grey images: one channel, percentiles 1 and 99 become 0 and 1"


def run_plan(
    plan: Plan,
    layout: Layout,
    out: Path,
    *,
    device: str = "auto",
    command: str = "",
    should_stop: Callable[[], bool] | None = None,
    keep_models: bool = False,
) -> Steps:
    """Run everything of ``plan`` that is not done yet; the report is written after every run.

    Yields :class:`Step` and, as a heartbeat, ``None``. Returns whether everything is done.
    Finished runs are kept in ``out/runs``; one that was under way goes on from its last saved
    state (every half minute, and when the stream is closed or ``should_stop()`` turns true).
    ``keep_models`` keeps the checkpoints, which are deleted otherwise.

    Raises:
        InputError: ``out`` holds runs of another experiment, or data that cannot be trained on.
        EngineError: a loss is no longer a number. What was finished stays.
    """
    choose_device(device)  # a wrong name is told before any work
    plan = _fitted(plan, layout)
    total = len(plan.runs)
    records = {run.key: kept(out, run, layout) for run in plan.runs}  # all, before any work
    source = LayoutSource(layout)  # one for all: images are decoded once
    stop = should_stop or (lambda: False)
    try:
        for number, run in enumerate(plan.runs, 1):
            record = records[run.key]
            if record is None:
                step = Step("training", number, total, run)
                record = yield from _one(step, source, out, device, stop, keep_models)
                records[run.key] = record
                write_report(plan, layout, out, command)
                yield Step("done", number, total, run, record=record)
            else:
                yield Step("kept", number, total, run, record=record)
        yield from _costs(plan, out, stop)
    except _Stopped:
        return False
    finally:
        if any(records.values()):
            write_report(plan, layout, out, command)
    return True


def _fitted(plan: Plan, layout: Layout) -> Plan:
    """The plan with the classes of the data."""
    names = layout.class_names
    rows = [replace(r, settings=replace(r.settings, class_names=names)) for r in plan.rows]
    return replace(plan, rows=tuple(rows))


def _one(
    step: Step,
    source: LayoutSource,
    out: Path,
    device: str,
    stop: Callable[[], bool],
    keep_models: bool,
) -> Generator[Step | None, None, Record]:
    """Train one run to its end and test it."""
    assert step.run is not None
    run, layout = step.run, source.layout
    model = out / "runs" / f"{run.key}.safetensors"
    finished: Finished | None = None
    seconds = 0.0
    for event in _trained(run, source, model, device, stop):
        if isinstance(event, EpochDone):
            seconds += event.seconds
        finished = event if isinstance(event, Finished) else finished
        yield None if event is None else replace(step, event=event)
    if finished is None or finished.reason == "cancelled":
        raise _Stopped
    start = time.monotonic()
    session = Session(model, device)
    yield None
    figures = evaluate_layout(session, layout)
    record: Record = {
        "key": run.key,
        "row": run.row.label,
        "seed": run.seed,
        "metrics": {k: v for k, v in figures.items() if k != "per_image"},
        "summary": {**finished.summary, "reason": finished.reason},
        "digest": session.card.digest,
        "parameters": session.card.parameters,
        "device": str(session.device),
        "versions": versions(),
        "train_seconds": round(seconds, 2),
        "test_seconds": round(time.monotonic() - start, 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "validation": session.card.provenance.get("split"),
        "data": data_words(layout),
        "settings": run.settings.to_json(),
        "per_image": figures["per_image"],
    }
    write_json(record_path(out, run), record)
    state_path(model).unlink(missing_ok=True)
    if not keep_models:
        model.unlink(missing_ok=True)
    return record


def _trained(
    run: Run, source: LayoutSource, model: Path, device: str, stop: Callable[[], bool]
) -> Generator[Any, None, None]:
    """The training's events; it goes on from a saved state, or anew when that does not fit."""
    resume = state_path(model).is_file()
    title = f"{run.row.label}, seed {run.seed}"
    given: dict[str, Any] = {"device": device, "should_stop": stop, "title": title}
    try:
        yield from train(run.settings, source, model, resume=resume, **given)
    except CheckpointError:
        if not resume:
            raise
        yield from train(run.settings, source, model, resume=False, **given)


def _costs(plan: Plan, out: Path, stop: Callable[[], bool]) -> Generator[Step | None, None, None]:
    """Parameters, MACs and time of every row shown with costs, as trained and as published."""
    shown = {key for table in plan.tables if table.costs for _, key in table.entries}
    for row in (row for row in plan.rows if row.key in shown):
        path = out / "costs" / f"{row.key}.json"
        wanted = {"run": _cost_words(row.settings), "full": _cost_words(row.full)}
        if _is_cost_of(path, wanted):
            continue
        if stop():
            raise _Stopped
        found: dict[str, Any] = {"of": wanted, "load": round(psutil.getloadavg()[0], 2)}
        for name, settings in (("run", row.settings), ("full", row.full)):
            found[name] = cost_of(settings, settings.preprocessing.size or 128)
            yield None
        write_json(path, found)
        yield Step("costs", row=row)


def _cost_words(settings: Any) -> dict[str, Any]:
    return {"model": settings.model, "options": dict(settings.options)} | {
        "size": settings.preprocessing.size,
        "channels": settings.preprocessing.channels,
        "classes": settings.classes,
    }


def _is_cost_of(path: Path, wanted: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text())["of"] == wanted)
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        return False
