"""Slices along other axes: against plain sessions on transposed arrays, and by hand."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from napari_attnseg.cards import Card
from napari_attnseg.control.volumes import ALL_AXES, AXES, axes_bytes, axes_named
from napari_attnseg.engine.axes import AlongAxes, Planes, cut_probabilities, segment_along
from napari_attnseg.engine.loading import IN_PASSING
from napari_attnseg.engine.predict import cut_logits
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.turned import Turned
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import Encoded, ModelSpec, SegmentationModel
from napari_attnseg.settings import Preprocessing, Tuning

SHAPE = (7, 11, 13)
FLIPS = (False, True, True)
APART = (2.5, 0.8, 0.7)
VOLUME = np.random.default_rng(0).normal(100, 40, SHAPE).astype(np.float32)


class Threshold(SegmentationModel):
    """Pixels above the middle of the window, nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = ModelSpec("threshold", 1, 1)
        self.idle = torch.nn.Parameter(torch.zeros(1))

    def encode(self, x_BCHW: Tensor) -> Encoded:
        return Encoded(x_BCHW, (x_BCHW.shape[-2], x_BCHW.shape[-1]))

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return 50 * (features - 0.5)


def session_of(model: Any, **preprocessing: Any) -> Session:
    p = Preprocessing(channels=1, intensity="window", low=0, high=200, **preprocessing)
    card = Card(spec=model.spec.to_json(), preprocessing=p, tuning=model.tuning())
    return Session(model, "cpu", card=card)


