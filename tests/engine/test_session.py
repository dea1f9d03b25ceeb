"""Sessions: one model on one image, heavy once and light often, in view orientation."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lively import lively_model

from napari_attnseg.cards import Card
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import DeviceError, InputError
from napari_attnseg.settings import RULES, Preprocessing, Tuning

RNG = np.random.default_rng(0)
IMAGE = RNG.random((37, 53)).astype(np.float32)
VOLUME = RNG.normal(100, 40, (5, 41, 27)).astype(np.float32)


def make_session(
    model: Any = None, image: np.ndarray = IMAGE, size: int | None = None, **kw: Any
) -> Session:
    model = lively_model() if model is None else model
    n = model.spec.in_channels
    p = Preprocessing(channels=n, mean=(0.4,) * n, std=(0.3,) * n, size=size)
    image_kw = {k: kw.pop(k) for k in ("rgb", "flips", "spacing_mm") if k in kw}
    card = Card(spec=model.spec.to_json(), preprocessing=p, tuning=model.tuning())
    session = Session(model, "cpu", card=card, **kw)
    session.set_image(image, **image_kw)
    return session


def steps_between(session: Session, n: int) -> list[float]:
    """Thresholds that hit, fall between and lie beyond the values of ``step``."""
    step = np.unique(session.predict(0).step)
    inner = np.quantile(step, np.linspace(0, 1, n)).tolist()
    return [0.0, *inner, float(step[len(step) // 2]), 1.0, 2.0]


# --- the answer ---------------------------------------------------------------------------------


def test_predict_is_the_models_forward() -> None:
    session = make_session()
    x = torch.from_numpy((np.clip(_scaled(IMAGE), 0, 1) - 0.4) / 0.3)[None, None].float()
    with torch.no_grad():
        expected = session.model(x)[0].numpy()
    got = session.predict()
    np.testing.assert_allclose(got.logits, expected, atol=2e-4)
    np.testing.assert_array_equal(got.probability, torch.from_numpy(got.logits[0]).sigmoid())
    np.testing.assert_array_equal(got.labels, got.probability >= 0.5)
    assert got.labels.dtype == np.uint8
    assert 0 < got.labels.mean() < 1
    assert got.step is not None
    assert got.step.shape == (5, 7)
    assert got.over == (got.step > session.tuning.get("threshold")).sum()
    assert got.cells == 35


def _scaled(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, [1, 99])
    return (image - low) / (high - low)


def test_several_classes_are_cut_against_the_background() -> None:
    session = make_session(lively_model(classes=4))
    at_half = session.predict()
    np.testing.assert_array_equal(at_half.labels, at_half.logits.argmax(0))
    assert len(np.unique(at_half.labels)) > 2
    p = torch.from_numpy(at_half.logits).softmax(0).numpy()
    best = p[1:].max(0)
    np.testing.assert_allclose(at_half.probability, best / (best + p[0]), atol=1e-5)
    strict = session.predict(0, session.tuning.replace(cut=0.9)).labels
    np.testing.assert_array_equal(
        strict, np.where(at_half.probability >= 0.9, p[1:].argmax(0) + 1, 0)
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("stride", [8, 32])
def test_cell_select_is_bit_identical_with_the_full_pass(
    rule: str, classes: int, stride: int
) -> None:
    model = lively_model(classes, stride=stride)
    image = RNG.random((133, 101)).astype(np.float32)
    cells = make_session(model, image)
    full = make_session(model, image, use_cells=False)
    assert cells.pipeline.cell == stride
    assert full.pipeline.cell is None
    for threshold, gamma in itertools.product(steps_between(full, 7), (0.7, -1.3)):
        tuning = full.tuning.replace(threshold=threshold, rule=rule, gamma=gamma)
        a, b = cells.predict(0, tuning), full.predict(0, tuning)
        assert a.over == b.over
        np.testing.assert_array_equal(a.logits, b.logits)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_one_moved_feature_changes_only_its_cell() -> None:
    model = lively_model()
    x = torch.rand(1, 1, 40, 56)
    with torch.no_grad():
        encoded = model.encode(x)
        features = encoded.features.clone()
        before = model.decode(features, encoded.size)
        features[0, :, 2, 3] += 5
        moved = (model.decode(features, encoded.size) != before)[0, 0]
    assert moved[16:24, 24:32].any()
    moved[16:24, 24:32] = False
    assert not moved.any()


# --- heavy once, light often --------------------------------------------------------------------


def test_only_touched_stages_wake() -> None:
    session = make_session(use_cells=False)
    t = session.tuning
    steps = steps_between(session, 6)
    session.predict(0, t.replace(threshold=2.0))
    assert session.predict(0, t.replace(threshold=2.0)).woken == ()
    assert session.predict(0, t.replace(threshold=1.5)).woken == ()  # the same mask: nothing over
    light = ("gate", "decode", "fit", "cut")
    assert session.predict(0, t.replace(threshold=steps[3])).woken == light
    assert session.predict(0, t.replace(threshold=steps[3], cut=0.3)).woken == ("fit", "cut")
    assert session.predict(0, t.replace(gamma=0.2)).woken == light
    assert session.pipeline.chain.counts["encode"] == 1
    assert session.pipeline.chain.counts["attend"] == 1


def test_cell_select_wakes_no_decoder() -> None:
    session = make_session()
    t = session.tuning.replace(threshold=2.0)
    assert session.predict(0, t).woken[-4:] == ("variants", "select", "fit", "cut")
    steps = steps_between(session, 6)
    assert session.predict(0, t.replace(threshold=steps[3])).woken == ("select", "fit", "cut")
    assert session.predict(0, t.replace(rule="suppress")).woken[0] == "variants"


def test_small_cache_gives_the_same_answers_and_keeps_its_limit() -> None:
    model = lively_model()
    roomy = make_session(model, VOLUME)
    tight = make_session(model, VOLUME, cache_bytes=25_000)
    for z in (0, 1, 4, 0, 1):
        for threshold in (0.01, 0.05, 2.0):
            tuning = roomy.tuning.replace(threshold=threshold)
            a, b = roomy.predict(z, tuning), tight.predict(z, tuning)
            np.testing.assert_array_equal(a.logits, b.logits)
            assert tight.pipeline.heavy.used <= 25_000
    assert roomy.pipeline.chain.counts["encode"] == 3
    assert tight.pipeline.chain.counts["encode"] > 3


def test_new_image_forgets_the_old_one() -> None:
    session = make_session()
    first = session.predict().labels
    session.set_image(IMAGE[::-1].copy())
    second = session.predict()
    assert "encode" in second.woken
    assert not np.array_equal(first, second.labels)


# --- volumes ------------------------------------------------------------------------------------


def test_run_follows_the_order_and_stops_when_not_asked() -> None:
    session = make_session(image=VOLUME)
    assert session.n_slices == 5
    assert [z for z, _ in session.run()] == [0, 1, 2, 3, 4]
    session = make_session(image=VOLUME)
    events = session.run(order=(3, 1, 0))
    assert [next(events)[0], next(events)[0]] == [3, 1]
    events.close()
    assert session.pipeline.chain.counts["encode"] == 2


def test_a_volume_is_scaled_as_a_whole() -> None:
    model = lively_model()
    bright = VOLUME.copy()
    bright[4] += 1000
    inside = make_session(model, bright).predict(0)
    alone = make_session(model, bright[0]).predict(0)
    assert np.abs(inside.logits - alone.logits).max() > 1e-3


@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)))
def test_flips_bring_the_slice_into_standing_and_back(flips: tuple[bool, bool, bool]) -> None:
    model = lively_model()
    _, rows, cols = flips
    index = (
        slice(None),
        slice(None, None, -1 if rows else 1),
        slice(None, None, -1 if cols else 1),
    )
    straight = make_session(model, VOLUME)
    flipped = make_session(model, np.ascontiguousarray(VOLUME[index]), flips=flips)
    a, b = straight.predict(2), flipped.predict(2)
    np.testing.assert_allclose(b.logits, a.logits[index], atol=1e-5)
    assert a.step is not None
    assert b.step is not None
    np.testing.assert_allclose(b.step, a.step[index[1:]], atol=1e-6)
    np.testing.assert_allclose(b.received, np.asarray(a.received)[index[1:]], atol=1e-6)
    y, x = 7, 5
    fy, fx = (40 - y if rows else y), (26 - x if cols else x)
    np.testing.assert_allclose(
        flipped.attention_row(2, fy, fx), straight.attention_row(2, y, x)[index[1:]], atol=1e-6
    )


@pytest.mark.parametrize("flips", [(False, False, False), (False, True, False), (True, True, True)])
def test_map_scale_says_which_pixels_a_cell_owns(flips: tuple[bool, bool, bool]) -> None:
    """One cell more under the threshold moves exactly the pixels that map_scale gives to it."""
    session = make_session(flips=flips)
    where = session.map_scale()
    every = session.predict(0, session.tuning.replace(threshold=0.0))
    step = every.step
    assert step is not None
    assert step.shape == where.grid
    assert every.over == step.size
    i, j = np.unravel_index(step.argmin(), step.shape)
    but_one = session.predict(0, session.tuning.replace(threshold=float(step.min())))
    assert but_one.over == step.size - 1
    moved = np.argwhere(but_one.logits[0] != every.logits[0])
    centre = np.array(where.offset) + np.array(where.scale) * (i, j)
    assert len(moved)
    assert np.abs(moved - centre).max() <= 3.5
    assert where.cell_at(*moved[0]) == (i, j)


def test_map_scale_without_flips_is_the_usual_half_pixel_shift() -> None:
    where = make_session().map_scale()
    assert (where.scale, where.offset, where.grid) == ((8.0, 8.0), (3.5, 3.5), (5, 7))


# --- attention maps -----------------------------------------------------------------------------


def test_rows_and_received_are_distributions_and_agree() -> None:
    session = make_session()
    tuning = session.tuning.replace(threshold=2.0)
    rows = [
        session.attention_row(0, min(8 * i + 4, 36), min(8 * j + 4, 52), tuning)
        for i in range(5)
        for j in range(7)
    ]
    assert rows[0].shape == (5, 7)
    np.testing.assert_allclose([r.sum() for r in rows], 1, atol=1e-5)
    np.testing.assert_allclose(session.received(0, tuning), np.mean(rows, 0), atol=1e-6)


def test_received_follows_the_threshold_only_under_authors() -> None:
    session = make_session()
    middle = float(np.median(np.asarray(session.predict().step)))
    for rule in RULES:
        low = session.predict(0, session.tuning.replace(rule=rule, threshold=middle)).received
        plain = session.predict(0, session.tuning.replace(rule=rule, threshold=2.0)).received
        assert (np.abs(np.asarray(low) - plain).max() > 1e-7) == (rule == "authors"), rule
        assert np.sum(low) == pytest.approx(1, abs=1e-4)


def test_compare_counts_pixels_against_plain() -> None:
    session = make_session()
    tuning = session.tuning.replace(threshold=0.0)
    c = session.compare(0, tuning)
    now = session.predict(0, tuning).labels > 0
    plain = session.predict(0, tuning.replace(threshold=2.0)).labels > 0
    assert c.counts == ((now & ~plain).sum(), (plain & ~now).sum(), (now & plain).sum())
    assert sum(c.counts[:2]) > 0
    assert session.compare(0, tuning.replace(threshold=2.0)).counts[:2] == (0, 0)


# --- input and settings -------------------------------------------------------------------------


def test_working_size_is_undone() -> None:
    session = make_session(size=64)
    p = session.predict()
    assert p.labels.shape == (37, 53)
    assert p.step is not None
    assert p.step.shape == session.map_scale().grid == (8, 8)
    assert session.map_scale().scale == (37 / 8, 53 / 8)
    full = make_session(session.model, size=64, use_cells=False)
    tuning = session.tuning.replace(threshold=float(np.median(p.step)))
    np.testing.assert_array_equal(session.predict(0, tuning).logits, full.predict(0, tuning).logits)


def test_grey_image_for_a_colour_model_and_the_reverse() -> None:
    grey_to_colour = make_session(lively_model(in_channels=3))
    assert any("repeated in 3" in note for note in grey_to_colour.notes)
    colour = RNG.random((20, 30, 3)).astype(np.float32)
    colour_to_grey = make_session(image=colour)
    assert any("luminance" in note for note in colour_to_grey.notes)
    assert colour_to_grey.predict().labels.shape == (20, 30)
    assert make_session(lively_model(in_channels=3), colour).notes == ()


def test_non_finite_pixels_are_said_and_change_only_their_surroundings() -> None:
    holed = IMAGE.copy()
    holed[3, 4] = np.nan
    session = make_session(image=holed)
    assert any("NaN" in note for note in session.notes)
    assert np.isfinite(session.predict().logits).all()
    assert make_session().notes == ()


def test_unfit_image_is_refused_and_the_old_one_stays() -> None:
    session = make_session()
    before = session.predict().labels
    for bad in (np.full((4, 4), np.nan, np.float32), np.zeros((0, 4)), np.zeros((2, 2, 2, 2, 2))):
        with pytest.raises(InputError):
            session.set_image(bad)
    np.testing.assert_array_equal(session.predict().labels, before)
    assert session.predict().woken == ()


def test_questions_that_make_no_sense_get_a_sentence() -> None:
    session = make_session()
    with pytest.raises(InputError, match="slice 1, expected 0 to 0"):
        session.predict(1)
    with pytest.raises(InputError, match="loudness"):
        session.predict(0, Tuning.of(loudness=1.0))
    with pytest.raises(InputError, match="expected one of paper"):
        session.predict(0, Tuning.of(rule="paperr"))
    with pytest.raises(InputError, match="finite"):
        session.predict(0, Tuning.of(threshold=float("nan")))
    with pytest.raises(InputError, match="outside"):
        session.attention_row(0, 37, 0)
    with pytest.raises(InputError, match="set_image"):
        Session(session.model, "cpu").predict()


def test_left_out_values_come_from_the_card() -> None:
    model = lively_model()
    card = Card(spec=model.spec.to_json(), tuning=Tuning.of(0.25, threshold=0.05, rule="suppress"))
    session = Session(model, "cpu", card=card)
    assert session.tuning.get("rule") == "suppress"
    assert session.tuning.get("gamma") == pytest.approx(1.5)
    session.set_image(IMAGE)
    full = session.tuning
    partial = session.predict(0, Tuning.of(0.25, threshold=0.05))
    np.testing.assert_array_equal(partial.logits, session.predict(0, full).logits)


def test_checkpoint_by_path(tiny_checkpoint: Path) -> None:
    session = Session(str(tiny_checkpoint), "cpu")
    assert session.card.title == "tiny"
    session.set_image(IMAGE)
    told = session.provenance(replace(session.tuning, cut=0.4))
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(told, default=str))
    assert told["model"] == "tiny.safetensors"
    assert told["tuning"]["cut"] == 0.4
    assert told["model_digest"]


# --- out of memory ------------------------------------------------------------------------------


def test_out_of_memory_takes_smaller_blocks_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_session().predict()
    session = make_session()
    attention = session.model.attention
    real = attention.attend

    def attend(x: torch.Tensor) -> Any:
        if attention.block_bytes is None or attention.block_bytes > 1 << 20:
            raise torch.OutOfMemoryError("out of memory")
        return real(x)

    monkeypatch.setattr(attention, "attend", attend)
    got = session.predict()
    np.testing.assert_allclose(got.logits, expected.logits, atol=1e-5)
    assert attention.block_bytes == 1 << 20
    assert len(session.notes) == 2
    assert "smaller row blocks" in session.notes[-1]
    session.predict(0, session.tuning.replace(threshold=2.0))
    assert len(session.notes) == 2  # it stays where it works


def test_out_of_memory_to_the_end_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session()

    def attend(x: torch.Tensor) -> Any:
        raise MemoryError

    monkeypatch.setattr(session.model.attention, "attend", attend)
    with pytest.raises(DeviceError, match="memory ran out on cpu"):
        session.predict()
