"""``experiment``: the papers' tables on any data set, with one command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_attnseg.cli._common import Device, ensure_folder, say
from napari_attnseg.cli._data import DataSet, Limit, Reading, Sets, Tables
from napari_attnseg.cli._settings import check_threshold, parse_pairs
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.engine.experiment.plan import Plan, Scale
    from napari_attnseg.io.layout import Layout

NAMES = ("smooth-attention", "joint-attention", "pam-unet", "refinement")


def experiment(
    name: Annotated[str, typer.Argument(help=f"Which one: {', '.join(NAMES)}.")],
    data: DataSet,
    out: Tables,
    size: Annotated[int, typer.Option(min=0, help="Working size in pixels (0: the paper's).")] = 0,
    epochs: Annotated[int, typer.Option(min=0, help="0: the paper's.")] = 0,
    batch: Annotated[int, typer.Option(min=0, help="0: the paper's.")] = 0,
    limit: Limit = 0,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0",
    width: Annotated[float, typer.Option(min=0.0, help="Width of the networks (0: full).")] = 0.0,
    coarse_epochs: Annotated[
        int, typer.Option(min=0, help="Of the coarse model that a refinement stands on (0: 3).")
    ] = 0,
    labels: Reading = "",
    set_: Sets = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Model option NAME=VALUE, for models that know it (repeatable)."),
    ] = None,
    preprocessing: Annotated[
        list[str] | None, typer.Option(help="Preprocessing NAME=VALUE (repeatable).")
    ] = None,
    keep_models: Annotated[bool, typer.Option(help="Keep the checkpoints.")] = False,
    device: Device = "auto",
) -> None:
    """Train and test every row of a paper's table; finished runs are kept and not run again."""
    if name not in NAMES:
        raise InputError(f"got experiment {name}, expected one of {', '.join(NAMES)}")
    changed, options = parse_pairs(set_ or [], "--set"), parse_pairs(option or [], "--option")
    if "threshold" in options:
        check_threshold(options["threshold"], "--option threshold=")
    prepared, numbers = parse_pairs(preprocessing or [], "--preprocessing"), parse_seeds(seeds)
    from napari_attnseg.engine.experiment.plan import Scale
    from napari_attnseg.io.layouts import find_layout

    scale = Scale(size, epochs, batch, width, numbers, changed, options, prepared, coarse_epochs)
    _run(name, scale, find_layout(data, labels, limit), out, device, keep_models)


def _run(
    name: str, scale: Scale, layout: Layout, out: Path, device: str, keep_models: bool
) -> None:
    """Plan, say what is ahead, run and print the report."""
    from napari_attnseg.engine.experiment.plans import make_plan
    from napari_attnseg.engine.experiment.suited import suited

    base, note = suited(layout)
    carry_out(make_plan(name, scale, base), layout, out, device, keep_models, note)


def carry_out(
    plan: Plan, layout: Layout, out: Path, device: str, keep_models: bool, note: str = ""
) -> None:
    """Say what is ahead, run and print the report."""
    from napari_attnseg.engine.experiment.run import run_plan

    ensure_folder(out)
    say(layout.report() + (f"\n{note}" if note else ""))
    for words in plan.left_out:
        say(f"left out: {words}")
    say(f"{len(plan.runs)} runs: {len(plan.rows)} rows, seeds {', '.join(map(str, plan.seeds))}")
    command = shlex.join(["napari-attnseg", *sys.argv[1:]])
    steps = run_plan(plan, layout, out, device=device, command=command, keep_models=keep_models)
    _follow(steps, out / f"{plan.name}.md")


def parse_seeds(text: str) -> tuple[int, ...]:
    """``"0,1,2"`` to numbers; raises ``InputError``."""
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"got --seeds {text}, expected whole numbers as in 0,1,2") from None
    if min(seeds) < 0:
        raise InputError(f"got --seeds {text}, expected numbers from 0 on")
    return seeds


def _follow(steps: Any, report: Path) -> None:
    """Say what happens; the report is printed at the end, and named when stopped."""
    try:
        for step in steps:
            line = describe(step)
            if line:
                say(line)
    finally:
        steps.close()
        if report.is_file():
            say(f"written: {report} (and .json, .csv, .png beside it)")
    print(report.read_text())


def describe(step: Any) -> str:
    """One line per finished, kept or measured run; epochs are told by the last of each."""
    if step is None:
        return ""
    if step.what == "costs":
        return f"costs of {step.row.label} measured"
    where = f"run {step.number} of {step.total}: {step.run.row.label}, seed {step.run.seed}"
    if step.what == "kept":
        return f"{where}: kept from before"
    if step.what == "failed":
        return f"{where}: failed: {step.error}"
    if step.what == "done":
        found, seconds = step.record["metrics"], step.record["train_seconds"]
        return f"{where}: IoU {found['iou']:.4f}  Dice {found['dice']:.4f}  ({seconds:.0f} s)"
    return ""
