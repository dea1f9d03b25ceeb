"""The space of layers that other readers opened: looked up, read from the layer, and always said.

A file behind the layer counts only when its voxels are those of the layer, one by one: the same
size alone would let a turned cube through. Without such a file the layer's own transform is read
as millimetres along (S, P, L), the world of this plugin's layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io.volume import Volume

if TYPE_CHECKING:
    from napari.layers import Layer

TRANSFORM = ("scale", "translate", "rotate", "shear", "affine", "units")
TO_RAS = np.array([[0, 0, -1.0], [0, -1.0, 0], [1.0, 0, 0]])
"""(S, P, L) to (R, A, S)."""
ALIGNED = 2
SAMPLES = 16
"""Places per axis that are compared before the whole is."""
OWN = "the layer's own scale and position, read as mm along (S, P, L), for want of a header"


def foreign_volume(layer: Layer) -> Volume | None:
    """The space of a layer that is not ours; ``None`` when nothing tells more than pixels.

    ``Volume.assumed`` says where it was taken from.
    """
    path = layer.source.path
    found = _behind(Path(path), layer) if path is not None and Path(path).is_file() else None
    if found is not None and found.spacing_mm:
        return found
    return volume_of_transform(_pixels(layer), layer) or found  # a file without a size says less


def space_words(layer: Layer) -> str:
    """What is assumed or doubtful about the space of an image layer; ``""``: all is stated.

    No file is read for it. A flat picture without a pixel size needs no words.
    """
    entry = layer.metadata.get("attnseg")
    ours = entry.get("volume") if isinstance(entry, dict) else None
    if ours is not None and (ours.geometry is not None or ours.spacing_mm):
        return "; ".join(words for words in (ours.note, ours.assumed) if words)
    path = layer.source.path
    if path is not None and str(path).lower().endswith((".nii", ".nii.gz")):
        return f"the space of {Path(path).name}, if its voxels are those of the layer; else {OWN}"
    if _says_nothing(layer):
        return "no voxel size is known: measures are in pixels" if layer.ndim == 3 else ""
    return OWN


def volume_of_meta(pixels: npt.NDArray[Any], meta: Mapping[str, Any]) -> Volume | None:
    """Like :func:`volume_of_transform` for the settings of a layer that is being saved."""
    from napari.layers import Image

    told = {k: meta[k] for k in TRANSFORM if meta.get(k) is not None}
    return volume_of_transform(pixels, Image(np.zeros((1,) * pixels.ndim), rgb=False, **told))


def volume_of_transform(pixels: npt.NDArray[Any], layer: Layer) -> Volume | None:
    """The volume that a layer's whole transform (turned and sheared too) makes of ``pixels``.

    (Y, X) gets a pixel size only, (Z, Y, X) an affine. ``None`` for a transform nobody set, and
    for one that maps the volume onto a plane.
    """
    if _says_nothing(layer):
        return None
    n = layer.ndim
    start, edges = np.asarray(layer.data_to_world(np.zeros(n)), float), linear_of(layer)
    unit = millimetres_of(layer)
    start, edges = start * unit, edges * unit[:, None]
    if n != 3:
        y, x = (float(v) for v in np.linalg.norm(edges[-2:, -2:], axis=0))
        return Volume(pixels, rgb=_is_rgb(layer), pixel_mm=(1.0, y, x), assumed=OWN)
    affine = np.eye(4)
    affine[:3, :3] = (TO_RAS @ edges)[:, ::-1]
    affine[:3, 3] = TO_RAS @ start
    data = pixels.transpose(2, 1, 0, *range(3, pixels.ndim))
    try:
        space = Geometry(affine, data.shape[:3], sform_code=ALIGNED, axes=(2, 1, 0))
    except InputError:
        return None
    return Volume(data, space, rgb=_is_rgb(layer), assumed=OWN)


def _behind(path: Path, layer: Layer) -> Volume | None:
    """The volume in the file, its axes in the layer's order and sense, when its voxels are the
    layer's. Some readers turn every scan to one standing and show it in a world of their own."""
    from napari_attnseg.io.image import read_image

    try:
        volume = read_image(path)
    except InputError:
        return None
    pixels = _pixels(layer)
    pixels = pixels[None] if pixels.ndim - int(_is_rgb(layer)) == 2 else pixels
    for candidate in _standings(volume):
        if _alike(candidate.view, pixels):
            words = f"the space of {path.name}, whose voxels are those of the layer"
            return replace(candidate, assumed=candidate.assumed or words)
    return None


def _standings(volume: Volume) -> list[Volume]:
    """The volume as we show it, then with its axes in every other order and turned round."""
    space = volume.geometry
    if space is None:
        return [volume]
    others = [(a, b, c) for a, b, c in permutations(range(3)) if (a, b, c) != space.order]
    ordered = [volume, *(replace(volume, geometry=replace(space, axes=p)) for p in others)]
    turns = [(z, y, x) for z, y, x in product((False, True), repeat=3)]
    return [replace(v, turned=turn) for turn in turns for v in ordered]


def _alike(ours: npt.NDArray[Any], theirs: Any) -> bool:
    """Whether two arrays hold the same numbers; of lazy ones a grid of places is compared."""
    if ours.shape != theirs.shape:
        return False
    grid = tuple(slice(None, None, max(1, n // SAMPLES)) for n in ours.shape)
    if not np.allclose(ours[grid], np.asarray(theirs[grid]), rtol=1e-5, equal_nan=True):
        return False
    if not isinstance(theirs, np.ndarray):
        return True
    slices = zip(ours, theirs, strict=True)
    return all(np.allclose(a, b, rtol=1e-5, equal_nan=True) for a, b in slices)


def _pixels(layer: Layer) -> Any:
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return data[..., :3] if _is_rgb(layer) else data


def _is_rgb(layer: Layer) -> bool:
    return bool(getattr(layer, "rgb", False))


def linear_of(layer: Layer) -> npt.NDArray[np.float64]:
    """World step (column) of every axis of a layer, in the layer's units."""
    eye = np.eye(layer.ndim)
    turned = (layer.rotate, layer.affine.linear_matrix)
    if all(np.array_equal(m, eye) for m in turned) and not np.any(layer.shear):
        return np.diag(np.asarray(layer.scale, float))  # no rounding by a far origin
    start = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), float)
    return np.stack([np.asarray(layer.data_to_world(e), float) - start for e in eye], 1)


def _says_nothing(layer: Layer) -> bool:
    """Whether nobody set a transform: pixels as units, one apart, at the origin."""
    n = layer.ndim
    if n not in (2, 3):
        return True
    if any(unit.is_compatible_with("mm") for unit in layer.units):
        return False
    placed = n == 3 and bool(np.any(layer.data_to_world(np.zeros(n))))
    return np.array_equal(linear_of(layer), np.eye(n)) and not placed


def millimetres_of(layer: Layer) -> npt.NDArray[np.float64]:
    """Millimetres in one unit of each axis of a layer; pixels count as millimetres."""
    lengths = (u.is_compatible_with("mm") for u in layer.units)
    found = zip(layer.units, lengths, strict=True)
    return np.array([(1 * u).to("mm").magnitude if length else 1.0 for u, length in found], float)
