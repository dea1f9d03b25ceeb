"""What happens to the labels of one image and model: steps for others to add, and the journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.viewer.results import ResultLayers

Change = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
"""Other labels (Z, Y, X), 0 to 255, for those it is given (a read-only view)."""


def apply(results: ResultLayers | None, name: str, change: Change) -> int:
    """Change the present labels as one step that Ctrl+Z takes back; pixels changed.

    ``name`` says what it was ("largest component"). What changes is held like painted pixels, so
    that later answers leave it alone. Raises ``InputError`` when there are no labels, or when
    ``change`` gives labels of another shape; nothing is changed then.
    """
    edits = results.edits if results is not None and results.layer("labels") is not None else None
    if edits is None:
        raise InputError("there are no labels to work on yet; press Run first.")
    return edits.apply(name, change)
