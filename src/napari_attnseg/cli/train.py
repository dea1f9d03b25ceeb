"""``train``: from a folder of images and a folder of masks to a checkpoint."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_attnseg.cli._common import Device, say
from napari_attnseg.cli._data import Data, Images, Labels, Masks, layout_of
from napari_attnseg.cli._progress import describe, describe_check
from napari_attnseg.cli._refining import (
    REFINEMENT,
    Coarse,
    FineTune,
    Refine,
    check_options,
    refined,
)
from napari_attnseg.cli._settings import parse_pairs, settings_from
from napari_attnseg.cli.attentions import Placed, with_attention
from napari_attnseg.control.checks import OverfitDone
from napari_attnseg.errors import InputError
from napari_attnseg.settings import RECIPE_ALIASES, RECIPES, TrainSettings

if TYPE_CHECKING:
    from napari_attnseg.engine.data import Source
    from napari_attnseg.io.layout import Layout
    from napari_attnseg.io.preflight import Preflight

__all__ = ["parse_pairs", "train"]

NAMES = ", ".join((*RECIPES, *RECIPE_ALIASES))


def train(
    out: Annotated[Path | None, typer.Option(help="Checkpoint to write (.safetensors).")] = None,
    images: Images = None,
    masks: Masks = None,
    data: Data = None,
    labels: Labels = "",
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"Named preset: {NAMES}; with --refine: {REFINEMENT}.",
            show_default="threshold-matters",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model than the recipe's (see models).")
    ] = None,
    attention: Placed = None,
    refine: Refine = None,
    coarse: Coarse = None,
    fine_tune: FineTune = False,
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
    patch: Annotated[
        str | None,
        typer.Option(
            help="Of a 3D model (--option ndim=3): slices, rows and columns of the random patches "
            "it learns from, and of the windows it answers through.",
            show_default="64,96,96",
        ),
    ] = None,
    preprocessing: Annotated[
        list[str] | None,
        typer.Option(help="Preprocessing NAME=VALUE, as intensity=window (repeatable)."),
    ] = None,
    encoder_weights: Annotated[
        str | None,
        typer.Option(help='Encoder weights: a local file (.safetensors, .pth) or "imagenet".'),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the model card.")] = "",
    text: Annotated[str, typer.Option(help="Limits and remarks for the model card.")] = "",
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from the state beside --out.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the checkpoint that --out names.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Look at the data and build the model; train nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Only see whether the model can learn one image; write nothing.")
    ] = False,
    check_steps: Annotated[int, typer.Option(min=1, help="Steps of --check at most.")] = 100,
) -> None:
    """Train a model; Ctrl+C keeps the best one and --resume goes on bit-exactly on CPU."""
    model, option = with_attention(model, option, attention)
    if patch is not None:
        preprocessing = [*(preprocessing or []), f"patch=[{patch}]"]
    check_options(refine, coarse, fine_tune, model, preprocessing)
    if not (dry_run or check):
        out = checkpoint_to_write(out, resume or overwrite)
    changes = parse_pairs(set_ or [], "--set")
    named = {
        "model": "refined" if refine else model,
        "epochs": epochs,
        "batch": batch,
        "lr": lr,
        "seed": seed,
        "encoder_weights": encoder_weights,
    }
    changes |= {name: value for name, value in named.items() if value is not None}

    def asked(named: str | None, changes: dict[str, Any]) -> TrainSettings:
        return settings_from(
            recipe or (REFINEMENT if refine else "threshold-matters"),
            named,
            changes,
            parse_pairs(option or [], "--option"),
            parse_pairs(preprocessing or [], "--preprocessing"),
        )

    # wrong words are refused before a folder is looked at; weights need the classes of the data
    later = data is not None and classes is None
    asked(classes, {k: v for k, v in changes.items() if not (later and k == "class_weights")})
    layout = layout_of(images, masks, data, labels)
    if layout is not None and later:
        settings = asked(",".join(layout.class_names[1:]), changes)
    else:
        settings = asked(classes, changes)
    if refine is not None and coarse is not None:
        settings = refined(settings, refine, coarse, fine_tune, classes, layout)
    if dry_run:
        _dry_run(settings, _look(layout, images, masks))
        return
    source = _source(layout, images, masks)
    if check:
        _check(settings, source, device, check_steps)
        return
    assert out is not None
    if not resume:
        say("\n".join(_look(layout, images, masks).lines()))
    from napari_attnseg.engine.train import train as run

    events = run(
        settings,
        source,
        out,
        device=device,
        resume=resume,
        command=shlex.join(["napari-attnseg", *sys.argv[1:]]),
        title=title,
        text=text,
    )
    _follow(events, describe)


def checkpoint_to_write(out: Path | None, replace: bool) -> Path:
    """``--out`` itself; raises ``InputError`` when it cannot be written or would be lost."""
    if out is None:
        raise InputError("got no --out, expected the checkpoint to write (.safetensors)")
    if out.suffix != ".safetensors":
        raise InputError(f"got --out {out.name}, expected a name that ends in .safetensors")
    if out.exists() and not replace:
        raise InputError(
            f"got --out {out}, which exists; use --resume, another --out, or --overwrite"
        )
    return out


def _source(layout: Layout | None, images: Path | None, masks: Path | None) -> Source:
    from napari_attnseg.engine.data import FolderSource

    if layout is not None:
        from napari_attnseg.engine.layout_data import LayoutSource

        return LayoutSource(layout)
    assert images is not None
    assert masks is not None
    return FolderSource(images, masks)


def _look(layout: Layout | None, images: Path | None, masks: Path | None) -> Preflight:
    """Pairs, sizes, intensities and class balance, before anything is trained."""
    from napari_attnseg.io.preflight import preflight_folders, preflight_layout

    if layout is not None:
        return preflight_layout(layout)
    assert images is not None
    assert masks is not None
    return preflight_folders(images, masks)


def _dry_run(settings: TrainSettings, found: Preflight) -> None:
    """The report on standard output, and the model that would be trained."""
    from napari_attnseg.engine.learner import build_model

    print("\n".join(found.lines()))
    notes: list[str] = []
    model = build_model(settings, notes)
    numbers = sum(p.numel() for p in model.parameters())
    channels = settings.preprocessing.channels
    print(
        f"model: {settings.model}, {numbers:,} parameters, {channels} "
        f"channel{'s' * (channels != 1)}, classes {', '.join(settings.class_names)}"
    )
    for note in notes:
        print(f"note: {note}")
    if not found.ok:
        raise typer.Exit(1)


def _check(settings: TrainSettings, source: Source, device: str, steps: int) -> None:
    """Exit code 1 when the model does not even learn one image."""
    from napari_attnseg.engine.overfit import overfit

    last = _follow(overfit(settings, source, device=device, steps=steps), describe_check)
    if not isinstance(last, OverfitDone) or last.verdict == "stuck":
        raise typer.Exit(1)


def _follow(events: Generator[Any, None, None], words: Callable[[Any], str]) -> Any:
    """Print the events as they come; returns the last one."""
    last = None
    try:
        for event in events:
            last = event
            line = words(event)
            if line:
                say(line)
    finally:
        events.close()
    return last
