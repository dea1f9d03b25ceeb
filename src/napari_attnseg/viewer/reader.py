"""napari reader for NIfTI: exact pixels, a display transform, the whole header kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from napari_attnseg.errors import AttnSegError
from napari_attnseg.io.image import read_image
from napari_attnseg.io.nifti import ManyVolumes
from napari_attnseg.viewer.layers import LayerData, volume_to_layer_data

SUFFIXES = (".nii", ".nii.gz")
Ask = Callable[[Path, int], int | None]
"""Asks the person which volume (from 0) of a 4D file to open; ``None``: none of them."""


def get_reader(
    path: str | Sequence[str],
) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """The reader for ``path``, or ``None`` when it is not ours."""
    paths = [path] if isinstance(path, str) else list(path)
    if not paths or not all(str(p).lower().endswith(SUFFIXES) for p in paths):
        return None
    return read_layers


def read_layers(path: str | Sequence[str], ask: Ask | None = None) -> list[LayerData]:
    """One image layer per file. A 4D file is opened at the volume that ``ask`` names.

    Raises ``InputError`` with one sentence for a file that cannot be used; for a 4D file without
    ``ask`` too.
    """
    paths = [path] if isinstance(path, str) else list(path)
    layers = [_read_one(Path(p), ask) for p in paths]
    # napari takes an empty list for a failure; this tuple says "nothing to add, on purpose"
    return [x for x in layers if x is not None] or [(None,)]  # type: ignore[list-item]


def _read_one(path: Path, ask: Ask | None) -> LayerData | None:
    try:
        return volume_to_layer_data(read_image(path))
    except ManyVolumes as many:
        chosen = ask(path, many.count) if ask else None
        if chosen is not None:
            data, settings, kind = volume_to_layer_data(read_image(path, chosen))
            return data, settings | {"name": f"{settings['name']} [{chosen}]"}, kind
        if ask is None:
            raise
        return None


def can_read(path: str | Path) -> bool:
    """Whether any of our readers opens ``path`` (for the Open... button)."""
    try:
        from napari_attnseg.io.sniff import sniff

        return bool(sniff(Path(path)))
    except AttnSegError:
        return False
