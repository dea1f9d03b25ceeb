"""Crops: exact where nothing turns, together where it does, repeatable, outside ignored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_attnseg.engine.augment import (
    Draw,
    collate,
    draw_example,
    draw_turn,
    pick_centre,
    sample,
    turned,
)
from napari_attnseg.engine.data import Example
from napari_attnseg.engine.losses import IGNORE


def numbered(rows: int, columns: int) -> Example:
    """Every pixel carries its own number, in the image and in the target."""
    numbers = np.arange(rows * columns, dtype=np.int16).reshape(rows, columns)
    return Example(torch.from_numpy(numbers.astype(np.float32))[None], numbers)


def view(
    example: Example, centre: tuple[float, float], turn: np.ndarray, *size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = size if len(size) == 2 else size * 2
    return sample(example.image, torch.from_numpy(example.target), centre, turn, (rows, columns))


def test_without_a_turn_a_crop_is_a_crop() -> None:
    example = numbered(23, 37)
    image, target = view(example, (10, 20), np.eye(2), 8)
    wanted = example.target[6:14, 16:24]
    assert np.array_equal(target.numpy(), wanted)
    assert np.abs(image[0].numpy() - wanted).max() < 1e-2  # numbers up to 850 in float32


def test_what_lies_outside_the_image_is_ignored() -> None:
    image, target = view(numbered(5, 6), (2, 3), np.eye(2), 12)
    assert int((target != IGNORE).sum()) == 30
    assert np.array_equal(target[4:9, 3:9].numpy(), numbered(5, 6).target)
    assert torch.isfinite(image).all()


def test_a_quarter_turn_moves_image_and_target_alike() -> None:
    example = numbered(21, 21)
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    image, target = view(example, (10, 10), quarter, 21)
    assert np.array_equal(target.numpy(), np.rot90(example.target, -1))
    assert np.abs(image[0].numpy() - target.numpy()).max() < 1e-2


def test_a_small_crop_is_kept_inside_a_larger_image() -> None:
    example = numbered(64, 80)
    for seed in range(40):
        _, target = draw_example(example, Draw(32), np.random.default_rng(seed))
        assert (target != IGNORE).all()


def test_equal_generators_give_equal_crops_and_others_do_not() -> None:
    example, draw = numbered(64, 80), Draw(32, augment=True)
    first, again, other = (
        draw_example(example, draw, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_a_scan_is_never_mirrored_and_a_micrograph_sometimes() -> None:
    rng = np.random.default_rng(0)
    scans = [draw_turn(Draw(8, True, oriented=True), rng) for _ in range(200)]
    assert all(np.linalg.det(m) > 0 and m[0, 0] > 0.8 for m in scans)
    cells = [np.linalg.det(draw_turn(Draw(8, True), rng)) for _ in range(200)]
    assert min(cells) < 0 < max(cells)


def test_the_rare_class_is_drawn_half_the_time() -> None:
    target = np.zeros((50, 50), np.int16)
    target[7, 9] = 1
    hits = [pick_centre(target, np.random.default_rng(s)) == (7, 9) for s in range(400)]
    assert np.mean(hits) == pytest.approx(0.25, abs=0.08)  # half of the even draws


def test_strokes_are_what_crops_are_centred_on() -> None:
    target = np.full((200, 200), IGNORE, np.int16)
    target[150:153, 20:24] = 1
    target[10:13, 180:183] = 0
    for seed in range(40):
        y, x = pick_centre(target, np.random.default_rng(seed))
        assert target[y, x] != IGNORE


def test_images_of_several_sizes_are_padded_and_the_padding_ignored() -> None:
    small, large = numbered(4, 9), numbered(7, 5)
    items = [draw_example(e, Draw(None), np.random.default_rng(0)) for e in (small, large)]
    images, targets = collate(items)
    assert images.shape == (2, 1, 7, 9)
    assert int((targets[0] != IGNORE).sum()) == 36
    assert int((targets[1] != IGNORE).sum()) == 35


def test_a_working_size_brings_the_target_along_without_new_ids() -> None:
    target = np.zeros((30, 50), np.int16)
    target[10:20, 10:40] = 3
    _, small = draw_example(
        Example(torch.zeros(1, 16, 16), target), Draw(None), np.random.default_rng(0)
    )
    assert small.shape == (16, 16)
    assert set(small.unique().tolist()) == {0, 3}


@pytest.mark.parametrize("side", [20, 21])
def test_a_whole_image_turns_about_its_middle_and_loses_nothing(side: int) -> None:
    example = numbered(side, side)
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    image, target = turned(example.image, torch.from_numpy(example.target), quarter)
    assert np.array_equal(target.numpy(), np.rot90(example.target, -1))
    assert np.abs(image[0].numpy() - target.numpy()).max() < 1e-2


def test_whole_images_are_turned_and_mirrored_but_keep_size_and_light() -> None:
    """Each draw is compared with the same turn of a plain coordinate image."""
    example = numbered(24, 24)
    seen = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image, target = draw_example(example, Draw(None, True, kind="turns"), rng)
        turn = draw_turn(Draw(None, True, kind="turns"), np.random.default_rng(seed))
        assert abs(abs(np.linalg.det(turn)) - 1) < 1e-12  # no scaling
        assert image.shape == (1, 24, 24)
        assert float(image.max()) <= 575.0  # no light
        known = (target != IGNORE).float().mean()
        assert known > 0.8  # a turn by ten degrees loses the corners alone
        seen.add((round(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])) / 90) % 4, turn[0, 0] > 0))
    assert len(seen) >= 4
    plain = draw_example(example, Draw(None, False, kind="turns"), np.random.default_rng(0))
    assert torch.equal(plain[0], example.image)


def test_a_resized_image_turns_with_its_target() -> None:
    target = np.zeros((48, 48), np.int16)
    target[:, 24:] = 1
    image = torch.zeros(1, 16, 16)
    image[..., 8:] = 1.0
    draw = Draw(32, True, kind="turns")  # the crop does not apply to resized images
    for seed in range(20):
        moved, found = draw_example(Example(image, target), draw, np.random.default_rng(seed))
        assert moved.shape[-2:] == found.shape == (16, 16)
        known = found != IGNORE
        sure = known & ((moved[0] < 0.01) | (moved[0] > 0.99))
        assert sure.sum() > 150
        assert torch.equal(found[sure].float(), moved[0][sure].round())
