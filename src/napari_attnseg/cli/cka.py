"""``cka``: how alike the layers of two checkpoints are, or those inside one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.cli._common import Device, Model, made_folder, say

if TYPE_CHECKING:
    from napari_attnseg.engine.cka_report import CKARequest


def cka(
    model_a: Model,
    images: Annotated[Path, typer.Option(help="Folder of images (2D or NIfTI), 4 or more.")],
    out: Annotated[Path, typer.Option(help="Folder for cka.json and cka.png.")],
    model_b: Annotated[
        str | None, typer.Argument(help="A second checkpoint; without it, inside the first.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(help="Layer names or patterns, as 'decoder.*' (repeatable; default: all)."),
    ] = None,
    size: Annotated[
        int, typer.Option(min=0, help="Side in pixels both models see (0: their own, or 128).")
    ] = 0,
    batch: Annotated[int, typer.Option(min=4, help="Images per minibatch.")] = 16,
    limit: Annotated[int, typer.Option(min=4, help="Images (or slices) at most.")] = 128,
    biased: Annotated[bool, typer.Option(help="HSIC_0 instead of the unbiased HSIC_1.")] = False,
    device: Device = "auto",
) -> None:
    """Linear minibatch CKA between layers: a JSON table and a heat map."""
    from napari_attnseg.io.pairs import list_images

    files = list_images(images)
    from napari_attnseg.engine.cka_report import CKARequest

    request = CKARequest(
        model_a, files, model_b or "", tuple(layers or ()), size, batch, limit, biased
    )
    with made_folder(out):
        _compare(request, out, device)


def _compare(request: CKARequest, out: Path, device: str) -> None:
    from napari_attnseg.engine.cka_report import compare_checkpoints, write_report

    steps = compare_checkpoints(request, device)
    while True:
        try:
            done, count = next(steps)
        except StopIteration as end:
            result = end.value
            break
        say(f"minibatch {done} of {count}")
    command = shlex.join(["napari-attnseg", *sys.argv[1:]])
    paths = write_report(result, request, out, device, command)
    say(f"written: {', '.join(str(path) for path in paths)} ({result.images} images)")
