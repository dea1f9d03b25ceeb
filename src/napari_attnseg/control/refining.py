"""Requests of the refinement and the events that answer them: every iterate, strokes, affinity."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_attnseg.control.message_base import Event, ImageRef, Request
from napari_attnseg.settings import Tuning


@dataclass(frozen=True)
class Refine(Request):
    """Light, newest wins: refine the coarse mask of slice ``z`` by ``iterations`` of a checkpoint.

    Heavy only the first time per slice and coarse map: then the guidance is kept.

    ``coarse``: ``.npy`` (Z,Y,X) to refine instead of the checkpoint's own coarse model (""), of
    ``coarse_kind`` ``"labels"`` (class ids, 0 background) or ``"probability"`` (0..1).
    ``strokes``: ``.npy`` (Z,Y,X) uint8, read anew at every request: 0 free, 1 background, k + 1 =
    class k. ``strength`` 1 holds strokes exactly, 0 ignores them. ``carry``: slices on either
    side to which strokes are carried. ``reference``: ``.npy`` (Z,Y,X) class ids for Dice.
    ``generation`` returns in the answer.

    Written into ``out``, in view orientation: part ``buffer`` (0 or 1) of ``refined_labels.npy``
    (2,Y,X) uint8 and ``refined_probability.npy`` (2,Y,X) float32; with ``steps``
    ``steps_labels.npy`` (T+1,Y,X) uint8, ``steps_probability.npy`` and ``steps_change.npy``
    (T+1,Y,X) float32 (the first of the latter 0); with ``attention`` ``steps_attention.npy``
    (T,parts,Y,X) float32, parts = centre, ring 1, 2, 3. Event: ``Refined``.
    """

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    coarse: str = ""
    coarse_kind: str = ""
    strokes: str = ""
    strength: float = 1.0
    iterations: int = 6
    carry: int = 0
    steps: bool = False
    attention: bool = False
    reference: str = ""
    out: str = ""
    buffer: int = 0
    tile: int = 0
    generation: int = 0


@dataclass(frozen=True)
class Refined(Event):
    """Slice ``z`` is refined, the answer lies in ``buffer``.

    With ``steps`` one value per iterate, the coarse map first: ``changed`` pixels, ``movement``
    (mean absolute change of the logits), ``dice`` (mean over classes; empty without a reference).
    ``area``: foreground pixels; ``anchored``: pixels held by strokes; ``woken``: what had to be
    computed (``"coarse"``, ``"guidance"``, ``"iterations"``, ``"strokes"``).
    """

    z: int = 0
    buffer: int = 0
    iterations: int = 0
    changed: tuple[int, ...] = ()
    movement: tuple[float, ...] = ()
    dice: tuple[float, ...] = ()
    area: int = 0
    anchored: int = 0
    seconds: float = 0.0
    woken: tuple[str, ...] = ()
    generation: int = 0


@dataclass(frozen=True)
class Affinity(Request):
    """Light, newest wins: with which weights pixel (z, y, x) takes from its neighbours.

    ``coarse`` and ``coarse_kind`` as in ``Refine``. Event: ``AffinityDone``.
    """

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    y: int = 0
    x: int = 0
    coarse: str = ""
    coarse_kind: str = ""
    tile: int = 0


@dataclass(frozen=True)
class AffinityDone(Event):
    """``weights`` of the neighbours at ``offsets`` (dy, dx in the view), as the first iteration
    uses them: 0 outside the image. ``centre``: weight on the pixel itself; ``residual``: on the
    coarse map. All together give 1."""

    z: int = 0
    y: int = 0
    x: int = 0
    offsets: tuple[tuple[int, int], ...] = ()
    weights: tuple[float, ...] = ()
    residual: float = 0.0
    centre: float = 0.0


def offset_pairs(data: list[list[int]]) -> tuple[tuple[int, int], ...]:
    """``AffinityDone.offsets`` as they come over the wire."""
    return tuple((int(dy), int(dx)) for dy, dx in data)
