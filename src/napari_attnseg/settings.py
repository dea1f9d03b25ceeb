"""Parameters as small frozen values: each has one name, one unit and one owner.

The words used here (``threshold``, ``rule``, ``gamma``, ``cut``) are the same in the widget,
the state, the request, the kernel, the checkpoint and the command line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from napari_attnseg.errors import InputError
from napari_attnseg.tuning import (
    CUT,
    PLAIN_THRESHOLD,
    RULES,
    Tunable,
    TunableValue,
    Tuning,
)

__all__ = [
    "AUGMENTATIONS",
    "COARSE_RECIPES",
    "CUT",
    "LOSS_NAMES",
    "OPTIMIZERS",
    "PLAIN_THRESHOLD",
    "RECIPES",
    "RECIPE_ALIASES",
    "RECIPE_WORDS",
    "RULES",
    "SCHEDULES",
    "Preprocessing",
    "TrainSettings",
    "Tunable",
    "TunableValue",
    "Tuning",
    "recipe",
    "with_model",
]

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("none", "cosine", "onecycle")
LOSS_NAMES = ("bce", "dicece", "focal", "tversky")
AUGMENTATIONS = ("all", "turns")


@dataclass(frozen=True)
class Preprocessing:
    """How raw pixels become what the network saw in training; stored in every checkpoint.

    ``intensity``: ``"unit"`` divides by the data type's maximum (the Smooth Attention paper's
    ``/255``; float images are taken as they are), ``"percentile"`` maps the image's ``low``-th
    and ``high``-th percentiles to 0 and 1 (clipped), ``"window"`` maps ``low`` and ``high``
    (raw units, for CT Hounsfield units) to 0 and 1 (clipped). Then contrast-limited adaptive
    histogram equalisation when ``clahe_clip`` is above 0: the clip limit as a multiple of the
    mean height of a histogram's bin (2 is usual), in ``clahe_tiles`` x ``clahe_tiles`` tiles; of
    colour images on the lightness L of Lab. Then ``(x - mean) / std`` per
    channel. ``size``: working size in pixels (square, the paper's 224) or ``None`` for the
    image's own size. ``patch``: of a 3D model, voxels along (Z, Y, X) of the windows through which
    it learns and answers; ``None`` for models of slices.
    """

    channels: int = 1
    intensity: Literal["unit", "percentile", "window"] = "percentile"
    low: float = 1.0
    high: float = 99.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: int | None = None
    spacing_mm: tuple[float, ...] | None = None
    clahe_clip: float = 0.0
    clahe_tiles: int = 8
    patch: tuple[int, ...] | None = None

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
    ``momentum`` and ``nesterov`` are those of ``optimizer="sgd"``.
    ``threshold_draw``: ``"fixed"`` trains at ``threshold``; ``"quantile"`` draws the threshold
    of every batch as a random quantile of that batch's ``step`` so that every threshold is met.
    (The gamma and threshold values mean nothing to models without them.)
    ``class_colors``: one ``"#rrggbb"`` per class for the card, or empty.
    ``crop``: side of the random crops in pixels (``None``: whole images, or resized to
    ``preprocessing.size``). ``augment`` with ``augmentation``: ``"all"`` (mirror, turn, scale,
    light) or ``"turns"`` (mirror and turn only). ``loss``: ``"bce"`` (cross-entropy for several
    classes), ``"dicece"``, ``"focal"`` or ``"tversky"``. ``class_weights``: empty, ``"balanced"``
    (inverse frequency in the training masks) or one number per class, background first.
    ``regulariser_weight``: times the model's own regulariser, added to the loss.
    ``amp``: mixed precision, on CUDA only. ``validation`` is the part of the training pairs kept
    for choosing the best model. ``encoder_weights``: published weights to start the encoder from
    (empty: random); ``encoder_normalisation``: ``"imagenet"`` then sets the mean and standard
    deviation they were trained with (see :func:`with_encoder_normalisation`), ``"given"`` leaves
    those of ``preprocessing``. ``coarse``: the checkpoint that a refined model stands on, a file
    or a shipped name (empty for all other models). ``patience``: epochs without a better
    validation Dice before stopping (0: never).
    """

    model: str = "smooth_unet"
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ("background", "foreground")
    class_colors: tuple[str, ...] = ()
    epochs: int = 20
    batch: int = 8
    lr: float = 1e-4
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Literal["none", "cosine", "onecycle"] = "none"
    loss: Literal["bce", "dicece", "focal", "tversky"] = "bce"
    class_weights: Literal["", "balanced"] | tuple[float, ...] = ""
    regulariser_weight: float = 0.0
    gamma_start: float = 0.0
    gamma_lr_factor: float = 1.0
    rule: str = "paper"
    threshold: float = 0.2
    threshold_draw: Literal["fixed", "quantile"] = "fixed"
    crop: int | None = None
    augment: bool = False
    augmentation: Literal["all", "turns"] = "all"
    sparse: bool = False
    validation: float = 0.2
    patience: int = 0
    seed: int = 0
    amp: bool = False
    encoder_weights: str = ""
    encoder_normalisation: Literal["imagenet", "given"] = "imagenet"
    coarse: str = ""

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
        for name in ("class_names", "class_colors", "class_weights"):
            if isinstance(d.get(name), list):
                d[name] = tuple(d[name])
        return cls(**d)


RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, math.inf),
    "batch": (1, math.inf),
    "crop": (1, math.inf),
    "patience": (0, math.inf),
    "seed": (0, math.inf),
    "lr": (0, math.inf),
    "weight_decay": (0, math.inf),
    "regulariser_weight": (0, math.inf),
    "gamma_lr_factor": (0, math.inf),
    "threshold": (0, PLAIN_THRESHOLD),
    "validation": (0, 0.9),
    "channels": (1, math.inf),
    "size": (1, math.inf),
    "clahe_clip": (0, math.inf),
    "clahe_tiles": (1, math.inf),
}
"""Least and largest value of numbers, whoever sets them; all others must be finite."""


