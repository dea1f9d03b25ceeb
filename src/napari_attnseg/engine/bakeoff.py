"""A bake-off in steps, for the docks (see ``control.bakeoff``): the same plan, records, tables and
pictures as the command line's ``compare``, told while they come about."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from napari_attnseg.control.bakeoff import (
    BakeOff,
    BakeOffPictures,
    BakeOffPicturesDone,
    BakeOffPlanned,
    BakeOffRow,
    BakeOffStep,
)
from napari_attnseg.control.messages import EpochDone, Event, Finished, Started
from napari_attnseg.engine.describe import weigh
from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.experiment.failures import failure_words
from napari_attnseg.engine.experiment.forecast import seconds_of
from napari_attnseg.engine.experiment.gallery import (
    Shown,
    draw_gallery,
    first_map,
    first_model,
    is_trained,
    shown_image,
)
from napari_attnseg.engine.experiment.plan import Plan, Row, Scale
from napari_attnseg.engine.experiment.plan_compare import compare
from napari_attnseg.engine.experiment.records import Record, record_path, write_json
from napari_attnseg.engine.experiment.run import Step, run_plan
from napari_attnseg.engine.experiment.suited import suited
from napari_attnseg.engine.experiment.tables import Line, lines_of, verdicts
from napari_attnseg.engine.results import save_array
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import ExportError, InputError
from napari_attnseg.io.layout import UNKNOWN, Layout
from napari_attnseg.io.layouts import find_layout

SHOWN_UNKNOWN = 255
"""Label of the truth's unknown pixels in pictures."""


def planned(work: BakeOff) -> tuple[Plan, Layout, str]:
    """Plan, data, and a note on the preprocessing; raises ``InputError`` for what cannot be."""
    options = {"levels": work.levels} if work.levels else {}
    seeds = tuple(work.seeds) or (0,)
    scale = Scale(work.size, work.epochs, work.batch, work.width, seeds, options=options)
    compare(work.contestants, scale)  # wrong words are refused before the folder is looked at
    layout = find_layout(work.data, work.labels, work.limit)
    base, note = suited(layout)
    return compare(work.contestants, scale, base), layout, note


def command_of(work: BakeOff) -> str:
    """The command line that does the same."""
    words = ["napari-attnseg", "compare", *work.contestants, "--data", work.data, "--out", work.out]
    for name in ("size", "epochs", "batch", "limit", "width", "labels"):
        value = getattr(work, name)
        words += [f"--{name}", f"{value}"] if value else []
    words += ["--option", f"levels={work.levels}"] if work.levels else []
    return shlex.join([*words, "--seeds", ",".join(map(str, work.seeds)), "--device", work.device])


def bake_off(work: BakeOff, stopped: Callable[[], bool]) -> Iterator[Event | None]:
    """Events of a bake-off; ``stopped()``: whether to end, which keeps what was done."""
    plan, layout, note = planned(work)
    out = _folder(work.out)
    device = choose_device(work.device)
    notes = (*layout.report().splitlines(), *([note] if note else []))
    yield Started(work.id, str(device), len(plan.runs), notes)
    keys, labels = (tuple(getattr(row, what) for row in plan.rows) for what in ("key", "label"))
    yield BakeOffPlanned(work.id, keys, labels)
    table = _Table(work.id, plan, layout, out)
    for row in plan.rows:
        yield table.weighed(row)
    table.foresee(work.device)
    stop = _latched(stopped)
    given: dict[str, Any] = {"device": work.device, "command": command_of(work)}
    steps = run_plan(plan, layout, out, should_stop=stop, keep_models=True, **given)
    try:
        complete = yield from table.follow(steps)
    finally:
        steps.close()
    if complete and not stop():
        yield BakeOffStep(work.id, "pictures", len(plan.runs), len(plan.runs))
        complete = yield from _drawn(plan, layout, out, work.device, stop)
    files = {path.suffix[1:]: str(path) for path in sorted(out.glob(f"{plan.name}.*"))}
    reason = "done" if complete and not stop() else "cancelled"
    yield Finished(work.id, reason, {"folder": str(out), **files}, {"said": table.said()})


