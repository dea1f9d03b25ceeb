"""What an attention module is: its role, where it may stand, what it shows, how it is let through.

The five roles fix the signature (N stands for two or three spatial axes):

==============  =================================================  ================================
role            constructor                                        forward
==============  =================================================  ================================
refiner         ``(channels, **options)``                          x (B, C, N) to the same shape
gate            ``(channels, context_channels=None, **options)``   (skip, context) to skip's shape
conv            ``(channels, out_channels=None, **options)``       x (B, C, N) to (B, out, N)
fuser           ``(channels per map, out_channels=None, ...)``     [maps, finest first] to one map
class-aware     ``(channels, classes, **options)``                 (x, class logits) to x's shape
==============  =================================================  ================================

Options are keywords with a plain default (bool, int, float, str or ``None``). Modules that exist
for volumes too take ``ndim`` (2 or 3) as an option; places, channels and ``ndim`` come from the
network, never from the person.

A class docstring is read by machines as well (see ``info``): its first paragraph is the summary,
then sections ``Formula:``, ``Symbols:``, ``Cost:``, ``Notes:`` and ``Args:`` may follow, each with
indented lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from napari_attnseg.attention.recording import Probe
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable

Role = Literal["refiner", "gate", "conv", "fuser", "class-aware"]
PLACES: dict[str, tuple[str, ...]] = {
    "refiner": ("encoder", "bottleneck", "skip", "up", "decoder", "head"),
    "gate": ("skip",),
    "conv": ("encoder", "bottleneck", "decoder"),
    "fuser": ("head",),
    "class-aware": ("head",),
}
"""Legal places of each role in a U-shaped network."""
SIGNATURES: dict[str, str] = {
    "refiner": "x -> x",
    "gate": "(skip, context) -> skip",
    "conv": "x -> y, in place of a convolution",
    "fuser": "[maps, finest first] -> map",
    "class-aware": "(x, class logits) -> x",
}
Structure = Literal["", "diagonal", "dense", "lowrank", "sparse", "banded"]
"""Of a materialised operator: diagonal (a position answers for itself), dense, lowrank (rank at
most ``AttentionModule.rank``), sparse (most weights exactly 0) or banded (0 beyond
``AttentionModule.reach`` steps along any axis); empty: the module has no such operator."""


@dataclass(frozen=True)
class Attended:
    """The heavy half of an attention: everything that does not depend on the threshold.

    ``value`` (B, C, H, W): A V. ``step`` (B, H, W) in [0, 1]: the largest difference between a
    position's attention row and those of its 8 neighbours. ``received`` (B, H, W): the mean over
    all queries of the attention each position gets; sums to 1 over the map.
    """

    value: Tensor
    step: Tensor
    received: Tensor


class AttentionModule(nn.Module):
    """Base class: a module says its role, what can be tuned live and what it can show."""

    role: ClassVar[Role] = "refiner"
    maps: ClassVar[tuple[str, ...]] = ()
    """Names of the maps it can show."""
    emits: ClassVar[tuple[str, ...]] = ()
    """Kinds of those maps (``recording.MapKind``); set by ``register_attention(kinds=...)``."""
    inert: ClassVar[dict[str, str]] = {}
    """Parameters without influence, each with the mathematical reason."""
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Arguments that have a few values, with those values."""
    divisor: ClassVar[int] = 1
    """Sizes that are multiples of this need no padding inside the module."""
    structure: ClassVar[Structure] = ""
    tiny: ClassVar[Mapping[str, Any]] = {}
    """Options under which the structure shows on a grid of a few positions, where the defaults
    (a block, a number of bases) would span all of it."""
    stochastic: ClassVar[bool] = False
    """Whether every row of the operator sums to 1."""
    identity_at_start: ClassVar[bool] = False
    """Whether a fresh module hands its (first) input on unchanged."""
    weighed_by: ClassVar[str] = ""
    """Name of the learned number that weighs what the module adds (``"gamma"``), where it has one.
    Training may start it elsewhere than at 0 and give it longer steps (``gamma_start``,
    ``gamma_lr_factor``)."""
    probe: Probe | None = None
    """Set while somebody records (see ``recording``)."""
    effect: float = 1.0
    """How much of what the module changes is let through (see :meth:`let_through`)."""
    aux_losses: tuple[Tensor, ...] = ()
    """Losses of the last forward in training mode, scalars that the training adds (class-aware
    modules, sharpness of branches ...)."""

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """Values a person may move while looking at the answer. ``forward`` takes each as a
        keyword of its name; the attribute of that name, where there is one, is what it is without.
        """
        return ()

    @property
    def places(self) -> tuple[str, ...]:
        """Where in a U-shaped network the module may stand."""
        return PLACES[self.role]

    @property
    def takes_second(self) -> bool:
        """Whether a refiner's forward takes a second map: in a network, at ``up`` the skip, at
        ``skip`` the decoder's map; elsewhere it has none."""
        return False

    @property
    def bypassable(self) -> bool:
        """Whether there is an input that the module could hand on unchanged."""
        return self.role in ("refiner", "gate", "class-aware")

    def let_through(self, effect: float) -> None:
        """Set ``effect``: 1 as trained, 0 the module's input (of a gate: the skip) as it came,
        between them a mixture. Raises ``InputError`` for conv and fuser modules, which have no
        input of their output's meaning, and outside [0, 1]."""
        if not 0 <= effect <= 1:
            raise InputError(f"got effect={effect}, expected 0 (off) to 1 (as trained)")
        if effect != 1 and not self.bypassable:
            raise InputError(
                f"got effect={effect} for {type(self).__name__}, expected 1: it stands in place "
                f"of a layer ({SIGNATURES[self.role]}) and cannot be left out"
            )
        self.effect = float(effect)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.effect == 1.0:
            return super().__call__(*args, **kwargs)
        x = args[0]
        if self.effect == 0.0 and self.probe is None:
            return x
        y = super().__call__(*args, **kwargs)
        return x if self.effect == 0.0 else torch.lerp(x, y, self.effect)

    # --- the module as a linear operator over positions -------------------------------------------

    def operator(self, *inputs: Tensor) -> Tensor:
        """The materialised weights (B, M, N, N) of M heads on a tiny grid, row = receiving
        position; with :meth:`values` and :meth:`collect` they reproduce the forward. Only where
        ``structure`` is set."""
        raise InputError(f"{type(self).__name__} has no operator over positions")

    def values(self, *inputs: Tensor) -> Tensor:
        """What the heads mix: (B, M, channels, N). Default: the channels of the first input,
        dealt out to the heads in order."""
        x = inputs[0].flatten(2)
        return x.unflatten(1, (self.heads(x.shape[1]), -1))

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        """The answer from the mixed values. Default: the heads' channels side by side."""
        grid = inputs[0].shape[2:]
        return mixed_BMCN.flatten(1, 2).unflatten(2, grid)

    def heads(self, channels: int) -> int:
        """M of the default :meth:`values`: 1, or ``channels`` where every channel has weights of
        its own."""
        return 1

    @property
    def reach(self) -> int:
        """Steps along an axis over which a banded operator carries."""
        raise InputError(f"{type(self).__name__} is not banded")

    @property
    def rank(self) -> int:
        """Bound of a lowrank operator's rank."""
        raise InputError(f"{type(self).__name__} is not of low rank")

    # --- help for constructors --------------------------------------------------------------------

    def checked(self, argument: str, value: Any) -> Any:
        """``value`` if ``choices`` allows it for ``argument``; else raises ``InputError``."""
        known = self.choices[argument]
        if value not in known:
            words = ", ".join(repr(k) for k in known)
            raise InputError(f"got {argument}={value!r}, expected one of {words}")
        return value
