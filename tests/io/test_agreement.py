"""Agreement of masks against a loop over all pairs of surface voxels, and against MONAI."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_attnseg.errors import InputError
from napari_attnseg.io import components
from napari_attnseg.io.agreement import agreement, error_map
from napari_attnseg.io.measure_space import Space

SHEARED = np.array([[0.7, 0.5, 0.1, 3], [0, -1.9, 0.9, 5], [0.3, 0, 3.1, 7], [0, 0, 0, 1.0]])


def ids(seed: int, shape: tuple[int, int, int] = (7, 11, 13), classes: int = 2) -> np.ndarray:
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), 1)
    return np.digitize(smooth, np.linspace(0.5, 0.56, classes)).astype(np.uint8)


def slow_surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels with a face neighbour outside of the mask or of the image."""
    found = []
    for at in map(tuple, np.argwhere(mask).tolist()):
        for axis in range(3):
            if mask.shape[0] == 1 and axis == 0:
                continue
            near = [tuple(v + s * (i == axis) for i, v in enumerate(at)) for s in (-1, 1)]
            size = mask.shape[axis]
            if any(not 0 <= n[axis] < size or not mask[n] for n in near):
                found.append(at)
                break
    return found


def slow_figures(a: np.ndarray, b: np.ndarray, affine: np.ndarray, tolerance: float) -> list[float]:
    """Dice, IoU, HD95, surface Dice from lists of points."""
    both = int((a & b).sum())
    one, two = (
        [affine[:3, :3] @ np.array(v) + affine[:3, 3] for v in slow_surface(m)] for m in (a, b)
    )
    there = [min(float(np.linalg.norm(p - q)) for q in two) for p in one]
    back = [min(float(np.linalg.norm(p - q)) for q in one) for p in two]
    near = sum(d <= tolerance for d in there + back)
    return [
        2 * both / (a.sum() + b.sum()),
        both / (a | b).sum(),
        max(np.percentile(there, 95), np.percentile(back, 95)),
        near / (len(there) + len(back)),
    ]


@pytest.mark.parametrize("block", [1, 300, 1 << 20])
@pytest.mark.parametrize("shape", [(7, 11, 13), (1, 17, 13)])
def test_every_figure_is_that_of_a_loop(
    shape: tuple[int, int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "BLOCK_VOXELS", block)
    a, b = ids(0, shape), ids(1, shape)
    found = agreement(a, b, Space(SHEARED, "mm"), {1: "liver"}, tolerance=1.7)
    assert [f.name for f in found] == ["liver", "class 2"]
    for one in found:
        slow = slow_figures(a == one.id, b == one.id, SHEARED, 1.7)
        got = [one.dice, one.iou, one.hd95, one.surface_dice]
        np.testing.assert_allclose(np.array(got, float), slow, rtol=1e-9)
        assert one.fp == ((a == one.id) & (b != one.id)).sum()
        assert one.fn == ((a != one.id) & (b == one.id)).sum()


@pytest.mark.slow  # the import of MONAI
@pytest.mark.parametrize("spacing", [(2.5, 0.8, 1.3), (5.0, 0.7, 0.7), (0.3, 4.0, 1.0)])
def test_monai_finds_the_same(spacing: tuple[float, float, float]) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import (
        compute_dice,
        compute_hausdorff_distance,
        compute_iou,
        compute_surface_dice,
    )

    a, b = (ids(s, (9, 17, 13), 1) for s in (4, 5))
    [found] = agreement(a, b, Space(np.diag([*spacing, 1.0]), "mm"))
    assert found.tolerance == 2.0
    one, two = (torch.from_numpy(np.stack([m == 0, m == 1]))[None] for m in (a, b))
    told = {"include_background": False, "spacing": list(spacing)}
    far = compute_hausdorff_distance(one, two, percentile=95, **told)
    near = compute_surface_dice(one, two, class_thresholds=[2.0], **told)
    for ours, theirs in ((found.dice, compute_dice), (found.iou, compute_iou)):
        assert ours == pytest.approx(float(theirs(one, two, include_background=False)), rel=1e-6)
    assert found.hd95 == pytest.approx(float(far), rel=1e-5)
    assert found.surface_dice == pytest.approx(float(near), rel=1e-5)


def test_a_case_by_hand() -> None:
    """Two squares of 3 x 3, one column apart: 6 shared pixels of 9 and 9."""
    a, b = np.zeros((2, 1, 7, 9), np.uint8)
    a[0, 2:5, 2:5], b[0, 2:5, 3:6] = 1, 1
    [found] = agreement(a, b, Space(np.eye(4), flat=True), tolerance=0.5)
    assert (found.tp, found.fp, found.fn) == (6, 3, 3)
    assert found.dice == pytest.approx(2 / 3)
    assert found.iou == 0.5
    assert found.hd95 == 1.0
    # eight border pixels each, of which the four at rows 2 and 4 of the shared columns are the same
    assert found.surface_dice == pytest.approx((4 + 4) / 16)


def test_absent_classes() -> None:
    a, b = np.zeros((2, 3, 5, 7), np.uint8)
    assert agreement(a, b, Space(np.eye(4))) == ()
    a[1, 2, 3] = 4
    [found] = agreement(a, b, Space(np.eye(4)))
    assert (found.id, found.dice, found.iou, found.hd95, found.surface_dice) == (4, 0, 0, None, 0)
    [same] = agreement(a, a.copy(), Space(np.eye(4)))
    assert (same.dice, same.hd95, same.surface_dice) == (1, 0, 1)


def test_the_error_map_says_what_is_wrong_pixel_by_pixel() -> None:
    a = np.array([[[0, 1, 1, 0, 2]], [[0, 0, 0, 0, 0]]], np.uint8)
    b = np.array([[[0, 1, 0, 2, 1]], [[0, 0, 3, 0, 0]]], np.uint8)
    expected = np.array([[[0, 1, 2, 3, 4]], [[0, 0, 3, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(error_map(a, b), expected)
    out = np.full(a.shape, 9, np.uint8)
    assert error_map(a, b, out) is out
    np.testing.assert_array_equal(out, expected)


def test_masks_of_different_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(2, 3, 4\) but the reference is \(2, 3, 5\)"):
        agreement(np.zeros((2, 3, 4), int), np.zeros((2, 3, 5), int), Space(np.eye(4)))
    with pytest.raises(InputError, match="tolerance"):
        agreement(np.zeros((1, 1, 1), int), np.zeros((1, 1, 1), int), Space(np.eye(4)), None, -1)
