"""Strokes on an iterate: held where they are, carried on by the affinity, window by window.

Legend: K = classes, Z = slices whose strokes count, H, W = working pixels, Y, X = pixels of the
slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from napari_attnseg.control.refining import Refine
from napari_attnseg.engine import anchoring
from napari_attnseg.engine.iterates import KEEP_BYTES, Iterates
from napari_attnseg.engine.refining import refined_model
from napari_attnseg.engine.stages import ByteCache
from napari_attnseg.models.guided import Guided
from napari_attnseg.refinement import Anchors, strokes


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


class Held:
    """Answers with strokes for the slices of a session's image."""

    def __init__(self, iterates: Iterates) -> None:
        self._iterates = iterates
        self._session = iterates.session
        self._scenes = ByteCache(KEEP_BYTES)

    def forget(self) -> None:
        """Give back the memory of all that is kept."""
        self._scenes.clear()

    def cells(self, painted: np.ndarray | None) -> np.ndarray | None:
        """Strokes (Z, Y, X) at working size, standing as in training."""
        if painted is None:
            return None
        s = self._session
        standing = (np.ascontiguousarray(s._standing(p)) for p in painted)
        return np.stack([anchoring.at_working_size(p, s._working_size()) for p in standing])

    def logits(
        self, work: Refine, count: int, plain: torch.Tensor, cells: np.ndarray
    ) -> torch.Tensor:
        """``plain`` with strokes; what another stroke cannot have changed is taken over."""
        zs = slab(work, self._session.n_slices)
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
        zs = slab(work, self._session.n_slices)
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
        model = refined_model(self._session.model)
        images = torch.cat([self._iterates.image(work, z)[window] for z in zs])
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
