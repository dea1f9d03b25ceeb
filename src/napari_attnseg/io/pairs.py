"""Which mask belongs to which image: by file name, with one stated rule and no guesses."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from napari_attnseg.errors import InputError
from napari_attnseg.io.dicom_seg import is_seg
from napari_attnseg.io.inputs import images_in
from napari_attnseg.io.ome_zarr import is_zarr
from napari_attnseg.io.sniff import SUFFIXES, stem_of

_MASK = (
    "masks?|segmentations?|seg|labels?|lbl|gt|ground_?truth|annotations?|trimap|msk|target|manual"
)
_IMAGE = "images?|img|im|ct|mr|0000"
MASK_AFFIX = re.compile(rf"(^({_MASK})[-_. ])|([-_. ]({_MASK})$)", re.IGNORECASE)
IMAGE_AFFIX = re.compile(rf"(^({_IMAGE})[-_. ])|([-_. ]({_IMAGE})$)", re.IGNORECASE)
RULE = (
    "Same file name without its ending (a.jpg and a.png); if that fails, without a word for masks "
    "such as _mask, _seg, _label, _segmentation, _gt (a.png and a_mask.tif); if that fails, also "
    "without a word for images such as _image or _0000 (a_0000.nii.gz and a.nii.gz). Two files "
    "that would pair with one are both left out."
)


@dataclass(frozen=True)
class Pairing:
    """``pairs`` of (image, mask) sorted by name, what is left over, and the rule in words.

    ``duplicates``: groups of files whose names mean the same; they are also among the unpaired.
    """

    pairs: tuple[tuple[Path, Path], ...]
    unpaired_images: tuple[Path, ...] = ()
    unpaired_masks: tuple[Path, ...] = ()
    rule: str = RULE
    duplicates: tuple[tuple[Path, ...], ...] = ()

    def report(self) -> str:
        """A few lines for people: how many pair, and every file that does not."""
        lines = [f"{len(self.pairs)} pairs. {self.rule}"]
        lines += [f"image without a mask: {p.name}" for p in self.unpaired_images]
        lines += [f"mask without an image: {p.name}" for p in self.unpaired_masks]
        lines += [f"same name: {', '.join(p.name for p in group)}" for group in self.duplicates]
        return "\n".join(lines)


def list_images(folder: str | Path) -> tuple[Path, ...]:
    """Images right inside a folder in byte order of their names: files, DICOM-SEG among them, and
    folders that are one (OME-Zarr, DICOM slices). Hidden ones are left out."""
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"got {folder}, which {what}; expected a folder of images")
    segmentations = [p for p in folder.glob("[!.]*.dcm") if is_seg(p)]
    return _sorted([*images_in(folder), *segmentations])


def pair_folders(images: str | Path, masks: str | Path) -> Pairing:
    """Pair a folder of images with a folder of masks (they may be the same folder).

    Raises ``InputError`` when a folder is absent or empty, or when not one file pairs.
    """
    image_files, mask_files = list_images(images), list_images(masks)
    if Path(images).resolve() == Path(masks).resolve():
        mask_files = tuple(p for p in image_files if MASK_AFFIX.search(stem_of(p)))
        image_files = tuple(p for p in image_files if p not in mask_files)
        _check_one_folder(image_files, mask_files, images)
    for files, folder, what in ((image_files, images, "images"), (mask_files, masks, "masks")):
        if not files:
            raise InputError(
                f"got no {what} in {folder}; expected files ending in {', '.join(SUFFIXES)}"
            )
    pairing = pair_files(image_files, mask_files)
    if not pairing.pairs:
        raise InputError(
            f"none of {len(image_files)} images and {len(mask_files)} masks pair by name "
            f"(for example {image_files[0].name} and {mask_files[0].name}). {RULE}"
        )
    return pairing


def _check_one_folder(
    images: tuple[Path, ...], masks: tuple[Path, ...], folder: str | Path
) -> None:
    """Raise ``InputError`` when one folder for both holds files, but not of both kinds."""
    if not (images or masks) or (images and masks):
        return
    every = "no" if images else "every"
    raise InputError(
        f"images and masks are the same folder ({folder}) and {every} name in it ends in _mask, "
        "_seg, _label or the like; give the folder of the masks, or name masks as in a_mask.png "
        "beside a.png"
    )


def pair_files(images: Iterable[Path], masks: Iterable[Path]) -> Pairing:
    """The rule on two lists of files; never raises."""
    left, right = list(images), list(masks)
    pairs: list[tuple[Path, Path]] = []
    duplicates: list[tuple[Path, ...]] = []
    for image_key, mask_key in ((_exact, _exact), (_exact, _bare_mask), (_bare_image, _bare_mask)):
        found, doubled = _match(left, right, image_key, mask_key)
        pairs += found
        duplicates += [group for group in doubled if group not in duplicates]
        used = {p for pair in found for p in pair} | {p for group in doubled for p in group}
        left = [p for p in left if p not in used]
        right = [p for p in right if p not in used]
    doubles = {p for group in duplicates for p in group}
    return Pairing(
        tuple(sorted(pairs, key=lambda pair: pair[0].name.encode())),
        _sorted({*left, *(p for p in doubles if p in set(images))}),
        _sorted({*right, *(p for p in doubles if p in set(masks))}),
        RULE,
        tuple(duplicates),
    )


def check_pair_sizes(pairs: Iterable[tuple[Path, Path]]) -> tuple[str, ...]:
    """One sentence per pair that cannot be used (sizes differ, or a file cannot be opened).

    Only headers are read.
    """
    from napari_attnseg.io.image import image_size

    problems = []
    for image, mask in pairs:
        try:
            size, other = image_size(image), image_size(mask)
        except InputError as error:
            problems.append(str(error))
            continue
        if size != other and not is_seg(mask):  # that holds a part of the slices
            problems.append(
                f"mask {mask.name} is {_words(other)} but image {image.name} is {_words(size)}; "
                "export the mask from the same image, or resample it first"
            )
    return tuple(problems)


Key = Callable[[Path], str]


def _stem(path: Path) -> str:
    """The name without its ending; a folder of DICOM slices keeps all of its name."""
    return path.name if path.is_dir() and not is_zarr(path) else stem_of(path)


def _exact(path: Path) -> str:
    return _stem(path).casefold()


def _bare_mask(path: Path) -> str:
    return MASK_AFFIX.sub("", _stem(path)).casefold()


def _bare_image(path: Path) -> str:
    return IMAGE_AFFIX.sub("", _stem(path)).casefold()


def _grouped(files: list[Path], key: Key) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        groups[key(path)].append(path)
    return groups


def _match(
    images: list[Path], masks: list[Path], image_key: Key, mask_key: Key
) -> tuple[list[tuple[Path, Path]], list[tuple[Path, ...]]]:
    """Pairs by key, and the groups that are doubled on a side while the other side has a match."""
    left, right = _grouped(images, image_key), _grouped(masks, mask_key)
    pairs: list[tuple[Path, Path]] = []
    doubled: list[tuple[Path, ...]] = []
    for key in left.keys() & right.keys():
        if len(left[key]) == len(right[key]) == 1:
            pairs.append((left[key][0], right[key][0]))
        else:
            doubled += [tuple(group) for group in (left[key], right[key]) if len(group) > 1]
    return pairs, doubled


def _sorted(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(sorted(paths, key=lambda p: p.name.encode()))


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in (shape[1:] if shape[0] == 1 else shape))
