"""Maps of every place: on the right pixels, for odd sizes, flips and resized slices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from lively import lively_model

from napari_attnseg.cards import Card
from napari_attnseg.engine.predict import place_grid, place_map
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing, Tuning
from two_gates import TwoGates

RNG = np.random.default_rng(0)
SIZES = [(7, 11), (25, 13), (24, 36)]
FLIPS = list(itertools.product((False,), (False, True), (False, True)))


def opened(image: np.ndarray, flips: tuple[bool, ...] = (False,) * 3, **kw: object) -> Session:
    card = Card(preprocessing=Preprocessing(intensity="unit", size=kw.pop("size", None)))  # type: ignore[arg-type]
    session = Session(TwoGates(), "cpu", card=card, **kw)  # type: ignore[arg-type]
    session.set_image(image, flips=flips, rgb=False)  # type: ignore[arg-type]
    return session


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flips", FLIPS)
def test_every_cell_shows_the_pixels_it_lies_on(
    size: tuple[int, int], flips: tuple[bool, ...]
) -> None:
    image = RNG.random((2, *size)).astype(np.float32)
    everything = opened(image, flips).maps(1)
    assert {m.name for m in everything if m.kind == "channel"} == {"weights"}
    maps = [m for m in everything if m.kind != "channel"]
    assert [(m.place, m.name, m.kind) for m in maps] == [
        ("skip.gate", "mean", "spatial"),
        ("skip.gate", "deviation", "signed"),
        ("deep", "mean", "spatial"),
        ("deep", "deviation", "signed"),
    ]
    assert [m.level for m in maps[::2]] == ["level_1", "level_2"]
    assert [m.title for m in maps[::2]] == ["skip 1, 1/2 resolution", "bottleneck, 1/6"]
    for found, side in ((maps[0], 2), (maps[2], 6)):
        seen = 0
        for i, j in np.ndindex(found.values.shape):
            middle = np.array(found.scale.offset) + np.array(found.scale.scale) * (i, j)
            y, x = (round(m - (side - 1) / 2) for m in middle)
            if min(y, x) < 0 or y + side > size[0] or x + side > size[1]:
                continue  # a cell that reaches into the padding
            seen += 1
            cell = image[1, y : y + side, x : x + side]
            assert found.values[i, j] == pytest.approx(cell.mean(), abs=1e-6)
        assert seen == (size[0] // side) * (size[1] // side)


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("size", [None, 24])
def test_the_row_of_a_pixel_is_that_of_the_cell_under_it(
    flips: tuple[bool, ...], size: int | None
) -> None:
    session = opened(RNG.random((1, 25, 13)).astype(np.float32), flips, size=size)
    for y, x in ((0, 0), (24, 12), (7, 3), (11, 12), (24, 0), (13, 6)):
        near, deep = session.rows(0, y, x)
        assert (near.place, near.name, near.kind) == ("skip.gate", "row", "row")
        for found in (near, deep):
            i, j = np.unravel_index(int(found.values.argmax()), found.values.shape)
            middle = np.array(found.scale.offset) + np.array(found.scale.scale) * (i, j)
            away = np.abs(middle - (y, x)) / found.scale.scale
            assert (away <= 0.5 + 1e-6).all()


def test_a_finer_grid_than_the_image_needs_starts_before_a_flipped_one() -> None:
    """5 pixels padded to 12: on a flipped axis the padding lies before the first pixel."""
    plain = place_map((5, 5), (5, 5), (12, 12), (6, 6), (False, True))
    assert plain.offset == (0.5, -6.5)  # pixels 0 and 1; pixels -7 and -6
    assert plain.scale == (2.0, 2.0)
    assert place_grid((5, 5), (5, 5), 2, (False, True)).offset == (0.5, -0.5)


def test_a_map_follows_the_values_and_is_kept() -> None:
    session = opened(RNG.random((1, 25, 13)).astype(np.float32))
    calls: list[int] = []
    session.model.register_forward_hook(lambda *_: calls.append(1))
    first = session.maps(0)
    assert session.maps(0) is first
    session.rows(0, 3, 4)
    session.rows(0, 3, 4)
    session.maps(0, Tuning.of(cut=0.9))  # the cut changes no map
    assert len(calls) == 2
    session.maps(0, Tuning.of(level_1=0.0))
    assert len(calls) == 3
    session.set_image(RNG.random((1, 25, 13)).astype(np.float32))
    session.maps(0)
    assert len(calls) == 4
    assert not any(m.probe for m in session.model.modules() if hasattr(m, "probe"))


def test_a_model_without_attend_predicts_and_answers_to_its_levels() -> None:
    session = opened(RNG.random((1, 25, 13)).astype(np.float32))
    with_, without = session.predict(0), session.predict(0, Tuning.of(level_1=0.0))
    assert with_.step is None
    assert with_.received is None
    assert (with_.logits > without.logits).all()
    assert without.woken == ("gate", "decode", "fit", "cut")


def test_questions_that_cannot_be_answered_are_refused() -> None:
    image = RNG.random((1, 48, 60)).astype(np.float32)
    session = opened(image)
    with pytest.raises(InputError, match="outside the slice"):
        session.rows(0, 48, 0)
    with pytest.raises(InputError, match="no attention map"):
        session.attention_row(0, 3, 3)
    with pytest.raises(InputError, match="no threshold"):
        session.compare(0)
    with pytest.raises(InputError, match="cut into tiles"):
        opened(image, tile=36).maps(0)


def test_smooth_attention_shows_the_same_through_both_doors() -> None:
    """The recorded maps are those that the threshold path gives."""
    image = RNG.random((2, 41, 27)).astype(np.float32)
    model = lively_model()
    card = Card(preprocessing=Preprocessing(intensity="unit"), tuning=model.tuning())
    session = Session(model, "cpu", card=card)
    session.set_image(image, flips=(False, True, True))
    tuning = Tuning.of(threshold=float(np.median(session.predict(1).step)), rule="authors")
    maps = {m.name: m for m in session.maps(1, tuning)}
    (row,) = session.rows(1, 7, 25, tuning)
    assert {m.title for m in maps.values()} == {"bottleneck, 1/8 resolution"}
    assert maps["step"].scale == session.map_scale(1)
    np.testing.assert_array_equal(maps["step"].values, session.predict(1, tuning).step)
    np.testing.assert_allclose(maps["received"].values, session.received(1, tuning), atol=1e-7)
    np.testing.assert_allclose(row.values, session.attention_row(1, 7, 25, tuning), atol=1e-7)
