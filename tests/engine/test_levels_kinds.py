"""Every kind of record of a placed attention, in view orientation and at its place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from napari_attnseg.attention import attention_info, list_attentions
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.registry import attention_entry
from napari_attnseg.cards import Card
from napari_attnseg.engine import levels
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


@pytest.mark.parametrize("name", NAMES)
def test_every_map_of_every_attention_can_be_drawn(name: str) -> None:
    torch.manual_seed(0)
    place = natural(name).partition("=")[0].partition("[")[0]
    place = place if place in ("head", "bottleneck") else f"{place}[0]"
    options = ":extent=4" if name == "gather_excite" else ""
    model = create_model(
        "placed_unet", attention=f"{place}={name}{options}", width=0.125, levels=2, in_channels=1
    ).eval()
    assert load(save(model.state_dict())).keys() == model.state_dict().keys()
    with torch.no_grad():
        found = levels.record(model, torch.randn(1, 1, 24, 16), {}, (0.3, 0.7))
    assert found
    told = attention_info(name)["maps"]
    for record in found:
        assert record.kind != "cross"  # the row of the asked position
        seen = levels.pictured(record)
        assert seen.ndim == 2 if record.kind in FLAT else seen.ndim in (1, 2, 3)
        assert any(record.name.startswith(word) for word in told)
        assert levels.place_of(record.place, model.places) is not None


def taped(session: Session, key: levels.Key) -> torch.Tensor:
    """All channels of one map, from one plain recording."""
    with torch.no_grad(), recording(session.model, (0.3, 0.5)) as tape:
        session.model(torch.from_numpy(IMAGE)[None])
    (record,) = [r for r in tape.records if (r.place, r.name) == key]
    return record.values[0].flatten(0, -3)


@pytest.mark.parametrize(
    ("words", "name"), [("skip[0]=coordinate", "gate"), ("bottleneck=vit:heads=4", "row")]
)
def test_channels_come_as_their_mean_and_whole_when_asked_for(words: str, name: str) -> None:
    session = opened(words)

    def seen(stacks: tuple[levels.Key, ...] = ()) -> levels.LevelMap:
        maps = (*session.maps(0, stacks=stacks), *session.rows(0, 7, 20, stacks=stacks))
        return next(m for m in maps if m.name == name and m.kind in FLAT)

    plain = seen()
    whole = seen(((plain.place, name),))
    expected = taped(session, (plain.place, name)).numpy()
    assert len(expected) == plain.channels == whole.channels > 1
    np.testing.assert_array_equal(whole.values, expected)
    np.testing.assert_allclose(plain.values, expected.mean(0), atol=1e-6)
    np.testing.assert_array_equal(seen().values, plain.values)


def test_of_a_huge_stack_the_first_pictures_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened("skip[0]=coordinate")
    monkeypatch.setattr(levels, "STACK_NUMBERS", 3 * 24 * 40 + 7)
    (key,) = [(m.place, m.name) for m in session.maps(0) if m.channels]
    (found,) = [m for m in session.maps(0, stacks=(key,)) if m.channels]
    assert found.channels == 8
    np.testing.assert_array_equal(found.values, taped(session, key)[:3].numpy())


@pytest.mark.parametrize("name", ["position", "criss_cross", "axial", "ema", "smooth", "psa"])
def test_several_pixels_are_answered_as_each_alone(name: str) -> None:
    session, asked = opened(natural(name)), [(9, 20), (0, 39), (23, 3)]
    several = session.rows(0, *asked[0], others=asked[1:])
    assert {m.query for m in several} == {0, 1, 2}
    for number, pixel in enumerate(asked):
        alone = {(m.place, m.name): m for m in session.rows(0, *pixel)}
        mine = {(m.place, m.name): m for m in several if m.query == number}
        assert alone.keys() == mine.keys()
        assert alone
        for key, found in mine.items():
            np.testing.assert_allclose(found.values, alone[key].values, atol=1e-6)
    first, second = (next(m for m in several if m.query == n) for n in (0, 1))
    assert np.abs(first.values - second.values).max() > 1e-9
