"""Options of ``train`` that put a refinement on a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.io.layout import Layout
    from napari_attnseg.settings import TrainSettings

Refine = Annotated[
    str | None,
    typer.Option(
        help="Train a refinement of the masks of --coarse: cspn or dyspn (to compare them with: "
        "none, a plain second U-Net; off, the coarse model trained on; cspn_fold, dyspn_fold)."
    ),
]
Coarse = Annotated[
    str | None,
    typer.Option(
        help="With --refine: the trained model to refine, a file or a shipped name. Preprocessing, "
        "classes and threshold come from it."
    ),
]
FineTune = Annotated[
    bool, typer.Option("--fine-tune", help="With --refine: the coarse model learns on as well.")
]
REFINEMENT = "refinement"
"""The recipe when ``--refine`` is given and no other recipe is."""


def check_options(
    refine: str | None,
    coarse: str | None,
    fine_tune: bool,
    model: str | None,
    preprocessing: list[str] | None,
) -> None:
    """Raise ``InputError`` for options that contradict each other."""
    if refine is None:
        alone = "--coarse" if coarse is not None else "--fine-tune" if fine_tune else ""
        if alone:
            raise InputError(f"got {alone} without --refine; add --refine cspn or --refine dyspn")
        return
    if coarse is None:
        raise InputError(
            "got --refine without --coarse, expected the trained model to refine: a checkpoint "
            "file or a shipped name"
        )
    if model not in (None, "refined"):
        raise InputError(f"got --model {model} and --refine; the model to refine is --coarse")
    if preprocessing:
        raise InputError(
            "got --preprocessing and --refine, but the preprocessing is that of --coarse; leave "
            "it out"
        )


def refined(
    settings: TrainSettings,
    refine: str,
    coarse: str,
    fine_tune: bool,
    classes: str | None,
    layout: Layout | None,
) -> TrainSettings:
    """The settings on top of the coarse checkpoint (see ``engine.coarse.refining``).

    Raises ``InputError`` when the data has other classes than the coarse model.
    """
    from napari_attnseg.engine.coarse import refining

    found = refining(settings, coarse, refine, fine_tune)
    known = found.class_names[1:]
    given = tuple(c.strip() for c in classes.split(",")) if classes else known
    if given != known or (layout is not None and len(layout.class_names) != len(known) + 1):
        theirs = given if layout is None else layout.class_names[1:]
        raise InputError(
            f"got classes {', '.join(theirs)}, but {coarse} knows {', '.join(known)}; a "
            "refinement keeps the classes of its coarse model"
        )
    return found
