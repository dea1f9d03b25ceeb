"""``predict --save-steps``: the mask of every iteration of a refined model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.cards import Card

SaveSteps = Annotated[
    bool,
    typer.Option(
        "--save-steps",
        help="Of a refined model: also the mask of every iteration, as step_00 (the coarse mask), "
        "step_01, ... in a folder NAME_steps.",
    ),
]


def check_steps(card: Card, wanted: bool) -> None:
    """Raise ``InputError`` when steps are ``wanted`` of a model without iterations."""
    if wanted and "iterations" not in card.tuning.values:
        raise InputError(
            "got --save-steps, but this model has no iterations; leave it out, or choose a model "
            "that was trained with --refine, or refine this one's masks with --refine nuclei_cspn"
        )