class Textured(Threshold):
    """Small fixed filters that know up from down and left from right, one per class."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.spec = ModelSpec("textured", 1, classes)
        generator = torch.Generator().manual_seed(classes)
        kernel = torch.randn(classes, 1, 5, 3, generator=generator)
        self.kernel = torch.nn.Parameter(3 * (kernel - kernel.mean((2, 3), keepdim=True)))

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.conv2d(features, self.kernel, padding=(2, 1))


def network(classes: int = 1) -> SegmentationModel:
    return Textured(classes)


def masks(session: Session, axis: str, folder: Path, tuning: Tuning | None = None) -> Any:
    told: list[tuple[int, int]] = []
    folder.mkdir(exist_ok=True)
    found = segment_along(session, axis, tuning, folder, lambda *now: told.append(now))
    parts = dict(found)
    total = sum(SHAPE[a] for a in axes_named(axis))
    assert told == [(i + 1, total) for i in range(total)]
    assert list(parts) == list(range(session.shape[0]))
    answers = parts.values()
    return np.stack([a.labels for a in answers]), np.stack([a.probability for a in answers])


def one_axis_by_hand(model: Any, axis: int, tuning: Tuning | None = None) -> list[np.ndarray]:
    """Chances of all classes (C, Z, Y, X) by a plain session on a transposed, flipped array that
    is told the size at which its pixels are square."""
    order = [axis, *(a for a in range(3) if a != axis)]
    turned = np.transpose(VOLUME, order)
    down = {0: FLIPS[1], 1: not FLIPS[0], 2: not FLIPS[0]}[axis]
    right = {0: FLIPS[2], 1: FLIPS[2], 2: FLIPS[1]}[axis]
    turned = turned[:, :: -1 if down else 1, :: -1 if right else 1]
    apart = tuple(APART[a] for a in order)
    column = apart[2]
    wanted = (1.0, column if axis else apart[1], column)
    session = session_of(model, spacing_mm=wanted)
    session.set_image(turned.copy(), spacing_mm=apart)
    logits = np.stack([session.predict(k, tuning).logits for k in range(len(turned))], 1)
    logits = logits[:, :, :: -1 if down else 1, :: -1 if right else 1]
    back = np.transpose(logits, (0, *(1 + np.argsort(order))))
    chances = torch.from_numpy(back.copy())
    chances = chances.sigmoid() if len(chances) == 1 else chances.softmax(0)
    return list(chances.numpy())


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("axis", [*AXES, ALL_AXES])
def test_as_plain_sessions_on_transposed_arrays(axis: str, classes: int, tmp_path: Path) -> None:
    model = network(classes)
    session = session_of(model)
    session.set_image(VOLUME, flips=FLIPS, spacing_mm=APART)
    labels, probability = masks(session, axis, tmp_path / "a")
    parts = [one_axis_by_hand(model, a) for a in axes_named(axis)]
    mean = np.mean([np.stack(p) for p in parts], 0)
    expected = np.stack([np.stack(cut_probabilities(m, 0.5)) for m in mean.swapaxes(0, 1)])
    np.testing.assert_allclose(probability, expected[:, 1], atol=2e-5)
    sure = np.abs(expected[:, 1] - 0.5) > 1e-4
    np.testing.assert_array_equal(labels[sure], expected[:, 0][sure])
    assert 0.02 < (labels > 0).mean() < 0.98
    assert len(np.unique(labels)) == classes + (classes == 1)
    assert not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize("axis", [*AXES, ALL_AXES])
def test_a_pointwise_model_gives_one_mask_along_every_axis(axis: str, tmp_path: Path) -> None:
    session = session_of(Threshold())
    session.set_image(VOLUME, flips=FLIPS, spacing_mm=(0.7, 0.7, 0.7))
    labels, _ = masks(session, axis, tmp_path)
    np.testing.assert_array_equal(labels, VOLUME >= 100)


def test_rows_are_brought_to_the_size_of_columns() -> None:
    session = session_of(Threshold())
    session.set_image(VOLUME, spacing_mm=(2.0, 0.5, 1.0))
    session.look_along(1)
    assert session.shape == (11, 7, 13)
    assert session._working_size() == (14, 13)
    session.look_along(2)
    assert session._working_size() == (28, 11)
    wanted = session_of(Threshold(), spacing_mm=(9.0, 0.25, 0.5))
    wanted.set_image(VOLUME, spacing_mm=(2.0, 0.5, 1.0))
    wanted.look_along(1)
    assert wanted._working_size() == (28, 26)
    wanted.look_along(2)
    assert wanted._working_size() == (56, 22)


def test_the_head_is_at_the_top_before_the_network() -> None:
    seen: list[Tensor] = []

    class Spy(Threshold):
        def encode(self, x_BCHW: Tensor) -> Encoded:
            seen.append(x_BCHW.clone())
            return super().encode(x_BCHW)

    session = session_of(Spy())
    session.set_image(VOLUME)  # runs towards head, back and left
    for axis, at in ((1, np.s_[::-1, 4, :]), (2, np.s_[::-1, :, 4])):
        session.look_along(axis)
        session.predict(4)
        wanted = np.clip(VOLUME[at] / 200, 0, 1)
        np.testing.assert_allclose(seen[-1][0, 0].numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("add", [False, True])
def test_planes_as_a_slow_loop(axis: int, add: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(axis)
    planes = Planes(tmp_path / "p.npy", SHAPE, 2, np.float32)
    wanted = np.zeros((2, *SHAPE), np.float32)
    rest = [n for i, n in enumerate(SHAPE) if i != axis]
    for first, count in ((0, 3), (3, 4), (2, 3)):
        slab = rng.normal(size=(count, 2, *rest)).astype(np.float32)
        planes.write(axis, first, slab, add)
        for i, c, a, b in itertools.product(range(count), range(2), *map(range, rest)):
            at = [a, b]
            at.insert(axis, first + i)
            place = (c, *at)
            wanted[place] = slab[i, c, a, b] + (wanted[place] if add else 0)
    for z in range(SHAPE[0]):
        np.testing.assert_allclose(planes.read(z), wanted[:, z], atol=1e-6)
    planes.close()


@pytest.mark.parametrize("axis", [1, 2])
def test_slabs_hold_the_slices_in_any_order(axis: int) -> None:
    each = VOLUME.nbytes // SHAPE[axis]
    turned = Turned(VOLUME, axis, limit=3 * each)
    for k in (5, 0, 10, 2, 3, 9, 1):
        np.testing.assert_array_equal(turned[k], np.take(VOLUME, k, axis))
        assert len(turned._slab) <= 3
    with pytest.raises(IndexError):
        turned[SHAPE[axis]]


@pytest.mark.parametrize("stop", [1, 9, 20, 30])
def test_a_run_that_was_left_goes_on(stop: int, tmp_path: Path) -> None:
    session = session_of(network())
    session.set_image(VOLUME, flips=FLIPS, spacing_mm=APART)
    whole, _ = masks(session, ALL_AXES, tmp_path / "w")
    question = {"k": 1}
    few = 2 * 4 * 7 * 11
    first = AlongAxes(session, (0, 1, 2), None, tmp_path / "r", question, few)
    for step in first.steps():
        if step is not None and step.done == stop:
            break
    first.close()
    again = AlongAxes(session, (0, 1, 2), None, tmp_path / "r", question, few)
    steps = [s for s in again.steps() if s is not None]
    assert steps[-1].done == again.total == sum(SHAPE)
    assert len(steps) <= sum(SHAPE) - (stop - 2)
    got = np.stack([again.answer(z).labels for z in range(SHAPE[0])])
    np.testing.assert_array_equal(got, whole)
    again.close()


def test_who_dies_while_adding_begins_again(tmp_path: Path, monkeypatch: Any) -> None:
    session = session_of(network())
    session.set_image(VOLUME, spacing_mm=APART)
    whole, _ = masks(session, ALL_AXES, tmp_path / "w")
    question = {"k": 1}
    first = AlongAxes(session, (0, 1, 2), None, tmp_path / "r", question, 4 * 7 * 11)
    real, calls = Planes.write, []

    def dies(self: Planes, axis: int, at: int, slab: np.ndarray, add: bool = False) -> None:
        calls.append(at)
        real(self, axis, at, slab, add)
        if len(calls) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(Planes, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        list(first.steps())
    first.close()
    monkeypatch.setattr(Planes, "write", real)
    again = AlongAxes(session, (0, 1, 2), None, tmp_path / "r", question, 4 * 7 * 11)
    assert len([s for s in again.steps() if s is not None]) == sum(SHAPE)
    got = np.stack([again.answer(z).labels for z in range(SHAPE[0])])
    np.testing.assert_array_equal(got, whole)
    again.close()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_cut_is_that_of_a_slice(channels: int) -> None:
    logits = torch.randn(channels, 11, 13, generator=torch.Generator().manual_seed(channels))
    chances = logits.sigmoid() if channels == 1 else logits.softmax(0)
    for cut in (0.2, 0.5, 0.8):
        labels, probability = cut_probabilities(chances.numpy(), cut)
        wanted = cut_logits(logits, cut)
        np.testing.assert_allclose(probability, wanted.probability.numpy(), atol=1e-6)
        np.testing.assert_array_equal(labels, wanted.labels.numpy())


def test_words_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="axial, coronal, sagittal, all"):
        axes_named("oblique")
    session = session_of(Threshold())
    session.set_image(VOLUME[0])
    with pytest.raises(InputError, match="one slice"):
        AlongAxes(session, (1,), None, tmp_path)
    assert axes_bytes(SHAPE, "axial", 3) == 0
    assert axes_bytes(SHAPE, "all", 3) == 3 * 4 * VOLUME.size
    assert axes_bytes((600, 512, 512), "coronal", 1) == 2 * 2 * 600 * 512 * 512


def test_no_room_is_told_before_anything_is_computed(tmp_path: Path, monkeypatch: Any) -> None:
    """By hand: 3 classes of 7 x 11 x 13 voxels, four bytes each."""
    session, need = session_of(network(3)), 3 * 7 * 11 * 13 * 4
    session.set_image(np.zeros((7, 11, 13), np.float32))
    for free in (need - 1, need):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("napari_attnseg.engine.axes.shutil.disk_usage", lambda _, u=usage: u)
        if free < need:
            with pytest.raises(InputError, match=r"the chances of 3 classes of a volume of 7 x 11"):
                AlongAxes(session, (0, 1, 2), None, tmp_path)
            assert list(tmp_path.iterdir()) == []
        else:
            AlongAxes(session, (0, 1, 2), None, tmp_path).close()
    assert session.pipeline.chain.counts["encode"] == 0


def test_slices_asked_for_once_are_not_kept(tmp_path: Path) -> None:
    session = session_of(network())
    session.pipeline.heavy.limit = 1 << 30
    session.set_image(np.zeros((7, 11, 13), np.float32))
    AlongAxes(session, (1,), None, tmp_path).close()
    assert session.pipeline.heavy.limit <= IN_PASSING
