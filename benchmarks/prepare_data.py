"""Lay out the folders that the shipped checkpoints are trained and tested on.

    python benchmarks/prepare_data.py SOURCE OUT

SOURCE holds ``dsb2018/images``, ``dsb2018/labels`` (Data Science Bowl 2018, BBBC038, CC0) and
``ct_totalsegmentator/`` (``example_ct.nii.gz``, ``example_seg_fast_force_split.nii.gz`` and
``class_map.json`` of the TotalSegmentator repository, Apache-2.0). OUT then holds
``dsb2018/{train,test}/{images,masks}`` and ``example_ct/{train,test}/{images,masks}``.

Splits: dsb2018 in byte order of the file names, the last fifth is the test set. example_ct by
slice k: 88..97 test, 86, 87, 98 and 99 dropped as too near, the rest (two blocks) training.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

ORGANS = {5: 1, 1: 2, 2: 3, 3: 3}
"""TotalSegmentator ids to ours: liver 1, spleen 2, kidneys 3."""
BLOCKS = {"train": ((0, 86), (100, None)), "test": ((88, 98),)}


def nuclei(source: Path, out: Path) -> None:
    """Copy images and instance masks into their split's folders."""
    names = sorted((p.name for p in (source / "labels").glob("*.png")), key=str.encode)
    first_test = len(names) - len(names) // 5
    for number, name in enumerate(names):
        part = out / ("train" if number < first_test else "test")
        for have, want in (("images", "images"), ("labels", "masks")):
            (part / want).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / have / name, part / want / name)


def organs(source: Path, out: Path) -> None:
    """Cut the scan into blocks of slices, each keeping its place in space."""
    scan = nib.load(source / "example_ct.nii.gz")
    ids = nib.load(source / "example_seg_fast_force_split.nii.gz")
    table = np.zeros(256, np.uint8)
    table[list(ORGANS)] = list(ORGANS.values())
    classes = table[np.asarray(ids.dataobj).astype(np.uint8)]
    labels = nib.Nifti1Image(classes, scan.affine)
    for part, blocks in BLOCKS.items():
        for start, stop in blocks:
            name = f"example_ct_k{start:03d}.nii.gz"
            for image, folder in ((scan, "images"), (labels, "masks")):
                (out / part / folder).mkdir(parents=True, exist_ok=True)
                nib.save(image.slicer[:, :, start:stop], out / part / folder / name)


def main() -> None:
    """Read SOURCE and OUT from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    nuclei(given.source / "dsb2018", given.out / "dsb2018")
    organs(given.source / "ct_totalsegmentator", given.out / "example_ct")


if __name__ == "__main__":
    main()
