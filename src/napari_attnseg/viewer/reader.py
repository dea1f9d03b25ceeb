"""napari reader for what knows its space: exact pixels, a display transform, the header kept.

NIfTI, DICOM (a folder or a slice of it), OME-Zarr, NRRD and MetaImage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from napari_attnseg.errors import AttnSegError
from napari_attnseg.io.many import ManyVolumes
from napari_attnseg.viewer.layers import LayerData, volume_to_layer_data
from napari_attnseg.viewer.unpacking import read_for_window

SUFFIXES = (".nii", ".nii.gz", ".dcm", ".nrrd", ".nhdr", ".mha", ".mhd")
Ask = Callable[[Path, ManyVolumes], int | None]
"""Asks the person which volume (from 0) to open of several; ``None``: none of them."""


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """The reader for ``path``, or ``None`` when it is not ours."""
    paths = [path] if isinstance(path, str) else list(path)
    if not paths or not all(is_ours(p) for p in paths):
        return None
    return read_layers


def is_ours(path: str | Path) -> bool:
    """Whether a file says its space, by its name; a folder, by what is in it."""
    if Path(path).is_dir():
        return can_read(path)
    return str(path).lower().endswith(SUFFIXES)


def read_layers(path: str | Sequence[str], ask: Ask | None = None) -> list[LayerData]:
    """One image layer per file or folder. Of several volumes (a 4D file, a folder of several
    series, time points and channels) the one is opened that ``ask`` names.

    Raises ``InputError`` with one sentence for what cannot be used; for several volumes without
    ``ask`` too.
    """
    paths = [path] if isinstance(path, str) else list(path)
    layers = [_read_one(Path(p), ask) for p in paths]
    # napari takes an empty list for a failure; this tuple says "nothing to add, on purpose"
    return [x for x in layers if x is not None] or [(None,)]  # type: ignore[list-item]


def read_layer(path: Path, chosen: int | None = None, many: ManyVolumes | None = None) -> LayerData:
    """The layer of one file or folder; ``chosen`` of ``many``, which is raised without it."""
    if chosen is None or many is None:
        return volume_to_layer_data(read_for_window(path))
    data, settings, kind = volume_to_layer_data(read_for_window(path, chosen))
    which = many.names[chosen].partition(" (")[0] if many.names else chosen
    return data, settings | {"name": f"{settings['name']} [{which}]"}, kind


def _read_one(path: Path, ask: Ask | None) -> LayerData | None:
    try:
        return read_layer(path)
    except ManyVolumes as many:
        if ask is None:
            raise
        chosen = ask(path, many)
        return None if chosen is None else read_layer(path, chosen, many)


def can_read(path: str | Path) -> bool:
    """Whether any of our readers opens ``path`` (for the Open... button)."""
    try:
        from napari_attnseg.io.sniff import sniff

        return bool(sniff(Path(path)))
    except AttnSegError:
        return False
