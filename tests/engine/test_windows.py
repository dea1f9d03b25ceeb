"""3D models in windows: equal to MONAI's sliding window, in any order, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch.nn import functional

from napari_attnseg.cards import Card
from napari_attnseg.control.order import Pending, following
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.windows import Size, Windows, between, starts, window_weights
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import SegmentationModel, create_model
from napari_attnseg.settings import Preprocessing, Tuning

SHAPE = (13, 17, 19)
VOLUME = np.random.default_rng(0).normal(100, 40, SHAPE).astype(np.float32)


def network(classes: int = 1, attention: str = "bottleneck=se") -> SegmentationModel:
    torch.manual_seed(classes)
    model = create_model(
        "placed_unet",
        in_channels=1,
        classes=classes,
        attention=attention,
        width=0.07,
        levels=2,
        ndim=3,
    ).eval()
    with torch.no_grad():
        model.head.bias -= model(torch.rand(1, 1, 8, 8, 8)).mean((0, 2, 3, 4))
    return model


def session_of(model: Any, patch: Size, tile: int | None = None, **p: Any) -> Session:
    pre = Preprocessing(channels=1, intensity="window", low=0, high=200, patch=patch, **p)
    card = Card(spec=model.spec.to_json(), preprocessing=pre, tuning=model.tuning())
    return Session(model, "cpu", card=card, tile=tile)


def by_monai(model: Any, x: torch.Tensor, patch: Size) -> np.ndarray:
    roi = tuple(min(a, b) for a, b in zip(patch, x.shape[2:], strict=True))
    with torch.no_grad():
        found = sliding_window_inference(x, roi, 1, model, overlap=0.25, mode="gaussian")
    return found[0].numpy()


def network_units(volume: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.clip(volume / 200, 0, 1).astype(np.float32))[None, None]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("patch", [(8, 8, 8), (5, 9, 19), (32, 8, 12), (64, 96, 96)])
def test_the_answer_is_that_of_monai(patch: Size, classes: int) -> None:
    model = network(classes)
    session = session_of(model, patch)
    session.set_image(VOLUME)
    expected = by_monai(model, network_units(VOLUME), patch)
    parts = [p for _, p in session.run()]
    logits = np.stack([p.logits for p in parts], 1)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    labels = np.stack([p.labels for p in parts])
    wanted = expected[0] >= 0 if classes == 1 else expected.argmax(0)
    near = np.sort(expected, 0)[-1] - np.sort(expected, 0)[-2] if classes > 1 else abs(expected[0])
    np.testing.assert_array_equal(labels[near > 1e-5], wanted[near > 1e-5])
    assert len(np.unique(labels)) > 1


@pytest.mark.parametrize("length", [7, 8, 11, 16, 31, 100])
@pytest.mark.parametrize("side", [5, 8, 12, 200])
def test_windows_begin_where_monais_do(length: int, side: int) -> None:
    from monai.data.utils import compute_importance_map, dense_patch_slices

    own = min(side, length)
    step = own if own == length else int(own * 0.75)
    slices = dense_patch_slices((length,), (own,), (step,))
    assert starts(length, side) == [s.start for (s,) in slices]
    torch.testing.assert_close(
        window_weights((own, 5, 3)), compute_importance_map((own, 5, 3), "gaussian")
    )


def test_slices_are_seen_in_the_standing_of_training() -> None:
    model = network()
    flips = (True, False, True)
    session = session_of(model, (8, 8, 8))
    session.set_image(VOLUME, flips=flips)
    turned = VOLUME[::-1, :, ::-1].copy()
    expected = by_monai(model, network_units(turned), (8, 8, 8))[:, ::-1, :, ::-1]
    for z in (12, 0, 6):
        np.testing.assert_allclose(session.predict(z).logits, expected[:, z], atol=1e-5)


def test_spacing_is_brought_to_that_of_training() -> None:
    model = network()
    session = session_of(model, (64, 64, 64), spacing_mm=(2.0, 1.0, 1.0))
    session.set_image(VOLUME, spacing_mm=(3.0, 0.5, 0.75))
    x = network_units(VOLUME)[0].movedim(1, 0)
    working = (20, 8, 14)
    x = functional.interpolate(x, working[1:], mode="bilinear", antialias=True)
    x = functional.interpolate(
        x.movedim(0, 1)[None], working, mode="trilinear", align_corners=False
    )
    with torch.no_grad():
        logits = functional.interpolate(model(x), SHAPE, mode="trilinear", align_corners=False)
    found = np.stack([p.logits for _, p in session.run()], 1)
    np.testing.assert_allclose(found, logits[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("here", "there"), [(7, 11), (11, 7), (5, 5), (1, 4)])
def test_between_planes_is_linear_interpolation(here: int, there: int) -> None:
    values = torch.rand(there)
    found = []
    for i in range(here):
        first, second, share = between(i, here, there)
        found.append(values[first] * (1 - share) + values[second] * share)
    expected = functional.interpolate(values[None, None], here, mode="linear", align_corners=False)
    torch.testing.assert_close(torch.stack(found), expected[0, 0])


def counted(patch: Size = (4, 8, 8)) -> tuple[Session, list[int]]:
    model = network()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    session = session_of(model, patch)
    session.set_image(VOLUME)
    return session, calls


def test_every_window_is_computed_once_in_order() -> None:
    session, calls = counted()
    for _ in session.run():
        pass
    assert session._windows is not None
    assert len(calls) == session._windows.count > 30


@pytest.mark.parametrize("seen", [0, 6, 12])
def test_outward_from_the_seen_slice_no_window_is_computed_twice(seen: int) -> None:
    session, calls = counted()
    pending = Pending(following(range(SHAPE[0]), seen))
    order = []
    while pending:
        z, _ = pending.take(session.missing)
        order.append(z)
        session.predict(z)
    assert order[0] == seen
    assert sorted(order) == list(range(SHAPE[0]))
    assert session._windows is not None
    assert len(calls) == session._windows.count


def test_the_seen_slice_waits_for_its_own_layers_alone() -> None:
    session, calls = counted()
    session.predict(6)
    assert session._windows is not None
    across = session._windows.count // len(session._windows.layers)
    assert len(calls) == len(session._windows.covering(6)) * across < session._windows.count
    before = len(calls)
    assert session.predict(6, Tuning.of(cut=0.7)).woken == ("cut",)
    assert len(calls) == before
    session.predict(6, Tuning.of(level_1=0.5))
    assert len(calls) == 2 * before


def test_a_value_moved_is_the_models_answer_at_it() -> None:
    model = network()
    session = session_of(model, (64, 64, 64))
    session.set_image(VOLUME)
    with torch.no_grad():
        expected = model(network_units(VOLUME), level_1=0.0)[0].numpy()
    found = session.predict(5, Tuning.of(level_1=0.0)).logits
    np.testing.assert_allclose(found, expected[:, 5], atol=1e-5)
    assert np.abs(found - session.predict(5).logits).max() > 1e-4


def test_memory_does_not_grow_with_the_depth(monkeypatch: Any) -> None:
    monkeypatch.setattr("napari_attnseg.engine.windows.LAYER_BYTES", 0)
    peaks = []
    for depth in (40, 160):
        held: list[int] = []
        windows = Windows(
            (depth, 9, 11), (depth, 9, 11), (8, 8, 8), lambda z: torch.ones(1, 1, 9, 11)
        )
        for z in range(depth):
            for _ in windows.logits((), z, lambda x: x.clone()):
                held.append(sum(t.numel() for t in windows._sums.values()))
        peaks.append(max(held))
    assert peaks[0] == peaks[1] <= 2 * 8 * 9 * 11


def test_a_tile_is_the_side_of_windows() -> None:
    session = session_of(network(), (8, 16, 16), tile=8)
    session.set_image(VOLUME)
    assert session.provenance()["window"] == [8, 8, 8]
    assert any("windows of 8 x 8 x 8" in note for note in session.notes)


def test_what_a_3d_model_lacks_is_said() -> None:
    session = session_of(network(), (8, 8, 8))
    session.set_image(VOLUME)
    with pytest.raises(InputError, match="3D model"):
        session.look_along(1)
    with pytest.raises(InputError, match="3D model"):
        session.fingerprint(0)
    assert session.received(0) is None


def test_live_questions_in_between_change_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr("napari_attnseg.engine.windows.LAYER_BYTES", 0)
    session, _ = counted()
    plain = [p.logits for _, p in session.run()]
    again, _ = counted()
    for z in range(SHAPE[0]):
        steps = again.stepwise(z)
        turn = 0
        while True:
            try:
                next(steps)
            except StopIteration as end:
                np.testing.assert_array_equal(end.value.logits, plain[z])
                break
            turn += 1
            if turn % 5 == 0:
                again.predict((z + 7) % SHAPE[0], Tuning.of(level_1=0.5))
