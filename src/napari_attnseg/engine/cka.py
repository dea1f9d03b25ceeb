"""Linear minibatch CKA: how alike the features of two layers are (Kornblith et al. 2019).

Features of ``n`` images at a layer, flattened to ``X`` (n, p), give the Gram matrix ``K = X X^T``.
With ``HSIC`` averaged over minibatches, numerator and both denominators apart (Nguyen et al. 2021),

    CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))

The unbiased ``HSIC_1`` with diagonals of K and L set to zero (Song et al. 2012) is

    [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)] / (n(n-3))

It equals the plain product of the two U-centred matrices (Szekely and Rizzo 2014), so the Grams of
all layers are centred once, stacked as rows (layers, n^2), and one matrix product gives all cells.
Grams are taken inside the forward hooks: a later layer that works in place cannot spoil them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from napari_attnseg.errors import InputError
from napari_attnseg.models.base import SegmentationModel

GATE = "(gate)"
"""Layer name of the features after a model's gate, where attention is no module of its own."""
CHUNK = 1 << 20
"""Features per image that are taken to float64 at once."""
CONSTANT = 1e-24
"""A layer whose centred features are below about 1e-6 of its features is constant: no figure."""

Batch: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""(n, C, H, W) for both models, or one tensor for each of them (equal n, same images)."""
Stream = Generator[int, None, "CKAResult"]


@dataclass(frozen=True, eq=False)
class CKAResult:
    """``values[i, j]``: CKA of ``layers_a[i]`` and ``layers_b[j]``, float64, at most 1.

    NaN where a layer does not vary over the images (or holds NaN). The unbiased form can be a
    little below 0. ``batches`` of altogether ``images`` images were used.
    """

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    values: np.ndarray
    batches: int = 0
    images: int = 0
    biased: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data, ``None`` for NaN."""
        rows = [[None if math.isnan(v) else v for v in row] for row in self.values.tolist()]
        return {
            "layers_a": list(self.layers_a),
            "layers_b": list(self.layers_b),
            "values": rows,
            "batches": self.batches,
            "images": self.images,
            "estimator": "biased HSIC_0" if self.biased else "unbiased HSIC_1",
        }


def cka(
    model_a: nn.Module,
    model_b: nn.Module | None,
    batches: Iterable[Batch],
    layers: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    *,
    biased: bool = False,
) -> CKAResult:
    """CKA between layers of two models, or inside one (``model_b=None``).

    ``layers``: names or patterns (``encoder.*``) of modules of ``model_a``, and of ``model_b``
    unless ``layers_b`` says otherwise; default :func:`default_layers`. Layers come in the order
    of their calls; a module called again is listed again as ``name #2``. The models run in
    evaluation mode where their parameters are.

    Raises:
        InputError: a batch of fewer than 4 images (biased: 2), no batch, or unknown layers.
    """
    stream = cka_stream(model_a, model_b, batches, layers, layers_b, biased=biased)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            result: CKAResult = end.value
            return result


def cka_stream(
    model_a: nn.Module,
    model_b: nn.Module | None,
    batches: Iterable[Batch],
    layers: Sequence[str] | None = None,
    layers_b: Sequence[str] | None = None,
    *,
    biased: bool = False,
) -> Stream:
    """As :func:`cka`, yielding the number of finished batches; close it to stop."""
    chosen_a = choose_layers(model_a, layers)
    chosen_b = None
    if model_b is not None:
        chosen_b = choose_layers(model_b, layers if layers_b is None else layers_b)
    total, images, done = _Total(), 0, 0
    for batch in batches:
        first, second = batch if isinstance(batch, tuple) else (batch, batch)
        _check_batch(first, second, biased)
        a = _grams(model_a, first, chosen_a, biased)
        b = a if model_b is None or chosen_b is None else _grams(model_b, second, chosen_b, biased)
        total.add(a, b, (len(first) - 1) ** 2 if biased else len(first) * (len(first) - 3))
        images, done = images + len(first), done + 1
        yield done
    if not done:
        raise InputError("got no batch of images for CKA, expected at least one of 4 images")
    return CKAResult(total.names_a, total.names_b, total.values(), done, images, biased)


def default_layers(model: nn.Module) -> list[str]:
    """Every module without children, and the modules at which attention stands."""
    places = {p.module for p in model.places} if isinstance(model, SegmentationModel) else set()
    named = [(name, module) for name, module in model.named_modules() if name]
    return [name for name, module in named if name in places or not any(module.children())]


def choose_layers(model: nn.Module, wanted: Sequence[str] | None) -> set[str]:
    """Names of modules that match; raises ``InputError`` for a pattern that matches none."""
    if wanted is None:
        return {*default_layers(model), GATE}
    names = [name for name, _ in model.named_modules() if name] + [GATE]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(default_layers(model)[:6])
            raise InputError(f"got layer {pattern}, which is none of the model's ({some}, ...)")
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)}


