"""Requests about whole volumes: in which order, and what it will cost before it is begun."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from napari_attnseg.control.message_base import Event, ImageRef, Request
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tuning

FULL_PRECISION_VOXELS = 64_000_000
"""Probabilities of larger volumes are kept as float16, in the file and in the layer."""


def result_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of a run's results on disk: labels and probability; its maps are small."""
    voxels = math.prod(shape)
    return voxels * (1 + (2 if voxels > FULL_PRECISION_VOXELS else 4))


@dataclass(frozen=True)
class Reorder(Request):
    """The person looks elsewhere: what is left of ``Predict`` number ``target`` follows.

    ``axis`` 0: the slices still left are taken outward from ``z``. ``axis`` 1 or 2 (the view cuts
    through all slices): coarse to fine, so that the cut fills evenly. No event; a target that has
    ended is let go without a word.
    """

    target: int = 0
    z: int = 0
    axis: int = 0


@dataclass(frozen=True)
class Forecast(Request):
    """What segmenting ``slices`` slices of an image would cost: ``Forecasted``.

    Measured on slice ``z``, whose answer is kept, so that a run that begins there has it at once.
    ``out``: where the results would be written (empty: nothing is said about free disk space);
    ``stage_bytes``: as for ``Predict``. ``along``: the axis of its slices; those along other axes
    than the measured one are reckoned by their pixels.
    """

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    slices: int = 0
    out: str = ""
    tile: int = 0
    stage_bytes: int = 0
    along: str = "axial"


@dataclass(frozen=True)
class Forecasted(Event):
    """Bytes at the peak of the engine's process, bytes written to disk, seconds in all.

    ``seconds`` is ``None`` while no slice has been timed. ``note`` says in words what the figures
    stand on. ``memory_free`` and ``disk_free``: what is free now (0: not looked at).
    ``stage_bytes``: those of ``disk_bytes`` that are kept for values moved later, ``stage_limit``
    the most that may be (0: none are).
    """

    memory_bytes: int = 0
    disk_bytes: int = 0
    seconds: float | None = None
    note: str = ""
    memory_free: int = 0
    disk_free: int = 0
    stage_bytes: int = 0
    stage_limit: int = 0


AXES = ("axial", "coronal", "sagittal")
"""Along which view axis (Z, Y, X) slices are taken."""
ALL_AXES = "all"
"""Along each of them, and the probabilities averaged."""


def axes_named(name: str) -> tuple[int, ...]:
    """View axes of one of ``AXES``, or of ``ALL_AXES``; raises ``InputError`` for other words."""
    if name == ALL_AXES:
        return tuple(range(len(AXES)))
    if name in AXES:
        return (AXES.index(name),)
    raise InputError(f"got axis {name!r}, expected one of {', '.join((*AXES, ALL_AXES))}")


def axes_bytes(shape: tuple[int, ...], axis: str, channels: int) -> int:
    """Bytes on disk beside the results while slices are taken along ``axis``; ``channels``: logits
    that the model gives per pixel."""
    if axis == AXES[0]:
        return 0
    voxels = math.prod(shape)
    planes = channels if axis == ALL_AXES else 2
    return voxels * planes * (2 if voxels > FULL_PRECISION_VOXELS else 4)
