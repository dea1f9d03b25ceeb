"""``train``: from a folder of images and a folder of masks to a checkpoint."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_attnseg.cli._common import Device, say
from napari_attnseg.cli._data import Data, Images, Labels, Masks, layout_of
from napari_attnseg.control.messages import EpochDone, Finished, Note, Started
from napari_attnseg.errors import InputError
from napari_attnseg.settings import RECIPES, TrainSettings, with_model

if TYPE_CHECKING:
    from napari_attnseg.engine.data import Source

SIMPLE = (
    "model",
    "epochs",
    "batch",
    "lr",
    "optimizer",
    "weight_decay",
    "schedule",
    "loss",
    "gamma_start",
    "gamma_lr_factor",
    "rule",
    "threshold",
    "threshold_draw",
    "crop",
    "validation",
    "patience",
    "seed",
    "encoder_weights",
)
"""Fields of ``TrainSettings`` that ``--set NAME=VALUE`` and the named options may change."""

SHOWN = ("iou", "miou", "accuracy")
"""Figures of every epoch that are printed, besides each Dice."""


def parse_value(text: str) -> Any:
    """``0.5`` is a number, ``true`` a flag, ``null`` nothing, anything else a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_pairs(items: list[str], option: str) -> dict[str, Any]:
    """``["width=0.5"]`` to ``{"width": 0.5}``."""
    for item in items:
        if "=" not in item:
            raise InputError(f"got {option} {item}, expected NAME=VALUE")
    return {name: parse_value(value) for name, value in (item.split("=", 1) for item in items)}


def settings_from(
    recipe: str,
    classes: str | None,
    changes: dict[str, Any],
    options: dict[str, Any],
    preprocessing: dict[str, Any],
) -> TrainSettings:
    """The recipe with what was asked for on top; unknown names are refused with the known."""
    if recipe not in RECIPES:
        raise InputError(f"got --recipe {recipe}, expected one of {', '.join(RECIPES)}")
    base = with_model(RECIPES[recipe], changes.pop("model", RECIPES[recipe].model))
    unknown = set(changes) - {*SIMPLE, "augment"}
    if unknown:
        known = ", ".join((*SIMPLE, "augment"))
        raise InputError(f"got --set {', '.join(sorted(unknown))}, expected one of {known}")
    if classes:
        changes["class_names"] = ("background", *(c.strip() for c in classes.split(",")))
    try:
        pre = replace(base.preprocessing, **preprocessing)
    except TypeError as error:
        raise InputError(f"got --preprocessing with an unknown name: {error}") from error
    channels = pre.channels
    if len(pre.mean) != channels or len(pre.std) != channels:
        pre = replace(pre, mean=(pre.mean[0],) * channels, std=(pre.std[0],) * channels)
    return replace(base, **changes, options={**base.options, **options}, preprocessing=pre)


def train(
    out: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).")],
    images: Images = None,
    masks: Masks = None,
    data: Data = None,
    labels: Labels = "",
    recipe: Annotated[
        str, typer.Option(help=f"Named preset: {', '.join(RECIPES)}.")
    ] = "threshold-matters",
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes 1, 2, ... separated by commas.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch: Annotated[int | None, typer.Option(min=1)] = None,
    lr: Annotated[float | None, typer.Option(min=0.0)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other training value, NAME=VALUE (repeatable)."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Model option NAME=VALUE, as width=0.5 (repeatable)."),
    ] = None,
    preprocessing: Annotated[
        list[str] | None,
        typer.Option(help="Preprocessing NAME=VALUE, as intensity=window (repeatable)."),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(help='Encoder weights: a local file (.safetensors, .pth) or "imagenet".'),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the model card.")] = "",
    text: Annotated[str, typer.Option(help="Limits and remarks for the model card.")] = "",
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from the state beside --out.")] = False,
) -> None:
    """Train a model; Ctrl+C keeps the best one and --resume goes on bit-exactly on CPU."""
    layout = layout_of(images, masks, data, labels)
    changes = parse_pairs(set_ or [], "--set")
    if layout is not None and classes is None:
        classes = ",".join(layout.class_names[1:])
    named = {"epochs": epochs, "batch": batch, "lr": lr, "seed": seed}
    changes |= {name: value for name, value in named.items() if value is not None}
    if encoder_weights is not None:
        changes["encoder_weights"] = str(encoder_weights)
    settings = settings_from(
        recipe,
        classes,
        changes,
        parse_pairs(option or [], "--option"),
        parse_pairs(preprocessing or [], "--preprocessing"),
    )
    command = shlex.join(["napari-attnseg", *sys.argv[1:]])
    from napari_attnseg.engine.data import FolderSource

    source: Source
    if layout is not None:
        from napari_attnseg.engine.layout_data import LayoutSource

        source = LayoutSource(layout)
    else:
        assert images is not None
        assert masks is not None
        source = FolderSource(images, masks)
    _run(settings, source, out, device, resume, command, title, text)


def _run(
    settings: TrainSettings,
    source: Source,
    out: Path,
    device: str,
    resume: bool,
    command: str,
    title: str,
    text: str,
) -> None:
    from napari_attnseg.engine.train import train as run

    events = run(
        settings, source, out, device=device, resume=resume, command=command, title=title, text=text
    )
    try:
        for event in events:
            line = describe(event)
            if line:
                say(line)
    finally:
        events.close()


def _own(event: EpochDone) -> str:
    """The figures that only some models have."""
    gamma = "" if event.gamma is None else f"gamma {event.gamma:+.3f}  "
    own = "" if event.regulariser is None else f"R(A) {event.regulariser:.3g}  "
    return gamma + own


def describe(event: Any) -> str:
    """One line per event; heartbeats say nothing."""
    if isinstance(event, Started):
        notes = "".join(f"\nnote: {note}" for note in event.notes)
        return f"training on {event.device}, {event.total} epochs{notes}"
    if isinstance(event, EpochDone):
        shown = {k: v for k, v in event.validation.items() if k in SHOWN or k.startswith("dice")}
        figures = "  ".join(f"{k} {v:.4f}" for k, v in shown.items())
        return (
            f"epoch {event.epoch}/{event.epochs}  loss {event.loss:.4f}  "
            f"{event.measured_on}: {figures}  "
            f"{_own(event)}{event.seconds:.1f} s"
            f"{'  best' if event.best else ''}  {event.seconds_left:.0f} s left"
        )
    if isinstance(event, Note):
        return f"note: {event.text}"
    if isinstance(event, Finished):
        idle = event.reason == "done" and event.summary.get("new_epochs") == 0
        more = " (all epochs were done before; give a larger --epochs to go on)" if idle else ""
        return f"finished: {event.reason}{more}; {json.dumps(event.outputs)}"
    return ""
