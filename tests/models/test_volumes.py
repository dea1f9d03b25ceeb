"""Networks over three spatial axes: any size, attention wherever its mechanism knows volumes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_attnseg.attention import attention_info, list_attentions
from napari_attnseg.attention.base import attention_class
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import SegmentationModel, build, create_model, pad_to_multiple

SMALL = {"in_channels": 1, "width": 0.07, "levels": 2, "ndim": 3}
VOLUME = torch.randn(1, 1, 7, 11, 13, generator=torch.Generator().manual_seed(0))


def made(attention: str, **more: object) -> SegmentationModel:
    torch.manual_seed(0)
    return create_model("placed_unet", attention=attention, **{**SMALL, **more}).eval()


def able() -> list[str]:
    return [name for name in list_attentions() if 3 in attention_info(name)["ndim"]]


def test_many_mechanisms_know_volumes() -> None:
    assert len(able()) >= 20


@pytest.mark.parametrize("name", able())
def test_every_one_that_does_is_placed(name: str) -> None:
    role = attention_class(name).role
    place = {"gate": "skip[1]", "fuser": "head", "class-aware": "head"}.get(role, "bottleneck")
    try:
        model = made(f"{place}={name}")
    except InputError as error:
        pytest.skip(f"needs another width: {error}")
    with torch.no_grad():
        found = model(VOLUME)
    assert found.shape == VOLUME.shape
    assert torch.isfinite(found).all()
    if role != "conv":
        assert len(model.places) == 1


def test_what_knows_only_images_says_so() -> None:
    only = [n for n in list_attentions() if tuple(attention_info(n)["ndim"]) == (2,)]
    for name in only:
        if attention_class(name).role == "refiner":
            with pytest.raises(InputError, match="3 spatial axes"):
                made(f"bottleneck={name}")


def test_it_is_the_network_written_out() -> None:
    """Against a slow forward by hand with the same weights."""
    model = made("")
    blocks, ups, joins = model.encoder.blocks, model.decoder.ups, model.decoder.blocks
    x = nn.functional.pad(VOLUME, (0, 3, 0, 1, 0, 1), mode="replicate")
    with torch.no_grad():
        a = blocks[0](x)
        b = blocks[1](nn.functional.max_pool3d(a, 2))
        c = blocks[2](nn.functional.max_pool3d(b, 2))
        y = joins[1](torch.cat([b, ups[1](c)], 1))
        y = joins[0](torch.cat([a, ups[0](y)], 1))
        expected = model.head(y)[:, :, :7, :11, :13]
        torch.testing.assert_close(model(VOLUME), expected)
        torch.testing.assert_close(create_as(model)(VOLUME).shape, expected.shape)


def create_as(model: SegmentationModel) -> SegmentationModel:
    again = build(model.spec)
    again.load_state_dict(model.state_dict())
    return again.eval()


def test_padding_repeats_the_last_of_every_axis() -> None:
    found = pad_to_multiple(VOLUME, 4)
    assert found.shape == (1, 1, 8, 12, 16)
    torch.testing.assert_close(found[:, :, :7, :11, :13], VOLUME)
    torch.testing.assert_close(found[..., -1], found[..., 12])
    torch.testing.assert_close(found[:, :, -1], found[:, :, 6])


def test_other_axes_are_refused() -> None:
    with pytest.raises(InputError, match="ndim"):
        create_model("placed_unet", ndim=4)
    with pytest.raises(InputError, match="plain"):
        create_model("unet", ndim=3, encoder="resnet18")
    assert create_model("unet", in_channels=1, ndim=3, width=0.07, levels=1).ndim == 3
    assert create_model("unet", in_channels=1, width=0.07, levels=1).ndim == 2
