"""Photographs as their archives unpack: CUB-200-2011, Oxford-IIIT Pet, fish, fire and flood.

Every function takes a folder and gives a ``Layout``, or ``None`` when it is something else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from napari_attnseg.io.layout import (
    LAST_FIFTH,
    Item,
    LabelRule,
    Layout,
    by_stem,
    child,
    folders,
    last_fifth,
    lines_of,
    paired,
)
from napari_attnseg.io.layouts_medical import grey_rule
from napari_attnseg.io.pairs import list_images

EACH_FIFTH = "last 20 % of each {} in byte order are the test part"


def cub(folder: Path) -> Layout | None:
    """``CUB_200_2011/{images.txt, train_test_split.txt, images/001.Name/*.jpg}``;
    ``segmentations/001.Name/*.png`` come in an archive of their own and lie inside or beside it.

    Masks are grey or RGBA, the grey level being the share of five annotators: from 128 on the
    majority saw the bird.
    """
    home = folder if (folder / "train_test_split.txt").is_file() else folder / "CUB_200_2011"
    lists = home / "images.txt", home / "train_test_split.txt"
    truth = child(home, "segmentations") or child(home.parent, "segmentations")
    if not all(path.is_file() for path in lists) or truth is None:
        return None
    names = dict(line.split()[:2] for line in lists[0].read_text().splitlines() if line.strip())
    flags = dict(line.split()[:2] for line in lists[1].read_text().splitlines() if line.strip())
    parts: dict[str, list[Item]] = {"1": [], "0": []}
    absent = 0
    for number, name in names.items():
        item = Item(home / "images" / name, (truth / name).with_suffix(".png"))
        if item.image.is_file() and item.mask.is_file():
            parts[flags.get(number, "1")].append(item)
        else:
            absent += 1
    notes = (f"{absent} of {len(names)} listed images lack a file",) if absent else ()
    return Layout(
        "cub-200-2011",
        "CUB-200-2011",
        folder,
        tuple(parts["1"]),
        tuple(parts["0"]),
        "the archive's train_test_split.txt",
        (grey_rule("bird"),),
        notes=notes,
    )


BORDER_IN = LabelRule(
    "border-foreground",
    "trimap 1 (pet) and 3 (border) are the foreground, 2 is background",
    ("background", "pet"),
    ((1, 1), (3, 1)),
)
BORDER_OUT = LabelRule(
    "border-ignored",
    "trimap 1 (pet) is the foreground, 2 is background, 3 (border) is unknown",
    ("background", "pet"),
    ((1, 1),),
    ignore=(3,),
)


def pets(folder: Path) -> Layout | None:
    """``images/*.jpg``, ``annotations/trimaps/*.png`` (1 pet, 2 background, 3 border) and
    ``annotations/{trainval,test}.txt`` (name, class, species, breed); 37 breeds.

    Trimap 3 is foreground (the published convention) or, with ``border-ignored``, unknown.
    """
    images, annotations = child(folder, "images"), child(folder, "annotations")
    trimaps = child(annotations, "trimaps") if annotations else None
    if not images or not annotations or not trimaps:
        return None
    items, notes = paired(images, trimaps)
    lists = annotations / "trainval.txt", annotations / "test.txt"
    if all(path.is_file() for path in lists):
        train, test = (by_stem(items, lines_of(path)) for path in lists)
        split = "the archive's trainval.txt and test.txt"
    else:
        train, test = _each_fifth(_grouped(items, lambda item: item.image.stem.rpartition("_")[0]))
        split = EACH_FIFTH.format("breed")
    return Layout(
        "oxford-pets",
        "Oxford-IIIT Pet",
        folder,
        train,
        test,
        split,
        (BORDER_IN, BORDER_OUT),
        notes=notes,
    )


def fish(folder: Path) -> Layout | None:
    """``Fish_Dataset/Fish_Dataset/<species>/{<species>/00001.png, <species> GT/00001.png}``; nine
    species of 1000 images; masks 1 bit. ``NA_Fish_Dataset`` (without masks) is left out."""
    groups = []
    for species in folders(folder):
        images, truth = child(species, species.name), child(species, f"{species.name} GT")
        if images and truth:
            groups.append(list(paired(images, truth)[0]))
    if not groups:
        return None
    train, test = _each_fifth(groups)
    rule = LabelRule("fish", "white is fish", ("background", "fish"))
    return Layout(
        "fish",
        "Large-Scale Fish",
        folder,
        train,
        test,
        EACH_FIFTH.format("species"),
        (rule,),
    )


def fire(folder: Path) -> Layout | None:
    """``Image/{Fire,Not_Fire}/*.jpg`` and ``Segmentation_Mask/{Fire,Not_Fire}/*.jpg`` under equal
    names (JPEG masks, so grey levels)."""
    images = child(folder, "image", "images")
    masks = child(folder, "segmentation_mask", "segmentation_masks")
    if not images or not masks:
        return None
    groups, notes = [], []
    for kind in folders(images):
        truth = child(masks, kind.name)
        if truth:
            items, left = paired(kind, truth)
            groups.append(list(items))
            notes += list(left)
    if not any(groups):
        return None
    train, test = _each_fifth(groups)
    return Layout(
        "fire",
        "Fire Segmentation",
        folder,
        train,
        test,
        EACH_FIFTH.format("kind (Fire, Not_Fire)"),
        (grey_rule("fire"),),
        notes=tuple(notes),
    )


def flood(folder: Path) -> Layout | None:
    """``dataset/{train,val}/{images,labels}/*.png`` (Flood Semantic Segmentation), equal names;
    the ``val`` part is the test part, as in the published experiments."""
    parts = []
    for name in ("train", "val"):
        part = child(folder, name)
        images = child(part, "images", "image") if part else None
        labels = child(part, "labels", "label") if part else None
        if not images or not labels or not list_images(images) or not list_images(labels):
            return None
        parts.append(paired(images, labels))
    (train, left), (test, more) = parts
    if not train or not test:
        return None
    rules = (grey_rule("water"),)
    return Layout(
        "flood",
        "Flood Semantic Segmentation",
        folder,
        train,
        test,
        "the archive's train and val",
        rules,
        notes=(*left, *more),
    )


def halves(folder: Path) -> Layout | None:
    """``{train,test}/{images,masks}``: a split that a person made."""
    parts = []
    for names in (("train", "training"), ("test", "val", "validation")):
        found = _images_and_masks(child(folder, *names))
        if found is None:
            return None
        parts.append(paired(*found))
    (train, left), (test, more) = parts
    if not train or not test:
        return None
    name = folder.name
    return Layout(
        "split-folders", name, folder, train, test, "as in the folder", notes=(*left, *more)
    )


def plain(folder: Path) -> Layout | None:
    """``images/`` and ``masks/`` (or ``labels/``), paired by file name."""
    found = _images_and_masks(folder)
    if found is None:
        return None
    items, notes = paired(*found)
    if not items:
        return None
    train, test = last_fifth(items)
    return Layout("folders", folder.name, folder, train, test, LAST_FIFTH, notes=notes)


def _images_and_masks(folder: Path | None) -> tuple[Path, Path] | None:
    if folder is None:
        return None
    images = child(folder, "images", "image", "imgs")
    masks = child(folder, "masks", "mask", "labels", "label", "annotations", "segmentations")
    if not images or not masks or not list_images(images) or not list_images(masks):
        return None
    return images, masks


def _grouped(items: tuple[Item, ...], key: Callable[[Item], str]) -> list[list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _each_fifth(groups: list[list[Item]]) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    parts = [last_fifth(group) for group in groups]
    return tuple(i for a, _ in parts for i in a), tuple(i for _, b in parts for i in b)
