"""From frames to volumes: what belongs together, in the order of its places, on an even grid."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.dicom_scan import SPLITTERS, Frame

TURNED = 1e-4
"""Largest difference of a direction cosine within one stack."""
EVEN = 0.01
"""Share of the slice distance that rounding in the file may cost without a word."""
UNEVEN = 0.1
"""Share of the slice distance from which slices lie on no even grid."""
MISSING = 0.25
"""Largest share of places without a slice."""
TILT_DEGREES = 0.05
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames that make one volume, not yet in order. ``name`` tells it from its neighbours."""

    frames: tuple[Frame, ...]
    name: str
    copies: int = 0

    @property
    def series(self) -> str:
        """UID of the series."""
        return self.frames[0].series


@dataclass(frozen=True, eq=False)
class Placed:
    """Frames in the order of their places (``None``: no slice lies there) and the affine.

    ``affine`` (4, 4): voxel (column, row, slice) to RAS+ mm.
    """

    frames: tuple[Frame | None, ...]
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    assumed: str = ""


def stacks_of(frames: Iterable[Frame]) -> list[Stack]:
    """Volumes in the order of series and size; images without a place stand for themselves."""
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    directions: list[np.ndarray] = []
    for frame in frames:
        look = (frame.rows, frame.columns, frame.samples, frame.spacing)
        turn: Hashable = frame.file
        if frame.orientation is not None:
            turn = _number_of(frame.orientation, directions)
        groups[(frame.series, look, turn)].append(frame)
    found = [stack for group in groups.values() for stack in _split(group)]
    return sorted(found, key=lambda s: (s.series, -len(s.frames), s.name))


def _number_of(direction: np.ndarray, known: list[np.ndarray]) -> int:
    for number, other in enumerate(known):
        if np.abs(direction - other).max() <= TURNED:
            return number
    known.append(direction)
    return len(known) - 1


def _split(group: list[Frame]) -> list[Stack]:
    """One stack, or as many as there are images at each place where an attribute tells them."""
    unique = {(f.uid, f.index): f for f in reversed(group)}
    frames, copies = list(unique.values())[::-1], len(group) - len(unique)
    name = _named(frames)
    if frames[0].position is None or len(set(_places(frames))) == len(frames):
        return [Stack(tuple(frames), name, copies)]
    for tag in SPLITTERS:
        parts: dict[str, list[Frame]] = defaultdict(list)
        for frame in frames:
            parts[frame.told.get(tag, "")].append(frame)
        if len(parts) > 1 and all(len(set(_places(p))) == len(p) for p in parts.values()):
            return [Stack(tuple(p), f"{_named(p)}, {tag} {v}") for v, p in parts.items()]
    return [Stack(tuple(frames), name, copies)]


def _named(frames: list[Frame]) -> str:
    f, count = frames[0], len(frames)
    size = f"{count} slice{'s' if count > 1 else ''} of {f.columns} x {f.rows}"
    return f"{f.title} ({f.modality + ', ' if f.modality else ''}{size})"


def _places(frames: list[Frame]) -> list[tuple[float, ...]]:
    return [tuple(np.round(f.position, 3)) if f.position is not None else () for f in frames]


def place(stack: Stack, what: str) -> Placed:
    """Sort by place along the normal and find the grid. ``what``: name of the source for errors.

    Slices that are missing leave ``None`` behind. Raises ``InputError`` for two different images
    at one place, for uneven distances and where too many slices are missing.
    """
    first = stack.frames[0]
    assert first.orientation is not None
    assert first.spacing is not None
    along = np.cross(first.orientation[:3], first.orientation[3:])
    if not 0.9 < np.linalg.norm(along) < 1.1:
        raise InputError(
            f"{what} has rows and columns that do not stand at right angles in its orientation; "
            "the header is damaged, export the series again"
        )
    frames = sorted(stack.frames, key=_height(along))
    points = np.array([f.position for f in frames])
    notes = [f"{stack.copies} files are copies of others and were left out"] * (stack.copies > 0)
    assumed = ""
    if len(frames) == 1:
        step, index = along * (first.thickness or 1.0), np.zeros(1, int)
        if first.thickness is None:
            assumed = "one slice without a thickness: 1 mm"
    else:
        step, index = _grid(what, points, along, notes)
    affine = np.eye(4)
    columns = first.orientation[:3] * first.spacing[1], first.orientation[3:] * first.spacing[0]
    affine[:3, :3] = LPS_TO_RAS @ np.stack([*columns, step], 1)
    affine[:3, 3] = LPS_TO_RAS @ points[0]
    cosine = float(abs(step @ along) / np.linalg.norm(step))
    tilt = float(np.degrees(np.arccos(min(1.0, cosine))))
    if tilt > TILT_DEGREES:
        notes.append(
            f"gantry tilt of {tilt:.1f} degrees, kept as it is: every voxel lies where the scanner "
            "measured it"
        )
    filled: list[Frame | None] = [None] * (int(index[-1]) + 1)
    for number, frame in zip(index, frames, strict=True):
        filled[int(number)] = frame
    return Placed(tuple(filled), affine, tuple(notes), assumed)


def _height(along: np.ndarray) -> Callable[[Frame], float]:
    return lambda frame: float(along @ frame.position)


def _grid(
    what: str, points: np.ndarray, along: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Step (3,) in LPS mm from slice to slice, and the number of every slice on that grid."""
    heights = points @ along
    gaps = np.diff(heights)
    if gaps.min() <= 1e-3:
        places = Counter(np.round(heights, 2)).most_common(1)[0]
        raise InputError(
            f"{what} has {places[1]} different images at one place ({places[0]:g} mm along the "
            "stack) and nothing in their headers tells them apart; keep one image per place"
        )
    usual = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    index = np.rint((heights - heights[0]) / usual).astype(int)
    step = (points[-1] - points[0]) / index[-1]
    off = np.linalg.norm(points - (points[0] + index[:, None] * step), axis=1).max()
    size = float(np.linalg.norm(step))
    missing = int(index[-1]) + 1 - len(points)
    if off > UNEVEN * size or missing > MISSING * index[-1]:
        raise InputError(
            f"the slices of {what} lie {gaps.min():.4g} to {gaps.max():.4g} mm apart, on no even "
            "grid; nothing is interpolated here, resample the series first (dcm2niix does)"
        )
    if off > EVEN * size:
        notes.append(f"slice distances are uneven: places are right to {off:.2g} mm")
    if missing:
        holes = sorted(set(range(int(index[-1]) + 1)) - set(index.tolist()))
        notes.append(_missing_words(holes))
    return step, index


def _missing_words(holes: list[int]) -> str:
    listed = ", ".join(map(str, holes[:8])) + (" ..." if len(holes) > 8 else "")
    some = "slice is" if len(holes) == 1 else "slices are"
    return (
        f"{len(holes)} {some} missing (number {listed}, from 0): blank slices hold the place, "
        "nothing is interpolated, and a mask there means nothing"
    )
