"""Medical data sets as their archives unpack: Kvasir, LiTS, DRIVE, ISIC-2017.

Every function takes a folder and gives a ``Layout``, or ``None`` when it is something else.
"""

from __future__ import annotations

import re
from pathlib import Path

from napari_attnseg.io.layout import (
    LAST_FIFTH,
    Item,
    LabelRule,
    Layout,
    by_stem,
    child,
    last_fifth,
    lines_of,
    paired,
)
from napari_attnseg.io.pairs import list_images

GREY = "grey from 128 is {}"


def grey_rule(name: str) -> LabelRule:
    """Masks drawn in grey levels, some of them blurred by JPEG or by resizing."""
    return LabelRule(name, GREY.format(name), ("background", name), cut=128)


def kvasir_instrument(folder: Path) -> Layout | None:
    """``images/*.jpg``, ``masks/*.png``, ``bboxes/``, ``train.txt`` and ``test.txt`` (472 and 118
    names without ending, one a line); 590 endoscopic images, one class."""
    images, masks = child(folder, "images"), child(folder, "masks")
    lists = folder / "train.txt", folder / "test.txt"
    if not images or not masks or not all(path.is_file() for path in lists):
        return None
    items, notes = paired(images, masks)
    train, test = (by_stem(items, (Path(n).stem for n in lines_of(path))) for path in lists)
    if not train or not test:
        return None
    return Layout(
        "kvasir-instrument",
        "Kvasir-Instrument",
        folder,
        train,
        test,
        "the archive's train.txt and test.txt",
        (grey_rule("instrument"),),
        notes=notes,
    )


def kvasir_seg(folder: Path) -> Layout | None:
    """``Kvasir-SEG/images/*.jpg``, ``Kvasir-SEG/masks/*.jpg`` (JPEG, so grey levels) under equal
    names and ``kavsir_bboxes.json``; 1000 images of polyps, no official split."""
    images, masks = child(folder, "images"), child(folder, "masks")
    boxes = any(folder.glob("*bboxes.json")) if images else False
    if not images or not masks or not (boxes or "kvasir" in folder.name.casefold()):
        return None
    items, notes = paired(images, masks)
    if not items:
        return None
    train, test = last_fifth(items)
    rules = (grey_rule("polyp"),)
    return Layout("kvasir-seg", "Kvasir-SEG", folder, train, test, LAST_FIFTH, rules, notes=notes)


LIVER = LabelRule(
    "liver", "ids 1 and 2: liver, tumours included", ("background", "liver"), ((1, 1), (2, 1))
)
LIVER_TUMOUR = LabelRule(
    "liver-tumour", "id 1: liver, id 2: tumour", ("background", "liver", "tumour"), ((1, 1), (2, 2))
)
TUMOUR = LabelRule("tumour", "id 2: tumour", ("background", "tumour"), ((2, 1),))


def lits(folder: Path) -> Layout | None:
    """``Training Batch 1/`` and ``2/`` (or one folder) of ``volume-N.nii`` and
    ``segmentation-N.nii``, N from 0 to 130; CT in Hounsfield units; ids 0, 1 liver, 2 tumour.

    The archive's test part has no labels, so the volumes with the highest fifth of N test.
    """
    found: dict[int, dict[str, Path]] = {}
    for path in sorted(folder.glob("**/*.nii*")):
        match = re.fullmatch(r"(volume|segmentation)-(\d+)\.nii(\.gz)?", path.name)
        if match:
            found.setdefault(int(match[2]), {})[match[1]] = path
    whole = {n: pair for n, pair in found.items() if len(pair) == 2}
    if not whole:
        return None
    items = [Item(whole[n]["volume"], whole[n]["segmentation"]) for n in sorted(whole)]
    first = len(items) - max(1, len(items) // 5)
    left = len(found) - len(whole)
    notes = (f"{left} volumes have no segmentation, or the reverse",) if left else ()
    return Layout(
        "lits",
        "LiTS",
        folder,
        tuple(items[:first]),
        tuple(items[first:]),
        "the volumes with the highest fifth of the numbers are the test part",
        (LIVER, LIVER_TUMOUR, TUMOUR),
        notes=notes,
    )


VESSELS = LabelRule(
    "vessels", "white is vessel, outside the field of view unknown", ("background", "vessel")
)


def drive(folder: Path) -> Layout | None:
    """``training/{images/21_training.tif, 1st_manual/21_manual1.gif, mask/21_training_mask.gif}``
    and ``test/{images/01_test.tif, 1st_manual/01_manual1.gif, mask/01_test_mask.gif}``.

    ``mask/`` is the field of view: pixels outside are unknown, as in the published evaluations.
    20 images each, 565 x 584.
    """
    if not child(folder / "training", "1st_manual"):
        return None
    parts = [_drive_part(folder / name) for name in ("training", "test")]
    train, test = parts
    split = "the archive's training and test"
    if not test:  # the newer archive keeps the manual segmentations of its test part
        train, test = last_fifth(train)
        split = f"test/1st_manual is absent: {LAST_FIFTH}"
    return Layout("drive", "DRIVE", folder, train, test, split, (VESSELS,))


def _drive_part(folder: Path) -> tuple[Item, ...]:
    """Files pair by their leading number."""
    names = ("images", "1st_manual", "mask")
    images, manual, field = (_by_number(child(folder, name)) for name in names)
    return tuple(Item(images[n], manual[n], field.get(n)) for n in sorted(images) if n in manual)


def _by_number(folder: Path | None) -> dict[int, Path]:
    if folder is None:
        return {}
    found = ((re.match(r"\d+", path.name), path) for path in list_images(folder))
    return {int(match[0]): path for match, path in found if match}


def isic2017(folder: Path) -> Layout | None:
    """``ISIC-2017_Training_Data/ISIC_0000000.jpg`` (beside ``*_superpixels.png`` and a CSV) and
    ``ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png`` (0 and 255);
    ``Validation`` and ``Test_v2`` likewise; 2000, 150 and 600 images."""
    parts = {name: _isic_part(folder, name) for name in ("Training", "Validation", "Test_v2")}
    if not parts["Training"]:
        return None
    train, test = parts["Training"], parts["Test_v2"]
    split = "the archive's Training and Test_v2"
    if not test:
        train, test = last_fifth(train)
        split = f"Test_v2 is absent: {LAST_FIFTH}"
    rules = (grey_rule("lesion"),)
    return Layout(
        "isic2017", "ISIC-2017", folder, train, test, split, rules, validation=parts["Validation"]
    )


def _isic_part(folder: Path, name: str) -> tuple[Item, ...]:
    images = child(folder, f"ISIC-2017_{name}_Data")
    truth = child(folder, f"ISIC-2017_{name}_Part1_GroundTruth")
    if not images or not truth:
        return ()
    masks = {path.name.removesuffix("_segmentation.png"): path for path in list_images(truth)}
    photos = [p for p in list_images(images) if not p.stem.endswith("_superpixels")]
    return tuple(Item(p, masks[p.stem]) for p in photos if p.stem in masks)
