"""What a refinement is: a coarse map goes in, better and better maps come out, one per iteration.

A refinement joins by ``@register_refinement("name")`` in its own file. It has no weights: the
affinity (and attention) that steer it come from a guidance network, or from anywhere else.

Legend: B = batch, K = maps (classes) as signed logits, N = spatial axes (H, W or D, H, W),
T = iterations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.neighbours import Offset, rings

TILE = 256
"""Side of the squares in which :meth:`Refinement.refine` works: several maps of this size stay in
the processor's cache over all iterations."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """Pixels whose answer is known and is re-injected after every iteration, as CSPN re-injects
    sparse depth (Cheng et al. 2018, section 3.3).

    ``logits``: (B, K, N) what is held there. ``weight``: (B, 1, N) in [0, 1]; 1 holds the pixel
    exactly, 0 leaves it free, values between pull it.
    """

    logits: Tensor
    weight: Tensor

    def hold(self, x_BKN: Tensor) -> Tensor:
        """``x`` with the anchored pixels put back (exactly where the weight is 1)."""
        pulled = torch.lerp(x_BKN, self.logits, self.weight)
        return torch.where(self.weight == 1, self.logits, pulled)

    def part(self, window: tuple[slice, ...]) -> Anchors:
        """The anchors inside a window (batch and maps included)."""
        return Anchors(self.logits[window], self.weight[window])


class Refinement(ABC):
    """``iterations`` T of a stencil over a ``kernel`` neighbourhood in ``ndim`` dimensions.

    ``maps``: 1 for one affinity that all maps share; K for one of its own for each of K maps (the
    affinity's channels then stand map by map).
    """

    default_kernel = 3
    needs_attention = False

    def __init__(
        self, iterations: int = 6, kernel: int | None = None, ndim: int = 2, maps: int = 1
    ) -> None:
        if iterations < 1:
            raise InputError(f"got iterations={iterations}, expected at least 1")
        if ndim not in (2, 3):
            raise InputError(f"got ndim={ndim}, expected 2 or 3")
        if maps < 1:
            raise InputError(f"got maps={maps}, expected at least 1")
        self.iterations, self.ndim, self.maps = iterations, ndim, maps
        self.kernel = self.default_kernel if kernel is None else kernel
        self.rings = rings(self.kernel, ndim)

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

    def lasting(self, iterations: int) -> Refinement:
        """The same refinement with another number of iterations."""
        if iterations < 1:
            raise InputError(f"got iterations={iterations}, expected at least 1")
        other = copy(self)
        other.iterations = iterations
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
            apart = _apart(logits_BKN, affinity, attention, anchors)
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
        tile: int | None = TILE,
    ) -> Tensor:
        """The last iterate alone, in tiles with a halo of T * reach pixels: exact, with less
        memory and fewer passes over the affinity. With gradients, or ``tile=None``: in one piece.
        """
        self._check(logits_BKN, affinity, attention)
        if self.maps > 1:
            apart = _apart(logits_BKN, affinity, attention, anchors)
            return self._for_one().refine(*apart, tile=tile).reshape(logits_BKN.shape)
        wanted = (logits_BKN, affinity, attention)
        with_gradient = torch.is_grad_enabled() and any(
            v is not None and v.requires_grad for v in wanted
        )
        if tile is None or with_gradient:
            return self._last(logits_BKN, affinity, attention, anchors)
        out = torch.empty_like(logits_BKN)
        halo = self.iterations * self.reach
        for inner, outer, kept in _tiles(tuple(logits_BKN.shape[2:]), tile, halo):
            attention_part = None if attention is None else attention[(slice(None), *outer)]
            anchor_part = None if anchors is None else anchors.part(outer)
            last = self._last(logits_BKN[outer], affinity[outer], attention_part, anchor_part)
            out[inner] = last[kept]
        return out

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
    def _advance(
        self, coarse: Tensor, affinity: Tensor, attention: Tensor | None
    ) -> Callable[[Tensor, int], Tensor]:
        """Prepare what all iterations share; returns ``advance(x, t) -> x_next``."""


def _apart(
    logits: Tensor, affinity: Tensor, attention: Tensor | None, anchors: Anchors | None
) -> tuple[Tensor, Tensor, Tensor | None, Anchors | None]:
    """Every map as an image of its own, with its own affinity: (B * K, 1, N) and so on."""
    b, k, *n = logits.shape
    alone = affinity.reshape(b * k, -1, *n)
    each = None if attention is None else attention.repeat_interleave(k, 0)
    if anchors is not None:
        held = anchors.logits.expand_as(logits).reshape(b * k, 1, *n)
        anchors = Anchors(held, anchors.weight.expand(b, 1, *n).repeat_interleave(k, 0))
    return logits.reshape(b * k, 1, *n), alone, each, anchors


Window = tuple[slice, ...]


def _tiles(shape: tuple[int, ...], side: int, halo: int) -> Iterator[tuple[Window, Window, Window]]:
    """(tile in the image, tile with halo in the image, tile inside its halo), batch included."""
    full = (slice(None), slice(None))
    for corner in product(*(range(0, n, side) for n in shape)):
        stop = [min(c + side, n) for c, n in zip(corner, shape, strict=True)]
        low = [max(c - halo, 0) for c in corner]
        high = [min(e + halo, n) for e, n in zip(stop, shape, strict=True)]
        inner = tuple(slice(a, b) for a, b in zip(corner, stop, strict=True))
        outer = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        kept = tuple(slice(a - o, b - o) for a, b, o in zip(corner, stop, low, strict=True))
        yield (*full, *inner), (*full, *outer), (*full, *kept)


R = TypeVar("R", bound=type[Refinement])
_REGISTRY: dict[str, type[Refinement]] = {}
_CONTROLS: set[str] = set()


def register_refinement(name: str, control: bool = False) -> Callable[[R], R]:
    """Class decorator: the refinement becomes ``create_refinement("name", ...)``.

    ``control``: what experiments compare refinements with; it is not offered to users.
    """

    def add(cls: R) -> R:
        _REGISTRY[name] = cls
        if control:
            _CONTROLS.add(name)
        return cls

    return add


def list_refinements(controls: bool = False) -> list[str]:
    """Names of all refinements, sorted; with ``controls`` also those that experiments compare
    them with."""
    return sorted(n for n in _REGISTRY if controls or n not in _CONTROLS)


def create_refinement(name: str, **options: Any) -> Refinement:
    """A refinement by name; ``options`` are those of its class (``iterations``, ``kernel`` ...)."""
    if name not in _REGISTRY:
        known = ", ".join(list_refinements())
        raise InputError(f"got refinement {name!r}, expected one of {known}")
    return _REGISTRY[name](**options)
