"""Draw the CT-like phantom that ships as a sample: made of formulas, no patient in it.

Run: python sample_data/make_phantom.py [--out FOLDER]

Writes ct_phantom.nii.gz (int16, Hounsfield units) and ct_phantom_labels.nii.gz (1 liver,
2 spleen, 3 kidneys). The grid is tilted against the scanner's axes (an oblique affine) and its
slices are thicker than its pixels, so that everything that handles space is put to work. All
lengths below are in pixels of 3 mm; a point is (z, y, x) with z up (slices of 4.5 mm), y to the
back and x to the patient's left.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

SHAPE = (32, 100, 122)
SPACING_MM = (4.5, 3.0, 3.0)
TILT_DEGREES = (4.0, 0.0, 10.0)
"""About the x, y and z axes of the scanner."""
CENTRE_RAS_MM = (-12.0, 18.0, -140.0)
SEED = 20240229
AIR, FAT, MUSCLE, GAS, BOWEL, BONE, MARROW = -1000, -95, 50, -880, 25, 480, 190
LIVER, SPLEEN, KIDNEY, BLOOD = 58, 40, 40, 42
FEATHER = 0.5
"""Blur of the scanner in pixels."""
NOISE_HU = 13.0
STEP_HU = 4
"""Values are rounded to this many Hounsfield units, which halves the file."""

Grid = tuple[np.ndarray, np.ndarray, np.ndarray]


def ellipsoid(
    grid: Grid, centre: tuple[float, ...], radii: tuple[float, ...], power: float = 2.0
) -> np.ndarray:
    """Voxels inside a (super)ellipsoid given in pixels along (z, y, x)."""
    terms = (np.abs((g - c) / r) ** power for g, c, r in zip(grid, centre, radii, strict=True))
    return np.asarray(sum(terms) <= 1)


def tube(grid: Grid, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """A cylinder along z with an elliptic section."""
    _, y, x = grid
    section = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1
    return np.broadcast_to(section, SHAPE)


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units (float) and labels (uint8), both (Z, Y, X), running S, P and L."""
    rng = np.random.default_rng(SEED)
    grid: Grid = tuple(np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]])  # type: ignore[assignment]
    hu = np.full(SHAPE, float(AIR))
    labels = np.zeros(SHAPE, np.uint8)
    hu[_body(grid, 0)] = FAT
    hu[_body(grid, 4)] = MUSCLE
    hu[_body(grid, 8)] = FAT
    _muscles_and_spine(hu, grid)
    _bowel(hu, grid, rng)
    _vessels(hu, grid)
    _organs(hu, labels, grid)
    _ribs(hu, grid)
    hu = ndimage.gaussian_filter(hu, (0.3, FEATHER, FEATHER))
    hu += _texture(rng) * (hu > -500)
    return hu, labels


def _body(grid: Grid, inset: float) -> np.ndarray:
    return tube(grid, (48, 61), (40 - inset, 53 - inset))


def _muscles_and_spine(hu: np.ndarray, grid: Grid) -> None:
    for side in (-1, 1):
        hu[tube(grid, (74, 61 + side * 16), (9, 15)) & _body(grid, 6)] = MUSCLE
        hu[tube(grid, (60, 61 + side * 14), (7, 5))] = MUSCLE
    hu[tube(grid, (63, 61), (8.5, 9.5))] = BONE
    hu[tube(grid, (63, 61), (7, 8))] = MARROW
    hu[tube(grid, (73, 61), (4.5, 6))] = BONE
    hu[tube(grid, (73, 61), (3, 3.5))] = 15  # the spinal canal
    hu[tube(grid, (80, 61), (5, 1.6))] = BONE


def _bowel(hu: np.ndarray, grid: Grid, rng: np.random.Generator) -> None:
    """Loops in the front and on the left, some with gas."""
    for _ in range(34):
        centre = rng.uniform((-2, 20, 42), (24, 48, 96))
        radii = rng.uniform((2, 3, 3), (5, 6, 8))
        inside = ellipsoid(grid, tuple(centre), tuple(radii)) & _body(grid, 9)
        hu[inside] = BOWEL
        if rng.random() < 0.35:
            hu[ellipsoid(grid, tuple(centre - (0, 1, 0)), tuple(radii * 0.6)) & inside] = GAS
    hu[ellipsoid(grid, (27, 36, 86), (9, 10, 9))] = BOWEL  # the stomach and its bubble
    hu[ellipsoid(grid, (28, 30, 86), (6, 4, 7))] = GAS


