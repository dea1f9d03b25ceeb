"""``predict``: one verified mask per input, more only on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from napari_attnseg.cli._common import (
    Cut,
    Device,
    Gamma,
    Iterations,
    Model,
    Rule,
    Threshold,
    Tune,
    ensure_folder,
    say,
    tuning_of,
)
from napari_attnseg.cli._steps import SaveSteps, check_steps, write_steps
from napari_attnseg.errors import AttnSegError, InputError, plain_sentence

if TYPE_CHECKING:
    from napari_attnseg.engine.on_top import OnTop
    from napari_attnseg.engine.session import Session
    from napari_attnseg.io.volume import Volume
    from napari_attnseg.settings import Tuning

SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
EXTRAS = ("probability", "objects", "preview")

DARK = (
    "note: PNG masks hold class ids, so they look black in picture viewers; open them in napari, "
    "or add --save preview"
)


def stem_of(path: Path) -> str:
    """File name without its image suffix (``scan.nii.gz`` gives ``scan``)."""
    lower = path.name.lower()
    for suffix in SUFFIXES:
        if lower.endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def is_volume(path: Path) -> bool:
    """Whether the name says NIfTI."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def collect(inputs: list[Path]) -> list[Path]:
    """Files as given; folders give the images right inside them, our own masks left out."""
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.lower().endswith(SUFFIXES))
            found += [p for p in inside if not stem_of(p).endswith(("_mask", "_preview"))]
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"got {path}, which does not exist; give an image or a folder")
    if not found:
        raise InputError(f"no image found; expected files ending in {', '.join(SUFFIXES)}")
    return found


def targets(files: list[Path], out: Path) -> dict[Path, Path]:
    """Where each mask goes; two inputs that would write one mask are refused before work."""
    places: dict[Path, Path] = {}
    for path in files:
        mask = out / f"{stem_of(path)}_mask{'.nii.gz' if is_volume(path) else '.png'}"
        clash = next((p for p, m in places.items() if m == mask and p != path), None)
        if clash:
            raise InputError(
                f"{clash} and {path} would both be written to {mask.name}; "
                "predict them into different folders"
            )
        places[path] = mask
    return places


def _suffix(mask: Path) -> str:
    return ".nii.gz" if is_volume(mask) else mask.suffix


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
    device: Device = "auto",
) -> None:
    """Segment images: INPUT... -> one mask each, re-read and verified."""
    for name in save or []:
        if name not in EXTRAS:
            raise InputError(f"got --save {name}, expected one of {', '.join(EXTRAS)}")
    places = targets(collect(inputs), out)
    from napari_attnseg.engine.session import Session

    alone = Session(model, device=device, tile=tile)
    session: Session | OnTop = alone
    if refine is None:
        tuning = tuning_of(alone.card, threshold, rule, gamma, cut, iterations, tune)
        check_steps(alone.card, save_steps)
    else:
        own = tuning_of(alone.card, threshold, rule, gamma, None, None, tune)
        session, tuning = refined_by(refine, alone, own, cut, iterations, device)
    ensure_folder(out)
    failed = 0
    for path, mask in places.items():
        try:
            source = _one(session, path, mask, tuning, volume, set(save or []))
            if save_steps:
                folder = mask.with_name(f"{stem_of(path)}_steps")
                write_steps(session, source, tuning, folder, _suffix(mask))
        except (AttnSegError, MemoryError, OSError, RuntimeError) as error:
            sentence = plain_sentence(error)
            if sentence is None:
                raise
            say(f"error: {path}: {sentence}")  # the rest of a folder is still worth having
            failed += 1
    if "preview" not in (save or []) and any(m.suffix == ".png" for m in places.values()):
        say(DARK)
    say(f"{len(places) - failed} of {len(places)} masks written and verified in {out}")
    if failed:
        raise typer.Exit(1)


def refined_by(
    refine: str,
    session: Session,
    own: Tuning,
    cut: float | None,
    iterations: int | None,
    device: str,
) -> tuple[OnTop, Tuning]:
    """The model with the refinement ``refine`` on top, and the values of the latter. ``own``:
    those of the model. Raises ``InputError`` when they do not go together."""
    from napari_attnseg.engine.on_top import OnTop
    from napari_attnseg.engine.session import Session

    refiner = Session(refine, device=device)
    both = OnTop(session, refiner, own)
    return both, tuning_of(refiner.card, None, None, None, cut, iterations)


def _one(
    session: Session | OnTop,
    path: Path,
    mask: Path,
    tuning: Tuning,
    volume: int | None,
    extras: set[str],
) -> Volume:
    from napari_attnseg.io.export import write_mask
    from napari_attnseg.io.image import read_image

    source = read_image(path, volume=volume)
    session.set_image(source)
    labels = np.zeros(source.view.shape[:3], np.uint8)
    probability = np.zeros(labels.shape, np.float32) if "probability" in extras else None
    for z, prediction in session.run(tuning=tuning):
        labels[z] = prediction.labels
        if probability is not None:
            probability[z] = prediction.probability
    for note in session.notes:
        say(f"note: {path.name}: {note}")
    verified = write_mask(
        mask,
        labels,
        source,
        classes=dict(enumerate(session.card.class_names)),
        colors=dict(enumerate(session.card.class_colors)),
        provenance=session.provenance(tuning),
    )
    ids = f"ids 0 to {len(session.card.class_names) - 1}"
    say(f"{path.name} -> {verified.path} ({verified.message}; {ids})")
    _extras(mask, labels, probability, source, extras)
    return source


def _extras(
    mask: Path,
    labels: np.ndarray,
    probability: np.ndarray | None,
    source: Volume,
    extras: set[str],
) -> None:
    from napari_attnseg.engine.objects import split_objects
    from napari_attnseg.io.export import write_mask, write_scalar

    suffix = ".nii.gz" if is_volume(mask) else ".tif"
    stem = stem_of(mask).removesuffix("_mask")
    if probability is not None:
        write_scalar(mask.with_name(f"{stem}_probability{suffix}"), probability, source)
    if "preview" in extras:
        _preview(mask.with_name(f"{stem}_preview.png"), labels)
    if "objects" in extras:
        ids, count = split_objects(labels)
        write_mask(mask.with_name(f"{stem}_objects{suffix}"), ids, source)
        say(f"{stem}: {count} objects")


def _preview(path: Path, labels: np.ndarray) -> None:
    """Ids spread over black to white, to be seen in any picture viewer; of a volume its fullest
    slice. To look at only: ``evaluate`` and training take the mask itself."""
    from PIL import Image

    z = int((labels > 0).sum(axis=(1, 2)).argmax())
    top = max(1, int(labels.max(initial=0)))
    spread = np.round(labels[z] * (255.0 / top)).astype(np.uint8)
    Image.fromarray(spread).save(path)
    say(f"{path.name}: {f'slice {z}, ' if len(labels) > 1 else ''}ids 0 to {top} as black to white")
