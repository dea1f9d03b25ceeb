"""The model and the image that a mask says it was made from: found, and told by their digests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_attnseg.cards import read_card, resolve_checkpoint, shipped_checkpoints
from napari_attnseg.errors import CheckpointError, InputError
from napari_attnseg.io.dicom import volumes_of
from napari_attnseg.io.image import read_image
from napari_attnseg.io.provenance import digest_of
from napari_attnseg.io.sniff import sniff
from napari_attnseg.io.volume import Volume

Told = Mapping[str, Any]
SHORT = 12
"""Letters of a digest that a sentence shows."""


def model_of(mask: Path, name: str, digest: str, given: str | None) -> str:
    """Name or path of a checkpoint whose weights are those recorded: the one given, a shipped one,
    or one beside the mask. Raises ``CheckpointError``."""
    name = Path(name).name
    tried = [given] if given else [name, str(mask.parent / name)]
    if not given:  # a shipped one may have been recorded as a file
        tried.append(name.removesuffix(".safetensors"))
        tried += [str(mask.parent / f"{name}.safetensors")]
    found = []
    for candidate in dict.fromkeys(tried):
        if given or Path(candidate).is_file() or candidate in shipped_checkpoints():
            found.append(candidate)
            if read_card(resolve_checkpoint(candidate)).digest == digest:
                return candidate
    if found:
        raise CheckpointError(
            f"{Path(found[0]).name} is another model than the one that made {mask.name} ({name}, "
            f"digest {digest[:SHORT]}); give that one with --model FILE"
        )
    raise CheckpointError(
        f"the model {name} (digest {digest[:SHORT]}) that made {mask.name} is not here; give its "
        "file with --model FILE"
    )


def image_of(mask: Path, told: Told, given: Path | None) -> Path:
    """The image given, or the one of the recorded name beside the mask. Raises ``InputError``."""
    if given is not None:
        return given
    name = told["source"].get("file")
    beside = mask.parent / Path(str(name)).name if name else None
    if beside is not None and beside.exists():
        return beside
    if name and mask.absolute().parent.name == name and told["source"].get("series"):
        return mask.parent  # of a DICOM-SEG that lies among the slices of its series
    raise InputError(
        f"the image of {mask.name} ({name or 'it had no file'}) is not beside it; "
        "give it with --image FILE"
    )


def source_of(path: Path, told: Told) -> Volume:
    """The image of the recorded digest; of a folder of several series, that series."""
    expected, found = str(told["source"]["digest"]), ""
    for volume in _volumes(path, told):
        source = read_image(path, volume=volume)
        found = digest_of(source)
        if found == expected:
            return source
    raise InputError(
        f"{path.name} is not the image that the mask was made from: pixels or space differ "
        f"(digest {found[:SHORT]}, expected {expected[:SHORT]}); give that image with --image FILE"
    )


def _volumes(path: Path, told: Told) -> list[int] | list[None]:
    """What of ``path`` may be the image."""
    number, series = (told["source"].get(key) for key in ("volume", "series"))
    if isinstance(number, int):
        return [number]
    if not isinstance(series, str) or sniff(path) != "dicom":
        return [None]
    found = volumes_of(path, series)
    if not found:
        raise InputError(
            f"{path.name} does not hold the series {series} that the mask was made from; give the "
            "folder of that series with --image"
        )
    return found