def _vessels(hu: np.ndarray, grid: Grid) -> None:
    hu[tube(grid, (51, 65), (3.6, 3.6))] = BLOOD
    hu[tube(grid, (51, 56), (3.4, 4.4))] = BLOOD


def _organs(hu: np.ndarray, labels: np.ndarray, grid: Grid) -> None:
    wall = _body(grid, 8.5)
    spine = tube(grid, (63, 61), (9, 10)) | tube(grid, (51, 60), (5, 10))
    right_lobe = ellipsoid(grid, (26, 45, 31), (24, 30, 18), 2.2)
    left_lobe = ellipsoid(grid, (30, 26, 54), (13, 12, 24))
    liver = (right_lobe | left_lobe) & wall & ~spine
    spleen = ellipsoid(grid, (25, 60, 101), (13, 16, 8)) & wall
    kidneys = np.zeros(SHAPE, bool)
    sinus = np.zeros(SHAPE, bool)
    for (z, y, x), inward in (((11.0, 61.0, 41.0), 1), ((15.0, 60.0, 85.0), -1)):
        kidney = ellipsoid(grid, (z, y, x), (12, 10.5, 8))
        hilum = ellipsoid(grid, (z, y - 2, x + inward * 5), (5, 3.2, 5))
        hollow = ellipsoid(grid, (z, y, x), (13.5, 12, 9.5)) & ~kidney
        liver &= ~(hollow | kidney)
        spleen &= ~(hollow | kidney)
        hu[hollow] = FAT
        kidneys |= kidney & ~hilum
        sinus |= kidney & hilum
    hu[sinus] = FAT + 25
    for organ, value, name in ((liver, LIVER, 1), (spleen, SPLEEN, 2), (kidneys, KIDNEY, 3)):
        hu[organ] = value
        labels[organ] = name
    portal = ellipsoid(grid, (24, 42, 40), (5, 2, 9)) & liver
    hu[portal] = BLOOD - 4
    hu[ellipsoid(grid, (16, 33, 42), (6, 6, 5)) & ~liver & wall] = 8  # the gall bladder


def _ribs(hu: np.ndarray, grid: Grid) -> None:
    z, _, _ = grid
    for number, angle in enumerate(np.radians(np.arange(15, 360, 22))):
        y, x = 48 + 34 * np.sin(angle), 61 + 47 * np.cos(angle)
        if not 30 < y < 76:
            continue
        spots = tube(grid, (y, x), (2.2, 1.6)) & ((z + number * 3) % 7 < 4)
        hu[spots] = BONE - 200


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Noise with the grain of a reconstructed CT: neighbours are alike."""
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (0, 0.6, 0.6))
    return noise / noise.std() * NOISE_HU


def affine() -> np.ndarray:
    """File voxel (i, j, k) = (towards R, towards A, towards S) to RAS+ mm, tilted."""
    a, b, c = np.radians(TILT_DEGREES)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    result = np.eye(4)
    result[:3, :3] = about_z @ about_y @ about_x @ np.diag(SPACING_MM[::-1])
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    result[:3, 3] = np.array(CENTRE_RAS_MM) - result[:3, :3] @ middle
    return result


def save(path: Path, data_ZYX: np.ndarray) -> None:
    """Write in the file order of :func:`affine`; equal runs give equal bytes."""
    data = data_ZYX[:, ::-1, ::-1].transpose(2, 1, 0)
    image = nib.Nifti1Image(data, affine())
    image.set_qform(affine(), code=1)
    image.set_sform(affine(), code=1)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"CT-like phantom, drawn, no patient"
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def main() -> None:
    """Write both files and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out: Path = parser.parse_args().out
    hu, labels = draw()
    rounded = np.clip(np.rint(hu / STEP_HU) * STEP_HU, AIR, 3000).astype(np.int16)
    save(out / "ct_phantom.nii.gz", rounded)
    save(out / "ct_phantom_labels.nii.gz", labels)
    for path in sorted(out.glob("ct_phantom*.nii.gz")):
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
