"""A U-Net with any attention at any legal place.

The network of Ronneberger et al. as :func:`unet` builds it; ``attention`` says what stands where
(see ``placement``). With nothing placed it is that U-Net, number for number. Refiners and gates
that are placed can be let through by degrees while one looks (``level_1`` ...): 0 is the network
without that attention, 1 as trained. What a mechanism itself declares as tunable moves live too,
under its name and the number of its place (``threshold_1``, ``rule_1`` ...).

Places, from the finest grid (level 0) to the deepest: ``encoder[i]`` after the convolutions of a
level, before it is halved and before it becomes a skip; ``bottleneck`` after the deepest ones;
``skip[i]`` on the way across; ``up[i]`` after doubling, before skip and features join;
``decoder[i].pre`` on both together; ``decoder[i]`` after the convolutions; ``head`` before the
class scores. A module with the role of a convolution stands in place of a level's second one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import (
    PLACES,
    AttentionModule,
    attention_class,
    create_attention,
)
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import start_around, titled
from napari_attnseg.models.base import (
    Encoded,
    Place,
    check_ndim,
    cropped,
    pad_to_multiple,
    register_model,
    spatial_size,
)
from napari_attnseg.models.blocks import convolution
from napari_attnseg.models.unet import (
    PlainEncoder,
    UDecoder,
    UNet,
    plain_channels,
    plain_decoder,
)
from napari_attnseg.placement import Placement, Slot, parse_placements
from napari_attnseg.settings import Tunable, Tuning


class Placed(nn.Module):
    """An attention ``module`` in its ``slot``; ``number`` stands in the names of its live values,
    ``level`` is that of its strength, empty where it cannot be left out."""

    def __init__(self, module: AttentionModule, slot: Slot, use: str) -> None:
        super().__init__()
        self.module = module
        self.slot, self.use = slot, use
        self.level, self.number = "", 0

    @property
    def own(self) -> tuple[Tunable, ...]:
        """What the module declares; a ``strength`` is the level by another name."""
        return tuple(t for t in self.module.tunables if not (t.name == "strength" and self.level))

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """The same under names that are this place's alone."""
        return tuple(
            replace(
                t,
                name=f"{t.name}_{self.number}",
                doc=f"{self.use} at {self.slot}: {t.doc}",
                maximum=max(t.maximum, t.default) if isinstance(t.default, float) else t.maximum,
            )
            for t in self.own
        )

    def tuned(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``values`` that are this place's, under the module's names."""
        mine = {
            n: v for n, v in values.items() if n.endswith(f"_{self.number}") and n != self.level
        }
        if not mine:  # what is declared may hold trained values: not to be read for nothing
            return {}
        own = {f"{t.name}_{self.number}": t.name for t in self.own}
        return {own[name]: value for name, value in mine.items() if name in own}

    def adopt(self, tuning: Tuning) -> None:
        """Take the values of ``tuning`` as the module's own; weights keep what they say."""
        for name, value in self.tuned(tuning.values).items():
            held = getattr(self.module, name, None)
            if isinstance(held, bool | int | float | str):
                setattr(self.module, name, type(held)(value))

    def forward(
        self, strength: float, x: Tensor, *context: Tensor, tuned: Mapping[str, Any] | None = None
    ) -> Tensor:
        """``x`` with the attention's change let through by ``strength``; ``tuned``: live values
        under the module's names."""
        if strength == 0.0 and self.module.probe is None:
            return x
        y: Tensor = self.module(x, *context, **(tuned or {}))
        return y if strength == 1.0 else torch.lerp(x, y, strength)


@dataclass(frozen=True)
class Live:
    """The values of one place in one forward."""

    strength: float
    tuned: Mapping[str, Any]


class PlacedUNet(UNet):
    """A :class:`UNet` with ``placed`` attention, and ``aux``: the class scores from which
    class-aware attention begins."""

    def __init__(
        self,
        encoder: PlainEncoder,
        decoder: UDecoder,
        head: nn.Module,
        placements: tuple[Placement, ...],
        classes: int,
    ) -> None:
        super().__init__(encoder, decoder, head)
        self.classes = classes
        self.aux: nn.Module | None = None
        self._fusers: tuple[Placed, ...] = ()  # a plain tuple: its weights are counted once
        self.placed = nn.ModuleList(self._build(placements))
        self._name_levels()
        early = [self._depth(p.slot) for p in self._movable() if self._depth(p.slot) is not None]
        self.early = min((d for d in early if d is not None), default=len(encoder.blocks) - 1)

    @property
    def fuser(self) -> Placed | None:
        """The attention that joins the decoder's outputs, if one stands there."""
        return self._fusers[0] if self._fusers else None

    # --- building -----------------------------------------------------------------------------

    def _build(self, placements: tuple[Placement, ...]) -> Iterator[Placed]:
        levels = len(self.decoder.blocks)
        for placement in placements:
            for slot in placement.slots(levels):
                try:
                    made = self._place(slot, placement)
                except (InputError, TypeError, ValueError) as error:
                    more = "; bottleneck=se is one of many that know volumes" * (self.ndim == 3)
                    raise InputError(f"at {slot}: {error}{more}") from error
                if made is not None:
                    yield made

    def _place(self, slot: Slot, placement: Placement) -> Placed | None:
        role = attention_class(placement.use).role
        if slot.part not in PLACES[role] or (slot.pre and role != "refiner"):
            legal = ", ".join(PLACES[role])
            raise InputError(f"{placement.use} cannot stand there ({role}); expected {legal}")
        args = {"ndim": self.ndim, **dict(placement.args)}
        make = {"conv": self._place_conv, "fuser": self._place_fuser}
        if role in make:
            return make[role](slot, placement.use, args)
        width = self._width(slot)
        if role == "gate":
            args["context_channels"] = width
        if role == "class-aware":
            self.aux = convolution(self.ndim)(width, self.classes, 1)
            args["classes"] = max(2, self.classes)
        return Placed(create_attention(placement.use, width, **args), slot, placement.use)

    def _place_conv(self, slot: Slot, use: str, args: dict[str, Any]) -> None:
        """In place of the second convolution of a level: it stays part of its block."""
        deepest = len(self.encoder.blocks) - 1
        at = deepest if slot.part == "bottleneck" else slot.level
        block = (self.decoder if slot.part == "decoder" else self.encoder).blocks[at]
        second = block[1]  # type: ignore[index]
        width = self._width(slot)
        second[0] = create_attention(use, width, out_channels=width, **args)
        second.attention_slot = slot

    def _place_fuser(self, slot: Slot, use: str, args: dict[str, Any]) -> Placed:
        if self.fuser is not None:
            raise InputError(f"{self.fuser.use} stands there already; expected one fuser")
        widths = self.encoder.channels
        made = Placed(create_attention(use, widths, out_channels=widths[0], **args), slot, use)
        self._fusers = (made,)
        return made

    def _width(self, slot: Slot) -> int:
        """Channels that pass a slot."""
        widths = self.encoder.channels
        if slot.part == "bottleneck":
            return widths[-1]
        return widths[slot.level] * (2 if slot.pre else 1)

    def _name_levels(self) -> None:
        able = [p for p in self._movable() if p.module.bypassable]
        able.sort(key=lambda p: (self._stride(p.slot), p.slot.part))
        rest = [p for p in self._movable() if not p.module.bypassable]
        for i, placed in enumerate([*able, *rest]):
            placed.number = i + 1
            placed.level = f"level_{i + 1}" if placed.module.bypassable else ""
        self.strength = {p.level: 1.0 for p in able}

    # --- what stands where --------------------------------------------------------------------

    def _movable(self) -> list[Placed]:
        return [p for p in self.placed if isinstance(p, Placed)]

    def _stride(self, slot: Slot) -> int:
        level = len(self.decoder.blocks) if slot.part == "bottleneck" else slot.level
        return int(2**level)

    def _depth(self, slot: Slot) -> int | None:
        """The encoder's level at whose end a slot lies, if it lies in the encoder."""
        if slot.part == "bottleneck":
            return len(self.encoder.blocks) - 1
        return slot.level if slot.part == "encoder" else None

    @property
    def places(self) -> tuple[Place, ...]:
        found = [
            self._describe(f"placed.{i}.module", p.slot, p.use, p.level)
            for i, p in enumerate(self._movable())
        ]
        for name, module in self.named_modules():
            slot = getattr(module, "attention_slot", None)
            if isinstance(slot, Slot):
                found.append(self._describe(f"{name}.0", slot, "", ""))
        return tuple(sorted(found, key=lambda place: place.stride))

    def _describe(self, module: str, slot: Slot, use: str, level: str) -> Place:
        stride = self._stride(slot)
        words = f"{slot}: {use}" if use else str(slot)
        return Place(module, titled(words, stride), stride, level)

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """How much each attention that can be left out is let through, and what it declares."""
        found: list[Tunable] = []
        for p in sorted(self._movable(), key=lambda p: p.number):
            if p.level:
                doc = _DOC.format(p.use, p.slot)
                found.append(Tunable(p.level, "float", self.strength[p.level], "gate", doc))
            found += p.tunables
        return tuple(found)

    def adopt(self, tuning: Tuning) -> None:
        for level, value in self.strength.items():
            self.strength[level] = float(tuning.get(level, value))
        for placed in self._movable():
            placed.adopt(tuning)

    # --- running ------------------------------------------------------------------------------

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """The encoder down to the first attention in it: what no strength changes."""
        y = pad_to_multiple(x_BCHW, self.stride)
        found: list[Tensor] = []
        for level in range(self.early + 1):
            y = self._down(level, y)
            found.append(y)
        return Encoded(y, spatial_size(x_BCHW), tuple(found[:-1]))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at = {
            p: Live(float(values.get(p.level, self.strength.get(p.level, 1.0))), p.tuned(values))
            for p in self._movable()
        }
        features = [*encoded.skips, self._refined("encoder", self.early, encoded.features, at)]
        for level in range(self.early + 1, len(self.encoder.blocks)):
            y = self._down(level, features[-1])
            features.append(self._refined("encoder", level, y, at))
        y = self._pass(Slot("bottleneck"), features[-1], at)
        outputs = [y]
        for level in reversed(range(len(self.decoder.blocks))):
            y = self._up(level, features[level], y, at)
            outputs.append(y)
        return self._before_head(y, outputs[::-1], at, encoded.size)

    def _down(self, level: int, y: Tensor) -> Tensor:
        found: Tensor = self.encoder.blocks[level](self.encoder.pool(y) if level else y)
        return found

    def _up(self, level: int, skip: Tensor, below: Tensor, at: dict[Placed, Live]) -> Tensor:
        up = self._pass(Slot("up", level), self.decoder.ups[level](below), at, skip)
        skip = self._pass(Slot("skip", level), skip, at, up)
        joined = self._pass(Slot("decoder", level, True), torch.cat([skip, up], 1), at)
        return self._pass(Slot("decoder", level), self.decoder.blocks[level](joined), at)

    def _before_head(
        self, y: Tensor, outputs: list[Tensor], at: dict[Placed, Live], size: tuple[int, int]
    ) -> Tensor:
        if self.fuser is not None:
            y = self.fuser.module(outputs, **at[self.fuser].tuned)
        self.auxiliary = ()
        for placed in self._movable():
            if placed.slot.part != "head" or placed is self.fuser:
                continue
            context = self._class_scores(y, size) if placed.module.role == "class-aware" else ()
            y = placed(at[placed].strength, y, *context, tuned=at[placed].tuned)
        losses = [loss for p in self._movable() for loss in p.module.aux_losses]
        self.regulariser = torch.stack(losses).sum() if self.training and losses else None
        return y

    def _class_scores(self, y: Tensor, size: tuple[int, int]) -> tuple[Tensor]:
        """Scores of all classes, background included, for class-aware attention."""
        assert self.aux is not None
        scores = self.aux(y)
        if self.training:
            self.auxiliary = (*self.auxiliary, cropped(scores, size))
        both = torch.cat([torch.zeros_like(scores), scores], 1) if self.classes == 1 else scores
        return (both,)

    def _refined(self, part: str, level: int, y: Tensor, at: dict[Placed, Live]) -> Tensor:
        return self._pass(Slot(part, level), y, at)

    def _pass(
        self, slot: Slot, y: Tensor, at: dict[Placed, Live], other: Tensor | None = None
    ) -> Tensor:
        """Through all that stands in a slot; ``other``: the second map of those that take one."""
        for placed in self._movable():
            if placed.slot == slot:
                takes = placed.module.role == "gate" or placed.module.takes_second
                context = (other,) if takes and other is not None else ()
                y = placed(at[placed].strength, y, *context, tuned=at[placed].tuned)
        return y


_DOC = "{} at {}: 0 is the network without it, 1 is as trained."


@register_model(
    title="U-Net with attention of your choice",
    paper="Ronneberger, Fischer & Brox: U-Net: Convolutional Networks for Biomedical Image "
    "Segmentation (MICCAI 2015), with the attention that is placed; in three dimensions as Cicek "
    "et al.: 3D U-Net (MICCAI 2016)",
    choices={"ndim": (2, 3)},
)
def placed_unet(
    in_channels: int = 3,
    classes: int = 1,
    attention: str = "bottleneck=smooth",
    width: float = 0.25,
    levels: int = 4,
    norm: bool = True,
    ndim: int = 2,
) -> PlacedUNet:
    """``attention``: what stands where, as ``skip[1:]=cbam:reduction=8; bottleneck=nonlocal``
    (empty: nothing); ``width`` multiplies all channels; ``levels``: how often the size is halved;
    ``norm``: batch normalisation; ``ndim``: 2 for slices, 3 for volumes as a whole."""
    channels = plain_channels(width, levels)
    check_ndim(ndim)
    model = PlacedUNet(
        PlainEncoder(in_channels, channels, norm, ndim),
        plain_decoder(channels, norm, ndim),
        convolution(ndim)(channels[0], classes, 1),
        parse_placements(attention),
        classes,
    )
    for part in (model.encoder, model.decoder, model.head):
        start_around(part)
    return model
