"""Previews: the current model's answer to the slice a person looks at while it trains."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from napari_attnseg.control.messages import Preview
from napari_attnseg.engine.data import Slice, Source, network_input, upright
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.preprocess import resize
from napari_attnseg.engine.validate import default_threshold, probability
from napari_attnseg.engine.volume_data import VolumeSource

PREVIEW_SECONDS = 3.0
"""Between two previews at least, and ten times what the last one took."""

PreviewWish = Callable[[], tuple[int, str | Path] | None]
"""Asked between batches: the z to predict (-1: the first validation slice) and where to write
its probability (.npy), or ``None`` for no preview."""


class Previewer:
    """Writes previews when they are wanted and due."""

    def __init__(self, wish: PreviewWish | None) -> None:
        self.wish = wish
        self._due = time.monotonic()
        self._image_shown: Slice | None = None

    def show(self, learner: Learner, source: Source, first: Slice, force: bool) -> Preview | None:
        """The event of a preview just written, or ``None``. ``first``: shown at z = -1."""
        wish = self.wish() if self.wish else None
        began = time.monotonic()
        if wish is None or not (force or began >= self._due):
            return None
        z, path = wish
        last = len(source.pair(first.pair).view) - 1
        z = first.z if z < 0 else min(z, last)
        if wish[0] < 0 and self._image_shown != first:  # the caller does not know this image
            write_shown_image(source, first.pair, z, Path(path))
            self._image_shown = first
        write_preview(learner, source, first.pair, z, Path(path))
        now = time.monotonic()
        self._due = now + max(PREVIEW_SECONDS, 10 * (now - began))
        return Preview(z=z, path=str(path))


def write_preview(learner: Learner, source: Source, pair: int, z: int, path: Path) -> None:
    """The current model's probability of one slice, in view order, replacing ``path`` whole."""
    data = source.pair(pair)
    if isinstance(source, VolumeSource):
        _write_whole(path, _of_volume(learner, source, pair, z))
        return
    image = network_input(data, z, source.preprocessing)
    values = learner.values(default_threshold(learner, source, (Slice(pair, z),)))
    logits = resize(learner.logits(image, values)[None], data.view.shape[1:3], antialias=False)[0]
    _write_whole(path, upright(probability(logits), data.flips))


def _of_volume(learner: Learner, source: VolumeSource, pair: int, z: int) -> np.ndarray:
    """The same of a volume, out of the windows that cover the slice."""
    data, windows = source.pair(pair), source.windows(pair)
    values = learner.values(learner.settings.threshold)
    count, depth = len(data.view), windows.shape[0]
    at = count - 1 - z if data.flips[0] else z
    steps = windows.logits(
        (), min(int((at + 0.5) * depth / count), depth - 1), lambda x: learner.logits_of(x, values)
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            logits = resize(end.value[None], data.view.shape[1:3], antialias=False)[0]
            return upright(probability(logits), data.flips)


def write_shown_image(source: Source, pair: int, z: int, path: Path) -> None:
    """The raw slice under a preview, beside it as ``<name>_image.npy`` (view order)."""
    _write_whole(path.with_name(f"{path.stem}_image.npy"), source.pair(pair).view[z])


def _write_whole(path: Path, plane: np.ndarray) -> None:
    part = path.with_name(f"{path.stem}.part.npy")
    np.save(part, np.ascontiguousarray(plane), allow_pickle=False)
    os.replace(part, path)
