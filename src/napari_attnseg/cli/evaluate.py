"""``evaluate`` and ``sweep``: figures against reference masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.atomic import write_whole
from napari_attnseg.cli._common import (
    Cut,
    Device,
    Gamma,
    Iterations,
    Model,
    Rule,
    Threshold,
    Tune,
    made_folder,
    say,
    tuning_of,
)
from napari_attnseg.cli._data import Data, Images, Labels, Masks, layout_of
from napari_attnseg.cli._tables import figures_table
from napari_attnseg.settings import PLAIN_THRESHOLD

if TYPE_CHECKING:
    from napari_attnseg.engine.evaluate import Maker
    from napari_attnseg.io.pairs import Pairing
    from napari_attnseg.settings import Tuning


def pairs_of(images: Path, masks: Path) -> Pairing:
    """Pair two folders and list on standard error what stays unpaired."""
    from napari_attnseg.io.pairs import pair_folders

    pairing = pair_folders(images, masks)
    for path in (*pairing.unpaired_images, *pairing.unpaired_masks):
        say(f"note: {path} has no partner and is left out")
    return pairing


def evaluate(
    model: Model,
    images: Images = None,
    masks: Masks = None,
    data: Data = None,
    labels: Labels = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    per_image: Annotated[bool, typer.Option(help="Add the figures of every image.")] = False,
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
            help="Judge the masks of MODEL as this refined model refines them. --iterations and "
            "--cut are then of the refinement, all other values of MODEL.",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Dice, IoU, precision, recall, accuracy, specificity, F1 and AUC over a folder."""
    layout = layout_of(images, masks, data, labels)
    pairing = None if images is None or masks is None else pairs_of(images, masks)
    given = (threshold, rule, gamma, cut, iterations, tune)
    maker, tuning = _maker(model, refine, given, device)
    if layout is not None:
        from napari_attnseg.engine.layout_data import evaluate_layout

        result = evaluate_layout(maker, layout, device, tuning)
    else:
        from napari_attnseg.engine.evaluate import evaluate as run

        assert pairing is not None
        result = run(maker, pairing.pairs, device=device, tuning=tuning)
    if not per_image:
        result.pop("per_image", None)
    for note in result.get("notes", ()):
        say(f"note: {note}")
    if as_json:
        print(json.dumps(result, indent=1, default=str))
        return
    print(figures_table(result))


Given = tuple[float | None, str | None, float | None, float | None, int | None, list[str] | None]


def _maker(model: str, refine: str | None, given: Given, device: str) -> tuple[Maker, Tuning]:
    """The opened model, or the refinement on top of it, and the values for its masks."""
    from napari_attnseg.engine.on_top import OnTop
    from napari_attnseg.engine.session import Session
    from napari_attnseg.models.checkpoint import load_checkpoint

    threshold, rule, gamma, cut, iterations, tune = given
    checkpoint = load_checkpoint(model)
    if refine is None:
        return Session(checkpoint, device), tuning_of(checkpoint.card, *given)
    own = tuning_of(checkpoint.card, threshold, rule, gamma, None, None, tune)
    refiner = load_checkpoint(refine)
    tuning = tuning_of(refiner.card, None, None, None, cut, iterations)
    return OnTop(Session(checkpoint, device), Session(refiner, device), own), tuning


def sweep(
    model: Model,
    images: Annotated[Path, typer.Option(help="Folder of images (2D or NIfTI).")],
    masks: Annotated[Path, typer.Option(help="Folder of masks, paired by file name.")],
    out: Annotated[Path, typer.Option(help="Folder for sweep.md and sweep.png.")],
    rule: Rule = None,
    gamma: Gamma = None,
    cut: Cut = None,
    tune: Tune = None,
    device: Device = "auto",
) -> None:
    """The paper's table: thresholds 0.1 to 0.9, the model's own and 2.0, from one encoder pass."""
    pairing = pairs_of(images, masks)
    with made_folder(out):
        _sweep(model, pairing, out, device, (rule, gamma, cut, tune))


def _sweep(
    model: str,
    pairing: Pairing,
    out: Path,
    device: str,
    given: tuple[str | None, float | None, float | None, list[str] | None],
) -> None:
    from napari_attnseg.engine.sweep import THRESHOLDS, plot, to_markdown
    from napari_attnseg.engine.sweep import sweep as run
    from napari_attnseg.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(model)
    rule, gamma, cut, tune = given
    tuning = tuning_of(checkpoint.card, None, rule, gamma, cut, None, tune)
    own = float(tuning.get("threshold", PLAIN_THRESHOLD))
    thresholds = sorted({*THRESHOLDS, own})
    rows = run(checkpoint, pairing.pairs, device=device, tuning=tuning, thresholds=thresholds)
    table = to_markdown(rows, own)
    write_whole(out / "sweep.md", table.encode())
    plot(rows, out / "sweep.png")
    print(table)
    say(f"written: {out / 'sweep.md'}, {out / 'sweep.png'}")