def _folder(path: str) -> Path:
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"cannot make the folder {out} ({error.strerror}); choose another one for the results"
        ) from error
    return out


def _latched(stopped: Callable[[], bool]) -> Callable[[], bool]:
    """A stop that was once asked for stays asked for."""
    seen: list[bool] = []

    def stop() -> bool:
        if not seen and stopped():
            seen.append(True)
        return bool(seen)

    return stop


def _drawn(
    plan: Plan, layout: Layout, out: Path, device: str, stop: Callable[[], bool]
) -> Generator[None, None, bool]:
    """The two pictures of the gallery; whether they were drawn to the end."""
    for _ in draw_gallery(plan, layout, out, device):
        yield None
        if stop():
            return False
    return True


class _Table:
    """What is known of every row so far."""

    def __init__(self, number: int, plan: Plan, layout: Layout, out: Path) -> None:
        self.number, self.plan, self.layout, self.out = number, plan, layout, out
        self.records: dict[str, dict[int, Record]] = {row.key: {} for row in plan.rows}
        self.weights: dict[str, dict[str, Any]] = {}
        self.failed: dict[tuple[str, int], str] = {}
        self.forecast, self._began = 0.0, time.monotonic()

    def weighed(self, row: Row) -> BakeOffRow:
        """A row before any of its runs: what it costs."""
        settings = replace(row.settings, class_names=self.layout.class_names)
        side = settings.preprocessing.size or 128
        channels, classes = settings.preprocessing.channels, settings.classes
        options = dict(settings.options)
        self.weights[row.key] = weigh(settings.model, options, channels, classes, (side, side))
        return self.row(row)

    def follow(self, steps: Iterator[Step | None]) -> Generator[Event | None, None, bool]:
        """Events for the steps of the plan; returns whether everything is done."""
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return bool(end.value)
            yield from self._events(step) if step is not None else (None,)

    def _events(self, step: Step) -> Iterator[Event | None]:
        if step.run is None:
            yield None
            return
        if step.what == "failed":
            self.failed[step.run.row.key, step.run.seed] = step.error
            yield self.row(step.run.row)
        if step.record is not None:
            self.records[step.run.row.key][step.run.seed] = step.record
            yield self.row(step.run.row)
        if step.record is not None or step.error or isinstance(step.event, Started):
            yield self._step(step)
        elif isinstance(step.event, EpochDone):
            event = step.event
            yield replace(
                self._step(step),
                epoch=event.epoch,
                epochs=event.epochs,
                dice=event.validation.get("dice", 0.0),
                seconds_left=self._left(event),
            )
        else:
            yield None

    def _step(self, step: Step) -> BakeOffStep:
        assert step.run is not None
        done, total = self._done(), len(self.plan.runs)
        epochs = step.run.settings.epochs
        row, seed = step.run.row.key, step.run.seed
        what, epoch = ("training", 0) if step.record is None else ("done", epochs)
        what = "failed" if step.error else what
        left = self._guessed() if what == "training" else 0.0
        return BakeOffStep(
            self.number, what, done, total, row, seed, epoch, epochs, seconds_left=left
        )

    def _done(self) -> int:
        return sum(map(len, self.records.values())) + len(self.failed)

    def _guessed(self) -> float:
        """Seconds left by the forecast, while nothing better is known."""
        return max(0.0, self.forecast - (time.monotonic() - self._began)) if self.forecast else 0.0

    def foresee(self, device: str) -> None:
        """Guess how long everything that is not done will take."""
        waiting = [r.row for r in self.plan.runs if not record_path(self.out, r).is_file()]
        plain = self.plan.rows[0]
        if waiting:
            one = seconds_of(plain.settings, len(self.layout.train), device)
            macs = {key: max(1, weight["macs"]) for key, weight in self.weights.items()}
            self.forecast = sum(one * macs[row.key] / macs[plain.key] for row in waiting)
        self._began = time.monotonic()

    def _left(self, event: EpochDone) -> float:
        """Seconds until all runs are over, if the others take as long as those measured."""
        waiting = [r for r in self.plan.runs if not record_path(self.out, r).is_file()]
        spent = [
            record["train_seconds"] + record["test_seconds"]
            for by_seed in self.records.values()
            for record in by_seed.values()
        ]
        one = mean(spent) if spent else event.seconds * event.epochs
        return float(event.seconds_left + max(0, len(waiting) - 1) * one)

    def _lines(self) -> list[Line]:
        return lines_of(self.plan, self.plan.tables[0], self.records, {})

    def said(self) -> tuple[str, ...]:
        """What can be said of the rows so far."""
        failed = failure_words(self.plan, self.failed)
        return (*failed, *verdicts(self.plan.tables[0], self._lines()))

    def row(self, row: Row) -> BakeOffRow:
        """The figures of one row, and what can be said of all."""
        line = next(x for x in self._lines() if x.label == row.label)
        found = self.records[row.key]
        model = first_model(self.plan, row, self.out)
        dice, iou = line.figures.get("dice"), line.figures.get("iou")
        return BakeOffRow(
            self.number,
            row.key,
            seeds=tuple(sorted(found)),
            dice=None if dice is None else dice.mean,
            dice_sd=None if dice is None else dice.sd,
            iou=None if iou is None else iou.mean,
            iou_sd=None if iou is None else iou.sd,
            seconds=mean(r["train_seconds"] for r in found.values()) if found else None,
            parameters=int(self.weights[row.key]["parameters"]),
            macs=int(self.weights[row.key]["macs"]),
            warning=line.constant,
            model=str(model) if found and model.is_file() else "",
            said=self.said(),
            error=next((why for (key, _), why in self.failed.items() if key == row.key), ""),
        )


