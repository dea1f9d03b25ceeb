"""Whether a volume is of the kind that a model was made for: said before Run, not found out after.

Works from the header's facts and a thin sample of the voxels, so it costs milliseconds, also on a
volume that lies in a file and is read where it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_attnseg.cards import Card
from napari_attnseg.io.volume import Volume

SLICES, ROWS, COLUMNS = 9, 48, 48
"""Places along each axis at which a sample is taken."""
AIR_HU = -500.0
"""Every CT of a patient has voxels below: air in and around the body."""
SHARE_IN_WINDOW = 0.01
TIMES = 2.0
"""By how much pixels may be smaller or larger than those of the training."""
OBLONG = 2.5
"""Sides of a pixel differ by more: the slices were taken along another axis."""
FEW_PIXELS = 24

Severity = Literal["note", "doubt", "wrong"]


@dataclass(frozen=True)
class Doubt:
    """One sentence. ``"note"``: worth knowing; ``"doubt"``: the answer may be poor; ``"wrong"``:
    the image is not what the model was made for. ``--strict`` refuses the last two, and notes on
    what nobody can know (``unknown``)."""

    severity: Severity
    sentence: str
    unknown: bool = False

    @property
    def refuses(self) -> bool:
        """Whether ``--strict`` refuses the image for it."""
        return self.unknown or self.severity != "note"


@dataclass(frozen=True, eq=False)
class VolumeFacts:
    """What is known of an image without reading it whole.

    ``shape``: (Z, Y, X). ``spacing_mm``: per view axis, empty when unknown. ``placed``: whether a
    header says how the slices stand. ``sample``: finite values from all over it, float64.
    """

    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    spacing_mm: tuple[float, ...]
    placed: bool
    sample: npt.NDArray[np.float64]

    @property
    def low(self) -> float:
        """Lowest value of the sample."""
        return float(self.sample.min(initial=np.inf))

    @property
    def high(self) -> float:
        """Highest value of the sample."""
        return float(self.sample.max(initial=-np.inf))


def facts_of(
    view: Any, rgb: bool = False, spacing_mm: tuple[float, ...] = (), placed: bool = False
) -> VolumeFacts:
    """Facts of pixels in view order, (Z, Y, X) or (Z, Y, X, C), numpy, mapped or lazy."""
    z, y, x = (int(n) for n in view.shape[:3])
    channels = int(view.shape[3]) if rgb else 1
    return VolumeFacts(
        (z, y, x), channels, np.dtype(view.dtype), tuple(spacing_mm), placed, _sample(view)
    )


def facts_of_volume(volume: Volume) -> VolumeFacts:
    """Facts of a volume that was opened; its pixels may still lie in their file."""
    stated = volume.geometry is not None and not volume.assumed
    return facts_of(volume.view, volume.rgb, volume.spacing_mm, stated)


def gaps_in(volume: Volume) -> list[str]:
    """A sentence on slices that are missing, for which blank ones stand; empty for none. Readers
    note them already."""
    holes = [str(z) for z, slice_ in enumerate(volume.slices) if slice_ is None]
    if not holes:
        return []
    listed = ", ".join(holes[:10]) + (", ..." if len(holes) > 10 else "")
    words = "1 slice is" if len(holes) == 1 else f"{len(holes)} slices are"
    return [f"{words} missing (number {listed}, from 0): export the series again, whole"]


def suitability(facts: VolumeFacts, card: Card) -> list[Doubt]:
    """What speaks against segmenting this image with this model, the gravest first."""
    found = [*_values(facts, card), *_pixels(facts, card), *_slices(facts, card)]
    order = ("wrong", "doubt", "note")
    return sorted(found, key=lambda doubt: order.index(doubt.severity))


# --- values -----------------------------------------------------------------------------------


def _values(facts: VolumeFacts, card: Card) -> Iterator[Doubt]:
    if not facts.sample.size:
        yield Doubt("wrong", "no value of the image that was looked at is a number")
    elif facts.low == facts.high:
        yield Doubt(
            "doubt", f"every value that was looked at is {facts.low:g}: the image may be empty"
        )
    elif card.preprocessing.intensity == "window":
        yield from _ct_values(facts, card)
    elif facts.low <= AIR_HU:
        yield Doubt(
            "doubt",
            f"the values go down to {facts.low:g}, as in a CT (HU), but the model was not "
            "trained on CT; choose a model for CT slices",
        )


def _ct_values(facts: VolumeFacts, card: Card) -> Iterator[Doubt]:
    """The model knows what a value means; an image that counts otherwise is another image."""
    p = card.preprocessing
    wanted = f"the model reads CT values (HU) from {p.low:g} to {p.high:g}"
    if facts.channels > 1:
        yield Doubt("wrong", f"this is a colour picture, but {wanted}; choose a CT")
        return
    if facts.low >= 0:
        yield Doubt("wrong", f"{_not_hu(facts)}, but {wanted}; open the CT as it was stored")
        return
    inside = (facts.sample > p.low) & (facts.sample < p.high)
    if inside.mean() < SHARE_IN_WINDOW:
        yield Doubt(
            "doubt",
            f"hardly any value lies where the model looks ({p.low:g} to {p.high:g}); "
            "look whether this is the right scan",
        )
    clipped = facts.low >= p.low and facts.high <= p.high  # to the window: nothing is lost by it
    if facts.low > AIR_HU and not clipped:
        yield Doubt(
            "doubt",
            f"no value below {AIR_HU:g} HU (air) was found, the lowest is {facts.low:g}: it may "
            f"be no CT, and {wanted}",
        )


def _not_hu(facts: VolumeFacts) -> str:
    """What values without a negative one are."""
    if facts.high <= 1:
        return "the values run from 0 to 1: they were scaled"
    if facts.high <= 255:
        return f"the values run from {facts.low:g} to {facts.high:g}, as in an 8-bit picture"
    if 500 < np.percentile(facts.sample, 90) < 1600:  # soft tissue, shifted by 1024
        return f"no value is below {facts.low:g}: HU were shifted (often by 1024) or it is no CT"
    return f"no value is below {facts.low:g}: it is no CT in HU (an MR scan?)"


# --- pixels and slices ------------------------------------------------------------------------


def _pixels(facts: VolumeFacts, card: Card) -> Iterator[Doubt]:
    target = card.preprocessing.spacing_mm
    own = facts.spacing_mm[-2:]
    if not own:
        if target:
            yield Doubt(
                "doubt",
                f"the pixel size is unknown, but the model works at {_size(target[-2:])} mm; "
                "give the layer its scale in mm",
            )
        return
    trained = trained_spacing(card)
    if trained is not None and not target:
        (low_y, low_x), (high_y, high_x) = (ends[-2:] for ends in trained)
        small = own[0] < low_y / TIMES or own[1] < low_x / TIMES
        if small or own[0] > high_y * TIMES or own[1] > high_x * TIMES:
            yield Doubt(
                "doubt",
                f"pixels of {_size(own)} mm, but the model was trained on "
                f"{_span(trained)} mm: it knows things in another size; resample the image first",
            )
    if max(own) > OBLONG * min(own):
        yield Doubt(
            "doubt",
            f"pixels are {_size(own)} mm in the slices that the model sees: the scan was taken "
            "along another axis; segment it along that one",
        )


def _slices(facts: VolumeFacts, card: Card) -> Iterator[Doubt]:
    depth, rows, columns = facts.shape
    ct = card.preprocessing.intensity == "window"
    if min(rows, columns) < FEW_PIXELS:
        yield Doubt(
            "doubt", f"slices of {rows} x {columns} pixels are too small to recognise anything in"
        )
    if ct and depth > 1 and not facts.placed and facts.sample.size:
        yield Doubt(
            "note",
            "no header says how the patient lies: the model expects axial slices with the front "
            "of the body at the top",
            unknown=True,
        )
    if depth > 1 and not ct:
        yield Doubt(
            "note",
            "the model was trained on single pictures: every slice is segmented on its own",
        )


def trained_spacing(card: Card) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Smallest and largest voxel (mm, per view axis) of the training images, if the card tells."""
    data = card.provenance.get("data")
    found = data.get("spacing_mm") if isinstance(data, dict) else None
    try:
        low, high = (tuple(float(v) for v in ends) for ends in found)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        return None
    return (low, high) if len(low) == len(high) and len(low) >= 2 and min(low) > 0 else None


def _sample(view: Any) -> npt.NDArray[np.float64]:
    """Finite values on a grid over the whole image, whole slices apart."""
    planes = np.unique(np.linspace(0, view.shape[0] - 1, SLICES).round().astype(int))
    rows, columns = (max(1, n // k) for n, k in zip(view.shape[1:3], (ROWS, COLUMNS), strict=True))
    parts = [np.asarray(view[int(z), ::rows, ::columns], np.float64).ravel() for z in planes]
    values = np.concatenate(parts) if parts else np.zeros(0)
    return values[np.isfinite(values)]


def _size(mm: tuple[float, ...]) -> str:
    return " x ".join(f"{v:.3g}" for v in mm)


def _span(trained: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    low, high = (_size(ends[-2:]) for ends in trained)
    return low if low == high else f"{low} to {high}"
