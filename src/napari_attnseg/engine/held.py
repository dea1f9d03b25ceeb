"""Strokes on an iterate: held where they are, taken as examples for all that looks alike in the
slice, carried on to pixels near them along the affinity.

Legend: K = classes, Z = slices whose strokes count, H, W = working pixels, Y, X = pixels of the
slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from napari_attnseg.control.refining import Refine
from napari_attnseg.engine import anchoring
from napari_attnseg.engine.iterates import KEEP_BYTES, Iterates, Start
from napari_attnseg.engine.refining import refined_model
from napari_attnseg.engine.stages import ByteCache
from napari_attnseg.models.guided import Guided
from napari_attnseg.refinement import Anchors, likeness, strokes


@dataclass(frozen=True, eq=False)
class _Scene:
    """An answer (1, K, H, W) and the strokes (Z, H, W) it was made with."""

    strokes: np.ndarray
    logits: torch.Tensor


def slab(work: Refine, n_slices: int) -> range:
    """The slices whose strokes reach slice ``work.z``, itself included."""
    return range(max(0, work.z - work.carry), min(n_slices, work.z + work.carry + 1))


def _walk(slices: range) -> strokes.Walk:
    """Strokes of other slices reach this one by the affinity alone."""
    return strokes.SHORT if len(slices) == 1 else strokes.FAR


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
        self._looks = ByteCache(KEEP_BYTES // 4)

    def forget(self) -> None:
        """Give back the memory of all that is kept."""
        self._scenes.clear()
        self._looks.clear()

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
        """``plain`` with strokes, taken over as long as the strokes stay."""
        zs = slab(work, self._session.n_slices)
        about = (work.z, work.strength, *(self._iterates.key(work, z) for z in zs))
        known, scene = self._scenes.get((about, count))
        if not known or not np.array_equal(scene.strokes, cells):
            scene = _Scene(cells, plain)
            if cells.any():
                scene = _Scene(cells, self._carried(work, plain, count, cells))
                self._iterates.woken.append("strokes")
        self._scenes.put((about, count), scene)
        made: torch.Tensor = scene.logits
        return made

    def _carried(
        self, work: Refine, plain: torch.Tensor, count: int, cells: np.ndarray
    ) -> torch.Tensor:
        """``plain`` with strokes: first what those of the slice say of the whole slice, then, in
        the window that strokes reach, what they and those of other slices carry on."""
        zs = slab(work, self._session.n_slices)
        own = zs.index(work.z)
        told = plain
        if cells[own].any():
            looks = self._look(work)
            told = likeness.adapt(plain, looks, self._anchors(cells[own], work, plain))
        box = anchoring.changed_box(np.zeros_like(cells), cells)
        assert box is not None
        size = cells.shape[1], cells.shape[2]
        box = anchoring.grown(box, _walk(zs).reach + 1, size)
        starts = [self._iterates.start(work, z) for z in zs]
        answers = [
            told if z == work.z else self._iterates.plain(start, count)
            for z, start in zip(zs, starts, strict=True)
        ]
        logits = told.clone()
        logits[(..., *box)] = self._walked(work, starts, answers, count, cells, box)
        return logits

    def _look(self, work: Refine) -> likeness.Look:
        """What there is to see in the slice asked for; kept for the slices seen last."""
        key = (work.image, str(self._session.device), work.z)
        found, kept = self._looks.get(key)
        if not found:
            kept = likeness.look(self._iterates.image(work, work.z))
            self._looks.put(key, kept)
        seen: likeness.Look = kept
        return seen

    def _walked(
        self,
        work: Refine,
        starts: list[Start],
        answers: list[torch.Tensor],
        count: int,
        cells: np.ndarray,
        box: anchoring.Box,
    ) -> torch.Tensor:
        """The answer (1, K, h, w) in a window that all strokes reach at most, from those of every
        slice; strokes of other slices come through the volume that all of them make."""
        zs = slab(work, self._session.n_slices)
        window = (slice(None), slice(None), *box)
        parts = [_part(start.guided, window) for start in starts]
        cut = [answer[window] for answer in answers]
        held = cells[(slice(None), *box)]
        if len(zs) == 1:
            g = parts[0]
            refinement, attention = self._iterates.lasting(max(count, 1), g.attention)
            anchors = self._anchors(held[0], work, g.start)
            return strokes.carry(
                g.start, g.affinity, attention, refinement, anchors, answer=cut[0], walk=_walk(zs)
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
            answer=torch.stack(cut, 2),
            walk=_walk(zs),
        )[:, :, zs.index(work.z)]

    def _anchors(self, held: np.ndarray, work: Refine, like: torch.Tensor) -> Anchors:
        return anchoring.anchors(held, self._iterates.channels, work.strength, like.device)
