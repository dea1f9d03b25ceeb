"""Make a mask again from what its file says, and tell whether every voxel is the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from napari_attnseg.control.volumes import AXES
from napari_attnseg.engine.made_from import Told, image_of, model_of, source_of
from napari_attnseg.errors import DeviceError, InputError
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.image import read_mask
from napari_attnseg.io.measure_files import in_place
from napari_attnseg.io.provenance import unpacked, versions
from napari_attnseg.io.tidying import tidy
from napari_attnseg.settings import Tuning

if TYPE_CHECKING:
    from napari_attnseg.engine.on_top import OnTop
    from napari_attnseg.engine.session import Session
    from napari_attnseg.io.volume import Volume


@dataclass(frozen=True)
class Reproduced:
    """The outcome. ``different``: voxels that differ and were not edited by hand; ``edited``: how
    many were, ``edited_different``: how many of these differ (``None``: the file does not say
    which they are, then they count among ``different``). ``slices``: the first that differ.
    """

    mask: str
    image: str
    model: str
    voxels: int
    different: int
    edited: int
    edited_different: int | None
    slices: tuple[int, ...]
    device: str
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether every voxel that no hand changed is the same."""
        return self.different == 0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"equal": self.equal, **asdict(self)}


def reproduce(
    mask: Path,
    image: Path | None = None,
    model: str | None = None,
    device: str | None = None,
    progress: Callable[[int, int], object] = lambda done, count: None,
) -> Reproduced:
    """Read the provenance in ``mask``, run the same model with the same values on the same image
    and compare. ``image``: default the file of the recorded name beside the mask; ``model``:
    default the recorded name, among the shipped ones or beside the mask; ``device``: default the
    recorded one. Raises ``AttnSegError`` in one sentence when something is missing or is another.
    """
    told = provenance_of(mask)
    name = model_of(mask, told["model"], told["model_digest"], model)
    path = image_of(mask, told, image)
    source = source_of(path, told)
    session, tuning, notes = _session(mask, told, name, device)
    session.set_image(source)
    stored = _stored(mask, source)
    again = np.zeros(source.shape, np.uint8)
    for z, answer in _answers(session, str(told.get("axis", AXES[0])), tuning, progress):
        again[z] = answer.labels
    again = tidy(again, tuple(told.get("postprocess") or ()))
    notes += _with_moved_values(again, stored, session, tuning, told)
    where = (mask.name, path.name, Path(name).name)
    return _compared(where, stored, again, told, str(_device_of(session)), notes)


def _stored(mask: Path, source: Volume) -> np.ndarray:
    """Ids (Z, Y, X) as the image is stored. The right voxels in another place are another mask."""
    ours = read_mask(mask)
    if ours.shape != source.shape and not ours.part_of_grid:
        raise InputError(
            f"{mask.name} is {ours.shape} (Z, Y, X) but its image is {source.shape}; "
            "the mask was cropped or resampled since it was written"
        )
    return np.asarray(in_place(source, ours, mask, "its image"))


def _answers(
    session: Session | OnTop, axis: str, tuning: Tuning, progress: Callable[[int, int], object]
) -> Iterator[tuple[int, Any]]:
    from napari_attnseg.engine.axes import segment_along
    from napari_attnseg.engine.session import Session

    if isinstance(session, Session):
        yield from segment_along(session, axis, tuning, pause=progress)
        return
    for z, step in session.run(tuning=tuning):
        yield z, step
        progress(z + 1, session.n_slices)


def provenance_of(mask: Path) -> dict[str, Any]:
    """What the file says of its making. Raises ``InputError`` when that is not enough."""
    read_mask(mask)
    told: dict[str, Any] = comment_of(mask).get("provenance") or {}
    if not told.get("model") or not told.get("model_digest") or "tuning" not in told:
        raise InputError(
            f"{mask.name} does not say how it was made; expected a mask written by "
            "`napari-attnseg predict` or the Export button"
        )
    if not isinstance(told.get("source"), dict) or not told["source"].get("digest"):
        raise InputError(
            f"{mask.name} does not say which image it was made from (it was written by an earlier "
            "version); make and export it again"
        )
    if isinstance(told.get("refinement"), str):
        raise InputError(
            f"{mask.name} was refined by hand in the Refine dock, with strokes that the file does "
            "not hold; only masks of models alone can be made again"
        )
    return told


