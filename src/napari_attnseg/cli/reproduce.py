"""``reproduce``: make a mask again from what its file says, and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.cli._common import say

if TYPE_CHECKING:
    from napari_attnseg.engine.reproduce import Reproduced


def reproduce(
    mask: Annotated[Path, typer.Argument(help="A mask written by predict or the Export button.")],
    image: Annotated[
        Path | None,
        typer.Option(help="Its image; default: the file of the recorded name beside the mask."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Its model (file or shipped name); default: the recorded name."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, ...; default: the recorded one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make MASK again from the file alone: same model, values and image, or one sentence why not.

    Exit code 0 when every voxel that no hand changed is the same, else 1.
    """
    from napari_attnseg.engine.reproduce import reproduce as run

    found = run(mask, image, model, device)
    for note in found.notes:
        say(f"note: {note}")
    print(json.dumps(found.to_json(), indent=1) if as_json else words(found))
    if not found.equal:
        raise typer.Exit(1)


def words(found: Reproduced) -> str:
    """The outcome in sentences."""
    made = f"{found.mask}: made again from {found.image} with {found.model} on {found.device}"
    if found.equal:
        verdict = f"all {found.voxels - found.edited:,} voxels of the model are equal, bit for bit"
    else:
        listed = ", ".join(map(str, found.slices))
        verdict = f"{found.different:,} of {found.voxels:,} voxels differ (first slices: {listed})"
    return f"{made}; {verdict}{_by_hand(found)}"


def _by_hand(found: Reproduced) -> str:
    if not found.edited:
        return ""
    changed = f"; {found.edited:,} voxels were changed by hand, which cannot be made again: "
    if found.edited_different is None:
        return f"{changed}the file does not say which, so they are among those that are compared"
    return f"{changed}{found.edited_different:,} of them differ from the model, left out here"