def centre(gram: Tensor) -> Tensor:
    """U-centred Gram (n, n), n >= 4: zero diagonal, rows and columns sum to zero."""
    n = len(gram)
    bare = gram - torch.diag(torch.diagonal(gram))
    rows = bare.sum(0) / (n - 2)
    centred = bare - rows[:, None] - rows[None, :] + bare.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag(torch.diagonal(centred))


def double_centre(gram: Tensor) -> Tensor:
    """``H K H`` with ``H = I - 1/n``: the biased form's centring."""
    return gram - gram.mean(0, keepdim=True) - gram.mean(1, keepdim=True) + gram.mean()


@dataclass
class _Layers:
    """Centred Grams of one batch by layer, and the mean squared length of the raw features."""

    names: list[str] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    power: list[float] = field(default_factory=list)

    def note(self, name: str, features: Any, n: int, centring: Callable[[Tensor], Tensor]) -> None:
        """Keep a layer's output if it has one row per image."""
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != n:
            return
        again = 1 + sum(known.split(" #")[0] == name for known in self.names)
        gram, power = _gram(features)
        self.names.append(name if again == 1 else f"{name} #{again}")
        self.rows.append(centring(gram).flatten())
        self.power.append(power)


def _gram(features: Tensor) -> tuple[Tensor, float]:
    """Gram matrix (n, n) of features less their mean, in float64, and their mean squared length.

    The mean changes nothing after centring, but without it rounding would.
    """
    flat = features.detach().flatten(1)
    flat = flat.cpu() if flat.device.type == "mps" else flat  # it has no float64
    gram = flat.new_zeros((len(flat), len(flat)), dtype=torch.float64)
    power = 0.0
    for part in flat.split(max(1, CHUNK), dim=1):
        wide = part.double()
        power += float(wide.square().sum()) / len(flat)
        wide = wide - wide.mean(0, keepdim=True)
        gram += wide @ wide.mT
    return gram.cpu(), power


@torch.no_grad()
def _grams(model: nn.Module, batch: Tensor, chosen: set[str], biased: bool) -> _Layers:
    """Run the model on a batch and keep the centred Gram of every chosen layer."""
    found, n = _Layers(), len(batch)
    centring = double_centre if biased else centre

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, output: found.note(name, output, n, centring)

    device = next((p.device for p in model.parameters()), batch.device)
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        for name, module in model.named_modules():
            if name in chosen:
                stack.callback(module.register_forward_hook(hook(name)).remove)
        _run(model, batch.to(device), chosen, lambda x: found.note(GATE, x, n, centring))
    return found


def _run(model: nn.Module, batch: Tensor, chosen: set[str], gate: Callable[[Tensor], None]) -> None:
    """The forward pass; of our models the gated features too, if the gate altered any."""
    if not isinstance(model, SegmentationModel):
        model(batch)
        return
    encoded = model.encode(batch)
    attended = model.attend(encoded)
    features = model.gate(encoded, attended)
    if GATE in chosen and attended is not None:
        gate(features)
    model.decode(features, encoded.size)


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None, None, None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Total:
    """Sums over batches of the three products that CKA is made of."""

    def __init__(self) -> None:
        self.names_a: tuple[str, ...] = ()
        self.names_b: tuple[str, ...] = ()
        self.cross: Any = 0.0
        self.own: list[Any] = [0.0, 0.0]
        self.power: list[Any] = [0.0, 0.0]

    def add(self, a: _Layers, b: _Layers, pairs: int) -> None:
        """``pairs``: what the sum over the Gram's entries is divided by, n(n-3) or (n-1)^2."""
        names = tuple(a.names), tuple(b.names)
        if not self.names_a:
            self.names_a, self.names_b = names
        if names != (self.names_a, self.names_b) or not all(names):
            raise InputError(
                "the layers called differ from batch to batch, or none gives one row of features "
                "per image; choose other layers"
            )
        rows = [torch.stack(x.rows).numpy() for x in (a, b)]
        self.cross = self.cross + (rows[0] @ rows[1].T) / pairs
        for i, x in enumerate((a, b)):
            self.own[i] = self.own[i] + np.square(rows[i]).sum(1) / pairs
            self.power[i] = self.power[i] + np.square(x.power)

    def values(self) -> np.ndarray:
        own = [
            np.where(o > CONSTANT * p, o, np.nan) for o, p in zip(self.own, self.power, strict=True)
        ]
        return np.asarray(self.cross / np.sqrt(own[0][:, None] * own[1][None, :]), np.float64)


def _check_batch(first: Tensor, second: Tensor, biased: bool) -> None:
    least = 2 if biased else 4
    if len(first) < least or len(first) != len(second):
        raise InputError(
            f"got a batch of {len(first)} and {len(second)} images, expected the same "
            f"{least} or more for both models"
        )
