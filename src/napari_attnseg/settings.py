"""Parameters as small frozen values: each has one name, one unit and one owner.

The words used here (``threshold``, ``rule``, ``gamma``, ``cut``) are the same in the widget,
the state, the request, the kernel, the checkpoint and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
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
    kind: Literal["float", "choice"]
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


@dataclass(frozen=True)
class Preprocessing:
    """How raw pixels become what the network saw in training; stored in every checkpoint.

    ``intensity``: ``"unit"`` divides by the data type's maximum (the Smooth Attention paper's
    ``/255``; float images are taken as they are), ``"percentile"`` maps the image's ``low``-th
    and ``high``-th percentiles to 0 and 1 (clipped), ``"window"`` maps ``low`` and ``high``
    (raw units, for CT Hounsfield units) to 0 and 1 (clipped). Then ``(x - mean) / std`` per
    channel. ``size``: working size in pixels (square, the paper's 224) or ``None`` for the
    image's own size.
    """

    channels: int = 1
    intensity: Literal["unit", "percentile", "window"] = "percentile"
    low: float = 1.0
    high: float = 99.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: int | None = None
    spacing_mm: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocessing:
        """The inverse of :meth:`to_json` (lists become tuples, unknown keys are refused)."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**plain)


@dataclass(frozen=True)
class TrainSettings:
    """Everything a training run depends on; equal settings and data give equal weights on CPU.

    ``lr`` is the step size of all parameters but gamma, whose step is ``lr * gamma_lr_factor``.
    ``threshold_draw``: ``"fixed"`` trains at ``threshold``; ``"quantile"`` draws the threshold
    of every batch as a random quantile of that batch's ``step`` so that every threshold is met.
    ``class_colors``: one ``"#rrggbb"`` per class for the card, or empty.
    ``crop``: side of the random crops in pixels (``None``: whole images, or resized to
    ``preprocessing.size``). ``loss``: ``"bce"`` (cross-entropy for several classes) or
    ``"dicece"``. ``validation`` is the part of the training pairs kept for choosing the best
    model. ``encoder_weights``: a local file of published weights to start the encoder from (empty:
    random). ``patience``: epochs without a better validation Dice before stopping (0: never).
    """

    model: str = "smooth_unet"
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ("background", "foreground")
    class_colors: tuple[str, ...] = ()
    epochs: int = 20
    batch: int = 8
    lr: float = 1e-4
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    schedule: Literal["none", "cosine", "onecycle"] = "none"
    loss: Literal["bce", "dicece"] = "bce"
    gamma_start: float = 0.0
    gamma_lr_factor: float = 1.0
    rule: str = "paper"
    threshold: float = 0.2
    threshold_draw: Literal["fixed", "quantile"] = "fixed"
    crop: int | None = None
    augment: bool = False
    sparse: bool = False
    validation: float = 0.2
    patience: int = 0
    seed: int = 0
    encoder_weights: str = ""

    @property
    def classes(self) -> int:
        """Output channels: 1 for one foreground class, else background included."""
        n = len(self.class_names)
        return 1 if n == 2 else n

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"options": dict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainSettings:
        """The inverse of :meth:`to_json`."""
        d = dict(data)
        if "preprocessing" in d:
            d["preprocessing"] = Preprocessing.from_json(d["preprocessing"])
        for name in ("class_names", "class_colors"):
            if name in d:
                d[name] = tuple(d[name])
        return cls(**d)


RECIPES: dict[str, TrainSettings] = {
    "smooth-attention-paper": TrainSettings(
        preprocessing=Preprocessing(
            channels=3, intensity="unit", mean=(0.0,) * 3, std=(1.0,) * 3, size=224
        ),
        options={"key_channels": 512},
    ),
    "threshold-matters": TrainSettings(
        options={"width": 0.5, "stride": 8},
        epochs=30,
        lr=2e-3,
        optimizer="adamw",
        weight_decay=1e-4,
        schedule="onecycle",
        loss="dicece",
        gamma_start=2.0,
        gamma_lr_factor=10.0,
        rule="authors",
        threshold=0.1,
        threshold_draw="quantile",
        crop=128,
        augment=True,
        patience=20,
    ),
    "few-strokes": TrainSettings(
        options={"width": 0.25, "stride": 8},
        epochs=200,
        lr=1e-3,
        optimizer="adamw",
        weight_decay=1e-4,
        loss="dicece",
        gamma_start=1.0,
        gamma_lr_factor=10.0,
        rule="authors",
        threshold=0.1,
        threshold_draw="quantile",
        crop=128,
        augment=True,
        sparse=True,
        validation=0.0,
    ),
}
"""Named training presets: the paper's own; ours in which the threshold moves the answer; and a
small, quick one for strokes painted while it trains (the person ends it)."""
