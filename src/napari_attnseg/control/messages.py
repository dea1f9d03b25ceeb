"""Requests to the engine and events from it: frozen, numbered, plain data (JSON on the wire).

A request is complete: the engine never asks back. Bulk data never travels in a message; it lies
in ``.npy`` files of the scratch folder, named here by path. Every array of a volume is in *view
order* (Z, Y, X); a 2D image is a volume of one slice.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from napari_attnseg.control.bakeoff import BakeOff as BakeOff
from napari_attnseg.control.checks import Overfit as Overfit
from napari_attnseg.control.checks import OverfitDone as OverfitDone
from napari_attnseg.control.checks import OverfitStep as OverfitStep
from napari_attnseg.control.epochs import EpochDone as EpochDone
from napari_attnseg.control.epochs import Preview as Preview
from napari_attnseg.control.epochs import SetPreview as SetPreview
from napari_attnseg.control.epochs import Train as Train
from napari_attnseg.control.message_base import Event, ImageRef, Request
from napari_attnseg.control.message_base import Note as Note
from napari_attnseg.control.questions import map_files
from napari_attnseg.control.refining import offset_pairs
from napari_attnseg.control.volumes import Reorder as Reorder
from napari_attnseg.settings import TrainSettings, Tuning

# --- requests ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Describe(Request):
    """Ask for models, attentions, tunables, argument schemas and devices as plain data."""


@dataclass(frozen=True)
class Diagnose(Request):
    """Ask for a report on driver, torch build, devices, memory and the device self-test."""

    device: str = "auto"


@dataclass(frozen=True)
class Predict(Request):
    """Long: segment slices ``order`` of an image, the first one first.

    Results are written into ``.npy`` files under ``out`` (created by the engine, ``r+``):
    ``labels`` uint8 (Z,Y,X), ``probability`` float32 (Z,Y,X), ``step`` and ``received`` float32
    (Z,h,w) on the attention grid. ``received`` costs a second pass where the threshold alters the
    attention (rule ``authors``): with ``received=False``, and in large volumes, only slices that
    are looked at get it, the others keep what the file holds. ``tile > 0``: larger slices are cut
    into tiles of so many pixels, which changes the answer of a global attention; there are no maps
    then. ``stages``: folder in which heavy results may lie, ``stage_bytes`` at most (empty: in
    memory alone); with them a value that is moved later wakes only the stages behind it, for every
    slice. ``probability`` of a volume above ``FULL_PRECISION_VOXELS`` is float16. Slices that a run
    with these very values has finished in ``out`` before are told again, not computed. ``axis``: a
    word of ``volumes.AXES`` along which slices are taken, or ``volumes.ALL_AXES`` for each of them,
    with averaged probabilities; unless axial there are no maps, and a ``StepDone`` per slice comes
    before any ``SliceDone``. Events: ``Started``, ``SliceDone`` per slice, ``Finished``
    (``summary``: ``done``, ``computed``, ``kept``).
    """

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    order: tuple[int, ...] = (0,)
    out: str = ""
    received: bool = True
    tile: int = 0
    stages: str = ""
    stage_bytes: int = 0
    axis: str = "axial"


@dataclass(frozen=True)
class Retune(Request):
    """Light, newest wins: gate and later stages of one slice with other values.

    The answer is written into buffer ``buffer`` (0 or 1) of ``<out>/live_labels.npy``
    (2,Y,X uint8) and ``<out>/live_probability.npy`` (2,Y,X float32). With ``compare`` the labels
    at the tuning ``against`` (``None``: under plain attention) go into ``<out>/live_plain.npy``
    (2,Y,X uint8). Event: ``Retuned``. A 3D model that would need many windows answers in the one
    about pixel ``near`` (y, x; empty: the middle); around it stands what a run has found.
    """

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    out: str = ""
    buffer: int = 0
    compare: bool = False
    tile: int = 0
    against: Tuning | None = None
    near: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fingerprint(Request):
    """Sweep all thresholds of slice ``z`` from one pass. Event: ``Fingerprinted``."""

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    reference: str = ""
    points: int = 64
    tile: int = 0


@dataclass(frozen=True)
class AttentionRow(Request):
    """What pixel (z, y, x) attends to, and attention received at this tuning.

    ``y < 0`` asks only for ``received``. Written as ``<out>/row.npy`` (h,w float32, view
    orientation) and ``<out>/received_now.npy`` (h,w). Event: ``RowDone``.
    """

    image: ImageRef = field(default_factory=lambda: ImageRef("", ""))
    checkpoint: str = ""
    device: str = "auto"
    tuning: Tuning = field(default_factory=Tuning)
    z: int = 0
    y: int = -1
    x: int = -1
    out: str = ""
    tile: int = 0


@dataclass(frozen=True)
class SplitObjects(Request):
    """Connected components (optionally a distance watershed) of ``labels`` (.npy, Z,Y,X).

    Writes uint16 ids to ``out`` (.npy). Event: ``ObjectsDone``.
    """

    labels: str = ""
    out: str = ""
    watershed: bool = False
    min_distance: int = 5
    min_size: int = 0


@dataclass(frozen=True)
class Cancel(Request):
    """Stop request ``target`` at its next event; what was finished stays. Event: ``Finished``."""

    target: int = 0


# --- events -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Described(Event):
    """Answer to ``Describe``: see ``engine.describe`` for the layout of ``data``."""

    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosed(Event):
    """Answer to ``Diagnose``: ``report`` is plain data, ``text`` is for the clipboard."""

    report: dict[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Started(Event):
    """Long work began: where (``device``, ``notes`` in words) and how many steps.

    Cell (i, j) of the attention ``grid`` has its centre at pixel ``map_offset + map_scale*(i, j)``
    (rows, columns; pixel centres are whole numbers). ``files``: map name to ``.npy`` path.
    ``ready``: of how many slices the answer is there already, from an earlier run.
    """

    device: str = ""
    total: int = 0
    notes: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    grid: tuple[int, int] = (0, 0)
    stride: float = 1.0
    map_scale: tuple[float, float] = (1.0, 1.0)
    map_offset: tuple[float, float] = (0.0, 0.0)
    ready: int = 0


@dataclass(frozen=True)
class Stopping(Event):
    """A ``Cancel`` was seen between two steps; the work is being closed (training saves)."""


@dataclass(frozen=True)
class SliceDone(Event):
    """Slice ``z`` lies in the result files; ``done`` of ``total`` slices are ready."""

    z: int = 0
    done: int = 0
    total: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Retuned(Event):
    """The live answer for slice ``z`` is in ``buffer``; ``over`` = grid cells above threshold.

    ``woken``: the stages that ran. With ``compare``: pixels gained, lost and kept against the
    other tuning. ``window``: of a 3D model that answered in one window alone, which one.
    """

    z: int = 0
    buffer: int = 0
    over: int = 0
    cells: int = 0
    area: int = 0
    woken: tuple[str, ...] = ()
    gained: int = 0
    lost: int = 0
    kept: int = 0
    seconds: float = 0.0
    window: str = ""


@dataclass(frozen=True)
class Fingerprinted(Event):
    """Curves over ``thresholds`` (ascending); ``dice``/``iou`` are empty without a reference.

    ``step``: all grid values of ``step`` in this slice, for the histogram.
    """

    z: int = 0
    thresholds: tuple[float, ...] = ()
    area: tuple[int, ...] = ()
    components: tuple[int, ...] = ()
    dice: tuple[float, ...] = ()
    iou: tuple[float, ...] = ()
    step: tuple[float, ...] = ()


@dataclass(frozen=True)
class RowDone(Event):
    """The row of the clicked pixel and the received map are written; ``map_*`` as ``Started``."""

    z: int = 0
    row: str = ""
    received: str = ""
    y: int = -1
    x: int = -1
    map_scale: tuple[float, float] = (1.0, 1.0)
    map_offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class ObjectsDone(Event):
    """Ids are written; ``count`` objects."""

    out: str = ""
    count: int = 0


@dataclass(frozen=True)
class Finished(Event):
    """Long work ended. ``reason``: ``"done"``, ``"cancelled"``, ``"early stop: ..."``."""

    reason: str = "done"
    outputs: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed(Event):
    """A request failed: one clear sentence, its error class and a report to copy.

    ``tile``: side of image tiles that may fit where memory ran out (0: none)."""

    kind: str = "AttnSegError"
    message: str = ""
    report: str = ""
    tile: int = 0


@dataclass(frozen=True)
class EngineLost(Event):
    """The engine process died; ``cause`` says why if known. The next request starts a new one.

    ``lost``: numbers of the requests that it had not answered.
    """

    cause: str = ""
    lost: tuple[int, ...] = ()


def _subclasses(base: type) -> dict[str, type]:
    found: dict[str, type] = {base.__name__: base}
    children: list[type] = base.__subclasses__()
    for child in children:
        found |= _subclasses(child)
    return found


MESSAGES: dict[str, type] = {**_subclasses(Request), **_subclasses(Event)}


def encode(message: Request | Event) -> bytes:
    """One JSON document (UTF-8) for the wire."""
    data: dict[str, Any] = {"type": type(message).__name__}
    for f in fields(message):
        value = getattr(message, f.name)
        if isinstance(value, (Tuning, TrainSettings)):
            value = value.to_json()
        elif isinstance(value, ImageRef):
            value = asdict(value)
        data[f.name] = value
    return json.dumps(data, allow_nan=True, default=asdict).encode()


def _revive(name: str, value: Any) -> Any:
    if name in ("tuning", "against"):
        return None if value is None else Tuning.from_json(value)
    if name == "maps":
        return map_files(value)
    if name == "offsets":
        return offset_pairs(value)
    if name in ("others", "stacks"):
        return tuple(map(tuple, value))
    if name == "settings":
        return TrainSettings.from_json(value)
    if name == "image" and value is not None:
        parts: dict[str, Any] = {k: _revive("", v) for k, v in value.items()}
        return ImageRef(**parts)
    return tuple(value) if isinstance(value, list) else value


def decode(raw: bytes) -> Request | Event:
    """The inverse of :func:`encode`; an unknown type or field raises ``KeyError``/``TypeError``."""
    data = json.loads(raw)
    cls: type = MESSAGES[data.pop("type")]
    return cls(**{name: _revive(name, value) for name, value in data.items()})
