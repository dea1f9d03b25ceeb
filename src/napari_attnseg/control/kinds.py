"""How requests are served and when they end: the engine and its client must agree on this."""

from __future__ import annotations

from napari_attnseg.control.bakeoff import BakeOff
from napari_attnseg.control.checks import Overfit
from napari_attnseg.control.messages import (
    AttentionRow,
    Cancel,
    Fingerprint,
    Predict,
    Request,
    Retune,
    SetPreview,
    Train,
)
from napari_attnseg.control.questions import Cka, LevelMaps
from napari_attnseg.control.refining import Affinity, Refine
from napari_attnseg.control.volumes import Forecast, Reorder

NEWEST_WINS: tuple[type[Request], ...] = (
    Reorder,
    Retune,
    Refine,
    AttentionRow,
    Affinity,
    LevelMaps,
    Fingerprint,
    Forecast,
)
"""Most urgent first; a newer request with the same :func:`place` replaces one that waits."""
LONG: tuple[type[Request], ...] = (Predict, Train, Cka, Overfit, BakeOff)
"""Served in steps, with events on the way: only ``Finished`` and ``Failed`` end them."""
SILENT: tuple[type[Request], ...] = (Cancel, SetPreview, Reorder)
"""No event answers these, so nobody waits for one."""


def place(request: Request) -> tuple[type[Request], str]:
    """Class of a request and the folder of its answer."""
    return type(request), str(getattr(request, "out", ""))
