"""What a refinement of one slice goes through before any stroke: guidance, then its iterates.

Both are kept, so that more or fewer iterations, another threshold of the mask and strokes cost
only themselves. The coarse map may be the model's own or come from outside.

Legend: K = classes, H, W = working pixels.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from napari_attnseg.control.refining import Affinity, Refine
from napari_attnseg.engine import coarse_map
from napari_attnseg.engine.device import one_thread
from napari_attnseg.engine.opened import OpenImage
from napari_attnseg.engine.refining import guided, refined_model
from napari_attnseg.engine.results import open_scratch
from napari_attnseg.engine.stages import ByteCache
from napari_attnseg.models.guided import Guided
from napari_attnseg.refinement import Refinement

KEEP_BYTES = 512 << 20
"""Guidance of coarse maps from outside, and iterates: so much is kept of each."""
SMALL = 1 << 20
"""Up to so many pixels all iterates are kept, and one thread is quicker than two that wait."""
LATER = ("iterations", "cut")
"""Values that guidance does not depend on."""


@dataclass(frozen=True, eq=False)
class Start:
    """What the iterations of a slice start from; ``key`` names it."""

    key: Hashable
    guided: Guided


def thread_for(pixels: int) -> AbstractContextManager[None]:
    """One thread for small slices, all of them for large ones."""
    return one_thread() if pixels <= SMALL else nullcontext()


class Iterates:
    """Guidance and iterates of slices of a session's image; ``woken``: what had to be computed
    since the list was emptied."""

    def __init__(self, session: OpenImage) -> None:
        self.session = session
        self.woken: list[str] = []
        self._guided = ByteCache(KEEP_BYTES)
        self._iterates = ByteCache(KEEP_BYTES)
        self._images = ByteCache(KEEP_BYTES // 4)
        self._last: Start | None = None

    def forget(self) -> None:
        """Give back the memory of all that is kept."""
        for cache in (self._guided, self._iterates, self._images):
            cache.clear()
        self._last = None

    @property
    def channels(self) -> int:
        """Classes K of the model's logits."""
        return int(self.session.model.spec.classes)

    def slice_of(self, path: str, z: int, what: str, advice: str) -> np.ndarray:
        """Slice ``z`` (Y, X) of an array in scratch; raises ``InputError`` for another size."""
        return coarse_map.slice_of(open_scratch(path), z, self.session.shape, what, advice)

    def key(self, work: Refine | Affinity, z: int) -> Hashable:
        """Names the guidance of slice ``z`` from the coarse map asked for, by its content."""
        about = (work.image, str(self.session.device), z)
        if work.coarse:
            return (*about, coarse_map.digest(self._coarse(work, z), work.coarse_kind))
        values = self.session._values(work.tuning)
        return (*about, tuple(sorted((k, v) for k, v in values.items() if k not in LATER)))

    def start(self, work: Refine | Affinity, z: int | None = None) -> Start:
        """Guidance of a slice (default: the one asked for) from the coarse map asked for."""
        z = work.z if z is None else z
        key = self.key(work, z)
        if not work.coarse:
            return Start(key, self._own(work, z))
        if self._last is not None and self._last.key == key:
            return self._last
        found, kept = self._guided.get(key)
        if not found:
            kept = self._guide(work, z)
            self._guided.put(key, kept)
        self._last = Start(key, kept)
        return self._last

    def _coarse(self, work: Refine | Affinity, z: int) -> np.ndarray:
        advice = "choose a layer made on this image, or the model's own coarse mask"
        return self.slice_of(work.coarse, z, "a coarse map", advice)

    def _own(self, work: Refine | Affinity, z: int) -> Guided:
        counts = self.session.pipeline.chain.counts
        before = counts["encode"]
        found = guided(self.session.pipeline, z, self.session._values(work.tuning))
        if counts["encode"] > before:
            self.woken += ["coarse", "guidance"]
        return found

    def _guide(self, work: Refine | Affinity, z: int) -> Guided:
        s = self.session
        coarse = self._coarse(work, z)
        size = s._working_size()
        logits = coarse_map.coarse_logits(
            coarse, work.coarse_kind, self.channels, size, s._standing
        )
        self.woken.append("guidance")
        return refined_model(s.model).guide_from(self.image(work, z), logits.to(s.device))

    def image(self, work: Refine | Affinity, z: int) -> torch.Tensor:
        """Slice ``z`` as the network sees it, (1, C, H, W); kept."""
        key = (work.image, str(self.session.device), z)
        found, kept = self._images.get(key)
        if not found:
            kept = self.session._prepare(z)
            self._images.put(key, kept)
        seen: torch.Tensor = kept
        return seen

    def lasting(
        self, count: int, attention: torch.Tensor | None
    ) -> tuple[Refinement, torch.Tensor | None]:
        """The refinement with ``count`` iterations and its attention (B, T, ...); iterations
        beyond those that it was trained for go on with the attention of the last one."""
        refinement = refined_model(self.session.model).refinement.lasting(count)
        if attention is None or count <= attention.shape[1]:
            return refinement, attention if attention is None else attention[:, :count]
        known = attention.shape[1]
        return refinement, attention[:, [min(t, known - 1) for t in range(count)]]

    def plain(self, start: Start, count: int) -> torch.Tensor:
        """Iterate ``count`` without strokes, (1, K, H, W); 0 is the coarse map."""
        g = start.guided
        if count == 0:
            return g.start
        found, kept = self._iterates.get((start.key, count))
        if found:
            return kept
        if g.start[0, 0].numel() <= SMALL:
            return self.all(start, count)[count]
        self.woken.append("iterations")
        refinement, attention = self.lasting(count, g.attention)
        last = refinement.refine(g.start, g.affinity, attention)
        self._iterates.put((start.key, count), last)
        return last

    def all(self, start: Start, count: int) -> list[torch.Tensor]:
        """Iterates 0 to ``count`` without strokes; they are kept as memory allows."""
        g = start.guided
        if count == 0:
            return [g.start]
        known = [self._iterates.get((start.key, t)) for t in range(1, count + 1)]
        if all(found for found, _ in known):
            return [g.start, *(kept for _, kept in known)]
        self.woken.append("iterations")
        refinement, attention = self.lasting(count, g.attention)
        made = [g.start]
        with thread_for(g.start[0, 0].numel()):
            for t, x in enumerate(refinement.steps(g.start, g.affinity, attention), 1):
                self._iterates.put((start.key, t), x)
                made.append(x)
        return made
