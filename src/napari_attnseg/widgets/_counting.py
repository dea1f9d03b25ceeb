"""Painted pixels are counted behind the window: 300 million of them take a second."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.io.preflight import LabelCount, count_labels
from napari_attnseg.widgets._bridge import to_main_thread

AT_ONCE_VOXELS = 4_000_000
"""Labels up to this size are counted at once: that takes less than a frame."""
Asked = tuple[npt.NDArray[Any], int, bool]


class LabelCounter:
    """Counts the newest labels asked for, one count at a time.

    ``told(count, labels)`` is called in the window's thread: at once for small labels, later for
    large ones. What is painted meanwhile may or may not be in; it has to be asked for anew.
    """

    def __init__(self, told: Callable[[LabelCount, npt.NDArray[Any]], None]) -> None:
        self._told = told
        self._wanted: Asked | None = None
        self._running = False

    @property
    def busy(self) -> bool:
        """Whether a count that is still wanted is under way."""
        return self._wanted is not None

    def count(self, labels: npt.NDArray[Any], classes: int, sparse: bool) -> None:
        """Count ``labels`` (Z, Y, X), see ``count_labels``; an older wish is forgotten."""
        self._wanted = (labels, classes, sparse)
        if labels.size <= AT_ONCE_VOXELS:
            self._arrive(self._wanted, _counted(self._wanted))
        elif not self._running:
            self._start(self._wanted)

    def drop(self) -> None:
        """No count is wanted any more."""
        self._wanted = None

    def _start(self, asked: Asked) -> None:
        self._running = True

        def work() -> None:
            found = _counted(asked)
            to_main_thread(lambda: self._came(asked, found))

        threading.Thread(target=work, name="attnseg-count", daemon=True).start()

    def _came(self, asked: Asked, found: LabelCount) -> None:
        self._running = False
        if self._wanted is asked:
            self._arrive(asked, found)
        elif self._wanted is not None:
            self._start(self._wanted)

    def _arrive(self, asked: Asked, found: LabelCount) -> None:
        self._wanted = None
        self._told(found, asked[0])


def _counted(asked: Asked) -> LabelCount:
    labels, classes, sparse = asked
    if not np.issubdtype(labels.dtype, np.integer):
        labels = labels.astype(np.int64)
    return count_labels(labels, classes, sparse)
