"""A live answer of a 3D model in the one window that is looked at.

A moved value changes the logits of all windows over a slice, many of them in a large scan: too many
while somebody waits. The window that weighs most where the person looks answers alone; around it
stays what is known of the slice. At the edges of a window the answer of the whole volume is a
mixture of several windows, so this one is a preview: the volume follows with the next run.

Legend: C = channels, d, h, w = working voxels of a window, H, W = of a slice, Y, X = of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from napari_attnseg.engine.predict import cut_logits
from napari_attnseg.engine.preprocess import resize
from napari_attnseg.engine.stages import ByteCache
from napari_attnseg.engine.windows import between

if TYPE_CHECKING:
    from napari_attnseg.engine.seen import Seen
    from napari_attnseg.engine.session import Session
    from napari_attnseg.settings import Tuning

KEPT_BYTES = 96 << 20
"""Logits of windows that are kept: two values that are compared, over the slices of a window."""


@dataclass(frozen=True, eq=False)
class WindowAnswer:
    """Slice ``z`` inside a window: ``labels`` uint8 and ``probability`` float32 (y, x) of ``rows``
    and ``columns``, each (first, after the last) in view order; ``new``: whether the window was
    computed for it."""

    labels: np.ndarray
    probability: np.ndarray
    rows: tuple[int, int]
    columns: tuple[int, int]
    new: bool

    def put_into(self, plane_YX: np.ndarray, part: np.ndarray) -> None:
        """Write a part (``labels`` or ``probability``) where it belongs."""
        plane_YX[slice(*self.rows), slice(*self.columns)] = part


class LiveWindow:
    """The windows of one session that were asked for last."""

    def __init__(self) -> None:
        self._kept = ByteCache(KEPT_BYTES)

    def clear(self) -> None:
        """Forget them, for another image."""
        self._kept.clear()

    def answer(
        self, session: Session, z: int, near: tuple[int, int] | None, tuning: Tuning | None = None
    ) -> WindowAnswer:
        """Slice ``z`` of a 3D model in the window that weighs most at pixel ``near``."""
        values = session._values(tuning)
        seen = session.seen(z, near)
        key = (seen.key, session._window_key(values))
        found, logits = self._kept.get(key)
        if not found:
            logits = _window_logits(session, seen, values)
            self._kept.put(key, logits)
        plane = _on_slice(_plane_of(logits, seen, session._depth_of(z)), seen)
        cut = cut_logits(plane, values["cut"])
        (_, rows, columns) = seen.spans
        inside = slice(*rows), slice(*columns)
        labels, probability = (session._back(x)[inside] for x in (cut.labels, cut.probability))
        return WindowAnswer(labels, probability, rows, columns, not found)


def _window_logits(session: Session, seen: Seen, values: Mapping[str, Any]) -> torch.Tensor:
    """(C, d, h, w) of the window, on the CPU."""
    wanted = {t.name: values[t.name] for t in session.model.tunables}
    found: torch.Tensor = session._guarded(
        lambda: session.model(session._pixels(seen), **wanted)[0].float().cpu()
    )
    return found


def _plane_of(logits_Cdhw: torch.Tensor, seen: Seen, index: int) -> torch.Tensor:
    """(C, h, w) of image slice ``index``, counted as the network stands."""
    first, second, share = between(index, seen.size[0], seen.work[0])
    last = logits_Cdhw.shape[1] - 1
    one, two = (min(max(plane - seen.first[0], 0), last) for plane in (first, second))
    return torch.lerp(logits_Cdhw[:, one], logits_Cdhw[:, two], share)


def _on_slice(plane_Chw: torch.Tensor, seen: Seen) -> torch.Tensor:
    """(C, Y, X); around the window its edge is repeated."""
    (_, top, left), (_, h, w), (_, height, width) = seen.first, seen.sides, seen.work
    around = (left, width - left - w, top, height - top - h)
    whole = F.pad(plane_Chw[None], around, mode="replicate")
    return resize(whole, seen.size[1:], antialias=False)[0]  # type: ignore[arg-type]
