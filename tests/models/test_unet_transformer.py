"""U-Net Transformer against the U-Net, and how far its attention sees."""

from __future__ import annotations

import torch

from attentive_models import OPTIONS, made, off, picture
from napari_attnseg.attention.recording import recording
from napari_attnseg.models.base import create_model


@torch.no_grad()
def test_unet_transformer_without_attention_is_the_unet() -> None:
    x = picture()
    model = made("unet_transformer")
    plain = create_model("unet", in_channels=2, classes=2, **OPTIONS["unet_transformer"]).eval()
    left = plain.load_state_dict(model.state_dict(), strict=False)
    assert not left.missing_keys
    assert all(key.startswith(("gates.", "deep.")) for key in left.unexpected_keys)
    assert torch.equal(model(x, **off(model)), plain(x))


@torch.no_grad()
def test_gates_of_unet_transformer_ask_the_grid_below() -> None:
    x = picture()
    model = made("unet_transformer")
    with recording(model, query=(0.5, 0.5)) as tape:
        model(x)
    shapes = {(r.place, r.name): tuple(r.flat.shape[1:]) for r in tape.records}
    assert [p.stride for p in model.places] == [1, 2, 4, 8]
    for i in range(3):
        at = f"gates.{i}.module"
        own, below = (40 // 2**i, 48 // 2**i), (40 // 2 ** (i + 1), 48 // 2 ** (i + 1))
        assert shapes[at, "gate"] == own
        assert shapes[at, "received"] == shapes[at, "row"] == below
    assert shapes["deep.module", "row"] == (5, 6)


@torch.no_grad()
def test_self_attention_reaches_across_the_image() -> None:
    model = made("unet_transformer")
    x = torch.rand(1, 2, 256, 32)
    moved = x.clone()
    moved[..., :8, :] += 1.0
    far = (model(moved) - model(x))[..., -32:, :].abs().max()
    plain = (model(moved, **off(model)) - model(x, **off(model)))[..., -32:, :].abs().max()
    assert plain == 0
    assert far > 1e-6
