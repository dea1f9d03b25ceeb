"""What one epoch learns from: an order of slices, cut into batches of random crops."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from napari_attnseg.engine.augment import Batch, Draw, collate, draw_example
from napari_attnseg.engine.data import Slice, Source
from napari_attnseg.engine.volume_data import VolumeSource, collate_patches
from napari_attnseg.settings import TrainSettings

MIN_CROPS = 64
"""Random crops of one epoch when there are fewer slices than this."""
MIN_PATCHES = 16
"""Random patches of one epoch when there are fewer blocks of volumes than this."""


class Epoch:
    """The batches of epoch ``number`` (0 is the first), the same whenever they are asked for."""

    def __init__(
        self, settings: TrainSettings, source: Source, slices: tuple[Slice, ...], number: int
    ) -> None:
        self.settings, self.source, self.number = settings, source, number
        self.order = self._order(slices)
        self._draw = Draw(settings.crop, settings.augment, source.oriented, settings.augmentation)

    @property
    def steps(self) -> int:
        """Batches of an epoch; a last, incomplete one is left out unless it is the only one."""
        return max(1, len(self.order) // self.settings.batch)

    def batch(self, step: int) -> Generator[None, None, Batch]:
        """Batch ``step``; yields after every image so that one can stop."""
        size = self.settings.batch
        items = []
        for position in range(step * size, min((step + 1) * size, len(self.order))):
            rng = np.random.default_rng([self.settings.seed, 3, self.number, position])
            if isinstance(self.source, VolumeSource):
                items.append(self.source.drawn(self.order[position], self._draw, rng))
            else:
                example = self.source.example(self.order[position])
                items.append(draw_example(example, self._draw, rng))
            yield
        return (collate_patches if isinstance(self.source, VolumeSource) else collate)(items)

    def _order(self, slices: tuple[Slice, ...]) -> list[Slice]:
        """The slices in random order; a few slices come again, each time cropped anew."""
        rng = np.random.default_rng([self.settings.seed, 2, self.number])
        wanted = max(len(slices), MIN_CROPS) if self.settings.crop else len(slices)
        if isinstance(self.source, VolumeSource):
            wanted = max(len(slices), MIN_PATCHES)
        order: list[Slice] = []
        while len(order) < wanted:
            order += [slices[i] for i in rng.permutation(len(slices))]
        return order[:wanted]
