"""Masks and maps of all contestants of a bake-off side by side, on the same test images."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.engine.experiment.plan import Plan, Row
from napari_attnseg.engine.experiment.records import write_whole
from napari_attnseg.engine.levels import LevelMap
from napari_attnseg.engine.session import Session
from napari_attnseg.io.layout import UNKNOWN, Layout, read_item
from napari_attnseg.io.volume import Volume

MOST_ACROSS = 9
"""Contestants beside each other; more stand in further blocks below."""
IMAGES = 3
"""Test images that are shown."""
AGREED, EXTRA, MISSED = (0.25, 0.75, 0.35), (0.9, 0.25, 0.2), (0.2, 0.45, 0.95)
"""Colours of right, wrongly marked and missed pixels."""
MASK_WORDS = "green: right, red: wrongly marked, blue: missed"
MAP_WORDS = "the first map of each, in its own range: bright is much"


@dataclass(frozen=True, eq=False)
class Shown:
    """A test image: its fullest slice ``z``, as a picture (H, W, 3) in [0, 1], and the truth."""

    volume: Volume
    z: int
    picture: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True, eq=False)
class Cell:
    """One contestant on one image: the mask, and its first picture of attention (h, w)."""

    labels: np.ndarray
    map: np.ndarray | None
    map_name: str


def write_gallery(plan: Plan, layout: Layout, out: Path, device: str = "auto") -> list[Path]:
    """``<name>_masks.png`` and ``<name>_maps.png`` in ``out``, from the checkpoints of the first
    seed; rows whose checkpoint is missing are left out. Maps are scaled each to its own range."""
    steps = draw_gallery(plan, layout, out, device)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            paths: list[Path] = end.value
            return paths


def draw_gallery(
    plan: Plan, layout: Layout, out: Path, device: str = "auto"
) -> Generator[None, None, list[Path]]:
    """:func:`write_gallery` with a heartbeat between any two networks."""
    shown = [(row, first_model(plan, row, out)) for row in plan.rows]
    found = [(row, path) for row, path in shown if is_trained(path)]
    if not found:
        return []
    places = np.unique(np.linspace(0, len(layout.test) - 1, IMAGES).round().astype(int))
    images = [shown_image(layout, int(i)) for i in places]
    columns: list[list[Cell]] = []
    for _, path in found:
        session = Session(path, device)
        columns.append([_cell(session, image) for image in images])
        yield
    grid = [list(line) for line in zip(*columns, strict=True)]
    labels = [row.label for row, _ in found]
    paths = [out / f"{plan.name}_masks.png", out / f"{plan.name}_maps.png"]
    write_whole(paths[0], _figure(images, grid, labels, _masks, MASK_WORDS))
    write_whole(paths[1], _figure(images, grid, labels, _maps, MAP_WORDS))
    return paths


def first_model(plan: Plan, row: Row, out: Path) -> Path:
    """The checkpoint of a row's first seed, which stands for the row wherever one is shown."""
    return out / "runs" / f"{row.key}_seed{plan.seeds[0]}.safetensors"


def is_trained(model: Path) -> bool:
    """Whether the training of ``first_model`` is over: one that failed leaves its best so far."""
    return model.is_file() and model.with_suffix(".json").is_file()


def shown_image(layout: Layout, index: int) -> Shown:
    """Test image ``index`` at the slice on which most is marked."""
    volume, truth = read_item(layout.test[index], layout.labels)
    z = int(np.argmax([(t > 0).sum() for t in truth]))
    return Shown(volume, z, _picture(volume.view[z]), truth[z])


def first_map(session: Session, z: int) -> LevelMap | None:
    """The first map of slice ``z`` that is a picture over the image, or ``None``."""
    return next((m for m in session.maps(z) if m.values.ndim == 2 and m.scale.grid[0]), None)


def _cell(session: Session, image: Shown) -> Cell:
    session.set_image(image.volume)
    labels = session.predict(image.z).labels
    first = first_map(session, image.z)
    words = "" if first is None else f"{first.name}, {first.title}"
    return Cell(labels, None if first is None else first.values, words)


def _figure(
    images: list[Shown], grid: list[list[Cell]], labels: list[str], draw: Any, words: str
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = [slice(i, i + MOST_ACROSS) for i in range(0, len(labels), MOST_ACROSS)]
    columns, lines = min(len(labels), MOST_ACROSS) + 1, len(blocks) * len(grid)
    figure = Figure(figsize=(2.1 * columns, 2.2 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False)
    for n, block in enumerate(blocks):
        part = panels[n * len(grid) : (n + 1) * len(grid)]
        for line, image, cells in zip(part, images, grid, strict=True):
            line[0].imshow(image.picture)
            if (image.truth > 0).any():
                line[0].contour(image.truth > 0, [0.5], colors=[AGREED], linewidths=0.8)
            for axes, cell in zip(line[1:], cells[block], strict=False):
                draw(axes, image, cell)
        for axes, label in zip(part[0], ["image and truth", *labels[block]], strict=False):
            axes.set_title(textwrap.fill(label.replace("=", " = "), 24), fontsize=8)
    for axes in panels.ravel():
        axes.set_axis_off()
    figure.suptitle(words, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def _picture(plane: np.ndarray) -> np.ndarray:
    """A slice as (H, W, 3) in [0, 1]."""
    values = plane.astype(np.float32)
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, -1)


def _masks(axes: Any, image: Shown, cell: Cell) -> None:
    """Right, wrongly marked and missed pixels; pixels that the truth ignores stay as they are."""
    shown = 0.55 * image.picture
    said, true = cell.labels > 0, (image.truth > 0) & (image.truth != UNKNOWN)
    for where, colour in (
        (said & true, AGREED),
        (said & (image.truth == 0), EXTRA),
        (~said & true, MISSED),
    ):
        shown[where] = 0.45 * shown[where] + 0.55 * np.asarray(colour, np.float32)
    axes.imshow(shown)


def _maps(axes: Any, image: Shown, cell: Cell) -> None:
    if cell.map is None:
        axes.text(0.5, 0.5, "no map", ha="center", va="center", transform=axes.transAxes)
        return
    axes.imshow(cell.map, cmap="magma")
    axes.text(0.02, 0.02, cell.map_name, color="w", fontsize=5, transform=axes.transAxes)
