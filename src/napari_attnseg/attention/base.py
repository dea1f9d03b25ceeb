"""What an attention module is, and the list of those that exist.

A module joins by ``@register_attention("name")`` in its own file, or from another package through
the entry-point group ``napari_attnseg.attentions`` (entry name = attention name, value = class).
The first positional argument of every module is its number of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor, nn

from napari_attnseg.attention.recording import Probe
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable

GROUP = "napari_attnseg.attentions"
Role = Literal["refiner", "gate", "conv", "fuser", "class-aware"]
"""refiner: x -> y of the same shape. gate: (skip, context) -> skip. conv: x -> y, in place of a
convolution. fuser: several scales -> one. class-aware: uses class scores, has a loss of its own."""
PLACES: dict[str, tuple[str, ...]] = {
    "refiner": ("encoder", "bottleneck", "skip", "decoder", "head"),
    "gate": ("skip",),
    "conv": ("encoder", "decoder"),
    "fuser": ("head",),
    "class-aware": ("head",),
}
"""Legal places of each role in a U-shaped network."""


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
    inert: ClassVar[dict[str, str]] = {}
    """Parameters without influence, each with the mathematical reason."""
    probe: Probe | None = None
    """Set while somebody records (see ``recording``)."""

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """Values a person may move while looking at the answer."""
        return ()

    @property
    def places(self) -> tuple[str, ...]:
        """Where in a U-shaped network the module may stand."""
        return PLACES[self.role]


M = TypeVar("M", bound=type[AttentionModule])
_REGISTRY: dict[str, type[AttentionModule]] = {}


def register_attention(name: str) -> Callable[[M], M]:
    """Class decorator: the module becomes ``create_attention(name, channels, ...)``."""

    def add(cls: M) -> M:
        known = _REGISTRY.get(name)
        if known is not None and known is not cls:
            raise ValueError(f"got a second attention called {name!r} ({cls}), expected a new name")
        _REGISTRY[name] = cls
        return cls

    return add


def list_attentions() -> list[str]:
    """Names of all attention modules, those of other installed packages included; sorted."""
    return sorted({*_REGISTRY, *(entry.name for entry in entry_points(group=GROUP))})


def attention_class(name: str) -> type[AttentionModule]:
    """The class called ``name``; raises ``InputError`` with the known names otherwise."""
    if name not in _REGISTRY:
        for entry in entry_points(group=GROUP, name=name):
            _REGISTRY[name] = entry.load()
    if name not in _REGISTRY:
        raise InputError(f"got attention {name!r}, expected one of {', '.join(list_attentions())}")
    return _REGISTRY[name]


def create_attention(name: str, channels: int, **options: Any) -> AttentionModule:
    """A fresh module for ``channels`` input channels; ``options`` are those of its class."""
    return attention_class(name)(channels, **options)
