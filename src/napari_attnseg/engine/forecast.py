"""What a run over a volume will cost, from slices that were measured: nothing here is guessed."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import psutil

from napari_attnseg.control.volumes import (
    AXES,
    Forecast,
    Forecasted,
    axes_bytes,
    axes_named,
    result_bytes,
)
from napari_attnseg.engine.loading import IN_PASSING, MEMORY_BESIDE_DISK
from napari_attnseg.io.limits import readable_bytes

if TYPE_CHECKING:
    from napari_attnseg.engine.session import Session

QUICK = 1.0
"""Seconds: of a model that is quicker with a slice a third one is timed."""
LOOK_SECONDS = 0.002
"""Between two looks at the memory of the process while a slice is computed."""


@dataclass(frozen=True)
class Measured:
    """Of one slice: ``seconds``; the bytes at its ``peak`` over those that stayed afterwards;
    what is kept of its ``heavy`` and ``light`` stages and of its ``maps``. ``slices``: which were
    looked at (none: the pace of a run)."""

    seconds: float
    peak: int
    heavy: int
    light: int
    maps: int
    slices: tuple[int, ...]


class Forecaster:
    """Measures each session once per image; a run that was timed makes the pace more exact."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Session, tuple[str, Measured]] = WeakKeyDictionary()

    def answer(self, session: Session, work: Forecast) -> Generator[None, None, Forecasted]:
        """The forecast; pauses between the slices that have to be measured for it."""
        known = self._known.get(session)
        if known is None or known[0] != work.image.key:
            measured = yield from measure(session, work)
            known = self._known[session] = work.image.key, measured
        return tell(session, work, known[1])

    def paced(self, session: Session, seconds: float | None) -> None:
        """A run took so long per slice."""
        known = self._known.get(session)
        if known is not None and seconds is not None:
            self._known[session] = known[0], replace(known[1], seconds=seconds, slices=())


def measure(session: Session, work: Forecast) -> Generator[None, None, Measured]:
    """Compute slice ``work.z``, as a run would begin, and one or two more beside it.

    The first of all slices also pays for what libraries prepare, so its time does not count where
    there are others. Other programs can only make a slice slower: the quickest counts, of two
    where a slice is quick. A 3D model works in windows that serve many slices: those of one slice
    are timed.
    """
    if session.model.ndim == 3:
        return (yield from _measure_windows(session, work))
    pipeline, count = session.pipeline, session.n_slices
    near = [z for z in (work.z, *(work.z + k for k in (1, -1, 2, -2))) if 0 <= z < count]
    peak, slices, times = 0, [], []
    for z in near[:3]:
        before = pipeline.heavy.used, pipeline.light.used
        began = time.perf_counter()
        with watched_memory() as most:
            yield from _through(session.stepwise(z, work.tuning, live=z == work.z))
        slices.append(z)
        times.append(time.perf_counter() - began)
        peak = max(peak, most() - resident())
        yield
        if len(times) == 2 and times[1] > QUICK:
            break
    seconds = min(times[1:] or times)
    heavy, light = pipeline.heavy.used - before[0], pipeline.light.used - before[1]
    maps = 0
    if not session.tiled:
        heavy, grid = session.heavy_bytes(slices[-1], work.tuning)
        maps = 2 * grid
    return Measured(seconds, peak, max(heavy, 0), max(light, 0), maps, tuple(slices))


def _measure_windows(session: Session, work: Forecast) -> Generator[None, None, Measured]:
    """The windows of the slice nearest to ``work.z`` that lacks some; nothing is kept of them but
    their sums, which belong to the peak."""
    near = sorted(range(session.n_slices), key=lambda k: abs(k - work.z))
    z = next((k for k in near if session.missing(k, work.tuning)), work.z)
    windows = session.missing(z, work.tuning)
    began, before = time.perf_counter(), resident()
    with watched_memory() as most:
        yield from _through(session.stepwise(z, work.tuning, live=False))
    seconds = (time.perf_counter() - began) / max(windows, 1)
    each = seconds * session.windows / session.n_slices
    return Measured(each, max(0, most() - before), 0, 0, 0, (z,))


def _through(steps: Iterator[None]) -> Iterator[None]:
    for _ in steps:
        yield


