"""One model on one image: heavy once, light often.

A session is the headless form of what the docks do: ``set_image``, ``predict``, then ``retune``
as often as one likes. Everything it gives is in *view order* (Z, Y, X); the flips that bring a
slice into the standing of training, and back, happen inside.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from napari_attnseg.engine import levels
from napari_attnseg.engine.fingerprint import Fingerprint, trace_fingerprint
from napari_attnseg.engine.levels import LevelMap
from napari_attnseg.engine.opened import OpenImage
from napari_attnseg.engine.pipeline import Heavy
from napari_attnseg.engine.predict import (
    Comparison,
    MapScale,
    Prediction,
    place_grid,
)
from napari_attnseg.engine.refining import Step, iterate, refined_model
from napari_attnseg.engine.seen import Seen
from napari_attnseg.errors import InputError
from napari_attnseg.settings import PLAIN_THRESHOLD, Tuning


class Session(OpenImage):
    """A model with an image, on a device (see :class:`OpenImage`), and what one asks of it."""

    # -- answers ---------------------------------------------------------------------------------

    def predict(self, z: int = 0, tuning: Tuning | None = None) -> Prediction:
        """Segment slice ``z`` (view index). Heavy the first time, light after that.

        ``tuning``: values to use, default :attr:`tuning`; names left out keep their default.
        """
        return _last(self.stepwise(z, tuning))

    def stepwise(
        self, z: int = 0, tuning: Tuning | None = None, live: bool = True
    ) -> Generator[None, None, Prediction]:
        """:meth:`predict` as a generator that returns the answer and pauses between tiles: what
        takes long can be left at a pause, by closing it. ``live=False``: the same answer without
        getting ready for a threshold that moves (see ``Pipeline.answer``)."""
        values = self._values(tuning)
        self._check_slice(z)
        attended, over = None, 0
        if self._windows is not None:
            answer, new = yield from self._through_windows(z, values)
            self.pipeline.chain.woken = ("windows", "cut") if new else ("cut",)
        elif self._tiler is not None:
            answer = yield from self._tiler.steps(self.pipeline, z, values, self._guarded)
        else:
            answer, heavy, over = self._guarded(lambda: self.pipeline.answer(z, values, live))
            attended = heavy.attended
        step = None if attended is None else self._back(attended.step[0])
        return Prediction(
            self._back(answer.labels),
            self._back(answer.probability),
            self._back(answer.logits),
            step,
            max(over, 0),
            0 if step is None else int(step.size),
            self.pipeline.chain.woken,
            lambda: self.received(z, tuning),
        )

    def retune(self, z: int, tuning: Tuning) -> Prediction:
        """The same slice with other values: only the stages that they touch run."""
        return self.predict(z, tuning)

    def run(
        self, order: Iterable[int] | None = None, tuning: Tuning | None = None
    ) -> Iterator[tuple[int, Prediction]]:
        """Segment slices in ``order`` (default: all), one at a time; stop by not asking on."""
        for z in range(self.n_slices) if order is None else order:
            yield z, _last(self.stepwise(z, tuning, live=False))

    def compare(self, z: int, tuning: Tuning | None = None) -> Comparison:
        """Foreground of slice ``z`` against plain attention (threshold 2.0), same other values."""
        tuning = self.tuning if tuning is None else tuning
        now = self.predict(z, tuning)
        if "threshold" not in self._values(None):
            raise InputError("this model has no threshold, so there is nothing to compare")
        plain = self.predict(z, tuning.replace(threshold=PLAIN_THRESHOLD))
        a, b = now.labels > 0, plain.labels > 0
        return Comparison(a & ~b, b & ~a, a & b)

    def steps(self, z: int = 0, tuning: Tuning | None = None) -> tuple[Step, ...]:
        """Of a refined model, every iterate of slice ``z`` from the coarse mask (number 0) to the
        one that :meth:`predict` gives, with the pixels that each changed.

        Raises ``InputError`` for a model that is not refined and for a slice cut into tiles.
        """
        values = self._values(tuning)
        self._check_slice(z)
        refined_model(self.model)
        self._need_whole("single iteration")
        return self._guarded(lambda: iterate(self.pipeline, z, values, self._back))

    def fingerprint(
        self,
        z: int,
        tuning: Tuning | None = None,
        points: int = 64,
        reference: np.ndarray | None = None,
        thresholds: Iterable[float] | None = None,
    ) -> Fingerprint:
        """Area, components and, against ``reference`` (Y, X ids), Dice and IoU at many thresholds
        from one pass of encoder and attention (see ``trace_fingerprint``)."""
        values = self._values(tuning)
        self._check_slice(z)
        self._need_whole("fingerprint")
        if reference is not None:
            if reference.shape != self.shape[1:]:
                raise InputError(
                    f"reference is {reference.shape} but the slice is {self.shape[1:]}; "
                    "choose labels of the same image"
                )
            reference = self._standing(np.asarray(reference))
        wanted = None if thresholds is None else tuple(thresholds)
        return self._guarded(
            lambda: trace_fingerprint(self.pipeline, z, values, points, reference, wanted)
        )

    # -- attention maps --------------------------------------------------------------------------

    def attention_row(self, z: int, y: int, x: int, tuning: Tuning | None = None) -> np.ndarray:
        """What pixel (z, y, x) attends to: its attention row, float32 (h, w), sums to 1."""
        values = self._values(tuning)
        self._check_slice(z)
        self._need_whole("attention row")
        height, width = self.shape[1:]
        if not (0 <= y < height and 0 <= x < width):
            raise InputError(f"pixel ({y}, {x}) lies outside the slice of {height} x {width}")

        def work() -> np.ndarray:
            heavy = self.pipeline.attended(z, values)
            attended = self._need_attention(heavy)
            i, j = self._cell_of(y, x, attended.step.shape[-2:])
            row = self._attention.row(
                heavy.encoded.features, i, j, attended, **self._row_values(values)
            )
            return self._back(row[0])

        return self._guarded(work)

    def received(self, z: int, tuning: Tuning | None = None) -> np.ndarray | None:
        """Attention received, float32 (h, w): the mean over queries of each key's column.

        Under ``rule="authors"`` of the smoothed rows A', so that it follows the threshold; under
        the other rules the threshold does not alter A. ``None`` for a model without attention
        and for a slice cut into tiles.
        """
        values = self._values(tuning)
        self._check_slice(z)
        if self.tiled or self.model.ndim == 3:
            return None

        def work() -> np.ndarray | None:
            heavy = self.pipeline.attended(z, values)
            if heavy.attended is None:
                return None
            if values.get("rule") != "authors":
                return self._back(heavy.attended.received[0])
            over = int((heavy.attended.step > values["threshold"]).sum())
            found, map_ = self._received.get((z, over))
            if not found:
                smooth = self._attention.received(
                    heavy.encoded.features, heavy.attended, **self._row_values(values)
                )
                map_ = self._back(smooth[0])
                self._received.put((z, over), map_)
            return map_

        return self._guarded(work)

    def received_costs(self, tuning: Tuning | None = None) -> bool:
        """Whether :meth:`received` takes a pass of its own over the attention of every slice."""
        return not self.tiled and self._values(tuning).get("rule") == "authors"

    def maps(
        self,
        z: int = 0,
        tuning: Tuning | None = None,
        stacks: Collection[levels.Key] = (),
        near: tuple[int, int] | None = None,
    ) -> tuple[LevelMap, ...]:
        """The attention maps of every place of the model, finest grid first, from one full
        forward at ``tuning`` (kept); none for a model without attention. Maps that ``stacks``
        names (place, name) come with all their channels, the others as the mean of theirs.

        Of a 3D model: volumes over the one window that weighs most in the answer of voxel
        ``(z, *near)``, ``near`` (row, column) being the middle of the slice by default."""
        return self._recorded(z, tuning, (), stacks, near)

    def rows(
        self,
        z: int,
        y: int,
        x: int,
        tuning: Tuning | None = None,
        others: Sequence[tuple[int, int]] = (),
        stacks: Collection[levels.Key] = (),
    ) -> tuple[LevelMap, ...]:
        """What pixel (z, y, x) attends to at every place that has such a row (it may have signs:
        dot-product attention is no share of a whole); so too for ``others`` (y, x) of the slice,
        told apart by ``query`` (1, 2, ...). ``stacks``: see :meth:`maps`. Of a 3D model each is a
        volume over the window that weighs most in the voxel's answer."""
        height, width = self.shape[1:]
        for row, column in ((y, x), *others):
            if not (0 <= row < height and 0 <= column < width):
                raise InputError(
                    f"pixel ({row}, {column}) lies outside the slice of {height} x {width}"
                )
        return self._recorded(z, tuning, ((y, x), *others), stacks)

    def map_scale(self, z: int = 0) -> MapScale:
        """Where the attention grid lies on a slice, in view orientation."""
        size = self.shape[1:]
        return place_grid(size, self._working_size(), self.model.stride, self._flips[1:])

    # -- inside ----------------------------------------------------------------------------------

    def _row_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: values[name] for name in ("threshold", "rule") if name in values}

    @property
    def _attention(self) -> Any:
        """The model's attention module (see ``SmoothAttention`` for ``row`` and ``received``)."""
        return self.model.attention

    @staticmethod
    def _need_attention(heavy: Heavy) -> Any:
        if heavy.attended is None:
            raise InputError("this model has no attention map; choose one with attention")
        return heavy.attended

    def _cell_of(self, y: int, x: int, grid: Any) -> tuple[int, int]:
        """Grid cell, in the network's standing, that holds a view pixel."""
        i, j = self.map_scale().cell_at(y, x)
        _, rows, cols = self._flips
        return (grid[0] - 1 - i if rows else i), (grid[1] - 1 - j if cols else j)

    def _recorded(
        self,
        z: int,
        tuning: Tuning | None,
        at: tuple[tuple[int, int], ...],
        stacks: Collection[levels.Key],
        near: tuple[int, int] | None = None,
    ) -> tuple[LevelMap, ...]:
        """Maps, or rows of the pixels ``at``; one forward with a question gives both."""
        values = self._values(tuning)
        self._check_slice(z)
        self._need_uncut("attention map")
        if not at:
            return self._seen_maps(self.seen(z, near), values, (), stacks)
        found: list[LevelMap] = []
        for seen, numbers in self._asked_parts(z, at).items():
            asked = tuple((n, (z, *at[n])[-len(seen.size) :]) for n in numbers)
            found += self._seen_maps(seen, values, asked, stacks)
        found.sort(key=lambda m: levels.rank(m.place, self.model.places))
        return tuple(found)

    def _asked_parts(self, z: int, at: tuple[tuple[int, int], ...]) -> dict[Seen, list[int]]:
        """The parts of the image that answer for pixels ``at``, with the numbers of theirs."""
        parts: dict[Seen, list[int]] = {}
        for number, pixel in enumerate(at):
            parts.setdefault(self.seen(z, pixel), []).append(number)
        return parts

    def _seen_maps(
        self,
        seen: Seen,
        values: dict[str, Any],
        asked: tuple[tuple[int, tuple[int, ...]], ...],
        stacks: Collection[levels.Key],
    ) -> tuple[LevelMap, ...]:
        """Maps of one part of the image, or the rows of positions ``asked`` (number, position)."""
        whole = frozenset(stacks)
        root = (seen.key, whole, *((k, v) for k, v in sorted(values.items()) if k != "cut"))
        found, kept = self._levels.get((root, asked))
        if found:
            return tuple(kept)
        wanted = {t.name: values[t.name] for t in self.model.tunables if t.stage == "gate"}
        queries = [seen.fraction(at) for _, at in asked]
        query = queries[0] if queries else None
        records = self._guarded(
            lambda: levels.record(self.model, self._pixels(seen), wanted, query, queries[1:])
        )
        made = [self._level_map(record, whole, seen, asked) for record in records]
        maps = tuple(m for m in made if m.kind != "row")
        rows = tuple(m for m in made if m.kind == "row")
        self._levels.put((root, ()), maps)
        if asked:
            self._levels.put((root, asked), rows)
        return rows if asked else maps

    def _level_map(
        self,
        record: levels.Record,
        stacks: Collection[levels.Key],
        seen: Seen,
        asked: tuple[tuple[int, tuple[int, ...]], ...],
    ) -> LevelMap:
        place = levels.place_of(record.place, self.model.places)
        title = place.title if place else record.place
        level = levels.level_of(place, self.model) if place else ""
        values, scale, depth = self._placed(record, levels.pictured(record, stacks), seen)
        about = (record.place, record.name, title, record.kind)
        count = levels.channels_of(record)
        query = asked[record.query][0] if record.query < len(asked) else 0
        return LevelMap(
            *about, values, scale, level, record.labels, record.axis, count, query, depth
        )

    def _placed(
        self, record: levels.Record, values: torch.Tensor, seen: Seen
    ) -> tuple[np.ndarray, MapScale, tuple[float, float] | None]:
        """A record's values in view orientation, and where they lie on the image."""
        if levels.over_image(record):
            return seen.laid(values)
        turned = record.kind == "axes" and seen.flips[record.axis]
        return (values.flip(-1) if turned else values).cpu().numpy(), levels.BESIDE, None


def _last(steps: Generator[None, None, Prediction]) -> Prediction:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: Prediction = end.value
            return answer
