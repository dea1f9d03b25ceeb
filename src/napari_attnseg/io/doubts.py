"""What a NIfTI header leaves open or says in two ways, in words: nothing is settled in silence."""

from __future__ import annotations

from itertools import product

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from napari_attnseg.io.limits import readable_bytes
from napari_attnseg.io.units import nifti_unit

APART = 0.1
"""Share of the smallest voxel edge by which two placements may differ before it is said."""
SIZE_DIFFERS = 0.01
UNSTATED = (
    "the header has neither an sform nor a qform code, so where left, right and the origin are is "
    "assumed: first axis to the left, second to the front, third up, centre at the origin"
)


def assumed_space(header: nib.Nifti1Header) -> str:
    """What is assumed about the space; ``""`` when the header states it (sform or qform)."""
    stated = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    return "" if stated else UNSTATED


def doubts_of(header: nib.Nifti1Header, shape: tuple[int, ...]) -> list[str]:
    """Where qform or voxel sizes contradict the sform that is used, and the unit of length where it
    is not the millimetre."""
    name, factor = nifti_unit(header["xyzt_units"])
    words = f"its header gives lengths in {name}: measured and shown in millimetres"
    return [*([words] if factor != 1 else []), *_contradictions(header, shape, factor)]


def _contradictions(header: nib.Nifti1Header, shape: tuple[int, ...], factor: float) -> list[str]:
    if int(header["sform_code"]) <= 0:
        return []
    affine = header.get_best_affine()
    size = np.linalg.norm(affine[:3, :3], axis=0)
    if int(header["qform_code"]) > 0:
        apart = _apart(affine, header, shape)
        if not apart <= APART * size.min():
            apart *= factor
            return [f"sform and qform place it up to {apart:.3g} mm apart; the sform is used"]
    told = np.abs(np.asarray(header["pixdim"][1:4], float))[: len(shape)]
    with np.errstate(all="ignore"):
        differs = ~(np.abs(told - size[: len(shape)]) <= SIZE_DIFFERS * size[: len(shape)])
    if differs.any():
        both = (sizes * factor for sizes in (told, size[: len(shape)]))
        words = [" x ".join(f"{v:.4g}" for v in sizes) for sizes in both]
        return [f"voxel size {words[0]} in the header, {words[1]} by the sform; the sform is used"]
    return []


def trailing_note(count: int) -> list[str]:
    """Words about bytes that follow the voxels: the size in the header may be too small."""
    if not count:
        return []
    more = readable_bytes(count)
    return [f"{more} after the voxels are left out: the size in the header may be wrong"]


def _apart(affine: np.ndarray, header: nib.Nifti1Header, shape: tuple[int, ...]) -> float:
    """Largest distance of a corner by sform and by qform, in the unit of the header."""
    try:
        other = header.get_qform()
    except (HeaderDataError, ValueError):
        return float("inf")
    corners = np.array(list(product(*((0, n - 1) for n in (*shape, 1)[:3]))))
    with np.errstate(all="ignore"):
        moved = corners @ (affine - other)[:3, :3].T + (affine - other)[:3, 3]
        return float(np.linalg.norm(moved, axis=1).max())
