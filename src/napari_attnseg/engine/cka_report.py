"""CKA of checkpoints over a folder of images: batches for it, its table and its heat map."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_attnseg.atomic import whole, write_whole
from napari_attnseg.engine.cka import Batch, CKAResult, cka_stream
from napari_attnseg.engine.data import Pair, network_input
from napari_attnseg.engine.device import choose_device
from napari_attnseg.engine.loading import load_source
from napari_attnseg.engine.preprocess import intensity_limits
from napari_attnseg.engine.train import versions
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing

SIDE = 128
"""Pixels to which images are brought for a model without a working size of its own."""
MANY = 48
"""Layers from which on the axes of the heat map name the parts of a model only."""


@dataclass(frozen=True)
class CKARequest:
    """What to compare: ``model_b`` empty means inside ``model_a``.

    ``size``: side in pixels of the square both models see (0: each its own working size, or
    128). ``batch``: images per minibatch, at least 4. ``limit``: images at most.
    """

    model_a: str
    images: tuple[Path, ...]
    model_b: str = ""
    layers: tuple[str, ...] = ()
    size: int = 0
    batch: int = 16
    limit: int = 128
    biased: bool = False


def compare_checkpoints(
    request: CKARequest, device: str = "auto"
) -> Generator[tuple[int, int], None, CKAResult]:
    """CKA of two checkpoints (or inside one) over images; yields (finished, all) minibatches.

    Raises ``InputError``, ``CheckpointError`` and ``DeviceError``.
    """
    place = choose_device(device)
    names = [request.model_a, *([request.model_b] if request.model_b else [])]
    sources = [load_source(name, None) for name in names]
    for model, _, name in sources:
        if model.ndim == 3:
            raise InputError(
                f"got the 3D model {Path(name).name}, expected models of slices: layers are "
                "compared over many images of one size; choose models of slices"
            )
    models = [model.to(place).eval() for model, _, _ in sources]
    seen = [_seen(card.preprocessing, request.size) for _, card, _ in sources]
    slices = list(_slices(request.images, request.limit))
    if len(slices) < 4:
        raise InputError(f"got {len(slices)} images for CKA, expected at least 4")
    size = min(max(request.batch, 4), len(slices))
    groups = [slices[i : i + size] for i in range(0, len(slices) - size + 1, size)]
    second = models[1] if len(models) > 1 else None
    layers = request.layers or None
    batches = _batches(groups, seen)
    stream = cka_stream(models[0], second, batches, layers, biased=request.biased)
    while True:
        try:
            done = next(stream)
        except StopIteration as end:
            result: CKAResult = end.value
            return result
        yield done, len(groups)


def _seen(pre: Preprocessing, size: int) -> Preprocessing:
    """The card's preprocessing at one size for all images, so that they stack."""
    return replace(pre, size=size or pre.size or SIDE, spacing_mm=None)


def _slices(paths: Sequence[Path], limit: int) -> Iterator[tuple[Path, int]]:
    """2D images, and slices spread evenly over volumes, at most ``limit`` in all."""
    from napari_attnseg.io.image import image_size

    paths = [paths[i] for i in _spread(len(paths), limit)]
    each = max(1, limit // max(1, len(paths)))
    for path in paths:
        for z in _spread(image_size(path)[0], each):
            yield path, z


def _spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` positions, evenly."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()


def _batches(groups: list[list[tuple[Path, int]]], seen: list[Preprocessing]) -> Iterator[Batch]:
    from napari_attnseg.io.image import read_image

    volume = None
    for group in groups:
        inputs: list[list[torch.Tensor]] = [[] for _ in seen]
        for path, z in group:
            if volume is None or volume.path != path:  # slices of one volume follow each other
                volume = read_image(path)
            for pre, mine in zip(seen, inputs, strict=True):
                limits = intensity_limits(volume.view, volume.rgb, pre)
                nothing = np.empty(0, np.int16)
                pair = Pair(volume.view, nothing, volume.rgb, volume.flips, (), limits, False)
                mine.append(network_input(pair, z, pre))
        first = torch.stack(inputs[0])
        yield first if len(seen) == 1 else (first, torch.stack(inputs[1]))


def write_report(
    result: CKAResult, request: CKARequest, out: Path, device: str, command: str = ""
) -> tuple[Path, Path]:
    """``cka.json`` and ``cka.png`` in the folder ``out``; returns both paths."""
    table: dict[str, Any] = {
        "model_a": request.model_a,
        "model_b": request.model_b or request.model_a,
        "size": request.size,
        "device": str(choose_device(device)),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "files": [path.name for path in request.images],
        **result.to_json(),
    }
    json_path, png_path = out / "cka.json", out / "cka.png"
    write_whole(json_path, json.dumps(table, indent=1).encode())
    titles = [Path(name).stem if name else "" for name in (request.model_a, request.model_b)]
    plot(result, png_path, titles[0], titles[1] or titles[0])
    return json_path, png_path


def plot(result: CKAResult, path: str | Path, title_a: str = "", title_b: str = "") -> None:
    """Heat map as in the PAM-UNet paper's Fig. 1: magma, the first layers at the lower left.

    Cells without a figure are grey.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["magma"].with_extremes(bad="0.6")
    finite = result.values[np.isfinite(result.values)]
    lowest = min(0.0, float(finite.min(initial=0.0)))
    picture = axes.imshow(
        np.ma.masked_invalid(result.values),
        cmap=colours,
        origin="lower",
        vmin=lowest,
        vmax=1,
        aspect="auto",
    )
    figure.colorbar(picture, ax=axes, label="linear CKA")
    _name(axes.set_xticks, result.layers_b, 90)
    _name(axes.set_yticks, result.layers_a, 0)
    axes.set(xlabel=f"layers of {title_b}", ylabel=f"layers of {title_a}")
    figure.suptitle(_title(result, title_a, title_b), fontsize=9)
    with whole(Path(path)) as draft:
        figure.savefig(draft, dpi=150)


def _title(result: CKAResult, title_a: str, title_b: str) -> str:
    """What was compared, over how many images."""
    if title_a == title_b:
        return f"CKA inside {title_a or 'a model'}\n{result.images} images"
    return f"CKA of {title_a} and {title_b}\n{result.images} images"


def _name(set_ticks: Any, layers: tuple[str, ...], rotation: int) -> None:
    """Names on an axis while they can be read, else where each part of the model begins."""
    if len(layers) <= MANY:
        size = 8 if len(layers) <= 24 else 6
        set_ticks(range(len(layers)), layers, rotation=rotation, fontsize=size)
        return
    starts = part_starts(layers)
    names = [f"{name} ({place})" for place, name in starts]
    set_ticks([place for place, _ in starts], names, rotation=rotation, fontsize=6)


def part_starts(layers: Sequence[str]) -> list[tuple[int, str]]:
    """Where each part of a model (``encoder``, ``levels.1``) begins: first layer and its name.

    Parts are told by the first component of the name, or by two where that gives too few; those
    that begin too close to the one before are left out.
    """
    for depth in (1, 2, 3):
        parts = [".".join(name.split(".")[:depth]) for name in layers]
        starts = [i for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]
        if len(starts) > 6:
            break
    room, kept = max(1, len(layers) // 40), list[tuple[int, str]]()
    for place in starts:
        if not kept or place - kept[-1][0] >= room:
            kept.append((place, parts[place]))
    return kept
