"""What a batch writes besides the mask, on request: probability, objects, preview, every step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_attnseg.errors import ExportError
from napari_attnseg.io.comment import comment_of

if TYPE_CHECKING:
    from napari_attnseg.engine.on_top import OnTop
    from napari_attnseg.engine.session import Session
    from napari_attnseg.io.volume import Volume
    from napari_attnseg.settings import Tuning

EXTRAS = ("probability", "objects", "preview")
STEPS = "steps"
BESIDE = "beside"
"""What the provenance of an extra says: the name of its mask."""


def stem_and_suffix(mask: Path) -> tuple[str, str]:
    """``scan_mask.nii.gz`` as ``("scan", ".nii.gz")``."""
    stem, _, suffix = mask.name.rpartition("_mask")
    return stem, suffix


def place_of(mask: Path, extra: str) -> Path:
    """Where an extra of this mask goes; of ``"steps"`` the folder."""
    stem, suffix = stem_and_suffix(mask)
    if extra == STEPS:
        return mask.with_name(f"{stem}_steps")
    if extra == "preview":
        return mask.with_name(f"{stem}_preview.png")
    return mask.with_name(f"{stem}_{extra}{'.tif' if suffix == '.png' else suffix}")


def taken(mask: Path, save: tuple[str, ...]) -> Path | None:
    """A file in the place of an extra of ``mask`` that no batch wrote there, if there is one."""
    places = [place_of(mask, extra) for extra in save if extra != STEPS]
    if STEPS in save:
        places += _steps_in(place_of(mask, STEPS), stem_and_suffix(mask)[1])
    return next((p for p in places if p.exists() and not _is_ours(p, mask)), None)


def _is_ours(path: Path, mask: Path) -> bool:
    told = comment_of(path).get("provenance", {})
    return bool(told.get(BESIDE) == mask.name)


def write_extras(
    mask: Path,
    labels: np.ndarray,
    probability: np.ndarray | None,
    source: Volume,
    save: tuple[str, ...],
) -> Iterator[str]:
    """Write those of ``EXTRAS`` that are in ``save``; one line about each that says more than
    its name."""
    from napari_attnseg.engine.objects import split_objects
    from napari_attnseg.io.export import write_mask, write_scalar

    told = {BESIDE: mask.name}
    if probability is not None:
        write_scalar(place_of(mask, "probability"), probability, source, told)
    if "preview" in save:
        yield _preview(place_of(mask, "preview"), labels, told)
    if "objects" in save:
        ids, count = split_objects(labels)
        write_mask(place_of(mask, "objects"), ids, source, provenance=told)
        yield f"{stem_and_suffix(mask)[0]}: {count} objects"


def _preview(path: Path, labels: np.ndarray, told: dict[str, str]) -> str:
    """Ids spread over black to white, to be seen in any picture viewer; of a volume its fullest
    slice. To look at only: ``evaluate`` and training take the mask itself."""
    from napari_attnseg.io.export import write_mask

    z = max(range(len(labels)), key=lambda z: int(np.count_nonzero(labels[z])))
    top = max(1, int(labels.max(initial=0)))
    spread = np.round(labels[z] * (255.0 / top)).astype(np.uint8)
    write_mask(path, spread[None], provenance=told)
    where = f"slice {z}, " if len(labels) > 1 else ""
    return f"{path.name}: {where}ids 0 to {top} as black to white"


def write_steps(session: Session | OnTop, source: Volume, tuning: Tuning, mask: Path) -> str:
    """One verified mask per iteration of the image that the session has, all slices, and a line
    about them. What an earlier, longer run left behind these is removed."""
    from napari_attnseg.io.export import write_mask

    folder, suffix = place_of(mask, STEPS), stem_and_suffix(mask)[1]
    _ensure(folder)
    slices = [
        [(step.labels, step.changed) for step in session.steps(z, tuning)]  # masks alone stay
        for z in range(session.n_slices)
    ]
    changed: list[int] = []
    for number, steps in enumerate(zip(*slices, strict=True)):
        write_mask(
            folder / f"step_{number:02d}{suffix}",
            np.stack([labels for labels, _ in steps]),
            source,
            classes=dict(enumerate(session.card.class_names)),
            colors=dict(enumerate(session.card.class_colors)),
            provenance={
                **session.provenance(tuning.replace(iterations=number)),
                BESIDE: mask.name,
            },
        )
        changed.append(sum(count for _, count in steps))
    _remove_from(len(changed), mask)
    words = ", ".join(map(str, changed[1:])) or "none"
    return f"{folder.name}: {len(changed)} masks; pixels changed per iteration: {words}"


def _ensure(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"cannot create the folder {folder}: {error.strerror}; choose another --out"
        ) from error


def _remove_from(first: int, mask: Path) -> None:
    """What an earlier run wrote of iteration ``first`` and later; nothing else."""
    folder, suffix = place_of(mask, STEPS), stem_and_suffix(mask)[1]
    for path in _steps_in(folder, suffix):
        if _number(path, suffix) >= first and _is_ours(path, mask):
            path.unlink()


def _steps_in(folder: Path, suffix: str) -> list[Path]:
    """What has the name of a step."""
    return [path for path in folder.glob(f"step_*{suffix}") if _number(path, suffix) >= 0]


def _number(path: Path, suffix: str) -> int:
    """Of a step, -1 for other names."""
    number = path.name.removeprefix("step_").removesuffix(suffix)
    return int(number) if number.isdecimal() else -1