def tell(session: Session, work: Forecast, measured: Measured) -> Forecasted:
    """The figures for ``work.slices`` slices, from now on."""
    if work.along != AXES[0]:
        return _tell_turned(session, work, measured)
    slices, pipeline = work.slices or session.n_slices, session.pipeline
    shape = (slices, *session.shape[1:])
    room = min(pipeline.heavy.limit, MEMORY_BESIDE_DISK) if work.stage_bytes else None
    heavy = pipeline.heavy.limit if room is None else room
    kept = min(heavy, measured.heavy * slices)
    light = min(pipeline.light.limit, heavy // 8, measured.light * slices)
    growth = max(0, kept - pipeline.heavy.used) + max(0, light - pipeline.light.used)
    now = resident()
    memory = now + measured.peak + growth
    stages = min(work.stage_bytes, max(0, measured.heavy * slices - kept))
    disk = result_bytes(shape) + measured.maps * slices + stages
    free, disk_free = _free(work)
    note = _words(measured, stages, memory - now, free)
    about = note, free, disk_free, stages, work.stage_bytes
    return Forecasted(work.id, memory, disk, measured.seconds * slices, *about)


def _tell_turned(session: Session, work: Forecast, measured: Measured) -> Forecasted:
    """The figures for a run along other axes: it has a session of its own, and gathers slabs."""
    from napari_attnseg.engine.turned import SLAB_BYTES

    total, largest = _worth(session, work.along)
    classes = session.model.spec.classes
    weights = sum(p.nbytes for p in session.model.parameters())
    slabs = 3 * min(SLAB_BYTES, 4 * math.prod(session.shape) * classes)
    more = round(measured.peak * largest) + weights + IN_PASSING + slabs
    disk = result_bytes(session.shape) + axes_bytes(session.shape, work.along, classes)
    free, disk_free = _free(work)
    words = f"{_words(measured, 0, more, free)}; slices along other axes are reckoned by pixels"
    seconds = measured.seconds * total
    return Forecasted(work.id, resident() + more, disk, seconds, words, free, disk_free)


def _worth(session: Session, axis: str) -> tuple[float, float]:
    """How many axial slices all slices along ``axis`` are worth, and the largest of them."""
    from napari_attnseg.engine.turned import in_order, size_along

    p, spacing = session.card.preprocessing, session._apart
    sizes = []
    for number in (0, *axes_named(axis)):
        count, *size = in_order(session.shape, number)
        apart = in_order(spacing, number) if len(spacing) == 3 else spacing
        rows, columns = size_along(number, (size[0], size[1]), p, apart)
        sizes.append((count, rows * columns))
    (_, axial), *others = sizes
    total = sum(count * pixels / axial for count, pixels in others)
    return total, max(pixels / axial for _, pixels in others)


def _free(work: Forecast) -> tuple[int, int]:
    """Bytes of memory, and of the disk of ``work.out`` (0: not looked at)."""
    known = work.out and Path(work.out).is_dir()
    disk = int(shutil.disk_usage(work.out).free) if known else 0
    return int(psutil.virtual_memory().available), disk


def _words(measured: Measured, stages: int, more: int, free: int) -> str:
    if measured.slices:
        *others, last = (str(z) for z in measured.slices)
        stands = f"slices {', '.join(others)} and {last}" if others else f"slice {last}"
    else:
        stands = "the last run"
    words = (
        f"measured on {stands}: {measured.seconds:.2g} s and {readable_bytes(measured.peak)} of "
        "memory for a slice"
    )
    if stages:
        words += f"; {readable_bytes(stages)} of the disk are for values moved later"
    if more > free:
        words += (
            f"; this needs {readable_bytes(more)} more memory, but {readable_bytes(free)} are "
            "free: close other programs first, or segment in tiles"
        )
    return words


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(psutil.Process().memory_info().rss)


@contextlib.contextmanager
def watched_memory() -> Iterator[Callable[[], int]]:
    """Look at this process's memory meanwhile; the value tells its peak, also afterwards."""
    most, over = [resident()], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=look, name="attnseg-memory", daemon=True)
    watcher.start()
    try:
        yield lambda: most[0]
    finally:
        over.set()
        watcher.join()
        most[0] = max(most[0], resident())
