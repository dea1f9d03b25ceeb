"""What a few images and masks look like, gathered one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.io.volume import Volume

RARE = 0.001
"""A class with a smaller share of the labelled pixels deserves a word."""
PIXELS = 4096
"""Values of an image that go into the percentiles."""
FLAT = 0.01
"""Part of the data type's range (integers) below which an image is called flat."""


@dataclass(frozen=True)
class Intensity:
    """Raw values of the images looked at: lowest, 1st and 99th percentile, highest, types."""

    low: float
    p1: float
    p99: float
    high: float
    types: tuple[str, ...]

    def text(self) -> str:
        """In words."""
        return (
            f"{self.low:g} to {self.high:g}, nearly all from {self.p1:g} to {self.p99:g} "
            f"({', '.join(self.types)})"
        )


@dataclass
class Looks:
    """``pixels``: label id (or class) to count; -1 is unknown and kept apart in ``unknown``."""

    images: int = 0
    coloured: int = 0
    signed: bool = False
    pixels: dict[int, int] = field(default_factory=dict)
    unknown: int = 0
    empty: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    flat: list[str] = field(default_factory=list)
    noted: dict[str, list[str]] = field(default_factory=dict)
    types: Counter[str] = field(default_factory=Counter)
    samples: list[npt.NDArray[Any]] = field(default_factory=list)
    ends: list[tuple[float, float]] = field(default_factory=list)

    def add(
        self, image: Volume, ids: npt.NDArray[Any], names: tuple[str, str], note: str = ""
    ) -> None:
        """One pair: the image, its ids in view order, both names, and what reading the mask
        decided."""
        if note:
            self.noted.setdefault(note, []).append(names[1])
        self._image(image.view, image.rgb, names[0])
        self._mask(ids, names[1])

    @property
    def channels(self) -> int:
        """3 when all images are coloured, else 1."""
        return 3 if self.images and self.coloured == self.images else 1

    def intensity(self) -> Intensity | None:
        """Range of the values looked at, ``None`` without a finite one."""
        if not self.ends:
            return None
        p1, p99 = np.percentile(np.concatenate(self.samples), [1, 99])
        low, high = min(a for a, _ in self.ends), max(b for _, b in self.ends)
        return Intensity(low, float(p1), float(p99), high, tuple(sorted(self.types)))

    def shares(self) -> tuple[tuple[int, float], ...]:
        """Ids and their share of the known pixels."""
        total = sum(self.pixels.values()) or 1
        return tuple((i, n / total) for i, n in sorted(self.pixels.items()))

    def unknown_share(self) -> float:
        """Part of all pixels that count neither in training nor in evaluation."""
        total = sum(self.pixels.values()) + self.unknown
        return self.unknown / total if total else 0.0

    @property
    def nothing_marked(self) -> bool:
        """Whether no mask that was looked at holds more than background."""
        return not self.pixels or set(self.pixels) == {0}

    def problems(self, whole: bool = True) -> tuple[str, ...]:
        """Nothing at all, or one class only, in every mask that was looked at.

        ``whole``: whether these were all masks; of a sample, empty ones prove nothing.
        """
        if self.nothing_marked:
            if not whole:
                return ()
            return ("the masks hold background only; give masks in which something is marked",)
        if 0 not in self.pixels:
            return ("the masks mark every pixel and leave no background; 0 must be background",)
        return ()

    def remarks(self, whole: bool = True) -> Iterator[str]:
        """Sentences for the person; ``whole`` as in :meth:`problems`."""
        if self.nothing_marked and self.images and not whole:
            yield (
                f"the {self.images} masks looked at hold background only; when objects are rare "
                "this may be right, else look whether the masks belong to the images"
            )
        elif self.empty:
            yield f"{some(self.empty)} without anything marked (kept: it shows background)"
        for note, names in self.noted.items():
            yield f"{some(names)}: {note}"
        if self.not_finite:
            yield f"NaN or infinite pixels in {some(self.not_finite)} (taken as 0)"
        if self.flat:
            yield f"hardly any contrast in {some(self.flat)}; look whether it was exported right"
        if len(self.types) > 1:
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.types.items()))
            yield f"images of different types ({kinds}); choose intensity=percentile"
        if 0 < self.coloured < self.images:
            yield (
                f"{self.coloured} of {self.images} images are coloured, the rest grey; with one "
                "channel the coloured ones are used by their luminance, with three the grey ones "
                "are repeated in each"
            )
        for number, share in self.shares():
            if number and share < RARE and len(self.pixels) <= 12:
                yield f"label {number} covers only {share:.2%} of the pixels; more examples help"

    def _image(self, view: npt.NDArray[Any], rgb: bool, name: str) -> None:
        self.images += 1
        self.types[str(view.dtype)] += 1
        thin = view[:, ::4, ::4] if min(view.shape[1:3]) > 16 else view
        if rgb:
            spread = np.ptp(thin[..., :3].astype(np.float64), axis=-1)
            self.coloured += bool(spread.mean() > 0.01 * max(float(thin.max()), 1e-9))
        finite = thin[np.isfinite(thin)] if thin.dtype.kind == "f" else thin.ravel()
        if finite.size < thin.size:
            self.not_finite.append(name)
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
        self.ends.append((low, high))
        self.samples.append(finite[:: max(1, finite.size // PIXELS)].astype(np.float64))
        self.signed = self.signed or low < -500
        if high == low or (view.dtype == np.uint8 and high - low < FLAT * 255):
            self.flat.append(name)

    def _mask(self, ids: npt.NDArray[Any], name: str) -> None:
        numbers, counts = np.unique(ids, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number < 0:
                self.unknown += count
            else:
                self.pixels[number] = self.pixels.get(number, 0) + count
        if not (ids > 0).any():
            self.empty.append(name)


def some(names: list[str]) -> str:
    """The first three, and how many more."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
