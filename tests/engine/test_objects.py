"""Objects against a flood fill written out, and watersheds of discs that touch."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest

from napari_attnseg.engine.objects import split_objects
from napari_attnseg.errors import InputError
from napari_attnseg.io import components


def flood_fill(labels: np.ndarray) -> np.ndarray:
    """Components by hand: equal labels that touch by faces, edges or corners."""
    ids = np.zeros(labels.shape, int)
    steps = [s for s in product((-1, 0, 1), repeat=3) if any(s)]
    count = 0
    for start in np.argwhere(labels > 0):
        if ids[tuple(start)]:
            continue
        count += 1
        stack = [tuple(start)]
        ids[tuple(start)] = count
        while stack:
            here = stack.pop()
            for step in steps:
                there = tuple(h + s for h, s in zip(here, step, strict=True))
                inside = all(0 <= t < n for t, n in zip(there, labels.shape, strict=True))
                if inside and not ids[there] and labels[there] == labels[here]:
                    ids[there] = count
                    stack.append(there)
    return ids


@pytest.mark.parametrize("shape", [(1, 17, 19), (5, 11, 13), (1, 1, 9)])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.8])
def test_components_are_those_of_a_flood_fill(shape, density):
    rng = np.random.default_rng(1)
    labels = (rng.integers(1, 4, shape) * (rng.random(shape) < density)).astype(np.uint8)
    ids, count = split_objects(labels)
    expected = flood_fill(labels)
    assert ids.dtype == np.uint16
    assert count == expected.max()
    assert np.array_equal(ids, expected)


def discs(*centres: tuple[int, int], radius: int = 9, shape=(40, 60)) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.any([(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres], axis=0)


def test_touching_classes_are_objects_of_their_own():
    labels = np.ones((1, 6, 8), np.uint8)
    labels[..., 4:] = 2
    for watershed in (False, True):
        ids, count = split_objects(labels, watershed=watershed, min_distance=20)
        assert count == 2
        assert np.array_equal(ids, labels)


def test_watershed_parts_discs_that_touch():
    mask = discs((20, 15), (20, 30), (20, 45))[None].astype(np.uint8)
    assert split_objects(mask)[1] == 1
    ids, count = split_objects(mask, watershed=True, min_distance=5)
    assert count == 3
    assert np.array_equal(ids > 0, mask > 0)
    assert [ids[0, 20, x] for x in (15, 30, 45)] == [1, 2, 3]
    sizes = np.bincount(ids.ravel())[1:]
    assert sizes.max() / sizes.min() < 1.3


def test_watershed_keeps_every_component_and_one_of_a_lone_disc():
    mask = discs((20, 15), (20, 45))[None].astype(np.uint8)
    mask[0, 1, 1] = mask[0, 38, 58] = 1
    ids, count = split_objects(mask, watershed=True, min_distance=4)
    assert count == 4
    assert np.array_equal(ids > 0, mask > 0)


def test_watershed_in_space_follows_the_spacing():
    """Two balls that touch along z in slices five times as thick as the pixels."""
    z, y, x = np.ogrid[:9, :24, :24]
    balls = [((z - c) * 5.0) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 <= 11**2 for c in (2, 6)]
    mask = np.any(balls, axis=0).astype(np.uint8)
    ids, count = split_objects(mask, watershed=True, min_distance=2, spacing_mm=(5, 1, 1))
    assert count == 2
    assert ids[2, 12, 12] != ids[6, 12, 12]


def test_small_objects_are_dropped_and_ids_are_without_gaps():
    mask = np.zeros((1, 9, 30), np.uint8)
    for i, size in enumerate((1, 5, 2, 6)):
        mask[0, 3, i * 7 : i * 7 + size] = 1
    ids, count = split_objects(mask, min_size=3)
    assert count == 2
    assert np.unique(ids).tolist() == [0, 1, 2]
    assert (ids == 1).sum() == 5
    assert split_objects(mask, min_size=99)[1] == 0


def test_empty_mask():
    for watershed in (False, True):
        ids, count = split_objects(np.zeros((3, 4, 5), np.uint8), watershed=watershed)
        assert count == 0
        assert not ids.any()


def test_too_many_objects():
    mask = np.zeros((1, 600, 600), np.uint8)
    mask[:, ::2, ::2] = 1
    with pytest.raises(InputError, match="got 90000 objects, expected at most 65535"):
        split_objects(mask)
    with pytest.raises(InputError, match="expected the axes"):
        split_objects(mask[0])


@pytest.mark.parametrize("min_size", [0, 3])
@pytest.mark.parametrize(("shape", "density"), [((23, 11, 13), 0.12), ((6, 9, 7), 0.4)])
def test_blocks_of_two_slices_make_no_difference(shape, density, min_size, monkeypatch):
    monkeypatch.setattr(components, "BLOCK_VOXELS", 2 * shape[1] * shape[2])
    rng = np.random.default_rng(5)
    labels = (rng.integers(1, 4, shape) * (rng.random(shape) < density)).astype(np.uint8)
    expected = flood_fill(labels)
    sizes = np.bincount(expected.ravel())
    kept = [i for i in range(1, len(sizes)) if sizes[i] >= min_size]
    number = np.zeros(len(sizes), int)
    number[kept] = np.arange(1, len(kept) + 1)
    ids, count = split_objects(labels, min_size=min_size)
    assert count == len(kept) > 5
    assert np.array_equal(ids, number[expected])


def test_many_slices_take_a_block_of_memory():
    """Beside the ids memory is that of a block of a million voxels, not of ten million."""
    labels = np.zeros((160, 256, 256), np.uint8)
    labels[:, 20:60, 30:200] = 1
    labels[40:90, 100:220, 40:60] = 2
    tracemalloc.start()
    try:
        ids, count = split_objects(labels)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2
    assert np.array_equal(ids, labels)
    assert most - ids.nbytes < 60 << 20, most
