"""Every kind of record of a placed attention, in view orientation and at its place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from napari_attnseg.attention import list_attentions
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.registry import attention_entry
from napari_attnseg.cards import Card
from napari_attnseg.engine.experiment.plan_compare import natural
from napari_attnseg.engine.levels import BESIDE, FLAT
from napari_attnseg.engine.session import Session
from napari_attnseg.models import create_model
from napari_attnseg.settings import Preprocessing

IMAGE = np.random.default_rng(2).random((1, 24, 40)).astype(np.float32)
NAMES = [n for n in list_attentions() if 2 in attention_entry(n).ndim]


def opened(attention: str, flips: tuple[bool, bool, bool] = (False, False, False)) -> Session:
    torch.manual_seed(1)
    options = {"attention": attention, "width": 0.125, "levels": 2}
    model = create_model("placed_unet", in_channels=1, **options).eval()  # type: ignore[arg-type]
    session = Session(model, "cpu", card=Card(preprocessing=Preprocessing(intensity="unit")))
    session.set_image(IMAGE, flips=flips)
    return session


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_recorded_arrives_with_its_shape(name: str) -> None:
    session = opened(natural(name))
    rows = session.rows(0, 9, 20)
    found = {(m.place, m.name): m for m in (*session.maps(0), *rows)}
    x = torch.from_numpy(IMAGE)[None]
    with torch.no_grad(), recording(session.model, (0.3, 0.5)) as tape:
        session.model(x)
    assert tape.records
    for record in tape.records:
        wanted = f"{record.name} {record.step}" if record.step else record.name
        seen = found[record.place, wanted]
        assert seen.level or not session.model.tunables
        assert seen.labels == record.labels
        spatial = record.values.ndim >= 2 + record.geometry.ndim - (record.kind in FLAT)
        if seen.scale is BESIDE:
            assert seen.values.shape == tuple(record.values.shape[1:])
            assert record.kind in ("channel", "axes", "kernel", "matrix", "branch")
        else:
            assert spatial
            assert seen.values.shape[-2:] == tuple(record.values.shape[-2:])
            # the cells fill the image: their scale times their number is its size
            size = np.array(seen.scale.scale) * seen.values.shape[-2:]
            np.testing.assert_allclose(size, IMAGE.shape[1:])


@pytest.mark.parametrize("flips", list(itertools.product((False,), (False, True), (False, True))))
@pytest.mark.parametrize("name", ["coordinate", "branch", "ema", "se", "channel"])
def test_a_flipped_image_shows_the_same_maps_where_they_belong(
    name: str, flips: tuple[bool, bool, bool]
) -> None:
    """The network always sees the same standing: the maps of a flipped view are flipped back."""
    words = f"decoder[0]={name}" if name == "branch" else f"skip[0]={name}"
    plain, other = opened(words), opened(words, flips)
    turned = np.flip(IMAGE, [i for i, f in enumerate(flips) if f]).copy()
    other.set_image(turned, flips=flips)
    for a, b in zip(plain.maps(0), other.maps(0), strict=True):
        assert (a.place, a.name, a.kind) == (b.place, b.name, b.kind)
        expected = b.values
        if a.kind == "axes" and flips[1 + a.axis]:
            expected = expected[..., ::-1]
        elif a.scale is not BESIDE:
            for axis in (1, 2):
                expected = np.flip(expected, axis - 3) if flips[axis] else expected
        np.testing.assert_allclose(a.values, expected, atol=1e-5)
