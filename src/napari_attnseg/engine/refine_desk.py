"""Refining one slice by hand: any coarse map, any number of iterations, strokes that are held.

Heavy once, light often: the guidance of a slice and coarse map is kept, then its iterates, then
the answer with strokes. A new stroke wakes only the window it can change. Every answer is a pure
function of image, coarse map, strokes and values: taking a stroke back gives the same bits again.

Legend: K = classes, H, W = working pixels, Y, X = pixels of the slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from napari_attnseg.control.refining import Affinity, Refine
from napari_attnseg.engine import anchoring
from napari_attnseg.engine.affinity_at import PixelWeights, weights_at
from napari_attnseg.engine.iterates import KEEP_BYTES, Iterates, thread_for
from napari_attnseg.engine.opened import OpenImage
from napari_attnseg.engine.preprocess import resize
from napari_attnseg.engine.refining import refined_model
from napari_attnseg.engine.stages import ByteCache
from napari_attnseg.errors import InputError
from napari_attnseg.models.guided import Guided
from napari_attnseg.refinement import Anchors, strokes

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


@dataclass(frozen=True, eq=False)
class _Scene:
    """An answer (1, K, H, W) and the strokes (Z, H, W) it was made with."""

    strokes: np.ndarray
    logits: torch.Tensor


def slab(work: Refine, n_slices: int) -> range:
    """The slices whose strokes reach slice ``work.z``, itself included."""
    return range(max(0, work.z - work.carry), min(n_slices, work.z + work.carry + 1))


def _part(guided: Guided, window: tuple[slice, ...]) -> Guided:
    attention = guided.attention
    return Guided(
        guided.start[window],
        guided.affinity[window],
        None if attention is None else attention[(slice(None), *window)],
    )


class RefineDesk:
    """Refinements of the image that a session of a refined model holds.

    Raises ``InputError`` for another model, for slices cut into tiles, and for arrays that do not
    fit the image; then everything stays as it was.
    """

    def __init__(self, session: OpenImage) -> None:
        self.session = session
        self._iterates = Iterates(session)
        self._scenes = ByteCache(KEEP_BYTES)

    @property
    def woken(self) -> tuple[str, ...]:
        """What the last answer had to compute: coarse, guidance, iterations, strokes."""
        return tuple(self._iterates.woken)

    # --- asking --------------------------------------------------------------------------------

    def show(self, work: Refine) -> Shown:
        """The answer after ``work.iterations`` with the strokes of now."""
        self._check(work)
        painted = self._strokes(work)
        return self.session._guarded(lambda: self._show(work, painted))

    def steps(self, work: Refine) -> Iterator[Shown]:
        """Iterates 0 (the coarse map as it is) to ``work.iterations``, each with the strokes of
        now. Other questions may be asked between two of them."""
        self._check(work)
        painted = self._strokes(work)
        cells = self._cells(painted)
        guarded = self.session._guarded
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
        return self.session._guarded(lambda: self._attention(work))

    def weights(self, work: Affinity) -> PixelWeights:
        """With which weights the pixel (z, y, x) takes from its neighbours, in the view."""
        self._check(work)
        height, width = self.session.shape[1:]
        if not (0 <= work.y < height and 0 <= work.x < width):
            raise InputError(
                f"pixel ({work.y}, {work.x}) lies outside the slice of {height} x {width}"
            )
        return self.session._guarded(lambda: self._weights(work))

    def reference(self, work: Refine) -> np.ndarray | None:
        """Class ids (Y, X) to measure against, if any; all objects are one class for a model of
        one."""
        if not work.reference:
            return None
        advice = "choose labels made on this image as reference"
        found = self._iterates.slice_of(work.reference, work.z, "a reference", advice)
        return (found > 0).astype(np.uint8) if self._iterates.channels == 1 else found

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
        return self._at(work, work.iterations, painted, self._cells(painted))

    def _at(
        self, work: Refine, count: int, painted: np.ndarray | None, cells: np.ndarray | None
    ) -> Shown:
        """Iterate ``count`` of the slice, with its strokes."""
        plain = self._iterates.plain(self._iterates.start(work), count)
        if painted is None or cells is None:
            return self._finish(plain, work, None)
        with thread_for(plain[0, 0].numel()):
            logits = self._held(work, count, plain, cells)
        return self._finish(logits, work, painted[work.z - slab(work, self.session.n_slices)[0]])

    def _cells(self, painted: np.ndarray | None) -> np.ndarray | None:
        """Strokes (Z, Y, X) at working size, standing as in training."""
        if painted is None:
            return None
        s = self.session
        standing = (np.ascontiguousarray(s._standing(p)) for p in painted)
        return np.stack([anchoring.at_working_size(p, s._working_size()) for p in standing])

    def _held(
        self, work: Refine, count: int, plain: torch.Tensor, cells: np.ndarray
    ) -> torch.Tensor:
        """``plain`` with strokes; what another stroke cannot have changed is taken over."""
        zs = slab(work, self.session.n_slices)
        about = (work.z, work.strength, *(self._iterates.key(work, z) for z in zs))
        known, scene = self._scenes.get((about, count))
        if not known:
            scene = _Scene(np.zeros_like(cells), plain)
        box = anchoring.changed_box(scene.strokes, cells)
        if box is not None:
            size = cells.shape[1], cells.shape[2]
            inner = anchoring.grown(box, strokes.REACH, size)
            outer = anchoring.grown(inner, strokes.REACH + 1, size)
            part = self._carried(work, count, cells, outer)
            kept = tuple(
                slice(i.start - o.start, i.stop - o.start)
                for i, o in zip(inner, outer, strict=True)
            )
            logits = scene.logits.clone()
            logits[(..., *inner)] = part[(..., *kept)]
            scene = _Scene(cells, logits)
            self._iterates.woken.append("strokes")
        self._scenes.put((about, count), scene)
        made: torch.Tensor = scene.logits
        return made

    def _carried(
        self, work: Refine, count: int, cells: np.ndarray, box: anchoring.Box
    ) -> torch.Tensor:
        """The answer (1, K, h, w) with strokes inside a window, which must be wider than what is
        used of it; strokes of other slices come through the volume that all of them make."""
        zs = slab(work, self.session.n_slices)
        starts = [self._iterates.start(work, z) for z in zs]
        window = (slice(None), slice(None), *box)
        answers = [self._iterates.plain(start, count)[window] for start in starts]
        parts = [_part(start.guided, window) for start in starts]
        held = cells[(slice(None), *box)]
        own = zs.index(work.z)
        if len(zs) == 1:
            g = parts[0]
            refinement, attention = self._iterates.lasting(max(count, 1), g.attention)
            return strokes.carry(
                g.start,
                g.affinity,
                attention,
                refinement,
                self._anchors(held[0], work, g.start),
                answer=answers[0],
            )
        model = refined_model(self.session.model)
        images = torch.cat([self._iterates.image(z)[window] for z in zs])
        start, affinity, attention = model.in_volume(parts, images)
        refinement, attention = self._iterates.lasting(max(count, 1), attention)
        return strokes.carry(
            start,
            affinity,
            attention,
            refinement.through_slices(),
            self._anchors(held, work, start),
            answer=torch.stack(answers, 2),
        )[:, :, own]

    def _anchors(self, held: np.ndarray, work: Refine, like: torch.Tensor) -> Anchors:
        return anchoring.anchors(held, self._iterates.channels, work.strength, like.device)

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
