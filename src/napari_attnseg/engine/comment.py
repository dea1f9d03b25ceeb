"""What one of our masks says inside: classes, colours, provenance; of any format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_attnseg.engine import batch_kept
from napari_attnseg.io import inputs

TEXTS = (".nii", ".nii.gz", ".tif", ".tiff", ".png")
"""Formats that hold it as a text (see ``io.export_nifti`` and ``io.export_raster``)."""


def comment_in(mask: Path) -> dict[str, Any]:
    """The comment of a mask, ``{}`` for a file that is not ours or cannot be read. ``provenance``
    is there only where the maker told it."""
    try:
        if mask.name.lower().endswith(TEXTS):
            return batch_kept.comment_of(mask)
        return dict(inputs.comment_of(mask))
    except (OSError, ValueError):
        return {}
