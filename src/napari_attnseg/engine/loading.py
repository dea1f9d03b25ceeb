"""What a session is made from: a model with its card, and how much memory it may keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from napari_attnseg.cards import Card
from napari_attnseg.io.volume import Volume
from napari_attnseg.settings import Preprocessing

if TYPE_CHECKING:
    from napari_attnseg.models.base import SegmentationModel
    from napari_attnseg.models.checkpoint import Checkpoint

GIB = 1 << 30


MEMORY_BESIDE_DISK = GIB // 4
"""What stays in memory of stages that have a folder on disk as well."""


IN_PASSING = 64 << 20
"""What stays in memory of stages while every slice is asked for once."""


def default_cache_bytes() -> int:
    """An eighth of the free memory, between 128 MiB and 2 GiB."""
    return int(min(max(psutil.virtual_memory().available // 8, GIB // 8), 2 * GIB))


def load_source(source: Any, card: Card | None) -> tuple[SegmentationModel, Card, str]:
    """Model, card and name from a checkpoint, its path or shipped name, or a bare model."""
    from napari_attnseg.models.base import SegmentationModel
    from napari_attnseg.models.checkpoint import load_checkpoint

    if isinstance(source, SegmentationModel):
        channels = source.spec.in_channels
        plain = Preprocessing(channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
        made = Card(spec=source.spec.to_json(), preprocessing=plain, tuning=source.tuning())
        return source, card or made, source.spec.name
    checkpoint: Checkpoint = load_checkpoint(source) if isinstance(source, str | Path) else source
    name = str(checkpoint.path) if checkpoint.path else checkpoint.model.spec.name
    return checkpoint.model, card or checkpoint.card, name


def as_volume(image: np.ndarray | Volume | str | Path, rgb: bool | None) -> Volume:
    """A volume from an array, a file or a volume. Raises ``InputError``."""
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path):
        from napari_attnseg.io.image import read_image

        return read_image(Path(image))
    return Volume.from_array(image, rgb=rgb)
