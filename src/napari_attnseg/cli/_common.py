"""Options and small parts that several commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_attnseg.cli._settings import parse_pairs
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
Tune = Annotated[
    list[str] | None,
    typer.Option(
        help="Any value that the model can be tuned by (see info MODEL), NAME=VALUE, as level_2=0 "
        "(repeatable)."
    ),
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
    tune: list[str] | None = None,
) -> Tuning:
    """The checkpoint's own tuning with the values given on the command line.

    ``tune``: NAME=VALUE of any tunable. Raises ``InputError`` for a name that the card lacks, or
    that is given twice, and for a value out of its range.
    """
    given: dict[str, Any] = {"threshold": threshold, "rule": rule, "gamma": gamma, "cut": cut}
    given["iterations"] = iterations
    moved = {name: value for name, value in given.items() if value is not None}
    words = dict.fromkeys(moved, "--{} ")
    for item in tune or []:
        (name, value), *_ = parse_pairs([item], "--tune").items()
        if name in moved:
            raise InputError(f"got {name} twice, expected one value of it")
        moved[name], words[name] = value, "--tune {}="
    known = {*card.tuning.values, "cut"}
    ranges = {t["name"]: t for t in card.tunables}
    for name, value in moved.items():
        word = words[name].format(name)
        if name not in known:
            raise InputError(
                f"got {word.rstrip(' =')}, which this model does not have; it can be tuned by "
                f"{', '.join(sorted(known))}"
            )
        moved[name] = _in_range(value, word, ranges.get(name, {}), name)
    return card.tuning.replace(**moved)


def _in_range(value: Any, word: str, of: Mapping[str, Any], name: str) -> Any:
    """``value`` as its tunable takes it; ``of``: that tunable as plain data, ``{}`` for the cut."""
    choices = tuple(of.get("choices", ())) or (RULES if name == "rule" else ())
    if choices:
        if value not in choices:
            raise InputError(f"got {word}{value}, expected one of {', '.join(choices)}")
        return value
    low, high = of.get("minimum", 0.0), of.get("maximum", 1.0)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    plain = name == "threshold"
    fits = number and (low <= value <= high or (plain and value == PLAIN_THRESHOLD))
    if name == "gamma" and word == "--gamma ":
        fits = number and math.isfinite(value)  # beyond the slider's ends if asked for
    whole = of.get("kind") == "int"
    if fits and not (whole and value != int(value)):
        return int(value) if whole else float(value)
    more = f", or {PLAIN_THRESHOLD:g} for plain attention" if plain else ""
    shown = f"{value:g}" if number else value
    kind = " (a whole number)" if whole else ""
    raise InputError(f"got {word}{shown}, expected {low:g} to {high:g}{kind}{more}")


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """``ensure_folder`` for the work inside; if that fails, no empty new folder stays behind."""
    new = [p for p in (folder, *folder.parents) if not p.exists()]
    ensure_folder(folder)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # one that holds something stays, and so do those around it
            for made in new:
                made.rmdir()
        raise


def ensure_folder(folder: Path) -> None:
    """Create the output folder, or say why it cannot be one."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"got --out {folder}, which is a file; expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {folder}: {error.strerror}") from error
