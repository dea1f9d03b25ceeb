"""Answers to questions about a model's inside, for the docks (see ``control.questions``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.control.message_base import Event, ImageRef
from napari_attnseg.control.messages import Finished, Started
from napari_attnseg.control.questions import (
    Cka,
    CkaDone,
    LevelMapFile,
    LevelMaps,
    LevelMapsDone,
    StepDone,
)
from napari_attnseg.engine.results import save_array
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.engine.levels import LevelMap
    from napari_attnseg.engine.session import Session

CROP = 128
"""Side of the crops into which a single image is cut for CKA, which needs several images."""
LEAST = 4
"""Images that the unbiased estimate needs."""


def level_maps(session: Session, work: LevelMaps) -> Iterator[Event]:
    """The maps of one slice and, of a pixel, its rows, as files."""
    rows: tuple[LevelMap, ...] = ()
    near = (work.near[0], work.near[1]) if work.near else None
    if work.y >= 0:
        near = (work.y, work.x)
        rows = session.rows(work.z, *near, work.tuning, work.others, work.stacks)
    maps = session.maps(work.z, work.tuning, work.stacks, near)
    files = tuple(_written(m, Path(work.out)) for m in (*maps, *rows))
    about = session.seen(work.z, near).words
    yield LevelMapsDone(work.id, work.z, work.y, work.x, files, about)


def _written(found: LevelMap, out: Path) -> LevelMapFile:
    out.mkdir(parents=True, exist_ok=True)
    number = f"-{found.query}" if found.query else ""
    safe = re.sub(r"[^\w.]+", "_", f"{found.place}-{found.name}{number}")
    path = save_array(out / f"level_{safe}.npy", found.values.astype(np.float32))
    return LevelMapFile(
        path,
        found.place,
        found.name,
        found.title,
        found.kind,
        found.scale.scale,
        found.scale.offset,
        found.level,
        found.labels,
        found.axis,
        found.channels,
        found.query,
        found.depth or (),
    )


def compare_layers(work: Cka, stopped: Callable[[int], bool]) -> Iterator[Event]:
    """CKA of two checkpoints, batch by batch; ``stopped(id)``: whether to end."""
    from napari_attnseg.engine.cka_report import CKARequest, compare_checkpoints, write_report
    from napari_attnseg.engine.device import choose_device
    from napari_attnseg.io.pairs import list_images

    out = Path(work.out)
    out.mkdir(parents=True, exist_ok=True)
    files = list_images(work.images) if work.image is None else image_parts(work.image, out)
    wish = CKARequest(
        work.model_a, files, work.model_b, size=work.size, batch=work.batch, limit=work.limit
    )
    steps = compare_checkpoints(wish, work.device)
    yield Started(work.id, str(choose_device(work.device)))
    while True:
        try:
            done, total = next(steps)
        except StopIteration as end:
            table, picture = write_report(end.value, wish, out, work.device, "Compare layers dock")
            yield CkaDone(work.id, str(table), str(picture))
            yield Finished(work.id, "done")
            return
        yield StepDone(work.id, done, total)
        if stopped(work.id):
            steps.close()
            yield Finished(work.id, "cancelled")
            return


def image_parts(image: ImageRef, out: Path) -> tuple[Path, ...]:
    """The slices of a volume, or crops of a single image, as TIFF files in ``out``.

    Raises ``InputError`` for an image too small to give four crops.
    """
    import tifffile

    view = image.open()
    rows, columns = (slice(None, None, -1 if flip else 1) for flip in image.flips[1:])
    parts = list(view) if len(view) >= LEAST else [c for plane in view for c in _crops(plane)]
    if len(parts) < LEAST:
        raise InputError(
            f"got an image of {view.shape[1]} x {view.shape[2]} pixels, which gives "
            f"{len(parts)} crops; expected 4 images or more, choose a folder or a larger image"
        )
    paths = []
    for i, part in enumerate(parts):
        paths.append(out / f"part_{i:04d}.tif")
        kind = "rgb" if image.rgb else "minisblack"
        tifffile.imwrite(paths[-1], np.ascontiguousarray(part[rows, columns]), photometric=kind)
    return tuple(paths)


def _crops(plane: np.ndarray) -> Iterator[np.ndarray]:
    """Squares side by side, at least four along each side where there is room, at most ``CROP``
    wide."""
    height, width = plane.shape[:2]
    side = max(16, min(CROP, height // 4, width // 4))
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            yield plane[top : top + side, left : left + side]
