"""Recognise a data set by its folders, as its archive unpacks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari_attnseg.errors import InputError
from napari_attnseg.io import layouts_medical as medical
from napari_attnseg.io import layouts_natural as natural
from napari_attnseg.io.layout import Item, LabelRule, Layout, folders, read_item

__all__ = ["FAMILIES", "Item", "LabelRule", "Layout", "find_layout", "read_item", "recognise"]

DEPTH = 2
"""How many lone folders an archive may lie in (``Kvasir-SEG/Kvasir-SEG/images``)."""
SKIPPED = ("__MACOSX", "NA_Fish_Dataset")

FAMILIES: tuple[Callable[[Path], Layout | None], ...] = (
    medical.drive,
    medical.isic2017,
    natural.cub,
    natural.pets,
    natural.fire,
    natural.flood,
    medical.kvasir_instrument,
    medical.kvasir_seg,
    natural.fish,
    natural.halves,
    natural.plain,
)
"""In the order of asking: the telling ones first. LiTS, told by file names alone, comes last."""


def recognise(folder: str | Path) -> Layout | None:
    """The layout of a data set's folder, or of the one folder inside it; ``None`` if unknown."""
    folder = Path(folder)
    if not folder.is_dir():
        return None
    place = folder
    for _ in range(DEPTH + 1):
        for family in FAMILIES:
            found = family(place)
            if found is not None:
                return found
        inside = [p for p in folders(place) if p.name not in SKIPPED]
        if len(inside) != 1:
            break
        place = inside[0]
    return medical.lits(folder)


def find_layout(folder: str | Path, labels: str = "", limit: int = 0) -> Layout:
    """:func:`recognise` with the labels called ``labels`` and at most ``limit`` images.

    Raises ``InputError`` with what is known when the folder is none of it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"got {folder}, which {what}; expected the folder of a data set")
    layout = recognise(folder)
    if layout is None:
        raise InputError(
            f"got {folder}, whose layout is unknown; expected images/ and masks/, train/ and "
            "test/ with both in each, or an archive of Kvasir-SEG, Kvasir-Instrument, LiTS, DRIVE, "
            "ISIC-2017, CUB-200-2011, Oxford-IIIT Pet, the fish, fire or flood set as it unpacks"
        )
    layout = layout.with_labels(labels) if labels else layout
    layout = layout.limited(limit)
    for part, items in (("training", layout.train), ("test", layout.test)):
        if not items:
            raise InputError(
                f"got no {part} images in {folder} ({layout.title}); expected some, look whether "
                "the archive was unpacked whole"
            )
    return layout
