"""Ways to build a refiner that are known to be broken fail the very checks that ours pass."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from napari_attnseg import create_model
from napari_attnseg.models.blocks import ConvNormReLU
from napari_attnseg.models.guided import Guided
from napari_attnseg.models.refined import RefinedModel

COARSE = json.dumps({"name": "smooth_unet", "options": {"width": 0.125, "stride": 8}})
BOTH = pytest.mark.parametrize("refine", ["cspn", "dyspn"])


def tiny(refine: str) -> RefinedModel:
    torch.manual_seed(1)
    options = {"coarse": COARSE, "width": 0.125, "levels": 2, "iterations": 3}
    model = create_model("refined", in_channels=1, classes=1, refine=refine, **options)
    assert isinstance(model, RefinedModel)
    return model.eval()


# --- the coarse map as a picture of itself -----------------------------------------------------


def palette(logits: Tensor) -> Tensor:
    """The mask as a picture in two colours, read as grey: no value is negative."""
    return torch.where(logits > 0, 7.1667, 1.0)


def shows_its_coarse_mask(model: RefinedModel, guided: Guided, mask: Tensor) -> bool:
    """Iterate 0 is the coarse mask, and iterate 1 is not all foreground."""
    with torch.no_grad():
        first = next(iter(model.steps(guided)))
    return torch.equal(guided.start > 0, mask) and not bool((first > 0).all())


@BOTH
def test_the_coarse_map_is_signed(refine: str) -> None:
    model = tiny(refine)
    nn.init.zeros_(model.guidance.affinity.weight)
    nn.init.ones_(model.guidance.affinity.bias)  # every neighbour counts the same
    image, logits = torch.rand(1, 1, 32, 40), torch.full((1, 1, 32, 40), -4.0)
    logits[..., 8:20, 10:30] = 5.0
    with torch.no_grad():
        ours = model.guide_from(image, logits)
        theirs = Guided(palette(logits), *model.guidance(image, palette(logits)))
    assert shows_its_coarse_mask(model, ours, logits > 0)
    assert not shows_its_coarse_mask(model, theirs, logits > 0)


# --- rings that cannot be switched off ---------------------------------------------------------


def lowest_attention(model: RefinedModel) -> float:
    """How far down training can bring the attention in twenty steps."""
    model.train()
    image, coarse = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16) - 0.5
    optimizer = torch.optim.Adam(model.guidance.parameters(), lr=0.3)
    for _ in range(20):
        _, attention = model.guidance(image, coarse)
        optimizer.zero_grad()
        attention.mean().backward()
        optimizer.step()
    with torch.no_grad():
        return float(model.guidance(image, coarse)[1].max())


def test_attention_can_go_down_to_nothing() -> None:
    ours, theirs = tiny("dyspn"), tiny("dyspn")
    head = theirs.guidance.attention
    assert head is not None
    theirs.guidance.attention = nn.Sequential(  # type: ignore[assignment]
        head, nn.BatchNorm2d(head.out_channels), nn.ReLU()
    )
    assert lowest_attention(ours) < 0.05
    assert lowest_attention(theirs) >= 0.5


# --- stripes -----------------------------------------------------------------------------------


def stripes(values: Tensor) -> float:
    """Mean difference of even and odd rows, far from the borders."""
    inner = values[..., 48:64, 48:64]
    return float((inner[..., ::2, :] - inner[..., 1::2, :]).abs().mean())


@BOTH
def test_no_row_stripes_on_a_constant_image(refine: str) -> None:
    """The coarse map alters along columns alone, so no row has a reason to differ."""
    image = torch.full((1, 1, 112, 112), 0.5)
    coarse = torch.sin(torch.arange(112) / 3.0).mul(4).expand(1, 1, 112, 112)
    scores = {}
    for name in ("ours", "theirs"):
        model = tiny(refine)
        if name == "theirs":
            for up in model.guidance.decoder.ups:
                _transpose(up)
        model.guidance.affinity.weight.data *= 10
        with torch.no_grad():
            guided = model.guide_from(image, coarse)
            *_, logits = model.steps(guided)
        scores[name] = stripes(guided.affinity), stripes(logits)
    assert max(scores["ours"]) < 1e-4
    assert min(scores["theirs"]) > 1e-2


def _transpose(up: nn.Sequential) -> None:
    """Doubling by a transposed convolution with kernel 2 and stride 2."""
    conv = up[1]
    assert isinstance(conv, ConvNormReLU)
    inside, outside = conv[0].in_channels, conv[0].out_channels
    up[0], up[1] = nn.ConvTranspose2d(inside, outside, 2, 2), nn.Identity()
