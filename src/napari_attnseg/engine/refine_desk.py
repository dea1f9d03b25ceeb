"""Refining one slice by hand: any coarse map, any number of iterations, strokes that are held.

Heavy once, light often: the guidance of a slice and coarse map is kept, then its iterates, then
the answer with strokes: a new stroke wakes nothing before itself. Every answer is a pure function
of image, coarse map, strokes and values: taking a stroke back gives the same bits again.

Legend: K = classes, H, W = working pixels, Y, X = pixels of the slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from napari_attnseg.control.refining import Affinity, Refine
from napari_attnseg.engine import anchoring
from napari_attnseg.engine.affinity_at import PixelWeights, weights_at
from napari_attnseg.engine.held import Held, slab
from napari_attnseg.engine.iterates import Iterates, thread_for
from napari_attnseg.engine.opened import OpenImage
from napari_attnseg.engine.preprocess import resize
from napari_attnseg.engine.refining import refined_model
from napari_attnseg.errors import InputError

T = TypeVar("T")
MOST = 200
"""Iterations that can be asked for. DySPN goes on with the attention of its last iteration."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A refined slice in view orientation: ``labels`` uint8 (Y, X), ``probability`` float32
    (Y, X), ``logits`` (1, K, H, W) as the network stands; ``anchored``: painted pixels."""

    labels: np.ndarray
    probability: np.ndarray
    logits: torch.Tensor
    anchored: int


class RefineDesk:
    """Refinements of the image that a session of a refined model holds.

    Raises ``InputError`` for another model, for slices cut into tiles, and for arrays that do not
    fit the image; then everything stays as it was.
    """

    def __init__(self, session: OpenImage) -> None:
        self.session = session
        self._iterates = Iterates(session)
        self._held = Held(self._iterates)
        self._steps_down = 0

    @property
    def woken(self) -> tuple[str, ...]:
        """What the last answer had to compute: coarse, guidance, iterations, strokes."""
        return tuple(dict.fromkeys(self._iterates.woken))

    # --- asking --------------------------------------------------------------------------------

    def show(self, work: Refine) -> Shown:
        """The answer after ``work.iterations`` with the strokes of now."""
        self._check(work)
        painted = self._strokes(work)
        return self._guarded(lambda: self._show(work, painted))

    def steps(self, work: Refine) -> Iterator[Shown]:
        """Iterates 0 (the coarse map as it is) to ``work.iterations``, each with the strokes of
        now. Other questions may be asked between two of them."""
        self._check(work)
        painted = self._strokes(work)
        cells = self._held.cells(painted)
        guarded = self._guarded
        self._iterates.woken.clear()
        yield guarded(lambda: self._finish(self._first(work), work, None))
        for t in range(1, work.iterations + 1):
            self._iterates.woken.clear()
            yield guarded(lambda t=t: self._at(work, t, painted, cells))  # type: ignore[misc]

    def _first(self, work: Refine) -> torch.Tensor:
        """The coarse map; the iterates are made (and kept, if they are small) along the way."""
        start = self._iterates.start(work)
        self._iterates.plain(start, work.iterations)
        return start.guided.start

    def attention(self, work: Refine) -> np.ndarray | None:
        """Attention of every iteration, float32 (T, parts, Y, X), parts = centre, ring 1, 2, 3;
        ``None`` for a refinement without."""
        self._check(work)
        return self._guarded(lambda: self._attention(work))

    def weights(self, work: Affinity) -> PixelWeights:
        """With which weights the pixel (z, y, x) takes from its neighbours, in the view."""
        self._check(work)
        self._need_reach("weights of neighbours")
        height, width = self.session.shape[1:]
        if not (0 <= work.y < height and 0 <= work.x < width):
            raise InputError(
                f"pixel ({work.y}, {work.x}) lies outside the slice of {height} x {width}"
            )
        return self._guarded(lambda: self._weights(work))

    def reference(self, work: Refine) -> np.ndarray | None:
        """Class ids (Y, X) to measure against, if any; all objects are one class for a model of
        one."""
        if not work.reference:
            return None
        advice = "choose labels made on this image as reference"
        found = self._iterates.slice_of(work.reference, work.z, "a reference", advice)
        return (found > 0).astype(np.uint8) if self._iterates.channels == 1 else found

    def _guarded(self, work: Callable[[], T]) -> T:
        """On the device; where memory ran out there, what is kept goes before the next try."""

        def spared() -> T:
            steps_down = len(self.session._device_notes)
            if steps_down != self._steps_down:
                self._steps_down = steps_down
                self._iterates.forget()
                self._held.forget()
            return work()

        return self.session._guarded(spared)

    # --- checks --------------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        """Class ids that labels may have, the background included."""
        return max(self._iterates.channels, 2)

    def _check(self, work: Refine | Affinity) -> None:
        refined_model(self.session.model)
        self.session._check_slice(work.z)
        self.session._need_whole("refinement by hand")
        if isinstance(work, Refine):
            self._check_values(work)

    def _need_reach(self, what: str) -> None:
        if not refined_model(self.session.model).refinement.reach:
            raise InputError(
                f"this refinement carries nothing to neighbours, so there are no {what}; choose "
                "one that was trained with --refine cspn or dyspn"
            )

    @staticmethod
    def _check_values(work: Refine) -> None:
        if not 0 <= work.iterations <= MOST:
            raise InputError(f"got iterations={work.iterations}, expected 0 to {MOST}")
        if work.carry < 0:
            raise InputError(f"got carry={work.carry}, expected a number of slices, 0 or more")
        if not 0 <= work.strength <= 1:
            raise InputError(f"got strength={work.strength}, expected 0 (ignored) to 1 (held)")

    def _strokes(self, work: Refine) -> np.ndarray | None:
        """Strokes (Z, Y, X) uint8 of the slice and of those from which strokes are carried to it;
        ``None`` when there are none or none count."""
        if not work.strokes or work.strength == 0:
            return None
        self._need_reach("strokes")
        advice = "press New strokes to begin a layer of the right size"
        zs = slab(work, self.session.n_slices)
        slices = [self._iterates.slice_of(work.strokes, z, "strokes", advice) for z in zs]
        found = np.stack(slices)
        if found.dtype != np.uint8:
            raise InputError(f"got strokes of type {found.dtype}, expected uint8; {advice}")
        anchoring.check_strokes(found, self._iterates.channels)
        return found

    # --- strokes -------------------------------------------------------------------------------

    def _show(self, work: Refine, painted: np.ndarray | None) -> Shown:
        self._iterates.woken.clear()
        return self._at(work, work.iterations, painted, self._held.cells(painted))

    def _at(
        self, work: Refine, count: int, painted: np.ndarray | None, cells: np.ndarray | None
    ) -> Shown:
        """Iterate ``count`` of the slice, with its strokes."""
        plain = self._iterates.plain(self._iterates.start(work), count)
        if painted is None or cells is None:
            return self._finish(plain, work, None)
        with thread_for(plain[0, 0].numel()):
            logits = self._held.logits(work, count, plain, cells)
        return self._finish(logits, work, painted[work.z - slab(work, self.session.n_slices)[0]])

    # --- answers -------------------------------------------------------------------------------

    def _finish(self, logits: torch.Tensor, work: Refine, painted: np.ndarray | None) -> Shown:
        """Logits at working size as labels and probability of the slice."""
        s = self.session
        answer = s.pipeline.finish(logits, s._values(work.tuning))
        labels, probability = s._back(answer.labels), s._back(answer.probability)
        if painted is not None and work.strength == 1:
            anchoring.hold_pixels(painted, labels, probability, self._iterates.channels)
        anchored = 0 if painted is None else int(np.count_nonzero(painted))
        return Shown(labels, probability, logits, anchored)

    def _attention(self, work: Refine) -> np.ndarray | None:
        start = self._iterates.start(work)
        if start.guided.attention is None or work.iterations == 0:
            return None
        _, attention = self._iterates.lasting(work.iterations, start.guided.attention)
        assert attention is not None
        return self.session._back(resize(attention[0], self.session.shape[1:], antialias=False))

    def _weights(self, work: Affinity) -> PixelWeights:
        s, start = self.session, self._iterates.start(work)
        size = start.guided.start.shape[-2:]
        _, *flips = s._flips
        at = []
        for place, flip, full, n in zip((work.y, work.x), flips, s.shape[1:], size, strict=True):
            cell = min(int((place + 0.5) * n / full), n - 1)
            at.append(n - 1 - cell if flip else cell)
        found = weights_at(refined_model(s.model).refinement, start.guided, at[0], at[1])
        sy, sx = (-1 if flip else 1 for flip in flips)
        return replace(found, offsets=tuple((sy * dy, sx * dx) for dy, dx in found.offsets))
