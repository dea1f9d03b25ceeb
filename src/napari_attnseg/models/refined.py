"""Any model, refined: coarse logits, a guidance network, and CSPN or DySPN.

``refined = propagate(limited(coarse(x)), guidance(x, coarse))``, in one checkpoint. The coarse map
enters as signed logits, limited to +-``LIMIT``: masks and palette images have no negative
background, which no propagation that keeps constants could ever make.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import Attended
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import (
    Encoded,
    Place,
    SegmentationModel,
    create_model,
    model_builder,
    register_model,
)
from napari_attnseg.models.guidance import Guidance
from napari_attnseg.models.guided import Guided, GuidedCache
from napari_attnseg.refinement import Anchors, Refinement, create_refinement, list_refinements
from napari_attnseg.refinement.volume import across_slices, as_slices, as_volume, attention_of
from napari_attnseg.settings import Tunable, Tuning

LIMIT = 6.0
"""Coarse logits are limited to this size (a probability of 0.9975): a coarse model that is sure and
wrong can still be moved."""
KEEP_BYTES = 512 << 20
"""Guidance of slices seen before takes at most so much memory (one slice of 512 x 512 pixels:
10 MB with CSPN, 80 MB with DySPN)."""
MORE = 4
"""CSPN may be run this many times longer than it was trained."""


@dataclass(frozen=True)
class RefinedEncoded(Encoded):
    """``coarse``: the coarse model's own, whose ``features`` stand here too (questions about
    attention are about them); ``image`` (B, C, H, W)."""

    coarse: Encoded | None = None
    image: Tensor | None = None


class RefinedModel(SegmentationModel):
    """Parts: ``coarse`` (any model), ``guidance``. ``frozen``: the coarse model is not trained,
    and its running statistics stay."""

    def __init__(
        self, coarse: SegmentationModel, guidance: Guidance, refinement: Refinement, frozen: bool
    ) -> None:
        super().__init__()
        self.coarse = coarse
        self.guidance = guidance
        self.refinement = refinement
        self.frozen = frozen
        self.iterations = refinement.iterations
        self.stride = coarse.stride
        if frozen:
            coarse.requires_grad_(False).eval()
        self._kept = GuidedCache(KEEP_BYTES)

    def train(self, mode: bool = True) -> RefinedModel:
        super().train(mode)
        if self.frozen:
            self.coarse.eval()
        return self

    @property
    def attention(self) -> nn.Module:
        """The coarse model's attention module; ``AttributeError`` where it has none."""
        found: nn.Module = self.coarse.attention
        return found

    @property
    def most(self) -> int:
        """The largest number of iterations that can be asked for."""
        trained = self.refinement.iterations
        return trained if self.refinement.needs_attention else MORE * trained

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        own = Tunable("iterations", "int", self.iterations, "gate", _DOC, 0, self.most)
        return (*self.coarse.tunables, own)

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(
            Place(f"coarse.{p.module}", f"coarse: {p.title}", p.stride) for p in self.coarse.places
        )

    def adopt(self, tuning: Tuning) -> None:
        self.coarse.adopt(tuning)
        self.iterations = round(float(tuning.get("iterations", self.iterations)))

    def forget(self) -> None:
        """Let go of the guidance of all images, and of what the coarse model keeps."""
        self._kept.clear()
        self.coarse.forget()

    def padded_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return self.coarse.padded_size(size)

    def encode(self, x_BCHW: Tensor) -> RefinedEncoded:
        coarse = self.coarse.encode(x_BCHW)
        return RefinedEncoded(coarse.features, coarse.size, (), coarse, x_BCHW)

    def attend(self, encoded: Encoded) -> Attended | None:
        return self.coarse.attend(_own(encoded)[0])

    def gate(self, encoded: Encoded, attended: Attended | None = None, **values: Any) -> Tensor:
        """Refined logits (B, K, H, W) after ``iterations``; other values go to the coarse model."""
        wanted = values.pop("iterations", None)
        count = self._count(wanted)
        return self.propagate(self.guide(encoded, attended, **values), count)

    def propagate(self, guided: Guided, iterations: int | None = None) -> Tensor:
        """The last iterate alone, as logits (B, K, H, W); in tiles where memory asks for it."""
        count = self._count(iterations)
        if count == 0:
            return guided.start
        refinement, attention = self._for(count, guided)
        return refinement.refine(guided.start, guided.affinity, attention)

    def steps(
        self,
        guided: Guided,
        iterations: int | None = None,
        anchors: Anchors | None = None,
    ) -> Iterator[Tensor]:
        """Iterates 1, 2, ... as logits (B, K, H, W); stop by not asking on."""
        count = self._count(iterations)
        if count == 0:
            return iter(())
        refinement, attention = self._for(count, guided)
        return refinement.steps(guided.start, guided.affinity, attention, anchors)

    def steps_through(
        self,
        slices: Sequence[Guided],
        image_ZCHW: Tensor,
        iterations: int | None = None,
        anchors: Anchors | None = None,
        across: float = 0.5,
    ) -> Iterator[Tensor]:
        """Iterates of neighbouring slices together, each (Z, K, H, W): answers and anchors go on
        through slices where these look alike.

        ``slices``: the guidance of each, ``image_ZCHW`` what the network saw of it, ``anchors``
        of the volume (1, K, Z, H, W), ``across``: see ``refinement.volume.across_slices``. A
        single slice comes out as :meth:`steps` gives it.
        """
        count = self._count(iterations)
        if count == 0:
            return iter(())
        start, affinity, attention = self.in_volume(slices, image_ZCHW, across)
        attention = None if attention is None else attention[:, :count]
        deep = self.refinement.through_slices().lasting(count)
        return map(as_slices, deep.steps(start, affinity, attention, anchors))

    def in_volume(
        self, slices: Sequence[Guided], image_ZCHW: Tensor, across: float = 0.5
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits, affinity and attention of neighbouring slices as ``refinement.through_slices()``
        takes them."""
        start = as_volume(torch.cat([g.start for g in slices]))
        flat = torch.cat([g.affinity for g in slices])
        affinity = across_slices(flat, image_ZCHW, across, maps=self.refinement.maps)
        if slices[0].attention is None:
            return start, affinity, None
        rings = torch.cat([g.attention for g in slices if g.attention is not None])
        return start, affinity, attention_of(rings)

    def guide(self, encoded: Encoded, attended: Attended | None = None, **values: Any) -> Guided:
        """Everything before the first iteration. Kept for the images seen last, so that the
        number of iterations, strokes and scrolling back cost only the iterations."""
        wanted = tuple(sorted(values.items()))
        keep = not (self.training or torch.is_grad_enabled())
        if keep and (kept := self._kept.get(encoded, wanted)) is not None:
            return kept
        coarse, image = _own(encoded)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.coarse.gate(coarse, attended, **values)
            start = self.coarse.decode(features, encoded.size)
        guided = self.guide_from(image, start)
        if keep:
            self._kept.put(encoded, wanted, guided)
        return guided

    def guide_from(self, image_BCHW: Tensor, coarse_BKHW: Tensor) -> Guided:
        """The same for coarse logits from anywhere; kept by nobody."""
        start = limited(coarse_BKHW)
        return Guided(start, *self.guidance(image_BCHW, start / LIMIT))

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return features

    def _count(self, wanted: Any) -> int:
        count = self.iterations if wanted is None else round(float(wanted))
        if not 0 <= count <= self.most:
            raise InputError(f"got iterations={count}, expected 0 to {self.most}")
        return count

    def _for(self, count: int, guided: Guided) -> tuple[Refinement, Tensor | None]:
        attention = None if guided.attention is None else guided.attention[:, :count]
        return self.refinement.lasting(count), attention


def limited(logits_BKHW: Tensor) -> Tensor:
    """Coarse logits within +-``LIMIT``: the same class wins everywhere.

    Of several classes those far behind the first (by more than twice the limit) come up to it,
    then all are moved together, and no further than they must. Cut one by one, classes that are
    all beyond the limit would tie.
    """
    if logits_BKHW.shape[1] == 1:
        return logits_BKHW.clamp(-LIMIT, LIMIT)
    top = logits_BKHW.amax(1, keepdim=True)
    near = torch.maximum(logits_BKHW, top - 2 * LIMIT)
    below = near.amin(1, keepdim=True)
    moved = near - (top - LIMIT).clamp_min(0) + (-LIMIT - below).clamp_min(0)
    return moved.clamp(-LIMIT, LIMIT)  # rounding


def _own(encoded: Encoded) -> tuple[Encoded, Tensor]:
    """What the coarse model made, and the image."""
    assert isinstance(encoded, RefinedEncoded)
    assert encoded.coarse is not None
    assert encoded.image is not None
    return encoded.coarse, encoded.image


def coarse_spec(coarse: str) -> tuple[str, dict[str, Any]]:
    """Name and options of the coarse model from a name or from JSON ``{"name", "options"}``."""
    if not coarse.lstrip().startswith("{"):
        return coarse, {}
    try:
        plain = json.loads(coarse)
        return str(plain["name"]), dict(plain.get("options", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"got coarse={coarse!r}, expected a model's name or JSON with name and options"
        ) from error


@register_model(
    title="Refined model (CSPN, DySPN)",
    paper="Cheng, Wang & Yang: Depth Estimation via Affinity Learned with Convolutional Spatial "
    "Propagation Network (ECCV 2018); Lin et al.: Dynamic Spatial Propagation Network for Depth "
    "Completion (AAAI 2022)",
    needs_coarse=True,  # no dock offers it with options; ``refined`` itself checks ``refine``
)
def refined(
    in_channels: int = 3,
    classes: int = 1,
    coarse: str = "unet",
    refine: str = "cspn",
    iterations: int = 6,
    width: float = 0.25,
    levels: int = 3,
    frozen: bool = True,
    kernel: int = 0,
    per_class: bool = False,
) -> RefinedModel:
    """``coarse``: the model to refine, a name or JSON with name and options; ``refine`` cspn or
    dyspn, ``iterations`` of it; ``width`` and ``levels`` of the guidance U-Net; ``frozen``: the
    coarse model stays as it was trained; ``kernel``: side of the neighbourhood (0: the
    refinement's own, 3 for cspn and 7 for dyspn); ``per_class``: an affinity of its own for every
    class instead of one for all.

    For experiments ``refine`` may also be a control: none (the guidance network's output is added
    to the coarse logits: a plain second U-Net), off (no propagation: the coarse model trained on,
    only with ``frozen=False``), cspn_fold and dyspn_fold (the broken fold form)."""
    if refine not in list_refinements(controls=True):
        raise InputError(f"got refine={refine!r}, expected {' or '.join(list_refinements())}")
    if refine == "off" and frozen:
        raise InputError(
            "got refine='off' on a frozen coarse model, where nothing could learn; add --fine-tune"
        )
    name, options = coarse_spec(coarse)
    if name == "refined":
        raise InputError("got a refined model as coarse model, expected one without refinement")
    model_builder(name)
    inner = create_model(name, in_channels=in_channels, classes=classes, **options)
    maps = classes if per_class or refine == "none" else 1
    refinement = create_refinement(refine, iterations=iterations, kernel=kernel or None, maps=maps)
    parts = (iterations, len(refinement.rings) + 1) if refinement.needs_attention else None
    guidance = Guidance(in_channels, classes, refinement.channels, parts, width, levels)
    return RefinedModel(inner, guidance, refinement, frozen)


_DOC = (
    "How often the mask is carried on to its neighbours: 0 shows the coarse mask, the default is "
    "as trained."
)
