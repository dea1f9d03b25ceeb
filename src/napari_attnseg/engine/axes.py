"""A volume segmented by slices along one of its axes, or along all three and averaged.

Of one axis the answer of every slice is taken as it is. Of several axes the probabilities of all
classes are averaged, and the average is cut by the same rule as the answer of a slice: with the
strongest foreground class f, ``p = p_f / (p_f + p_0)``, label f where ``p >= cut``.

Answers of slices along another axis cut through all axial slices. They are gathered in slabs of
neighbours and put plane by plane into a file, so that memory holds two slabs and one plane, however
large the volume is.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_attnseg.atomic import draft_prefix
from napari_attnseg.control.volumes import ALL_AXES, AXES, axes_bytes, axes_named
from napari_attnseg.engine.loading import IN_PASSING
from napari_attnseg.engine.predict import Prediction
from napari_attnseg.engine.results import SliceFile, probability_type
from napari_attnseg.engine.run_record import RunRecord
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.turned import SLAB_BYTES, in_order
from napari_attnseg.errors import InputError
from napari_attnseg.io.limits import readable_bytes
from napari_attnseg.settings import Tuning


class Planes:
    """``planes`` values per voxel of (Z, Y, X) in a file, filled in slabs along any view axis."""

    def __init__(
        self, path: Path, shape: tuple[int, int, int], planes: int, dtype: type | None = None
    ) -> None:
        kind = probability_type(shape) if dtype is None else dtype
        self.shape = shape
        self._file = SliceFile(path, (shape[0], planes, *shape[1:]), kind)

    def write(self, axis: int, first: int, slab: np.ndarray, add: bool = False) -> None:
        """Put ``slab`` (n, planes, A, B) in place, or ``add`` it to what is there: slices ``first``
        and on along ``axis``, A and B being the two other axes in their order."""
        span = slice(first, first + len(slab))
        for z in range(self.shape[0])[span] if axis == 0 else range(self.shape[0]):
            plane = self._file.read(z)
            part = plane if axis == 0 else (plane[:, span] if axis == 1 else plane[:, :, span])
            new = slab[z - first] if axis == 0 else np.moveaxis(slab[:, :, z], 0, axis)
            part[...] = part + new if add else new
            self._file.write(z, plane)

    def read(self, z: int) -> np.ndarray:
        """Slice ``z`` as float32 (planes, Y, X)."""
        return self._file.read(z).astype(np.float32)

    def close(self) -> None:
        """Nothing more is read or written."""
        self._file.close()


@dataclass(frozen=True)
class Along:
    """``done`` of ``total`` slices are computed; the last one lies along view axis ``axis``."""

    axis: int
    done: int
    total: int


@dataclass(frozen=True, eq=False)
class Averaged:
    """An axial slice (Y, X): ``labels`` uint8 and ``probability`` float32."""

    labels: np.ndarray
    probability: np.ndarray


class AlongAxes:
    """The volume of ``session`` by slices along view ``axes``, at ``tuning``.

    ``folder``: where the answers of all slices are gathered; of the same question it may be one
    that was left off (see ``RunRecord``), then slabs that are finished there are not computed
    again. ``slab_bytes``: about how much memory a slab takes. Raises ``InputError`` for an image of
    one slice, and where the disk has no room for what is gathered.
    """

    def __init__(
        self,
        session: Session,
        axes: tuple[int, ...],
        tuning: Tuning | None,
        folder: Path,
        question: dict[str, Any] | None = None,
        slab_bytes: int = SLAB_BYTES,
    ) -> None:
        session.look_along(0)
        if session.n_slices == 1:
            raise InputError(
                "got an image of one slice, expected a volume for slices along another axis; "
                f"choose {AXES[0]}"
            )
        self.session, self.axes, self.tuning = session, axes, tuning
        self.shape = session.shape
        self.total = sum(self.shape[axis] for axis in axes)
        self.mean = len(axes) > 1
        planes = session.model.spec.classes if self.mean else 2
        self._slabs = list(_slabs(self.shape, axes, planes, slab_bytes))
        session.pipeline.spare_memory(IN_PASSING)
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, self.shape, axes, planes)
        self._record = _record(folder, len(self._slabs), question)
        self._planes = Planes(folder / "planes.npy", self.shape, planes)
        self._cut = float(session._values(tuning)["cut"])

    def steps(self) -> Generator[Along | None, None, None]:
        """Compute what is not there yet: an :class:`Along` per slice, ``None`` between tiles."""
        done = 0
        try:
            for number, (axis, first, count) in enumerate(self._slabs):
                if not self._record.has(number, True):
                    if self.session.axis != axis:
                        self.session.look_along(axis)
                    yield from self._slab(number, axis, first, count, done)
                done += count
        finally:
            self.session.look_along(0)

    def answer(self, z: int) -> Averaged:
        """Axial slice ``z``, when all is done."""
        found = self._planes.read(z)
        if not self.mean:
            return Averaged(found[0].astype(np.uint8), found[1])
        return Averaged(*cut_probabilities(found / len(self.axes), self._cut))

    def close(self) -> None:
        """Nothing more is asked."""
        self._record.close()
        self._planes.close()

    def _slab(
        self, number: int, axis: int, first: int, count: int, done: int
    ) -> Generator[Along | None, None, None]:
        slab: np.ndarray | None = None
        for i in range(count):
            prediction = yield from self.session.stepwise(first + i, self.tuning)
            values = self._values(prediction)
            if slab is None:
                slab = np.empty((count, *values.shape), np.float32)
            slab[i] = values
            yield Along(axis, done + i + 1, self.total)
        assert slab is not None
        self._record.mark(number, False)  # who dies while adding leaves this mark
        self._planes.write(axis, first, slab, add=self.mean)
        self._record.mark(number, True)

    def _values(self, prediction: Prediction) -> np.ndarray:
        """What is kept of a slice, (planes, A, B): its answer, or the chance of every class."""
        if not self.mean:
            return np.stack([prediction.labels.astype(np.float32), prediction.probability])
        if len(prediction.logits) == 1:
            return prediction.probability[None]
        return torch.from_numpy(prediction.logits).softmax(0).numpy()


def cut_probabilities(chances_CYX: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probability from the chances of one class, or of all (0 = background), by the
    rule of ``predict.cut_logits``."""
    if len(chances_CYX) == 1:
        return (chances_CYX[0] >= cut).astype(np.uint8), chances_CYX[0]
    best = chances_CYX[1:].max(0)
    both = best + chances_CYX[0]
    chance = np.divide(best, both, out=np.zeros_like(best), where=both > 0)
    label = chances_CYX[1:].argmax(0) + 1
    return np.where(chance >= cut, label, 0).astype(np.uint8), chance


