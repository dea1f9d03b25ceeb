"""What a refinement is: a coarse map goes in, better and better maps come out, one per iteration.

A refinement has no weights: the affinity (and attention) that steer it come from a guidance
network, or from anywhere else. New ones join by ``register_refinement`` (see ``registry``).

Legend: B = batch, K = maps (classes) as signed logits, N = spatial axes (H, W or D, H, W),
T = iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.anchors import Anchors, one_by_one
from napari_attnseg.refinement.fused import fused
from napari_attnseg.refinement.neighbours import Offset, rings, straight_rings
from napari_attnseg.refinement.tiles import largest_side, tiles

BUDGET = 256 << 20
"""Bytes that :meth:`Refinement.refine` may need beside what it is given, before it works in
tiles."""
Advance = Callable[[Tensor, int], Tensor]
"""``(x, t) -> x_next``."""


class Refinement(ABC):
    """``iterations`` T of a stencil over a ``kernel`` neighbourhood in ``ndim`` dimensions.

    ``maps``: 1 for one affinity that all maps share; K for one of its own for each of K maps (the
    affinity's channels then stand map by map). ``straight``: of other slices (3D) only the pixels
    straight above and below are neighbours. ``compile``: iterations through ``torch.compile``;
    ``"auto"`` on a GPU alone (on a processor compiling outlasts most work). Where that fails the
    usual form runs and :attr:`note` says so.
    """

    default_kernel = 3
    needs_attention = False
    best_side: ClassVar[int | None] = None
    """Side of the tiles in which a processor is quickest, ``None``: in one piece."""
    step: ClassVar[Callable[..., Tensor] | None] = None
    """The plain function that is compiled, if there is one."""

    def __init__(
        self,
        iterations: int = 6,
        kernel: int | None = None,
        ndim: int = 2,
        maps: int = 1,
        straight: bool = False,
        compile: bool | Literal["auto"] = False,
    ) -> None:
        if iterations < 1:
            raise InputError(f"got iterations={iterations}, expected at least 1")
        if ndim not in (2, 3):
            raise InputError(f"got ndim={ndim}, expected 2 or 3")
        if maps < 1:
            raise InputError(f"got maps={maps}, expected at least 1")
        if straight and ndim != 3:
            raise InputError("got straight=True in 2D, expected ndim=3 with it")
        if compile not in (True, False, "auto"):
            raise InputError(f"got compile={compile!r}, expected True, False or 'auto'")
        self.iterations, self.ndim, self.maps, self.compile = iterations, ndim, maps, compile
        self.kernel = self.default_kernel if kernel is None else kernel
        self.rings = straight_rings(self.kernel) if straight else rings(self.kernel, ndim)

    @property
    def offsets(self) -> tuple[Offset, ...]:
        """The neighbours, in the order of the affinity's channels."""
        return tuple(offset for ring in self.rings for offset in ring)

    @property
    def channels(self) -> int:
        """Channels of the affinity."""
        return self.maps * len(self.offsets)

    @property
    def reach(self) -> int:
        """How many pixels one iteration carries an answer."""
        return self.kernel // 2

    @property
    def note(self) -> str:
        """Why the iterations were not compiled though that was asked for; "" otherwise."""
        step = type(self).step
        tried = self.compile is True or (self.compile and torch.cuda.is_available())
        return fused(step).note if step is not None and tried else ""

    def lasting(self, iterations: int) -> Refinement:
        """The same refinement with another number of iterations."""
        if iterations < 1:
            raise InputError(f"got iterations={iterations}, expected at least 1")
        other = copy(self)
        other.iterations = iterations
        return other

    def through_slices(self) -> Refinement:
        """The same refinement over a volume, ``straight`` across its slices (see ``volume``).

        Raises ``InputError`` for one that is not 2D or carries nothing.
        """
        if self.ndim != 2 or not self.reach:
            raise InputError("got a refinement that is not one of slices, expected a 2D one")
        other = copy(self)
        other.ndim, other.rings = 3, straight_rings(self.kernel)
        return other

    def steps(
        self,
        logits_BKN: Tensor,
        affinity: Tensor,
        attention: Tensor | None = None,
        anchors: Anchors | None = None,
    ) -> Iterator[Tensor]:
        """Iterates 1..T, each (B, K, N); the coarse map itself is iterate 0 and is not yielded.

        ``logits_BKN``: signed logits (not probabilities: signed weights leave the simplex).
        ``affinity``: (B, :attr:`channels`, N), raw. ``attention``: see the refinement.
        Stopping early is done by not asking on. Raises ``InputError`` when shapes disagree.
        """
        self._check(logits_BKN, affinity, attention)
        if self.maps > 1:
            apart = one_by_one(logits_BKN, affinity, attention, anchors)
            for x in self._for_one().steps(*apart):
                yield x.reshape(logits_BKN.shape)
            return
        x = logits_BKN if anchors is None else anchors.hold(logits_BKN)
        advance = self._advance(x, affinity, attention)
        for t in range(self.iterations):
            x = advance(x, t)
            if anchors is not None:
                x = anchors.hold(x)
            yield x

    def refine(
        self,
        logits_BKN: Tensor,
        affinity: Tensor,
        attention: Tensor | None = None,
        anchors: Anchors | None = None,
        tile: int | Literal["auto"] | None = "auto",
        budget: int = BUDGET,
    ) -> Tensor:
        """The last iterate alone.

        ``tile``: side of the tiles in which the work is done, each with a halo of T * reach
        pixels: exact, with less memory. ``None``: in one piece. ``"auto"``: as is quickest on the
        device, but with no more than ``budget`` bytes beside what is given. With gradients
        always in one piece.
        """
        self._check(logits_BKN, affinity, attention)
        if self.maps > 1:
            apart = one_by_one(logits_BKN, affinity, attention, anchors)
            last = self._for_one().refine(*apart, tile=tile, budget=budget)
            return last.reshape(logits_BKN.shape)
        wanted = (logits_BKN, affinity, attention)
        with_gradient = torch.is_grad_enabled() and any(
            v is not None and v.requires_grad for v in wanted
        )
        if tile == "auto":
            tile = self.side(logits_BKN, budget)
        if tile is None or with_gradient:
            return self._last(logits_BKN, affinity, attention, anchors)
        out = torch.empty_like(logits_BKN)
        for inner, outer, kept in tiles(tuple(logits_BKN.shape[2:]), tile, self._halo):
            attention_part = None if attention is None else attention[(slice(None), *outer)]
            anchor_part = None if anchors is None else anchors.part(outer)
            last = self._last(logits_BKN[outer], affinity[outer], attention_part, anchor_part)
            out[inner] = last[kept]
        return out

    def side(self, logits_BKN: Tensor, budget: int = BUDGET) -> int | None:
        """Side of the tiles that ``"auto"`` takes, ``None``: in one piece."""
        b, k, *shape = logits_BKN.shape
        each = b * self._extra_maps(k) * logits_BKN.element_size()
        largest = largest_side(tuple(shape), self._halo, each, budget)
        best = None if logits_BKN.is_cuda or self.compile is True else self.best_side
        if best is None or self.ndim > 2 or max(shape) <= best:
            return largest
        return best if largest is None else min(best, largest)

    @property
    def _halo(self) -> int:
        return self.iterations * self.reach

    def _extra_maps(self, k: int) -> int:
        """Maps of the image's size that are made on the way, about, for ``k`` maps."""
        return 4 * len(self.rings) + 4 + 6 * k

    def _for_one(self) -> Refinement:
        """The same refinement for a single map."""
        other = copy(self)
        other.maps = 1
        return other

    def _last(
        self, logits: Tensor, affinity: Tensor, attention: Tensor | None, anchors: Anchors | None
    ) -> Tensor:
        x = logits
        for x in self.steps(logits, affinity, attention, anchors):  # noqa: B007 (the last counts)
            pass
        return x

    def _check(self, logits: Tensor, affinity: Tensor, attention: Tensor | None) -> None:
        if logits.ndim != self.ndim + 2:
            raise InputError(
                f"got logits of shape {tuple(logits.shape)}, expected (B, K) and {self.ndim} axes"
            )
        if self.maps > 1 and logits.shape[1] != self.maps:
            raise InputError(
                f"got {logits.shape[1]} maps, expected {self.maps}, each with its own affinity"
            )
        expected = (logits.shape[0], self.channels, *logits.shape[2:])
        if tuple(affinity.shape) != expected:
            raise InputError(f"got affinity {tuple(affinity.shape)}, expected {expected}")
        if self.needs_attention != (attention is not None):
            word = "an" if self.needs_attention else "no"
            raise InputError(f"{type(self).__name__} takes {word} attention")

    @abstractmethod
    def _advance(self, coarse: Tensor, affinity: Tensor, attention: Tensor | None) -> Advance:
        """Prepare what all iterations share; returns ``advance(x, t) -> x_next``."""

    def _compiled(
        self, usual: Advance, given: Callable[[Tensor, int], tuple[Any, ...]], on: Tensor
    ) -> Advance:
        """``usual``, or :attr:`step` compiled on what ``given(x, t)`` says, where that is wanted
        (``usual`` again as soon as it fails)."""
        step = type(self).step
        if step is None or not (self.compile is True or (self.compile and on.is_cuda)):
            return usual
        run = fused(step)

        def advance(x: Tensor, t: int) -> Tensor:
            out = run(*given(x, t)) if run.ready else None
            return usual(x, t) if out is None else out

        return advance
