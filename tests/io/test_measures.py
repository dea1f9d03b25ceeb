"""Measures against loops, shapes known by formula, scikit-image's meshes and SimpleITK."""

from __future__ import annotations

import csv
import io
from collections import deque
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours, marching_cubes, mesh_surface_area

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io import components
from napari_attnseg.io.measure_space import Space, space_of
from napari_attnseg.io.measures import Measures, Region, measure
from napari_attnseg.io.measures_csv import csv_text, rows_of, write_csv
from napari_attnseg.io.volume import Volume

SHEARED = np.array(
    [[0.7, 0.2, 0.1, -31.0], [0.0, -1.9, 0.4, 17.5], [0.3, 0.0, 3.1, 402.0], [0, 0, 0, 1.0]]
)
NAMES = {1: "liver", 2: "spleen"}


@pytest.fixture(params=[1, 150, 1 << 20], ids=["slice by slice", "by two", "all at once"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many slices are taken at once, the answer is the same."""
    monkeypatch.setattr(components, "BLOCK_VOXELS", request.param)


def blobs(seed: int = 0, shape: tuple[int, int, int] = (11, 7, 13)) -> np.ndarray:
    """Ids 0, 1, 2 (uint8) in crooked parts."""
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), 0.8)
    return np.digitize(smooth, [0.46, 0.54]).astype(np.uint8)


def slow_parts(mask: np.ndarray) -> list[list[tuple[int, ...]]]:
    """Connected voxels by walking from neighbour to neighbour."""
    left = {tuple(int(i) for i in at) for at in np.argwhere(mask)}
    found = []
    while left:
        start = min(left)
        left.discard(start)
        part, queue = [start], deque([start])
        while queue:
            at = queue.popleft()
            for step in product((-1, 0, 1), repeat=3):
                near = tuple(a + b for a, b in zip(at, step, strict=True))
                if near in left:
                    left.discard(near)
                    part.append(near)
                    queue.append(near)
        found.append(part)
    return found


def assert_is(region: Region, voxels: list[tuple[int, ...]], image: np.ndarray) -> None:
    """A region against its voxels, one by one."""
    at = np.array(voxels, float)
    values = [float(image[v]) for v in voxels]
    mean = sum(values) / len(values)
    assert region.voxels == len(voxels)
    assert region.size == pytest.approx(len(voxels) * abs(np.linalg.det(SHEARED[:3, :3])))
    np.testing.assert_allclose(region.centroid, at.mean(0), atol=1e-12)
    assert region.low == tuple(at.min(0))
    assert region.high == tuple(at.max(0) + 1)
    assert region.mean == pytest.approx(mean)
    spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
    assert region.sd == pytest.approx(spread, abs=1e-12)
    world = [SHEARED[:3, :3] @ v + SHEARED[:3, 3] for v in at]
    np.testing.assert_allclose(region.world_centroid, np.mean(world, 0), atol=1e-9)
    bodies = [
        SHEARED[:3, :3] @ np.array(corner) + SHEARED[:3, 3]
        for corner in product(*([lo - 0.5, hi + 0.5] for lo, hi in zip(at.min(0), at.max(0))))  # noqa: B905
    ]
    np.testing.assert_allclose(region.world_low, np.min(bodies, 0), atol=1e-9)
    np.testing.assert_allclose(region.world_high, np.max(bodies, 0), atol=1e-9)


@pytest.mark.usefixtures("blocks")
def test_every_figure_is_that_of_a_loop_over_the_voxels() -> None:
    labels = blobs()
    image = np.random.default_rng(1).normal(-1000, 300, labels.shape)
    found = measure(labels, Space(SHEARED, "mm"), image, NAMES, parts=True)
    assert [r.name for r in found.classes] == ["liver", "spleen"]
    for region in found.classes:
        parts = slow_parts(labels == region.id)
        assert region.parts == len(parts)
        assert_is(region, [v for part in parts for v in part], image)
        listed = found.parts_of(region.id)
        assert [r.part for r in listed] == list(range(1, len(parts) + 1))
        for part, voxels in zip(
            listed, sorted(parts, key=lambda p: (-len(p), min(p))), strict=True
        ):
            assert_is(part, voxels, image)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("affine", [np.eye(4), SHEARED], ids=["cubes", "sheared"])
def test_the_surface_is_that_of_the_mesh(affine: np.ndarray) -> None:
    labels = blobs(3)
    found = measure(labels, Space(affine, "mm"), parts=True)
    for region in found.classes:
        mask = np.pad(labels == region.id, 1).astype(np.float32)
        vertices, faces, *_ = marching_cubes(mask, 0.5)
        area = mesh_surface_area(vertices.astype(float) @ affine[:3, :3].T, faces)
        assert region.surface == pytest.approx(area, rel=1e-12)
        assert sum(p.surface for p in found.parts_of(region.id)) == pytest.approx(area, rel=1e-12)


def test_a_ball_and_a_box_by_formula() -> None:
    z, y, x = np.mgrid[-24:25, -24:25, -24:25]
    spacing = np.diag([0.5, 0.5, 0.5, 1.0])
    [ball] = measure((z**2 + y**2 + x**2 <= 20**2).astype(np.uint8), Space(spacing, "mm")).classes
    assert ball.size == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.01)
    # steps of a binary mask: marching cubes gives 9 % more than the round ball has
    assert ball.surface == pytest.approx(4 * np.pi * 10**2 * 1.09, rel=0.015)
    assert ball.centroid == (24, 24, 24)
    box = np.zeros((20, 30, 40), np.uint8)
    box[5:15, 5:25, 5:35] = 1
    [found] = measure(box, Space(np.diag([3.0, 2.0, 0.5, 1.0]), "mm")).classes
    assert found.size == pytest.approx(10 * 20 * 30 * 3.0)
    sides = 2 * (10 * 3 * 20 * 2 + 20 * 2 * 30 * 0.5 + 10 * 3 * 30 * 0.5)
    assert 0.85 * sides < found.surface < sides  # edges and corners are cut off


def test_a_picture_has_area_and_perimeter() -> None:
    labels = blobs(5, (1, 17, 23))
    space = space_of(Volume(labels[0], pixel_mm=(1.0, 2.0, 0.5)))
    assert space.flat
    assert space.unit == "mm"
    found = measure(labels, space)
    for region in found.classes:
        mask = np.pad(labels[0] == region.id, 1).astype(float)
        steps = [
            np.diff(line, axis=0) * (2.0, 0.5)
            for line in find_contours(mask, 0.5, fully_connected="high")
        ]
        length = sum(float(np.linalg.norm(s, axis=1).sum()) for s in steps)
        assert region.surface == pytest.approx(length, rel=1e-12)
        assert region.size == region.voxels * 1.0
        assert region.parts == len(slow_parts(labels == region.id))


def test_a_turned_scan_is_measured_in_its_own_world() -> None:
    """File order (i, j, k) is not the view's order; the world is that of the affine."""
    affine = np.array([[0, 0, 2.0, 5], [0.7, 0, 0, 6], [0, -3.0, 0, 7], [0, 0, 0, 1]])
    data = np.zeros((7, 11, 13), np.int16)
    data[2, 3, 4] = 1
    volume = Volume(data, Geometry(affine, data.shape))
    [found] = measure(volume.view, space_of(volume)).classes
    np.testing.assert_allclose(found.world_centroid, affine[:3, :3] @ [2, 3, 4] + affine[:3, 3])
    assert found.size == pytest.approx(0.7 * 3 * 2)
    assert found.centroid == tuple(float(v[0]) for v in np.nonzero(volume.view))


@given(st.integers(0, 2**32 - 1), st.sampled_from([(5, 7, 9), (1, 7, 9), (9, 1, 5), (9, 5, 1)]))
@settings(max_examples=25, deadline=None)
def test_simpleitk_sees_the_same(seed: int, shape: tuple[int, int, int]) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, shape, np.uint8)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    spacing, origin = rng.uniform(0.3, 4, 3), rng.uniform(-100, 100, 3)
    image = sitk.GetImageFromArray(labels)  # (z, y, x); SimpleITK's own axes are x, y, z
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(turn.ravel().tolist())
    values = rng.normal(size=shape)
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(image)
    grey = sitk.GetImageFromArray(values)
    grey.CopyInformation(image)
    numbers = sitk.LabelStatisticsImageFilter()
    numbers.Execute(grey, image)
    affine = np.eye(4)
    affine[:3, :3] = (turn * spacing)[:, ::-1]
    affine[:3, 3] = origin
    for found in measure(labels, Space(affine, "mm"), values).classes:
        assert found.voxels == shapes.GetNumberOfPixels(found.id)
        assert found.size == pytest.approx(shapes.GetPhysicalSize(found.id))
        np.testing.assert_allclose(
            found.world_centroid, shapes.GetCentroid(found.id), atol=1e-6, rtol=1e-6
        )
        x, y, z, width, height, depth = shapes.GetBoundingBox(found.id)
        assert found.low == (z, y, x)
        assert found.high == (z + depth, y + height, x + width)
        parts = sitk.ConnectedComponentImageFilter()
        parts.FullyConnectedOn()
        parts.Execute(image == found.id)
        assert found.parts == parts.GetObjectCount()
        assert found.mean == pytest.approx(numbers.GetMean(found.id), abs=1e-9)
        assert found.sd is not None
        n = found.voxels  # theirs is of a sample, ours of all there is
        if n > 1:
            sigma = numbers.GetSigma(found.id) * ((n - 1) / n) ** 0.5
            assert found.sd == pytest.approx(sigma, abs=1e-9)


def test_memory_does_not_grow_with_the_slices() -> None:
    import tracemalloc

    def peak(depth: int) -> int:
        labels = np.ones((depth, 64, 64), np.uint8)
        image = np.ones(labels.shape, np.float32)
        tracemalloc.start()
        measure(labels, Space(np.eye(4), "mm"), image, parts=True)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "BLOCK_VOXELS", 8 * 64 * 64)
        peak(16)
        assert peak(256) < 1.2 * peak(32)