def segment_along(
    session: Session,
    axis: str,
    tuning: Tuning | None = None,
    room: Path | None = None,
    pause: Callable[[int, int], object] = lambda done, total: None,
) -> Iterator[tuple[int, Averaged | Prediction]]:
    """Every axial slice z of the volume of ``session`` with its answer, by slices along ``axis``
    (a word of ``AXES``, or ``ALL_AXES``); along axial ones this is ``session.run``.

    ``room``: where a folder for what is gathered is made and removed again (default: the system's
    for temporary files). ``pause``: called after each computed slice with how many are done, and
    of how many; it may raise to stop.
    """
    if axis == AXES[0]:
        for z, prediction in session.run(tuning=tuning):
            yield z, prediction
            pause(z + 1, session.n_slices)
        return
    with tempfile.TemporaryDirectory(prefix=draft_prefix(), dir=room) as folder:
        run = AlongAxes(session, axes_named(axis), tuning, Path(folder))
        try:
            for step in run.steps():
                if step is not None:
                    pause(step.done, step.total)
            for z in range(run.shape[0]):
                yield z, run.answer(z)
        finally:
            run.close()


def _slabs(
    shape: tuple[int, int, int], axes: tuple[int, ...], planes: int, limit: int
) -> Iterator[tuple[int, int, int]]:
    """(axis, first slice, slices) of all slabs in the order in which they are computed."""
    for axis in axes:
        length, *plane = in_order(shape, axis)
        count = max(1, limit // (int(np.prod(plane)) * planes * 4))
        for first in range(0, length, count):
            yield axis, first, min(count, length - first)


def _check_room(
    folder: Path, shape: tuple[int, int, int], axes: tuple[int, ...], planes: int
) -> None:
    """Raise ``InputError`` before anything is computed that could not be kept."""
    axis = ALL_AXES if len(axes) > 1 else AXES[axes[0]]
    need, there = axes_bytes(shape, axis, planes), folder / "planes.npy"
    room = shutil.disk_usage(folder).free + (there.stat().st_size if there.is_file() else 0)
    if axis != AXES[0] and need > room:
        what = f"the chances of {planes} classes" if len(axes) > 1 and planes > 1 else "the answers"
        raise InputError(
            f"got {readable_bytes(room)} of free disk in {folder}, expected {readable_bytes(need)} "
            f"to gather {what} of a volume of {' x '.join(map(str, shape))}; free some space, or "
            f"take {AXES[0]} slices, which need none"
        )


def _record(folder: Path, slabs: int, question: dict[str, Any] | None) -> RunRecord:
    """Which slabs are there. Where one was being added when the program died, none counts."""
    asked = {"fresh": uuid.uuid4().hex} if question is None else question
    record = RunRecord(folder, slabs, asked)
    torn = any(record.has(i, False) and not record.has(i, True) for i in range(slabs))
    begun = any(record.has(i, True) for i in range(slabs))
    if torn or not begun:
        record.close()
        for name in ("run.json", "planes.npy"):
            (folder / name).unlink(missing_ok=True)
        record = RunRecord(folder, slabs, asked)
    return record