def is_number(value: Any) -> bool:
    """A number, and not a yes or no."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_number(name: str, value: Any, said: str = "") -> None:
    """Raise ``InputError`` for a number that ``name`` cannot have; ``said``: words before it."""
    if not is_number(value):
        return
    low, high = RANGES.get(name, (-math.inf, math.inf))
    if low <= value <= high and math.isfinite(value):
        return
    begin = f" from {low:g}" if low > -math.inf else ""
    end = f" to {high:g}" if high < math.inf else ""
    raise InputError(f"got {said}{name}={value}, expected a finite number{begin}{end}")


def check_threshold(value: Any, said: str) -> None:
    """Raise ``InputError`` unless it is 0 to 1, or the value of plain attention."""
    if is_number(value) and (0.0 <= value <= 1.0 or value == PLAIN_THRESHOLD):
        return
    raise InputError(
        f"got {said}{value}, expected 0 to 1, or {PLAIN_THRESHOLD:g} for plain attention"
    )


def check_settings(settings: TrainSettings) -> None:
    """Raise ``InputError`` for a number out of range, in the settings or their preprocessing."""
    for part in (settings, settings.preprocessing):
        for name in RANGES:
            check_number(name, getattr(part, name, None))
    check_threshold(settings.threshold, "threshold=")


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1], with which the published ImageNet weights were trained."""
OWN_STATISTICS = {"efficientnet_lite0": ((127 / 255,) * 3, (128 / 255,) * 3)}
"""Encoder (the option ``encoder`` of a model) to the mean and deviation of weights that were
trained with others."""


def with_encoder_normalisation(settings: TrainSettings) -> TrainSettings:
    """The settings with the mean and standard deviation that published weights expect (mostly
    ImageNet's, see :data:`OWN_STATISTICS`) if an encoder with such weights was chosen, unless
    ``encoder_normalisation`` says that the values are given, or they are no longer 0 and 1. Other
    than three channels get the mean over the colours."""
    p = settings.preprocessing
    untouched = not any(p.mean) and set(p.std) == {1.0}
    if not (
        settings.encoder_weights and untouched and settings.encoder_normalisation == "imagenet"
    ):
        return settings
    encoder = str(settings.options.get("encoder", ""))
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean, std = OWN_STATISTICS.get(encoder, (IMAGENET_MEAN, IMAGENET_STD))
    if p.channels != 3:
        mean = (round(sum(mean) / 3, 3),) * p.channels
        std = (round(sum(std) / 3, 3),) * p.channels
    return replace(settings, preprocessing=replace(p, mean=mean, std=std))


PATCH = (64, 96, 96)
"""Voxels of a 3D model's windows where nothing else is said."""