# --- pictures -------------------------------------------------------------------------------------


def pictures(work: BakeOffPictures) -> Iterator[Event | None]:
    """Masks and maps of all trained contestants on one test image, as files."""
    plan, layout, _ = planned(work)
    index = work.index % len(layout.test)
    trained = [(row, first_model(plan, row, Path(work.out))) for row in plan.rows]
    trained = [(row, path) for row, path in trained if is_trained(path)]
    if not trained:
        raise InputError("no contestant is trained yet; press Run first")
    files = _folder(work.files)
    shown = shown_image(layout, index)
    told = _image_files(shown, files, layout.test[index].image.name)
    for row, path in trained:
        yield None
        told["cells"].append(_cell_files(row.key, Session(path, work.device), shown, files))
    write_json(files / "pictures.json", told)
    yield BakeOffPicturesDone(work.id, str(files / "pictures.json"), index, len(layout.test))


def _image_files(shown: Shown, files: Path, name: str) -> dict[str, Any]:
    truth = np.where(shown.truth == UNKNOWN, SHOWN_UNKNOWN, shown.truth).astype(np.uint8)
    return {
        "image": {
            "file": save_array(
                files / "image.npy", np.ascontiguousarray(shown.volume.view[shown.z])
            ),
            "name": name,
            "rgb": shown.volume.rgb,
            "scale": [float(s) for s in shown.volume.display_scale[-2:]],
        },
        "truth": save_array(files / "truth.npy", truth),
        "cells": [],
    }


def _cell_files(key: str, session: Session, shown: Shown, files: Path) -> dict[str, Any]:
    session.set_image(shown.volume)
    labels = session.predict(shown.z).labels
    cell: dict[str, Any] = {"key": key, "dice": _dice(labels, shown.truth)}
    cell["mask"] = save_array(files / f"mask_{key}.npy", labels.astype(np.uint8))
    found = first_map(session, shown.z)
    if found is not None:
        values = found.values.astype(np.float32)
        cell["map"] = save_array(files / f"map_{key}.npy", values)
        cell["map_name"] = f"{found.name}, {found.title}"
        cell["map_scale"], cell["map_offset"] = list(found.scale.scale), list(found.scale.offset)
    return cell


def _dice(labels: np.ndarray, truth: np.ndarray) -> float | None:
    """Overlap of all classes taken together; ``None`` where both are empty."""
    known = truth != UNKNOWN
    said, true = (labels > 0) & known, (truth > 0) & known
    both = int(said.sum() + true.sum())
    return 2 * int((said & true).sum()) / both if both else None