def test_what_is_not_there_is_left_out() -> None:
    empty = measure(np.zeros((3, 5, 7), np.uint8), Space(np.eye(4)))
    assert empty == Measures(empty.space, (3, 5, 7), (), ())
    values = np.array([[[1.0, np.nan, 3.0]]])
    [found] = measure(np.ones((1, 1, 3), np.uint8), Space(np.eye(4)), values).classes
    assert (found.mean, found.sd, found.voxels) == (2.0, 1.0, 3)
    colour = np.zeros((1, 1, 3, 3), np.uint8)
    colour[..., 0] = 30
    [found] = measure(np.ones((1, 1, 3), np.uint8), Space(np.eye(4)), colour).classes
    assert found.mean == 10.0


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="whole-numbered"):
        measure(np.zeros((2, 3, 4)), Space(np.eye(4)))
    with pytest.raises(InputError, match=r"\(2, 3, 4\) but the image is \(2, 3, 5\)"):
        measure(np.zeros((2, 3, 4), np.uint8), Space(np.eye(4)), np.zeros((2, 3, 5)))


def test_the_table_is_read_back_by_a_csv_reader(tmp_path: Path) -> None:
    labels = blobs(7)
    found = measure(labels, Space(SHEARED, "mm", ("R", "A", "S")), labels * 2.5, NAMES, parts=True)
    path = tmp_path / "table.csv"
    write_csv(path, rows_of(found, file="a, b.nii"))
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [r["file"] for r in rows] == ["a, b.nii"] * (len(found.classes) + len(found.parts))
    for row, region in zip(rows, (*found.classes, *found.parts), strict=True):
        assert (row["class"], int(row["voxels"])) == (region.name, region.voxels)
        assert float(row["volume_ml"]) == pytest.approx(region.size / 1000, rel=1e-8)
        assert float(row["mean"]) == region.id * 2.5
        assert int(row["z_first"]) == region.low[0]
        assert int(row["z_last"]) == region.high[0] - 1
        assert float(row["R_centroid_mm"]) == pytest.approx(region.world_centroid[0], rel=1e-8)
        assert row["area_mm2"] == row["perimeter_mm"] == ""
    flat = measure(labels[:1], replace(found.space, flat=True))
    assert ",area_mm2," in csv_text(rows_of(flat))
    assert rows_of(flat)[0]["volume_ml"] == ""
