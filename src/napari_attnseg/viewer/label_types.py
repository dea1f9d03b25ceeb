"""Which numbers a labels layer holds: uint8 as we make it, wider once a person has converted it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError


def holds(kind: np.dtype[Any], ids: npt.NDArray[Any]) -> bool:
    """Whether all ``ids`` are numbers of this type."""
    if ids.dtype in (kind, np.bool_) or not ids.size:
        return True
    limits = np.iinfo(kind)
    return bool(limits.min <= ids.min() and ids.max() <= limits.max)


def type_for(ids: npt.NDArray[Any]) -> np.dtype[Any]:
    """The smallest type that napari converts labels to and that holds ``ids``."""
    return next(k for k in map(np.dtype, ("uint16", "int32", "int64")) if holds(k, ids))


def checked(labels: Any, shape: tuple[int, ...], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """``labels`` as ``kind``; raises ``InputError`` when they have another shape or do not fit."""
    new = np.asarray(labels)
    if new.shape != shape or new.dtype.kind not in "bui" or not holds(kind, new):
        raise InputError(
            f"got labels of shape {new.shape} and type {new.dtype}, expected {shape} of "
            f"whole numbers from 0 to {np.iinfo(kind).max}; nothing was changed"
        )
    return new.astype(kind, copy=False)
