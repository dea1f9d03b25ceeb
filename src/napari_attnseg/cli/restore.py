"""``restore``: what windows that ended left behind, and its labels as files without a window."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_attnseg.cli._common import say
from napari_attnseg.errors import AttnSegError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_attnseg.io.journal_folder import Left
    from napari_attnseg.io.volume import Volume


def restore(
    to: Annotated[
        Path | None, typer.Option(help="Write the labels of each as a mask into this folder.")
    ] = None,
    crashed: Annotated[
        bool, typer.Option("--crashed", help="Only of windows that did not end in order.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """List unsaved work of windows that are gone; napari's Segment dock brings it back whole.

    Nothing is removed. Windows that were closed in order are listed for a while too.
    """
    from napari_attnseg.io.journal_folder import left_behind

    found = left_behind(closed=not crashed)
    if not found and not as_json:
        print("nothing unsaved was left behind")
    failed = False
    for left in found:
        facts = left.facts
        try:
            written = str(_write(left, to)) if to is not None else ""
        except AttnSegError as error:  # the others may be written all the same
            written, failed = "", True
            say(f"error: {left.thing()} was not written: {error}")
        if as_json:
            about = {"image": facts["image"]["path"], "model": facts["model"], "written": written}
            print(json.dumps({"journal": str(left.path), "crashed": left.crashed, **about}))
        else:
            print(f"{left.words()}\n  {facts['image']['path'] or 'an image without a file'}")
            if written:
                print(f"  -> {written}")
    if failed:
        raise typer.Exit(1)


def _write(left: Left, folder: Path) -> Path:
    """The labels of one journal as a verified mask; a number keeps names apart."""
    import numpy as np

    from napari_attnseg.io.export import write_mask

    labels, volume = _labels(left), _volume(left)
    space = volume is not None and volume.geometry is not None
    wide = labels.dtype.kind == "i" or labels.dtype.itemsize > 2  # ids that no mask file holds
    suffix = ".npy" if wide else ".nii.gz" if space else ".tif"
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r'[\\/:*?"<>|]', "_", _name(left))  # a layer may be called anything
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}{suffix}"
    if wide:
        say(f"note: {_name(left)} has ids beyond 65535 or below 0; it is a plain array, no mask")
        np.save(path, labels)
    else:
        write_mask(path, labels, volume)
    return path


def _name(left: Left) -> str:
    if painted := left.facts.get("painted"):
        return str(painted["name"])
    kind = "refined" if left.facts.get("refined") else "labels"
    return f"{left.image}_{Path(str(left.facts['model'])).stem}_{kind}"


def _labels(left: Left) -> npt.NDArray[np.integer]:
    import numpy as np

    from napari_attnseg.viewer.journal_planes import Planes

    z, y, x = (int(n) for n in left.facts["shape"])
    planes = Planes((z, y, x), np.zeros((z, y, x), np.uint8))
    try:
        for page, data in left.state.pages.items():
            planes.put_packed(page, data)
    except ValueError as error:
        raise InputError(f"{left.path} does not fit its own image: {error}") from error
    labels = np.stack([planes.shown(k) for k in range(z)])
    ends = (np.min_scalar_type(int(end)) for end in (labels.min(initial=0), labels.max(initial=0)))
    return labels.astype(np.result_type(*ends), copy=False)


def _volume(left: Left) -> Volume | None:
    """The space of the image, where its file is still the same size."""
    from napari_attnseg.io.image import read_image

    image = left.facts["image"]
    try:
        volume = read_image(image["path"], image.get("part")) if image["path"] else None
    except AttnSegError as error:
        say(f"note: {error}; the mask is written without its space")
        return None
    if volume is not None and list(volume.shape) != list(left.facts["shape"]):
        say(f"note: {image['path']} is another image now; the mask is written without its space")
        return None
    return volume
