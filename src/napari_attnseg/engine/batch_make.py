"""One model, kept ready, and one verified mask per image that it is given."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.control.volumes import AXES, axes_named
from napari_attnseg.engine import batch_kept as kept
from napari_attnseg.engine.axes import segment_along
from napari_attnseg.engine.batch import Recipe, Row, Task, stamp_of
from napari_attnseg.engine.batch_extras import STEPS, taken, write_extras, write_steps
from napari_attnseg.engine.device import trim_heap
from napari_attnseg.engine.loading import IN_PASSING
from napari_attnseg.engine.on_top import OnTop
from napari_attnseg.engine.run import TRIM_EVERY
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import CheckpointError, ExportError, InputError, plain_sentence
from napari_attnseg.io.export import counts_of, write_mask
from napari_attnseg.io.image import read_image
from napari_attnseg.io.limits import readable_bytes, steady
from napari_attnseg.io.measure_space import space_of
from napari_attnseg.io.nifti_mapped import map_nifti
from napari_attnseg.io.pages import follow, reserve
from napari_attnseg.io.suitability import Doubt, facts_of_volume, gaps_in, suitability
from napari_attnseg.io.tidying import tidied

if TYPE_CHECKING:
    from napari_attnseg.io.volume import Volume

IN_MEMORY = 64 << 20
"""Bytes of labels, or of a probability map, that are held in memory; larger ones lie in a
temporary file."""
Pause = Callable[[int, int], object]
"""Called after each slice with how many are done, and of how many; may raise to stop."""


class Refused(InputError):
    """A file that is not worked on, for a reason that a person can lift."""


class Stopped(Exception):
    """The batch was stopped in the middle of a file."""


class Maker:
    """The model of a recipe, loaded. Raises ``CheckpointError``, ``DeviceError`` and
    ``InputError`` for a recipe that cannot be followed."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        cache = None if STEPS in recipe.save else IN_PASSING
        alone = Session(recipe.model, recipe.device, cache, tile=recipe.tile)
        _check_digest(alone, recipe.digest)
        self.session: Session | OnTop = alone
        axes_named(recipe.axis)
        if recipe.refine is not None:
            if recipe.axis != AXES[0]:
                raise InputError(
                    f"got --refine with --axis {recipe.axis}; a refinement works on axial slices, "
                    "leave one of the two out"
                )
            refiner = Session(recipe.refine, recipe.device, cache)
            _check_digest(refiner, recipe.refine_digest)
            self.session = OnTop(alone, refiner, recipe.own)
        self._alone = alone

    @property
    def device(self) -> str:
        """Where the model works now."""
        return str(self._alone.device)

    def make(self, task: Task, pause: Pause = lambda done, count: None) -> Row:
        """The mask of one image, or why there is none: nothing but :class:`Stopped` and the
        keyboard is raised, for the rest of a batch is still worth having."""
        try:
            with steady(task.image):
                return self._made(task, pause)
        except Stopped:
            raise
        except Exception as error:
            return self._without(task, error)
        finally:
            _let_go(self.session)

    # -- inside ----------------------------------------------------------------------------------

    def _made(self, task: Task, pause: Pause) -> Row:
        began = time.perf_counter()
        file_digest = kept.digest_of(task.image)
        row = self._kept(task, file_digest)
        if row is not None:
            return row
        recipe, session = self.recipe, self.session
        self._check_extras(task.mask)
        source = _read(task.image, recipe.volume)
        doubts, against = self._doubts(source)
        session.set_image(source)
        labels, probability = self._segmented(source, task.mask.parent, pause)
        labels, lines = tidied(labels, recipe.tidy)
        lines += write_extras(task.mask, labels, probability, source, recipe.save)
        if STEPS in recipe.save:
            lines.append(write_steps(session, source, recipe.tuning, task.mask))
        counts = counts_of(labels)
        written = write_mask(  # last: a mask says that all beside it is there
            task.mask,
            labels,
            source,
            classes=dict(enumerate(session.card.class_names)),
            colors=dict(enumerate(session.card.class_colors)),
            provenance={
                **self._provenance(file_digest),
                kept.VOXELS: _named(counts),
                kept.DOUBTS: against,
            },
        )
        return replace(
            self._row(task, "ok"),
            seconds=time.perf_counter() - began,
            counts=counts,
            voxel_mm3=kept.voxel_mm3(space_of(source)),
            verified=True,
            notes=tuple(dict.fromkeys([*(d.sentence for d in doubts), *session.notes])),
            message=written.message,
            said=tuple(lines),
        )

    def _doubts(self, source: Volume) -> tuple[list[Doubt], list[str]]:
        """What is to be said of this image, and what speaks against it; raises ``Refused`` for
        the latter where that is wished."""
        axes = axes_named(self.recipe.axis)
        facts = facts_of_volume(source)
        if len(axes) == 1 and facts.spacing_mm:  # what matters is how the slices are cut
            order = (axes[0], *(axis for axis in range(3) if axis != axes[0]))
            z, y, x = (facts.shape[axis] for axis in order)
            spacing = tuple(facts.spacing_mm[axis] for axis in order)
            facts = replace(facts, shape=(z, y, x), spacing_mm=spacing)
        found = suitability(facts, self.session.card)
        against = [*gaps_in(source), *(doubt.sentence for doubt in found if doubt.refuses)]
        if self.recipe.strict and against:
            raise Refused(f"{'; '.join(against)} (without --strict it would be segmented)")
        return found, against

    def _segmented(
        self, source: Volume, folder: Path, pause: Pause
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Labels and, if asked for, probability (Z, Y, X), slice by slice."""
        labels = _zeros(source.shape, np.uint8, folder)
        wanted = "probability" in self.recipe.save
        probability = _zeros(labels.shape, np.float32, folder) if wanted else None
        for z, prediction in self._answers(folder, pause):
            labels[z] = prediction.labels
            if probability is not None:
                probability[z] = prediction.probability
            if z % TRIM_EVERY == 0:
                trim_heap()
        return labels, probability

    def _answers(self, folder: Path, pause: Pause) -> Iterator[tuple[int, Any]]:
        """Every axial slice with its answer."""
        recipe = self.recipe
        if isinstance(self.session, Session):
            yield from segment_along(self.session, recipe.axis, recipe.tuning, folder, pause)
            return
        for z, step in self.session.run(tuning=recipe.tuning):
            yield z, step
            pause(z + 1, self.session.n_slices)

    def _provenance(self, file_digest: str) -> dict[str, Any]:
        r = self.recipe
        return {
            **self.session.provenance(r.tuning),
            **({"postprocess": list(r.tidy)} if r.tidy else {}),
            **({"axis": r.axis} if r.axis != AXES[0] else {}),
            kept.SOURCE: file_digest,
            kept.ASKED: kept.asked_for(r.tile, r.volume, r.save),
        }

    def _kept(self, task: Task, file_digest: str) -> Row | None:
        """The row of a mask that is finished; ``None``: there is work to do."""
        meanwhile = stamp_of(task.mask) != task.before
        if self.recipe.overwrite and not meanwhile:
            return None
        expected = self._provenance(file_digest)
        found = kept.standing(task.mask, expected, self.recipe.save, self.recipe.strict)
        if found.kind == "finished":
            status = "ok" if meanwhile else "kept"  # by somebody who died before he could say so
            row = replace(self._row(task, status), counts=found.counts, voxel_mm3=found.voxel_mm3)
            return replace(row, verified=True, device=found.device)
        if found.kind == "by hand" and not self.recipe.overwrite:
            raise Refused(
                f"{task.mask.name} is there already and was not made by a batch, or was changed "
                "since, so it may hold work by hand; add --overwrite to replace it, or choose "
                "another --out"
            )
        return None

    def _check_extras(self, mask: Path) -> None:
        """Raise ``Refused`` before anybody's work would be replaced."""
        other = None if self.recipe.overwrite else taken(mask, self.recipe.save)
        if other is not None:
            raise Refused(
                f"{other.name} is there already and was not written beside {mask.name} by a batch, "
                "so it may be somebody's work; add --overwrite to replace it, or choose another "
                "--out"
            )

    def _row(self, task: Task, status: Any) -> Row:
        return Row(str(task.image), task.mask.name, status, device=self.device)

    def _without(self, task: Task, error: Exception) -> Row:
        if isinstance(error, Refused):
            return replace(self._row(task, "refused"), error=str(error))
        sentence, trace = plain_sentence(error), ""
        if sentence is None:
            sentence = (
                f"an error of the program itself ({type(error).__name__}: {error}); the other "
                "files go on, please report it with this file"
            )
            trace = "".join(traceback.format_exception(error))
        return replace(self._row(task, "failed"), error=sentence, trace=trace)


def _read(path: Path, volume: int | None) -> Volume:
    """The image; of a large NIfTI volume the voxels stay in the file, or in one without a name."""
    rooms: list[Path] = []

    def room(need: int) -> Path:
        rooms.append(Path(tempfile.mkdtemp(prefix="attnseg-")))
        free = shutil.disk_usage(rooms[0]).free
        if need > free:
            raise InputError(
                f"{path.name} unpacked needs {readable_bytes(need)}, but only "
                f"{readable_bytes(free)} are free in {rooms[0].parent}; set TMPDIR to a larger disk"
            )
        return rooms[0]

    try:
        found = map_nifti(path, room, volume)
        return read_image(path, volume=volume) if found is None else found
    finally:
        for folder in rooms:  # where a mapped file may be removed, none is left by a kill
            shutil.rmtree(folder, ignore_errors=True)


def _check_digest(session: Session, digest: str) -> None:
    if digest and session.card.digest != digest:
        raise CheckpointError(
            f"{session.name} is another model here than the one that was asked for (its weights "
            "differ); give the checkpoint as a file that all machines share"
        )


def _let_go(session: Session | OnTop) -> None:
    """Forget the image, so that two never lie in memory together."""
    if isinstance(session, OnTop):
        _let_go(session.refiner)
        session = session.coarse
    session._image = session._windows = None
    session._forget()


def _named(counts: dict[int, int]) -> dict[str, int]:
    return {str(k): n for k, n in counts.items()}


def _zeros(shape: tuple[int, ...], dtype: type, folder: Path) -> np.ndarray:
    """Zeros to be filled; many of them in a file without a name, which goes with the process.

    Raises ``ExportError`` when ``folder`` has no room for all of it: a file that only promised it
    would end the process at the first value that finds none.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes <= IN_MEMORY:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".attnseg-") as file:
            reserve(file.fileno(), nbytes)
            return follow(np.memmap(file, dtype, "w+", shape=shape))
    except OSError as error:
        raise ExportError(
            f"cannot reserve {readable_bytes(nbytes)} for the answer in {folder} "
            f"({error.strerror or error}); free some space, or choose another --out"
        ) from error
