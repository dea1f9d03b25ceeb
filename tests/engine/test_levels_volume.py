"""Maps of 3D models: volumes over one window, each cell on the voxels it was made of."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.attention import attention_info, list_attentions
from napari_attnseg.attention.base import attention_class
from napari_attnseg.attention.recording import PICTURES, recording
from napari_attnseg.cards import Card
from napari_attnseg.engine import levels
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import Encoded, SegmentationModel, create_model, pad_to_multiple
from napari_attnseg.settings import Preprocessing, Tuning
from two_gates import MeanGate

SHAPE = (5, 7, 9)
FLIPS = list(itertools.product((False, True), repeat=3))
RNG = np.random.default_rng(3)


class Means(SegmentationModel):
    """Shows the mean of every 2 x 2 x 2 voxels."""

    stride, ndim = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.gate_ = MeanGate()

    def encode(self, x_BCHW: Tensor) -> Encoded:
        x = pad_to_multiple(x_BCHW, 2)
        return Encoded(F.avg_pool3d(x, 2), x_BCHW.shape[2:])  # type: ignore[arg-type]

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        mean = encoded.features.mean(1)
        if self.gate_.probe is not None:
            self.gate_.probe.note("mean", mean)
            for i, cell in enumerate(self.gate_.probe.cells(tuple(mean.shape[1:]))):
                row = torch.zeros_like(mean)
                row[(0, *cell)] = 1.0
                self.gate_.probe.note("row", row, "row", query=i)
        return encoded.features

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        d, h, w = size  # type: ignore[misc]
        return F.interpolate(features, scale_factor=2.0)[..., :d, :h, :w]


def opened(
    model: Any,
    image: np.ndarray,
    flips: tuple[bool, ...] = (False,) * 3,
    patch: tuple[int, ...] = (64, 64, 64),
    apart: tuple[float, ...] = (),
    **p: Any,
) -> Session:
    pre = Preprocessing(channels=1, intensity="unit", patch=patch, **p)
    session = Session(model.eval(), "cpu", card=Card(preprocessing=pre, tuning=model.tuning()))
    session.set_image(image, flips=flips, spacing_mm=apart)  # type: ignore[arg-type]
    return session


def centre(found: levels.LevelMap, cell: tuple[int, ...]) -> np.ndarray:
    """Voxel of the image in whose middle a cell lies."""
    assert found.depth is not None
    scale = np.array([found.depth[0], *found.scale.scale])
    return np.array([found.depth[1], *found.scale.offset]) + scale * cell


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("patch", [(64, 64, 64), (4, 4, 4)])
def test_every_cell_shows_the_voxels_it_lies_on(
    flips: tuple[bool, ...], patch: tuple[int, ...]
) -> None:
    image = RNG.random(SHAPE).astype(np.float32)
    session = opened(Means(), image, flips, patch)
    seen = 0
    for z, y, x in ((0, 0, 0), (4, 6, 8), (2, 3, 4), (4, 0, 5)):
        (found,) = session.maps(z, near=(y, x))
        for cell in np.ndindex(found.values.shape):
            first = centre(found, cell) - 0.5
            corner = np.round(first).astype(int)
            np.testing.assert_allclose(first, corner)
            if (corner < 0).any() or (corner + 2 > SHAPE).any():
                continue  # a cell that reaches into the padding
            part = image[tuple(slice(c, c + 2) for c in corner)]
            assert found.values[cell] == pytest.approx(part.mean(), abs=1e-6)
            seen += 1
    assert seen >= 4 * 8 if patch == (4, 4, 4) else seen == 4 * 24


@pytest.mark.parametrize("flips", FLIPS)
def test_the_asked_voxel_lies_in_the_cell_that_answers(flips: tuple[bool, ...]) -> None:
    """In windows, and at another spacing than that of the scan."""
    shape, apart = (6, 20, 24), (2.0, 0.5, 0.5)
    session = opened(
        Means(), RNG.random(shape).astype(np.float32), flips, (4, 6, 8), apart, spacing_mm=(1, 1, 1)
    )
    assert session.windows > 8
    for at in ((0, 0, 0), (5, 19, 23), (2, 9, 4), (3, 19, 0), (1, 10, 17)):
        (found,) = session.rows(*at)
        cell = np.unravel_index(int(found.values.argmax()), found.values.shape)
        assert found.depth is not None
        scale = np.array([found.depth[0], *found.scale.scale])
        np.testing.assert_allclose(scale, (1, 4, 4))
        away = np.abs(centre(found, tuple(int(c) for c in cell)) - at) / scale
        assert (away <= 0.5 + 1e-6).all()


def test_a_row_is_that_of_a_slow_loop() -> None:
    """Scores of every pair of positions by hand, from the features that entered."""
    torch.manual_seed(1)
    model = create_model(
        "placed_unet",
        in_channels=1,
        attention="bottleneck=nonlocal:mode=embedded",
        width=0.1,
        levels=1,
        ndim=3,
    ).eval()
    module = model.placed[0].module
    entered: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    image = RNG.random(SHAPE).astype(np.float32)
    session = opened(model, image, (True, False, True))
    at = (1, 5, 2)
    (found,) = session.rows(*at)
    x = entered[-1][0].detach().double().numpy()
    grid = x.shape[1:]
    assert grid == (3, 4, 5) == found.values.shape
    pairs = module.a
    weights = [
        layer.weight.detach().double().numpy()[..., 0, 0, 0] for layer in (pairs.theta, pairs.phi)
    ]
    biases = [
        0.0 if layer.bias is None else layer.bias.detach().double().numpy()
        for layer in (pairs.theta, pairs.phi)
    ]
    asked = ((SHAPE[0] - 1 - at[0]) // 2, at[1] // 2, (SHAPE[2] - 1 - at[2]) // 2)
    query = weights[0] @ x[(slice(None), *asked)] + biases[0]
    scores = {}
    for cell in itertools.product(*map(range, grid)):
        key = weights[1] @ x[(slice(None), *cell)] + biases[1]
        scores[cell] = sum(a * b for a, b in zip(query, key, strict=True))
    top = max(scores.values())
    total = sum(math.exp(s - top) for s in scores.values())
    for cell, score in scores.items():
        there = found.values[grid[0] - 1 - cell[0], cell[1], grid[2] - 1 - cell[2]]
        assert there == pytest.approx(math.exp(score - top) / total, abs=1e-6)
    assert found.values.sum() == pytest.approx(1.0, abs=1e-5)


def able() -> list[str]:
    return [name for name in list_attentions() if 3 in attention_info(name)["ndim"]]


@pytest.mark.parametrize("name", able())
def test_every_mechanism_shows_volumes(name: str) -> None:
    """Pictures have three axes, rows are answered, and each lies within the scan."""
    role = attention_class(name).role
    place = {"gate": "skip[1]", "fuser": "head", "class-aware": "head"}.get(role, "bottleneck")
    torch.manual_seed(0)
    try:
        model = create_model(
            "placed_unet", in_channels=1, attention=f"{place}={name}", width=0.07, levels=2, ndim=3
        )
    except InputError as error:
        pytest.skip(f"needs another width: {error}")
    session = opened(model, RNG.random((7, 11, 13)).astype(np.float32), (False, True, False))
    maps, rows = session.maps(3), session.rows(3, 4, 5)
    listed = {kind for kind in attention_class(name).emits if kind != "row"}
    assert {m.kind for m in maps} or not listed
    for found in (*maps, *rows):
        picture = found.kind in PICTURES and found.values.ndim >= 3
        assert (found.depth is not None) == picture, (found.name, found.kind, found.values.shape)
        if picture:
            assert np.isfinite(found.values).all()
            grid = found.values.shape[-3:]
            middle = (centre(found, (0, 0, 0)) + centre(found, tuple(n - 1 for n in grid))) / 2
            assert (np.abs(middle - np.array((3, 5, 6))) <= 2).all()
    if "row" in attention_class(name).emits:
        assert rows


def test_records_know_their_axes() -> None:
    """A map without a geometry of its own lies on the axes of its network."""
    model = Means()
    with recording(model) as tape, torch.no_grad():
        model(torch.rand(1, 1, 4, 4, 4))
    assert tape.records[0].geometry.ndim == 3
    assert levels.channels_of(tape.records[0]) == 0


def test_one_window_is_computed_and_kept() -> None:
    calls: list[tuple[int, ...]] = []
    model = Means()
    model.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape[2:])))
    session = opened(model, RNG.random((9, 21, 33)).astype(np.float32), patch=(4, 8, 8))
    session.maps(4, near=(10, 16))
    session.maps(4, near=(10, 16))
    assert calls == [(4, 8, 8)]
    session.maps(5, near=(10, 17))  # the same window weighs most there too
    assert len(calls) == 1
    rows = session.rows(4, 2, 2, others=((2, 3), (20, 32)))
    assert [r.query for r in rows] == [0, 1, 2]
    assert len(calls) == 3  # two pixels in one window, one in another
    assert rows[0].scale == rows[1].scale != rows[2].scale
    session.maps(4, Tuning.of(cut=0.9), near=(10, 16))
    assert len(calls) == 3


@pytest.mark.parametrize("flips", FLIPS)
def test_cells_behind_a_window_are_left_out(flips: tuple[bool, ...]) -> None:
    """A window of 3 voxels is filled up to 8, that is to 4 cells of 2: two hold part of it."""

    class Deep(Means):
        stride = 8

        def encode(self, x_BCHW: Tensor) -> Encoded:
            x = pad_to_multiple(x_BCHW, 8)
            return Encoded(F.avg_pool3d(x, 2), x_BCHW.shape[2:])  # type: ignore[arg-type]

    image = RNG.random((11, 13, 12)).astype(np.float32)
    session = opened(Deep(), image, flips, (3, 4, 5))
    for at in ((5, 6, 6), (10, 0, 11), (0, 12, 0)):
        (found,) = session.maps(at[0], near=at[1:])
        assert found.values.shape == (2, 2, 3)
        spans = session.seen(at[0], at[1:]).spans
        inside = 0
        for cell in np.ndindex(found.values.shape):
            corner = np.round(centre(found, cell) - 0.5).astype(int)
            if all(a <= c and c + 2 <= b for c, (a, b) in zip(corner, spans, strict=True)):
                part = image[tuple(slice(c, c + 2) for c in corner)]
                assert found.values[cell] == pytest.approx(part.mean(), abs=1e-6)
                inside += 1
        assert inside == 1 * 2 * 2


def test_the_window_is_told_in_words() -> None:
    image = RNG.random((9, 21, 33)).astype(np.float32)
    session = opened(Means(), image, (True, False, False), patch=(4, 8, 8))
    words = session.seen(8, (0, 32)).words
    assert "4 x 8 x 8 voxels" in words
    assert "slices 5 to 8, rows 0 to 7, columns 25 to 32" in words
    assert "whole" in opened(Means(), image).seen(0).words
    with pytest.raises(InputError, match="3D model"):
        session.fingerprint(0)
    with pytest.raises(InputError, match="outside the slice"):
        session.rows(0, 21, 0)
