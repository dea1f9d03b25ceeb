"""Run a plan: train, test, record; go on where a stopped or killed experiment stood."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.experiment.cost import row_costs
from napari_attnseg.engine.experiment.failures import FAILURES, forget_failure, note_failure
from napari_attnseg.engine.experiment.one import Place, Stopped, one_run
from napari_attnseg.engine.experiment.plan import Plan, Row, Run
from napari_attnseg.engine.experiment.records import Record, kept
from napari_attnseg.engine.experiment.report import write_report
from napari_attnseg.engine.layout_data import LayoutSource
from napari_attnseg.io.layout import Layout


@dataclass(frozen=True)
class Step:
    """What is going on. ``what``: ``"kept"``, ``"training"`` (with ``event``), ``"done"`` (with
    ``record``), ``"failed"`` (with ``error``) or ``"costs"`` (with ``row``)."""

    what: str
    number: int = 0
    total: int = 0
    run: Run | None = None
    row: Row | None = None
    event: Any = None
    record: Record | None = None
    error: str = ""


Steps = Generator[Step | None, None, bool]
Found = dict[str, Record | None]
"""Key of a run to its record."""


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
    ``keep_models`` keeps the checkpoints, which are deleted otherwise; a coarse model's as soon
    as nothing is left to stand on it.

    Raises:
        InputError: ``out`` holds runs of another experiment, or data that cannot be trained on.
        EngineError: a loss is no longer a number. What was finished stays. Where the plan says
            ``go_on``, a run that fails is told and left out, unless all fail.
    """
    choose_device(device)  # a wrong name is told before any work
    plan = _fitted(plan, layout)
    stop = should_stop or (lambda: False)
    place = _place(plan, layout, out, device, stop, keep_models)
    records: Found = {run.key: kept(out, run, layout) for run in plan.runs}  # all, before any work
    _mark_missing(plan, place, records)
    try:
        yield from _runs(plan, place, records, command)
        yield from _costs(plan, out, stop)
        if not keep_models:
            _clear(plan, place)
    except Stopped:
        return False
    finally:
        if any(records.values()):
            write_report(plan, layout, out, command)
    return True


def _place(
    plan: Plan,
    layout: Layout,
    out: Path,
    device: str,
    stop: Callable[[], bool],
    keep_models: bool,
) -> Place:
    """One source for all runs: images are decoded once."""
    keys = {row.key for row in plan.rows} if keep_models else _coarse_rows(plan)
    return Place(LayoutSource(layout), out, device, stop, plan.closely, frozenset(keys))


def _coarse_rows(plan: Plan) -> set[str]:
    """Keys of the rows on which others stand."""
    return {row.coarse for row in plan.rows if row.coarse}


def _mark_missing(plan: Plan, place: Place, records: Found) -> None:
    """A coarse model that is still needed and whose checkpoint is gone counts as not done."""
    for run in plan.runs:
        needed = run.coarse and records[run.key] is None
        if needed and not place.model(run.coarse).is_file():
            records[run.coarse] = None


def _runs(plan: Plan, place: Place, records: Found, command: str) -> Steps:
    failed: list[Exception] = []
    for number, run in enumerate(plan.runs, 1):
        record = records[run.key]
        step = Step("kept", number, len(plan.runs), run, record=record)
        if record is None:
            forget_failure(place.out, run)
            try:
                record = yield from _told(replace(step, what="training"), place, records)
            except FAILURES as error:
                if not plan.go_on:
                    raise
                failed.append(error)
                step = replace(step, what="failed", error=note_failure(place.out, run, error))
            else:
                records[run.key] = record
                step = replace(step, what="done", record=record)
            write_report(plan, place.source.layout, place.out, command)
        yield step
    if failed and not any(records.values()):
        raise failed[-1]
    return True


def _told(step: Step, place: Place, records: Found) -> Generator[Step | None, None, Record]:
    """One run, its events in steps."""
    assert step.run is not None
    work = one_run(step.run, place, records)
    try:
        while True:
            event = next(work)
            yield None if event is None else replace(step, event=event)
    except StopIteration as end:
        record: Record = end.value
        return record
    finally:
        work.close()


def _clear(plan: Plan, place: Place) -> None:
    """Delete the coarse checkpoints."""
    for run in plan.runs:
        if run.row.key in place.kept:
            place.model(run.key).unlink(missing_ok=True)


def _fitted(plan: Plan, layout: Layout) -> Plan:
    """The plan with the classes of the data."""
    names = layout.class_names
    rows = [replace(r, settings=replace(r.settings, class_names=names)) for r in plan.rows]
    return replace(plan, rows=tuple(rows))


def _costs(plan: Plan, out: Path, stop: Callable[[], bool]) -> Generator[Step | None, None, None]:
    """Parameters, MACs and time of every row shown with costs, as trained and as published."""
    shown = {key for table in plan.tables if table.costs for _, key in table.entries}
    for row in (row for row in plan.rows if row.key in shown):
        if stop():
            raise Stopped
        for new in row_costs(row, plan.seeds[0], out):
            yield Step("costs", row=row) if new else None
