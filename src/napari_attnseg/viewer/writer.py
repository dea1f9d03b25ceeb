"""napari writer for labels, and the export of the dock: written, read again, compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import ExportError
from napari_attnseg.io.export import SUFFIXES, Verified, write_mask
from napari_attnseg.io.volume import Volume
from napari_attnseg.viewer.layers import METADATA, layer_volume
from napari_attnseg.viewer.space import volume_of_meta

if TYPE_CHECKING:
    from napari.layers import Labels, Layer
    from napari.viewer import ViewerModel

NIFTI = "NIfTI (*.nii.gz *.nii)"
ZARR = "OME-Zarr labels (*.ome.zarr *.zarr)"
SEG = "DICOM segmentation (*.dcm)"
NRRD = "NRRD (*.nrrd)"
META = "MetaImage (*.mha)"
TIFF = "TIFF (*.tif *.tiff)"
PNG = "PNG, one slice (*.png)"
SPACED = (".nii.gz", ".nii", ".ome.zarr", ".zarr", ".dcm", ".nrrd", ".mha")
"""Endings of formats that say where the mask lies."""


def filters_of(volume: Volume | None, depth: int) -> str:
    """Formats for the file dialog, the one that suits the image first."""
    kinds = [NIFTI, NRRD, META, TIFF, ZARR] if depth > 1 else [PNG, TIFF, NIFTI, ZARR]
    if volume is not None and volume.kind == "dicom" and volume.geometry is not None:
        kinds.insert(1, SEG)
    first = suggested_suffix(volume, depth)
    return ";;".join(sorted(kinds, key=lambda kind: f"*{first}" not in kind))


def with_ending(path: str, chosen: str) -> str:
    """``path`` with an ending of the format ``chosen`` in the dialog (one of ``filters_of``)."""
    endings = [e.lstrip("*") for e in chosen.rpartition("(")[2].rstrip(")").split()]
    if not endings or path.lower().endswith(tuple(endings)):
        return path
    old = next((e for e in SUFFIXES if path.lower().endswith(e)), "")
    return path[: len(path) - len(old)] + endings[0]


def write_labels(path: str, data: Any, meta: Mapping[str, Any]) -> list[str]:
    """npe2 writer: ``data`` (Y,X) or (Z,Y,X) whole numbers, ``meta`` the layer's settings.

    The space is that of the image the labels were made from; for labels that napari's own "new
    labels layer" made, that of an open scan in the same place; else the layer's own transform,
    read as millimetres in (S, P, L).
    """
    labels = np.asarray(data)
    metadata = meta.get("metadata") or {}
    volume = _volume_of(metadata) or _volume_of_image(metadata) or _volume_in_place(labels, meta)
    space = volume or volume_of_meta(labels, meta)
    names, colors = classes_of(meta, labels)
    again = _named_image(metadata) is None and _volume_of(metadata) is not None
    shown = _image_of(metadata)
    done = export(path, labels, space, names, colors=colors, again=again, shown=shown)
    return [str(done.path)]


def classes_of(
    meta: Mapping[str, Any], labels: npt.NDArray[Any]
) -> tuple[dict[int, str] | None, dict[int, str] | None]:
    """Class names and ``"#rrggbb"`` colours that a labels layer carries (``None``: none).

    Names are the layer's features ``index`` and ``class``; colours those of a colour map that
    gives every label one of its own.
    """
    table = meta.get("features")
    columns = getattr(table, "columns", ())
    if table is None or "index" not in columns or "class" not in columns:
        return None, None
    names = {int(i): str(name) for i, name in zip(table["index"], table["class"], strict=True)}
    given = getattr(meta.get("colormap"), "color_dict", None) or meta.get("colormap")
    known = given.get("color_dict", given) if isinstance(given, Mapping) else {}
    colors = {
        i: "#" + "".join(f"{round(255 * float(c)):02x}" for c in known[i][:3])
        for i in names
        if i and i in known
    }
    return names, colors or None


def export_layer(
    path: str | Path, layer: Labels, viewer: ViewerModel | None = None, **extra: Any
) -> Verified:
    """Write a labels layer with the space of the image it was made from; see :func:`export`."""
    volume = _volume_of(layer.metadata)
    if volume is None and viewer is not None:
        source = source_of(layer, viewer)
        volume = layer_volume(source) if source is not None else None
    shown = source_of(layer, viewer) if viewer is not None else None
    return export(path, np.asarray(layer.data), volume, shown=shown, **extra)


def export(
    path: str | Path,
    labels: npt.NDArray[Any],
    volume: Volume | None,
    classes: Mapping[int, str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    colors: Mapping[int, str] | None = None,
    again: bool = False,
    shown: Layer | None = None,
) -> Verified:
    """Write (Y,X) or (Z,Y,X) ids and verify the file against them. ``again``: ``volume`` is these
    labels as they were read, so its file may be replaced; that of an image never is, nor the one
    that the image layer ``shown`` was opened from, by whichever reader.

    Raises :class:`ExportError` when it cannot be written or does not read back equal.
    """
    files = [] if volume is None or again else [volume.path]
    if shown is not None:
        files.append(shown.source.path)
    if any(_is_file(path, file) for file in files):
        raise ExportError(
            f"{Path(path).name} is the image itself, which the mask would replace; choose another "
            "name"
        )
    if labels.ndim not in (2, 3):
        raise ExportError(
            f"the labels have {labels.ndim} axes, expected 2 or 3; "
            "export one time point or channel at a time."
        )
    array = labels[None] if labels.ndim == 2 else labels
    if volume is not None and volume.shape != array.shape:
        if str(path).lower().endswith(SPACED):
            raise ExportError(
                f"the labels are {array.shape} but the scan they belong to is {volume.shape} "
                "(Z, Y, X); export labels made from the same layer, or resample them first."
            )
        volume = None  # cropped since; a picture has no place in the world to be wrong about
    return write_mask(path, array, volume, classes, provenance, colors)


def _is_file(path: str | Path, file: str | Path | None) -> bool:
    try:
        return file is not None and Path(path).samefile(file)
    except OSError:  # one of the two is not there: nothing is replaced
        return False


def source_of(layer: Layer, viewer: ViewerModel) -> Layer | None:
    """The image layer that a result was made from, if it still stands."""
    return _named(layer.metadata, viewer)


def _named(metadata: Mapping[str, Any], viewer: ViewerModel) -> Layer | None:
    name = _named_image(metadata)
    return next((x for x in viewer.layers if x.name == name), None)


def _named_image(metadata: Mapping[str, Any]) -> str | None:
    """Of a result: the name of the image layer it was made from."""
    entry = metadata.get(METADATA)
    return entry.get("result_of") if isinstance(entry, dict) else None


def suggested_suffix(volume: Volume | None, depth: int) -> str:
    """The image's own format where labels are at home in it, NIfTI for all else that has a space
    (DICOM too), PNG for one slice, TIFF otherwise."""
    own = {"zarr": ".ome.zarr", "nrrd": ".nrrd", "meta": ".mha"}.get(volume.kind if volume else "")
    if own and (own == ".ome.zarr" or depth > 1):
        return own
    if volume is not None and volume.geometry is not None:
        return ".nii.gz"
    return ".png" if depth == 1 else ".tif"


def _volume_of(metadata: Mapping[str, Any]) -> Volume | None:
    entry = metadata.get(METADATA)
    return entry.get("volume") if isinstance(entry, dict) else None


def _volume_of_image(metadata: Mapping[str, Any]) -> Volume | None:
    """The space of the open image that a result was made from, whoever opened it."""
    image = _image_of(metadata)
    return layer_volume(image) if image is not None else None


def _image_of(metadata: Mapping[str, Any]) -> Layer | None:
    """The open image that a result was made from."""
    import napari

    viewer = napari.current_viewer()
    return _named(metadata, viewer) if viewer is not None else None


def _volume_in_place(labels: npt.NDArray[Any], meta: Mapping[str, Any]) -> Volume | None:
    """The volume of an open image of the same size, scale and translate, if there is one."""
    import napari

    viewer = napari.current_viewer()
    for layer in viewer.layers if viewer is not None else ():
        volume = _volume_of(layer.metadata)
        if volume is None or volume.shape != (1, *labels.shape)[-3:]:
            continue
        same = (
            np.allclose(getattr(layer, name), meta[name], atol=1e-6)
            for name in ("scale", "translate")
            if name in meta
        )
        if layer.ndim == labels.ndim and all(same):
            return volume
    return None
