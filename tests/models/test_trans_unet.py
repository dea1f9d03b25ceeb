"""TransUNet: what surrounds its transformer by hand, and its size."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from attentive_models import made, off, padded, parameters, picture
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model
from napari_attnseg.models.hybrid_encoder import HybridEncoder, StandardConv
from napari_attnseg.models.trans_unet import TransUNet


def test_trans_unet_has_the_parameters_of_the_authors_network() -> None:
    with torch.device("meta"):
        model = create_model("trans_unet", in_channels=3, classes=2)
    weights = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    after = {"decoder", "enter", "head"}
    before = sum(n for part, n in weights.items() if part not in after) + 14 * 14 * 768
    assert before == 97_888_576  # R50-ViT-B_16 for 224 pixels, as people's logs of it print
    assert parameters("trans_unet", 2) == 105_276_066
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768  # of ViT-B
    assert parameters("trans_unet", 2) - parameters("trans_unet", 2, depth=1) == 11 * block


@torch.no_grad()
def test_trans_unet_without_its_blocks() -> None:
    x = picture()
    model = made("trans_unet")
    assert isinstance(model, TransUNet)
    *skips, deep = model.encoder(padded(x, 16))
    position = F.interpolate(model.position, deep.shape[2:], mode="bilinear")
    tokens = (model.tokens(deep) + position).movedim(1, -1)
    tokens = F.layer_norm(tokens, tokens.shape[-1:], model.norm.weight, model.norm.bias)
    y = model.enter(tokens.movedim(-1, 1))
    for skip, block in zip(reversed(skips), reversed(model.decoder.blocks), strict=True):
        y = F.interpolate(y, skip.shape[2:], mode="bilinear")
        y = block(torch.cat([skip, y], 1))
    y = model.decoder.finish[1](F.interpolate(y, (48, 48), mode="bilinear"))
    expected = model.head(y)[..., :33, :47]
    torch.testing.assert_close(model(x, **off(model)), expected)
    assert not torch.allclose(model(x), expected, atol=1e-3)


@torch.no_grad()
def test_positions_on_their_own_grid_are_not_changed() -> None:
    model = made("trans_unet")
    assert isinstance(model, TransUNet)
    image = torch.rand(1, 2, 48, 48)
    tokens = model.tokens(model.encoder(image)[-1])
    assert torch.equal(model.encode(image).features, tokens + model.position)


@torch.no_grad()
def test_trans_unet_asks_any_position_for_its_row_in_every_block() -> None:
    x = picture()
    model = made("trans_unet")
    with recording(model, query=(0.9, 0.1)) as tape:
        model(x)
    rows = [r for r in tape.records if r.kind == "row"]
    assert [r.place for r in rows] == ["blocks.0.module", "blocks.1.module"]
    for row in rows:
        assert row.values.shape == (2, 2, 3, 3)  # batch, heads, tokens of 16 pixels
        torch.testing.assert_close(row.values.sum((-2, -1)), torch.ones(2, 2))


@torch.no_grad()
def test_the_hybrid_encoder() -> None:
    torch.manual_seed(0)
    conv = StandardConv(3, 4, 3)
    conv.weight.mul_(5).add_(2)  # scale and offset of a filter do not count
    x = torch.randn(1, 3, 6, 5)
    weight = conv.weight.clone()
    for o in range(4):
        values = weight[o].flatten().double()
        spread = ((values - values.mean()) ** 2).mean().add(1e-5).sqrt()
        weight[o] = ((weight[o] - values.mean()) / spread).float()
    torch.testing.assert_close(conv(x), F.conv2d(x, weight, padding=1), atol=1e-4, rtol=1e-4)
    encoder = HybridEncoder(3, 0.0625)
    features = encoder(torch.rand(1, 3, 32, 48))
    assert [tuple(f.shape[1:]) for f in features] == [
        (c, 32 // s, 48 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert [len(stage) for stage in encoder.stages] == [3, 4, 9]


def test_trans_unet_says_what_it_cannot_build() -> None:
    with pytest.raises(InputError, match="depth=0"):
        create_model("trans_unet", depth=0)
    with pytest.raises(InputError, match="hybrid, resnet50"):
        create_model("trans_unet", encoder="vgg")
