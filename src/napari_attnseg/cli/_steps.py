"""``predict --save-steps``: the mask of every iteration of a refined model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from napari_attnseg.cli._common import ensure_folder, say
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.cards import Card
    from napari_attnseg.engine.on_top import OnTop
    from napari_attnseg.engine.session import Session
    from napari_attnseg.io.volume import Volume
    from napari_attnseg.settings import Tuning

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


def write_steps(
    session: Session | OnTop, source: Volume, tuning: Tuning, folder: Path, suffix: str
) -> None:
    """One verified mask per iteration of the image that the session has, all slices. What an
    earlier, longer run left behind these is removed."""
    from napari_attnseg.io.export import write_mask

    ensure_folder(folder)
    slices = [
        [(step.labels, step.changed) for step in session.steps(z, tuning)]  # masks alone stay
        for z in range(session.n_slices)
    ]
    changed: list[int] = []
    for number, steps in enumerate(zip(*slices, strict=True)):
        write_mask(
            folder / f"step_{number:02d}{suffix}",
            np.stack([labels for labels, _ in steps]),
            source,
            classes=dict(enumerate(session.card.class_names)),
            colors=dict(enumerate(session.card.class_colors)),
            provenance=session.provenance(tuning.replace(iterations=number)),
        )
        changed.append(sum(count for _, count in steps))
    _remove_from(len(changed), folder, suffix)
    words = ", ".join(map(str, changed[1:])) or "none"
    say(f"{folder.name}: {len(changed)} masks; pixels changed per iteration: {words}")


def _remove_from(first: int, folder: Path, suffix: str) -> None:
    """Masks of iteration ``first`` and later, which this run did not write; nothing else."""
    for path in folder.glob(f"step_*{suffix}"):
        number = path.name.removeprefix("step_").removesuffix(suffix)
        if number.isdecimal() and int(number) >= first:
            path.unlink()
