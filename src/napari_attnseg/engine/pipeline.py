"""The stages of one model: prepare -> encode -> attend -> gate -> decode -> fit -> cut.

Two forms of the light half. *Cell select*, for decoders in which every grid cell owns one square
of pixels: decode the answers with all cells at or below the threshold (``off``) and all above it
(``on``) once, then a threshold is a choice per cell; bit-identical to the full pass. *General*:
gate and decode again. In both, the key of the choice is the number of cells over the threshold:
masks of one ``step`` are nested, so equal counts mean equal masks.

Legend: B = 1, C = channels, H, W = working pixels, h, w = attention grid.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from napari_attnseg.engine.device import one_thread
from napari_attnseg.engine.predict import Answer, cut_logits
from napari_attnseg.engine.preprocess import resize
from napari_attnseg.engine.stages import ByteCache, Chain, Stage
from napari_attnseg.settings import PLAIN_THRESHOLD

if TYPE_CHECKING:
    from napari_attnseg.attention.base import Attended
    from napari_attnseg.models.base import Encoded, SegmentationModel

Values = Mapping[str, Any]
ALL_OVER = -1.0
"""A threshold that every ``step`` exceeds."""


@dataclass(frozen=True)
class Heavy:
    """What no threshold changes: features and attention of one slice."""

    encoded: Encoded
    attended: Attended | None


@dataclass(frozen=True)
class Gated:
    """Gated features on their way to the decoder; ``size``: (H, W) of the logits."""

    features: torch.Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Variants:
    """Logits with no cell (``off``) and with every cell (``on``) over the threshold."""

    off: torch.Tensor
    on: torch.Tensor
    step: torch.Tensor


def over_threshold(step: torch.Tensor, threshold: float) -> torch.Tensor:
    """The mask ``[step > threshold]``, compared in the precision of ``step``."""
    return step > threshold


def spread_cells(mask_hw: torch.Tensor, cell: int, size: tuple[int, int]) -> torch.Tensor:
    """A grid mask (h, w) as pixels (H, W): every entry fills its ``cell`` x ``cell`` square."""
    h, w = mask_hw.shape
    squares = mask_hw[:, None, :, None].expand(h, cell, w, cell)
    return squares.reshape(h * cell, w * cell)[: size[0], : size[1]]


def select_cells(variants: Variants, threshold: float, cell: int) -> torch.Tensor:
    """Logits (1, C, H, W) for a threshold, by choosing one of two variants per cell."""
    mask = over_threshold(variants.step, threshold)[0]
    size = (variants.off.shape[-2], variants.off.shape[-1])
    return torch.where(spread_cells(mask, cell, size), variants.on, variants.off)


def _light_share(cache_bytes: int) -> int:
    return max(cache_bytes // 8, 1)


class Pipeline:
    """One model's stages over a slice source.

    ``prepare(z) -> (1, C, H, W)`` gives a slice as the network sees it at working size;
    ``full_size() -> (Y, X)`` the size to which logits are brought back. ``z`` may be anything
    that names an input: a slice, or a tile of one.
    """

    def __init__(
        self,
        model: SegmentationModel,
        prepare: Callable[[Any], torch.Tensor],
        full_size: Callable[[], tuple[int, int]],
        cache_bytes: int,
        use_cells: bool = True,
    ) -> None:
        self.model = model
        self._prepare = prepare
        self.full_size = full_size
        self.heavy = ByteCache(cache_bytes)
        self.light = ByteCache(_light_share(cache_bytes))
        names = {tunable.name for tunable in model.tunables}
        cell_ready = model.cell is not None and "threshold" in names
        self.cell: int | None = model.cell if use_cells and cell_ready else None
        self.chain = Chain(self._stages(bool(self.cell)))
        self._through = Chain(self._stages(False), self.chain.counts)

    # -- stages ----------------------------------------------------------------------------------

    def _needs(self, *stages: str) -> tuple[str, ...]:
        return tuple(t.name for t in self.model.tunables if t.stage in stages)

    def _stages(self, cells: bool) -> tuple[Stage, ...]:
        gate = tuple(name for name in self._needs("gate") if name != "threshold")
        decode = self._needs("decode")
        head = (
            Stage("prepare", (), lambda z, v: self._prepare(v["z"]), None),
            Stage("encode", (), lambda x, v: self.model.encode(x), None),
            Stage("attend", self._needs("attend"), self._attend, self.heavy),
        )
        if cells:
            light = (
                Stage("variants", (*gate, *decode), self._variants, self.heavy),
                Stage("select", ("over",), self._select, None),
            )
        else:
            light = (
                Stage("gate", (*gate, "over"), self._gate, None),
                Stage("decode", decode, self._decode, self.light),
            )
        tail = (
            Stage("fit", (), self._fit, None),
            Stage("cut", ("cut",), self._cut, self.light),
        )
        return (*head, *light, *tail)

    def _attend(self, encoded: Encoded, values: Values) -> Heavy:
        return Heavy(encoded, self.model.attend(encoded))

    def _gate_at(self, heavy: Heavy, values: Values, threshold: float | None) -> torch.Tensor:
        wanted = {name: values[name] for name in self._needs("gate")}
        if threshold is not None:
            wanted["threshold"] = threshold
        return self.model.gate(heavy.encoded, heavy.attended, **wanted)

    def _gate(self, heavy: Heavy, values: Values) -> Gated:
        return Gated(self._gate_at(heavy, values, None), heavy.encoded.size)

    def _decode(self, gated: Gated, values: Values) -> torch.Tensor:
        return self.model.decode(gated.features, gated.size)

    def _variants(self, heavy: Heavy, values: Values) -> Variants:
        assert heavy.attended is not None
        off, on = (
            self.model.decode(self._gate_at(heavy, values, t), heavy.encoded.size)
            for t in (PLAIN_THRESHOLD, ALL_OVER)
        )
        return Variants(off, on, heavy.attended.step)

    def _select(self, variants: Variants, values: Values) -> torch.Tensor:
        assert self.cell is not None
        with one_thread():
            return select_cells(variants, values["threshold"], self.cell)

    def _fit(self, logits: torch.Tensor, values: Values) -> torch.Tensor:
        return resize(logits, self.full_size(), antialias=False)

    @staticmethod
    def _cut(logits: torch.Tensor, values: Values) -> Answer:
        with one_thread():
            return cut_logits(logits[0], values["cut"])

    # -- asking ----------------------------------------------------------------------------------

    def attended(self, z: Hashable, values: Values) -> Heavy:
        """Features and attention of slice ``z`` (heavy, cached)."""
        return self.chain.ask(z, {**values, "z": z, "over": -1}, upto="attend")

    def variants(self, z: int, values: Values) -> Variants:
        """Both extreme answers of slice ``z``; only where :attr:`cell` is set."""
        return self.chain.ask(z, {**values, "z": z, "over": -1}, upto="variants")

    def answer(self, z: Hashable, values: Values, live: bool = True) -> tuple[Answer, Heavy, int]:
        """Answer for slice ``z``, its heavy half and the count of cells over the threshold.

        ``live=False``: nobody is going to move a threshold over just this slice, so it is decoded
        once instead of into both extreme answers, which take several times the room.
        """
        return self._ask(z, values, None, live)

    def logits(self, z: Hashable, values: Values) -> tuple[torch.Tensor, Heavy, int]:
        """The same up to the logits (1, C, H, W) at working size."""
        return self._ask(z, values, "select" if self.cell else "decode")

    def finish(self, logits: torch.Tensor, values: Values) -> Answer:
        """The end of the chain on logits (1, C, H, W): fit and cut."""
        return self._cut(self._fit(logits, values), values)

    def _ask(
        self, z: Hashable, values: Values, upto: str | None, live: bool = True
    ) -> tuple[Any, Heavy, int]:
        heavy = self.attended(z, values)
        woken = self.chain.woken
        over = -1
        if heavy.attended is not None and "threshold" in values:
            over = int(over_threshold(heavy.attended.step, values["threshold"]).sum())
        wanted = {**values, "z": z, "over": over}
        chain = self.chain if live or self._decoded(z, wanted) else self._through
        answer = chain.ask(z, wanted, upto)
        self.chain.woken = (*woken, *(s for s in chain.woken if s not in woken))
        return answer, heavy, over

    def _decoded(self, z: Hashable, values: Values) -> bool:
        """Whether both extreme answers are in memory: then a choice between them is the least."""
        if not self.cell:
            return True
        names = [stage.name for stage in self.chain.stages]
        return self.chain.keys(z, values)[names.index("variants")] in self.heavy

    def spare_memory(self, cache_bytes: int) -> None:
        """Keep less than before in memory (never more): the rest lies below."""
        self.heavy.resize(min(self.heavy.limit, cache_bytes))
        self.light.resize(min(self.light.limit, _light_share(cache_bytes)))

    def leave_memory(self) -> None:
        """Keep nothing in memory of the slices so far; what has a place on disk goes there."""
        for cache in (self.heavy, self.light):
            limit = cache.limit
            cache.resize(0)
            cache.resize(limit)

    def clear(self) -> None:
        """Forget all cached slices."""
        self.heavy.clear()
        self.light.clear()