def with_patch(settings: TrainSettings) -> TrainSettings:
    """The settings of a 3D model (option ``ndim=3``) with a patch; raises ``InputError`` for a
    patch of any other."""
    whole, patch = settings.options.get("ndim") == 3, settings.preprocessing.patch
    if patch and not whole:
        raise InputError(f"got patch={list(patch)} for a model of slices; add the option ndim=3")
    if patch and (len(patch) != 3 or not all(isinstance(n, int) and n > 0 for n in patch)):
        raise InputError(f"got patch={list(patch)}, expected three numbers: slices, rows, columns")
    if not whole or patch:
        return settings
    return replace(settings, preprocessing=replace(settings.preprocessing, patch=PATCH))


def with_model(settings: TrainSettings, model: str, **options: Any) -> TrainSettings:
    """The settings for ``model``: another model than theirs starts from its own options, and the
    weight of its attention branches at 0."""
    if model == settings.model:
        return replace(settings, options={**settings.options, **options})
    return replace(settings, model=model, options=options, gamma_start=0.0)


_MOVING = TrainSettings(
    options={"stride": 8},
    optimizer="adamw",
    weight_decay=1e-4,
    loss="dicece",
    gamma_lr_factor=10.0,
    rule="authors",
    threshold=0.1,
    threshold_draw="quantile",
    crop=128,
    augment=True,
)
"""What our own recipes share: attention that answers to the threshold, on small crops."""
_PAPERS = TrainSettings(preprocessing=Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3))
"""What the papers' recipes share: whole colour images at a fixed size, cross-entropy, batch 8."""
_SGD = replace(_PAPERS, optimizer="sgd", augment=True, augmentation="turns")

RECIPES: dict[str, TrainSettings] = {
    "threshold-matters": replace(
        _MOVING,
        options={"width": 0.5, "stride": 8},
        epochs=30,
        lr=2e-3,
        schedule="onecycle",
        gamma_start=2.0,
        patience=20,
    ),
    "few-strokes": replace(
        _MOVING,
        options={"width": 0.25, "stride": 8},
        epochs=200,
        lr=1e-3,
        gamma_start=1.0,
        sparse=True,
        validation=0.0,
    ),
    "smooth-attention-paper": replace(
        _PAPERS,
        options={"key_channels": 512},
        preprocessing=replace(_PAPERS.preprocessing, intensity="unit", size=224),
    ),
    "joint-attention": replace(
        _SGD,
        model="dense_unet",
        options={"attention": "ja"},
        preprocessing=replace(_PAPERS.preprocessing, size=256, clahe_clip=2.0),
        epochs=50,
        lr=1e-3,
        nesterov=True,
    ),
    "pam-unet": replace(
        _SGD,
        model="pam_unet",
        preprocessing=replace(_PAPERS.preprocessing, size=128),
        epochs=200,
        lr=1e-2,
        weight_decay=1e-4,
        regulariser_weight=0.01,
    ),
}
"""Named training presets: ours, in which the threshold moves the answer; a small, quick one for
strokes painted while it trains; and the papers' own. What the papers leave open stands in
``docs/training.md``."""
RECIPE_WORDS: dict[str, str] = {
    "threshold-matters": "attention that answers to the threshold; the choice for folders",
    "few-strokes": "small and quick, for strokes on one image; up to 200 epochs, fewer if you "
    "press Stop",
    "smooth-attention-paper": "Smooth Attention as published: 224 x 224, full width, slow on a CPU",
    "joint-attention": "DenseUNet with Joint Attention: 256 x 256 with CLAHE, slow on a CPU",
    "pam-unet": "PAM-UNet as published: 128 x 128, mirrored and turned, attention regulariser",
}
"""One line about each recipe."""
COARSE_RECIPES: dict[str, TrainSettings] = {
    "refinement": TrainSettings(model="refined", epochs=20, lr=1e-3, crop=128, augment=True),
}
"""Presets that need a coarse model as well: cross-entropy, Adam at 1e-3, batches of 8."""
RECIPE_ALIASES = {"smooth-attention": "smooth-attention-paper"}


def recipe(name: str) -> TrainSettings:
    """The recipe called ``name``; raises ``InputError`` with the known names otherwise."""
    known = {
        **RECIPES,
        **COARSE_RECIPES,
        **{alias: RECIPES[of] for alias, of in RECIPE_ALIASES.items()},
    }
    if name not in known:
        raise InputError(f"got recipe {name}, expected one of {', '.join(known)}")
    return known[name]
