"""Preprocessing that suits the data, where the paper's would not."""

from __future__ import annotations

import numpy as np

from napari_attnseg.io.image import read_image
from napari_attnseg.io.layout import Layout
from napari_attnseg.settings import Preprocessing

LOOKED_AT = 12
"""Training images looked at for channels and units."""
SOFT_TISSUE = (-160.0, 240.0)
"""Hounsfield units that become 0 and 1 in CT."""


def suited(layout: Layout) -> tuple[Preprocessing | None, str]:
    """Preprocessing that suits grey images and CT, with a note; ``None``: colour, the recipe's."""
    places = np.linspace(0, len(layout.train) - 1, min(LOOKED_AT, len(layout.train)))
    images = [read_image(layout.train[int(i)].image) for i in places.round()]
    if any(image.rgb for image in images):
        return None, ""
    if any(float(np.nanmin(image.view[:, ::4, ::4])) < -500 for image in images):
        low, high = SOFT_TISSUE
        window = Preprocessing(intensity="window", low=low, high=high)
        return window, f"CT: {low:g} to {high:g} Hounsfield units become 0 to 1, one channel"
    return Preprocessing(), "grey images: one channel, percentiles 1 and 99 become 0 and 1"