def _with_moved_values(
    again: np.ndarray, stored: np.ndarray, session: Session | OnTop, tuning: Tuning, told: Told
) -> tuple[str, ...]:
    """Slices that are not those of the run are made with the values that were moved after it.

    What was seen since a value moved has the new one, the rest still has that of the run, until
    the run is made anew; so a slice has the one or the other as a whole.
    """
    moved = told.get("tuning_since")
    axial = told.get("axis", AXES[0]) == AXES[0] and not hasattr(session, "coarse")
    if not isinstance(moved, Mapping) or not moved or not axial:
        return ()
    other, held = tuning.replace(**moved), _by_hand(told, stored)
    differ = (stored != again) & ~held
    seen = []
    for z in np.flatnonzero(differ.any(axis=(1, 2))):
        answer = cast("Session", session).predict(int(z), other)
        fresh = np.asarray(answer.labels)
        if not ((stored[z] != fresh) & ~held[z]).any():
            again[z] = fresh
            seen.append(int(z))
    values = ", ".join(f"{name} {value}" for name, value in moved.items())
    where = f"{len(seen)} slices (first {seen[0]})" if seen else "no slice"
    return (f"values were moved after the run: {where} made with {values}",)


def _session(
    mask: Path, told: Told, name: str, device: str | None
) -> tuple[Session | OnTop, Tuning, tuple[str, ...]]:
    """A session with all recorded values, and what may make the answer differ."""
    from napari_attnseg.engine.on_top import OnTop
    from napari_attnseg.engine.session import Session

    recorded, notes = str(told.get("device", "cpu")), list(_changed(told))
    tile = (told.get("tile") or {}).get("pixels")
    try:
        alone = Session(name, device=device or recorded, tile=tile)
    except DeviceError:
        if device is not None:
            raise
        alone = Session(name, tile=tile)
    if str(alone.device) != recorded:
        notes.append(f"made on {recorded}, made again on {alone.device}: numbers may round apart")
    tuning = Tuning.from_json(told["tuning"])
    refinement = told.get("refinement")
    if not isinstance(refinement, Mapping):
        return alone, tuning, tuple(notes)
    second = model_of(mask, str(refinement["model"]), str(refinement["model_digest"]), None)
    both = OnTop(alone, Session(second, device=str(alone.device)), tuning)
    return both, Tuning.from_json(refinement["tuning"]), tuple(notes)


def _changed(told: Told) -> list[str]:
    """Versions that are others now."""
    now = versions()
    was = told.get("versions") or {}
    return [
        f"{name} was {was[name]}, is {now.get(name, 'absent')}"
        for name in ("torch", "numpy", "napari-attnseg")
        if name in was and was[name] != now.get(name)
    ]


def _device_of(session: Any) -> Any:
    return session.coarse.device if hasattr(session, "coarse") else session.device


def _by_hand(told: Told, stored: np.ndarray) -> np.ndarray:
    """Voxels that a person changed, bool (Z, Y, X); none where the file does not say which."""
    held = np.zeros(stored.shape, bool)
    packed = (told.get("edits") or {}).get("where")
    if packed:
        try:
            held.reshape(-1)[unpacked(str(packed), held.size)] = True
        except (ValueError, zlib.error) as error:
            raise InputError(
                f"the places of hand edits in the mask cannot be read ({error}); the file was "
                "changed since it was written"
            ) from error
    return held


def _compared(
    where: tuple[str, str, str],
    stored: np.ndarray,
    again: np.ndarray,
    told: Told,
    device: str,
    notes: tuple[str, ...],
) -> Reproduced:
    differ = np.asarray(stored != again)
    edits = told.get("edits") or {}
    edited = int(edits.get("voxels") or told.get("hand_edited_pixels") or 0)
    by_hand = None
    if edits.get("where"):
        held = _by_hand(told, stored)
        by_hand = int(np.count_nonzero(differ & held))
        differ &= ~held
    slices = np.flatnonzero(differ.any(axis=(1, 2)))
    return Reproduced(
        *where,
        voxels=int(differ.size),
        different=int(np.count_nonzero(differ)),
        edited=edited,
        edited_different=by_hand if edited else 0,
        slices=tuple(int(z) for z in slices[:8]),
        device=device,
        notes=notes,
    )
