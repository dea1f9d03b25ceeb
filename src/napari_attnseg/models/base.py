"""What a segmentation model is, and the list of those that exist.

A model joins by ``@register_model(...)`` on a function named as the model, or from another package
through the entry-point group ``napari_attnseg.models``. The function takes ``in_channels`` and
``classes`` and keyword options with plain defaults; the options it was called with, defaults
included, are the model's :class:`ModelSpec` and lie in every checkpoint.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import Attended
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable, Tuning, check_threshold

GROUP = "napari_attnseg.models"
Builder = Callable[..., "SegmentationModel"]


@dataclass(frozen=True)
class ModelSpec:
    """Enough to build the same architecture again: plain data, round-trips through JSON."""

    name: str = ""
    in_channels: int = 1
    classes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "in_channels": self.in_channels,
            "classes": self.classes,
            "options": dict(self.options),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of :meth:`to_json`; raises ``KeyError``/``TypeError``/``ValueError``."""
        options = dict(data.get("options", {}))
        return cls(str(data["name"]), int(data["in_channels"]), int(data["classes"]), options)


@dataclass(frozen=True)
class Place:
    """Where an attention module stands: its ``module`` name inside the model (as in a recording),
    a ``title`` for people ("skip 1, 1/2 resolution") and the ``stride`` of its grid in pixels.
    ``level``: the tunable that scales it, where that does not follow from the order."""

    module: str
    title: str
    stride: int
    level: str = ""


@dataclass(frozen=True)
class Sketch:
    """What a model is with its defaults, one channel and one class, where finding out by building
    it takes long (it imports much): ``parameters``, ``places`` and ``tunables``."""

    parameters: int
    places: tuple[Place, ...] = ()
    tunables: tuple[Tunable, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without building it. ``title`` for people, ``paper`` that
    describes it, ``ndim`` of the images it takes, ``choices`` of those options that have a few,
    ``needs_coarse``: whether it is trained on top of a model that is trained already, ``sketch``
    of a model that is slow to build."""

    title: str = ""
    paper: str = ""
    ndim: int = 2
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    needs_coarse: bool = False
    sketch: Sketch | None = None


@dataclass(frozen=True)
class Encoded:
    """Features (B, F, h, w) that enter the attention, and the input's ``size`` (H, W).

    ``skips``: finer features for decoders that want them (none in ``smooth_unet``).
    """

    features: Tensor
    size: tuple[int, int]
    skips: tuple[Tensor, ...] = ()


class SegmentationModel(nn.Module):
    """``encode -> attend -> gate -> decode``; ``forward`` is exactly this chain.

    ``stride``: pixels per position of the attention grid, the first cell starting at the image's
    upper left corner. ``cell``: side in pixels of the square of output that one feature position
    alone decides (``None`` when decoder cells overlap); the cell of position (i, j) is rows
    ``i*cell .. (i+1)*cell`` and columns likewise, cropped to the image. ``ndim``: 2, or 3 for a
    model that takes whole volumes (B, C, D, H, W), in windows where they are large.
    """

    ndim: int = 2

    stride: int = 1
    cell: int | None = None
    gate_values: ClassVar[tuple[str, ...]] = ()
    """Names that ``gate`` takes."""
    regulariser: Tensor | None = None
    """A scalar that the last forward in training mode adds to the loss, weighted by
    ``TrainSettings.regulariser_weight``; ``None`` for models without one."""
    auxiliary: tuple[Tensor, ...] = ()
    """Further logits (B, classes, H, W) of the last forward in training mode, which learn the
    same target (class-aware attention begins from them)."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = ModelSpec()

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """Values a person may move while looking at the answer, the trained ones as defaults."""
        return ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where attention stands in this model, finest grid first."""
        return ()

    def tuning(self) -> Tuning:
        """The trained values of all tunables, and a probability cut of 0.5."""
        return Tuning().replace(**{t.name: t.default for t in self.tunables})

    def adopt(self, tuning: Tuning) -> None:
        """Take the threshold and the like of ``tuning`` as the trained values (parameters, as
        gamma, keep what the weights say)."""

    def forget(self) -> None:
        """Let go of what is kept of the last image."""

    def padded_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The sides to which ``encode`` fills an input of ``size`` up, behind its last positions:
        what maps of attention cover."""
        return tuple(n + -n % self.stride for n in size)

    @abstractmethod
    def encode(self, x_BCHW: Tensor) -> Encoded:
        """Features of any input size (padded inside)."""

    def attend(self, encoded: Encoded) -> Attended | None:
        """The heavy half of the attention, or ``None`` for a model without one."""
        return None

    def gate(self, encoded: Encoded, attended: Attended | None, **values: Any) -> Tensor:
        """Features that enter the decoder, under the given tunables (default: trained)."""
        return encoded.features

    @abstractmethod
    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B, classes, H, W) of the input's ``size``."""

    def forward(self, x_BCHW: Tensor, **values: Any) -> Tensor:
        """Logits (B, classes, H, W); ``values`` go to ``gate``."""
        encoded = self.encode(x_BCHW)
        return self.decode(self.gate(encoded, self.attend(encoded), **values), encoded.size)


