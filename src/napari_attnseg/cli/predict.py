"""``predict``: one verified mask per input, more only on request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.cli._batch import Scheduler, run_batch
from napari_attnseg.cli._common import (
    Cut,
    Device,
    Gamma,
    Iterations,
    Model,
    Rule,
    Threshold,
    Tune,
    say,
    tuning_of,
)
from napari_attnseg.cli._inputs import collect, targets
from napari_attnseg.cli._steps import SaveSteps, check_steps
from napari_attnseg.cli._tidy import FillHoles, FillHoles2d, KeepLargest, steps_of
from napari_attnseg.control.volumes import ALL_AXES, AXES, axes_named
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.cards import Card
    from napari_attnseg.engine.batch import Recipe
    from napari_attnseg.settings import Tuning

EXTRAS = ("probability", "objects", "preview")

DARK = (
    "note: PNG masks hold class ids, so they look black in picture viewers; open them in napari, "
    "or add --save preview"
)


def predict(
    model: Model,
    inputs: Annotated[list[Path], typer.Argument(help="2D images, NIfTI files, or folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks (made when absent).")],
    threshold: Threshold = None,
    rule: Rule = None,
    gamma: Gamma = None,
    cut: Cut = None,
    iterations: Iterations = None,
    tune: Tune = None,
    refine: Annotated[
        str | None,
        typer.Option(
            metavar="REFINEMENT",
            help="Refine the masks of MODEL, whichever it is, by this refined model (a file or a "
            "shipped name, as nuclei_cspn). --iterations and --cut are then of the refinement, "
            "all other values of MODEL.",
        ),
    ] = None,
    save_steps: SaveSteps = False,
    volume: Annotated[
        int | None, typer.Option(min=0, help="Which volume of a 4D NIfTI (from 0).")
    ] = None,
    save: Annotated[
        list[str] | None, typer.Option(help=f"Also write: {', '.join(EXTRAS)} (repeatable).")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Cut slices larger than this many pixels into overlapping tiles: for images that "
            "do not fit into memory. Changes the answer of a global attention."
        ),
    ] = None,
    axis: Annotated[
        str,
        typer.Option(
            help=f"Along which axis of a volume slices are taken: {', '.join(AXES)}, or "
            f"{ALL_AXES}: along each of them with averaged probabilities, which takes three times "
            "as long for a cube, longer for a flat volume."
        ),
    ] = AXES[0],
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse images that do not look like those of the training (values, voxel size, "
            "standing, missing slices) instead of noting it.",
        ),
    ] = False,
    keep_largest: KeepLargest = False,
    fill_holes: FillHoles = False,
    fill_holes_2d: FillHoles2d = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Make every mask anew. Without it a finished mask of the same model, values and "
            "image is kept, and one that was changed by hand is never replaced.",
        ),
    ] = False,
    scheduler: Scheduler = None,
    device: Device = "auto",
) -> None:
    """Segment images: INPUT... -> one mask each, re-read and verified.

    Stopped or killed, the same command goes on where it was. Of several inputs, or a folder, the
    table predictions.csv in OUT has a line per file.
    """
    for name in save or []:
        if name not in EXTRAS:
            raise InputError(f"got --save {name}, expected one of {', '.join(EXTRAS)}")
    axes_named(axis)
    extras = (*dict.fromkeys(save or []), *(("steps",) if save_steps else ()))
    places = targets(collect(inputs), out, extras)
    recipe, card = _recipe(model, refine, (threshold, rule, gamma, cut, iterations, tune))
    check_steps(card, save_steps and refine is None)
    recipe = replace(
        recipe,
        device=device,
        tile=tile,
        volume=volume,
        save=extras,
        strict=strict,
        overwrite=overwrite,
        tidy=steps_of(keep_largest, fill_holes, fill_holes_2d),
        axis=axis,
    )
    many = len(places) > 1 or any(path.is_dir() for path in inputs)
    report = run_batch(recipe, card, places, out, many, scheduler)
    if "preview" not in (save or []) and any(m.suffix == ".png" for m in places.values()):
        say(DARK)
    report.end()
    if report.bad:
        raise typer.Exit(1)


Given = tuple[float | None, str | None, float | None, float | None, int | None, list[str] | None]


def _recipe(model: str, refine: str | None, given: Given) -> tuple[Recipe, Card]:
    """The values given on the command line on top of those of the cards, and the card of the
    classes. Reads cards alone, no network."""
    from napari_attnseg.cards import read_card, resolve_checkpoint
    from napari_attnseg.engine.batch import Recipe

    threshold, rule, gamma, cut, iterations, tune = given
    card = read_card(resolve_checkpoint(model))
    if refine is None:
        tuning = tuning_of(card, threshold, rule, gamma, cut, iterations, tune)
        return Recipe(model, tuning, card.digest), card
    own: Tuning = tuning_of(card, threshold, rule, gamma, None, None, tune)
    refiner = read_card(resolve_checkpoint(refine))
    tuning = tuning_of(refiner, None, None, None, cut, iterations)
    return Recipe(model, tuning, card.digest, refine, refiner.digest, own), card
