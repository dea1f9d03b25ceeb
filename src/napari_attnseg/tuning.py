"""Live values of a model: what may be moved while looking at the answer.

The words used here (``threshold``, ``rule``, ``gamma``, ``cut``) are the same in the widget,
the state, the request, the kernel, the checkpoint and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

RULES = ("paper", "authors", "suppress")
PLAIN_THRESHOLD = 2.0
"""A threshold no ``step`` can exceed: plain self-attention (Smooth Attention, section 3)."""

TunableValue = float | str


@dataclass(frozen=True)
class Tunable:
    """One value a person may move while looking at the answer.

    ``stage`` names the first stage of the chain that must run again when it moves:
    ``"gate"``, ``"decode"`` or ``"cut"``.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    default: TunableValue
    stage: Literal["attend", "gate", "decode", "refine", "cut"]
    doc: str
    minimum: float = 0.0
    maximum: float = 1.0
    choices: tuple[str, ...] = ()


CUT = Tunable(
    "cut",
    "float",
    0.5,
    "cut",
    "Probability from which a pixel belongs to a class. With several classes the strongest class "
    "is compared with the background alone, so 0.5 is the usual arg-max.",
    0.0,
    1.0,
)


@dataclass(frozen=True)
class Tuning:
    """The live values: ``cut`` (probability in [0, 1]) and one value per model tunable."""

    cut: float = 0.5
    items: tuple[tuple[str, TunableValue], ...] = ()

    @classmethod
    def of(cls, cut: float = 0.5, **values: TunableValue) -> Tuning:
        """Build from keywords: ``Tuning.of(threshold=0.3, rule="authors")``."""
        return cls(cut, tuple(sorted(values.items())))

    @property
    def values(self) -> dict[str, TunableValue]:
        """The model's tunables as a dictionary (without ``cut``)."""
        return dict(self.items)

    def get(self, name: str, default: Any = None) -> Any:
        """The value called ``name`` (``"cut"`` included), or ``default``."""
        return self.cut if name == "cut" else self.values.get(name, default)

    def replace(self, **values: TunableValue) -> Tuning:
        """The same tuning with some values moved; ``cut`` may be among them."""
        cut = float(values.pop("cut", self.cut))
        return replace(self, cut=cut, items=tuple(sorted({**self.values, **values}.items())))

    def to_json(self) -> dict[str, Any]:
        """Plain data for a checkpoint, a request or a recipe."""
        return {"cut": self.cut, **self.values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tuning:
        """The inverse of :meth:`to_json`."""
        rest = {k: v for k, v in data.items() if k != "cut"}
        return cls.of(float(data.get("cut", 0.5)), **rest)