def pad_to_multiple(x_BCHW: Tensor, stride: int) -> Tensor:
    """Repeat the last row and column (and slice) until all sides are multiples of ``stride``."""
    more = [-n % stride for n in x_BCHW.shape[2:]]
    if not any(more):
        return x_BCHW
    return F.pad(x_BCHW, [n for last in reversed(more) for n in (0, last)], mode="replicate")


def spatial_size(x_BCHW: Tensor) -> tuple[int, int]:
    """(H, W); of a volume (D, H, W), whatever the type says: most models have two axes."""
    return cast("tuple[int, int]", tuple(x_BCHW.shape[2:]))


def cropped(x_BCHW: Tensor, size: tuple[int, ...]) -> Tensor:
    """The first ``size`` positions along the spatial axes."""
    return x_BCHW[(..., *(slice(n) for n in size))]


def check_ndim(ndim: int) -> None:
    """Raise ``InputError`` for other spatial axes than two or three."""
    if ndim not in (2, 3):
        raise InputError(f"got ndim={ndim}, expected 2 (slices) or 3 (volumes)")


_REGISTRY: dict[str, Builder] = {}
_INFO: dict[str, ModelInfo] = {}


def register_model(
    *,
    title: str = "",
    paper: str = "",
    ndim: int = 2,
    choices: Mapping[str, tuple[Any, ...]] | None = None,
    needs_coarse: bool = False,
    sketch: Sketch | None = None,
) -> Callable[[Builder], Builder]:
    """Function decorator: the model is called as the function is (see :class:`ModelInfo`)."""

    def add(builder: Builder) -> Builder:
        name = builder.__name__
        if name in _REGISTRY and _REGISTRY[name].__module__ != builder.__module__:
            raise ValueError(f"got a second model called {name!r}, expected a new name")
        _REGISTRY[name] = builder
        _INFO[name] = ModelInfo(title or name, paper, ndim, choices or {}, needs_coarse, sketch)
        return builder

    return add


def list_models(ndim: int | None = None) -> list[str]:
    """Names of all models, those of other installed packages included; sorted.

    ``ndim``: only those that take images of so many axes.
    """
    names = sorted({*_REGISTRY, *(entry.name for entry in entry_points(group=GROUP))})
    return [n for n in names if ndim is None or model_info(n).ndim == ndim]


def model_info(name: str) -> ModelInfo:
    """Title, paper and axes of the model called ``name``."""
    model_builder(name)
    return _INFO.get(name, ModelInfo(name))


def model_builder(name: str) -> Builder:
    """The function called ``name``; raises ``InputError`` with the known names otherwise."""
    if name not in _REGISTRY:
        for entry in entry_points(group=GROUP, name=name):
            _REGISTRY[name] = entry.load()
    if name not in _REGISTRY:
        raise InputError(f"got model {name!r}, expected one of {', '.join(list_models())}")
    return _REGISTRY[name]


def model_options(name: str) -> dict[str, Any]:
    """Options of a model and their defaults."""
    parameters = inspect.signature(model_builder(name)).parameters.values()
    fixed = ("in_channels", "classes")
    return {p.name: p.default for p in parameters if p.name not in fixed}


def create_model(
    name: str, *, in_channels: int = 1, classes: int = 1, **options: Any
) -> SegmentationModel:
    """A fresh model with random weights.

    ``classes=1``: one foreground logit; ``classes=k > 1``: k logits, background first. It takes
    (B, in_channels, H, W) of any size and returns logits (B, classes, H, W). Raises
    ``InputError`` for unknown names and options and for values a model cannot have.
    """
    _check_choices(name, options)
    return _make(name, in_channels, classes, options)


def _make(
    name: str, in_channels: int, classes: int, options: Mapping[str, Any]
) -> SegmentationModel:
    builder = model_builder(name)
    known = model_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(
            f"got option {', '.join(unknown)} for {name}, expected some of {', '.join(known)}"
        )
    if in_channels < 1 or classes < 1:
        raise InputError(
            f"got in_channels={in_channels} and classes={classes}, expected at least 1 of each"
        )
    options = {**known, **options}
    model = builder(in_channels=in_channels, classes=classes, **options)
    model.spec = ModelSpec(name, in_channels, classes, options)
    return model


def _check_choices(name: str, options: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for an option's value that is none of its choices; a number counts as
    the word for it (``plan=161``)."""
    choices = model_info(name).choices
    for option, value in options.items():
        known = choices.get(option)
        if known is not None and value not in known and str(value) not in known:
            listed = ", ".join(map(str, choices[option]))
            raise InputError(f"got {option}={value!r}, expected one of {listed}")
    if "threshold" in options:
        check_threshold(options["threshold"], "threshold=")


def build(spec: ModelSpec) -> SegmentationModel:
    """A fresh model of this architecture."""
    return _make(spec.name, spec.in_channels, spec.classes, spec.options)
