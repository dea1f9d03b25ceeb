"""Options and small parts that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_attnseg.errors import InputError
from napari_attnseg.settings import PLAIN_THRESHOLD, RULES, Tuning

if TYPE_CHECKING:
    from napari_attnseg.cards import Card

Model = Annotated[
    str, typer.Argument(help="A checkpoint file (.safetensors) or the name of a shipped one.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0, mps")]
Threshold = Annotated[
    float | None,
    typer.Option(help="Smoothness threshold from 0 to 1; 2.0 is plain self-attention."),
]
Rule = Annotated[str | None, typer.Option(help=f"Gating rule: {', '.join(RULES)}.")]
Gamma = Annotated[float | None, typer.Option(help="Weight of the attention branch.")]
Iterations = Annotated[
    int | None,
    typer.Option(min=0, help="Of a refined model: how often to refine; 0 gives the coarse mask."),
]
Cut = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Probability from which a pixel belongs to a class."),
]


def say(text: str) -> None:
    """Progress and notes go to standard error; standard output is for results alone."""
    print(text, file=sys.stderr, flush=True)


def tuning_of(
    card: Card,
    threshold: float | None,
    rule: str | None,
    gamma: float | None,
    cut: float | None,
    iterations: int | None = None,
) -> Tuning:
    """The checkpoint's own tuning with the values given on the command line."""
    given: dict[str, Any] = {"threshold": threshold, "rule": rule, "gamma": gamma, "cut": cut}
    given["iterations"] = iterations
    moved = {name: value for name, value in given.items() if value is not None}
    known = {*card.tuning.values, "cut"}
    for name in moved:
        if name not in known:
            raise InputError(
                f"got --{name}, which this model does not have; it can be tuned by "
                f"{', '.join(sorted(known))}"
            )
    if rule is not None and rule not in RULES:
        raise InputError(f"got --rule {rule}, expected one of {', '.join(RULES)}")
    if threshold is not None and not (0.0 <= threshold <= 1.0 or threshold == PLAIN_THRESHOLD):
        raise InputError(
            f"got --threshold {threshold:g}, expected 0 to 1, or {PLAIN_THRESHOLD:g} for plain "
            "attention"
        )
    top = max((t["maximum"] for t in card.tunables if t["name"] == "iterations"), default=0)
    if iterations is not None and iterations > top:
        raise InputError(f"got --iterations {iterations}, expected 0 to {top:g}")
    return card.tuning.replace(**moved)


def ensure_folder(folder: Path) -> None:
    """Create the output folder, or say why it cannot be one."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"got --out {folder}, which is a file; expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {folder}: {error.strerror}") from error
