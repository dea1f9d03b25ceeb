"""One model on one image: heavy once, light often.

A session is the headless form of what the docks do: ``set_image``, ``predict``, then ``retune``
as often as one likes. Everything it gives is in *view order* (Z, Y, X); the flips that bring a
slice into the standing of training, and back, happen inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from napari_attnseg.cards import Card
from napari_attnseg.engine import tiling
from napari_attnseg.engine.device import (
    Rung,
    choose_device,
    exact_float32,
    ladder,
    with_memory_ladder,
)
from napari_attnseg.engine.fingerprint import Fingerprint, trace_fingerprint
from napari_attnseg.engine.loading import as_volume, default_cache_bytes, load_source
from napari_attnseg.engine.pipeline import Heavy, Pipeline
from napari_attnseg.engine.predict import Answer, Comparison, MapScale, Prediction, place_grid
from napari_attnseg.engine.preprocess import (
    channel_note,
    intensity_limits,
    nonfinite_note,
    normalize,
    resize,
    working_size,
)
from napari_attnseg.engine.stages import ByteCache
from napari_attnseg.engine.values import checked_values
from napari_attnseg.errors import InputError
from napari_attnseg.io.volume import Volume
from napari_attnseg.settings import PLAIN_THRESHOLD, Tuning

if TYPE_CHECKING:
    from napari_attnseg.attention.base import Attended

T = TypeVar("T")
RECEIVED_BYTES = 32 << 20
"""Maps of attention received that are kept (they cost a pass over the attention each)."""


class Session:
    """A model with an image, on a device.

    ``source``: a ``Checkpoint``, its path, the name of a shipped one, or a model. ``device``:
    see ``choose_device``. ``cache_bytes``: how much the heavy results of slices may take
    together (default: an eighth of the free memory). ``use_cells=False`` turns the cell select
    off (same answers, slower). ``tile``: cut larger slices into tiles of this many working pixels
    (see ``tiling``; another answer, no attention maps). Raises ``CheckpointError``,
    ``DeviceError`` and, for too small a tile, ``InputError``.
    """

    def __init__(
        self,
        source: Any,
        device: str = "auto",
        cache_bytes: int | None = None,
        card: Card | None = None,
        use_cells: bool = True,
        tile: int | None = None,
    ) -> None:
        self.model, self.card, self.name = load_source(source, card)
        self.tile = tiling.check_tile(tile, self.model.stride)
        self._tiler: tiling.Tiler | None = None
        self.device = choose_device(device)
        self._rungs = ladder(self.device)
        self.model.to(self.device).eval()
        self._device_notes: list[str] = []
        self._image_notes: list[str] = []
        self._image: np.ndarray | None = None
        self._rgb = False
        self._flips = (False, False, False)
        self._spacing: tuple[float, ...] = ()
        self._limits = (0.0, 1.0)
        limit = default_cache_bytes() if cache_bytes is None else cache_bytes
        self.pipeline = Pipeline(self.model, self._prepare, self._slice_size, limit, use_cells)
        self._received = ByteCache(RECEIVED_BYTES)

    # -- what is set -----------------------------------------------------------------------------

    @property
    def tuning(self) -> Tuning:
        """The values of the checkpoint's card, completed by the model's own."""
        own = self.model.tuning()
        return own.replace(**self.card.tuning.to_json())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know: channel conversions, steps down in memory."""
        return (*self._device_notes, *self._image_notes)

    @property
    def tiled(self) -> bool:
        """Whether slices of this image are cut into tiles: asked for, and larger than one."""
        return self._tiler is not None

    @property
    def n_slices(self) -> int:
        """Slices of the image."""
        return int(self._need_image().shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X) of the image."""
        z, y, x = self._need_image().shape[:3]
        return z, y, x

    def set_image(
        self,
        image: np.ndarray | Volume | str | Path,
        *,
        rgb: bool | None = None,
        flips: tuple[bool, bool, bool] | None = None,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        """Take another image and forget everything about the one before.

        An array is (Y, X), (Z, Y, X) or, for colour, (Y, X, 3) or (Z, Y, X, 3), in view order;
        a memory map stays on disk. ``flips`` and ``spacing_mm`` default to those of a volume.
        Raises ``InputError`` for pixels or channels that the model cannot take; then the image
        set before stays.
        """
        volume = as_volume(image, rgb)
        view = volume.view
        channels = view.shape[3] if volume.rgb else 1
        note = channel_note(channels, self.card.preprocessing.channels)
        limits = intensity_limits(view, volume.rgb, self.card.preprocessing)
        self._image, self._rgb, self._limits = view, volume.rgb, limits
        self._flips = volume.flips if flips is None else flips
        self._spacing = volume.spacing_mm if spacing_mm is None else spacing_mm
        plan = tiling.Plan.of(self._working_size(), self.tile, self.model.stride)
        self._tiler = tiling.Tiler(plan, self._working) if len(plan) > 1 else None
        cut = tiling.tile_note(self.tile) if self.tile and self.tiled else None
        notes = (volume.note, note, nonfinite_note(view, volume.rgb), cut)
        self._image_notes = [text for text in notes if text]
        self._forget()

    def _need_image(self) -> np.ndarray:
        if self._image is None:
            raise InputError("no image is set; call set_image(...) with an array or a path first")
        return self._image

    def _forget(self) -> None:
        self.pipeline.clear()
        self._received.clear()

    # -- answers ---------------------------------------------------------------------------------

    def predict(self, z: int = 0, tuning: Tuning | None = None) -> Prediction:
        """Segment slice ``z`` (view index). Heavy the first time, light after that.

        ``tuning``: values to use, default :attr:`tuning`; names left out keep their default.
        """
        values = self._values(tuning)
        self._check_slice(z)

        def work() -> tuple[Answer, Attended | None, int]:
            if self._tiler is not None:
                return self._tiler.answer(self.pipeline, z, values), None, 0
            answer, heavy, over = self.pipeline.answer(z, values)
            return answer, heavy.attended, over

        answer, attended, over = self._guarded(work)
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
            yield z, self.predict(z, tuning)

    def compare(self, z: int, tuning: Tuning | None = None) -> Comparison:
        """Foreground of slice ``z`` against plain attention (threshold 2.0), same other values."""
        tuning = self.tuning if tuning is None else tuning
        now = self.predict(z, tuning)
        if "threshold" not in self._values(None):
            raise InputError("this model has no threshold, so there is nothing to compare")
        plain = self.predict(z, tuning.replace(threshold=PLAIN_THRESHOLD))
        a, b = now.labels > 0, plain.labels > 0
        return Comparison(a & ~b, b & ~a, a & b)

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
        if self.tiled:
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

    def map_scale(self, z: int = 0) -> MapScale:
        """Where the attention grid lies on a slice, in view orientation."""
        size = self.shape[1:]
        return place_grid(size, self._working_size(), self.model.stride, self._flips[1:])

    def provenance(self, tuning: Tuning | None = None) -> dict[str, Any]:
        """What an exported mask should say about its making, as plain data."""
        from napari_attnseg import __version__

        return {
            "program": f"napari-attnseg {__version__}",
            "model": Path(self.name).name,
            "model_digest": self.card.digest,
            "tuning": self._tuned(tuning).to_json(),
            "preprocessing": asdict(self.card.preprocessing),
            "device": str(self.device),
            "tile": {"pixels": self.tile, "overlap": tiling.OVERLAP} if self.tiled else None,
            "notes": list(self.notes),
        }

    # -- inside ----------------------------------------------------------------------------------

    def _tuned(self, tuning: Tuning | None) -> Tuning:
        return self.tuning if tuning is None else self.tuning.replace(**tuning.to_json())

    def _values(self, tuning: Tuning | None) -> dict[str, Any]:
        """All values by name, checked against the model's tunables."""
        return checked_values(self.model.tunables, self._tuned(tuning))

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

    def _need_whole(self, what: str) -> None:
        if self.tiled:
            raise InputError(
                f"there is no {what} of a slice that is cut into tiles; "
                "segment it without tiles, or a smaller image"
            )

    def _check_slice(self, z: int) -> None:
        if not 0 <= z < self.n_slices:
            raise InputError(f"got slice {z}, expected 0 to {self.n_slices - 1}")

    def _cell_of(self, y: int, x: int, grid: Any) -> tuple[int, int]:
        """Grid cell, in the network's standing, that holds a view pixel."""
        i, j = self.map_scale().cell_at(y, x)
        _, rows, cols = self._flips
        return (grid[0] - 1 - i if rows else i), (grid[1] - 1 - j if cols else j)

    def _standing(self, slice_: np.ndarray) -> np.ndarray:
        """A slice (Y, X[, C]) brought into the standing of training (a view)."""
        _, rows, cols = self._flips
        return slice_[:: -1 if rows else 1, :: -1 if cols else 1]

    def _back(self, tensor: torch.Tensor) -> np.ndarray:
        """A result (..., Y, X) as a contiguous array in view orientation."""
        array = tensor.detach().cpu().numpy()
        _, rows, cols = self._flips
        if rows or cols:
            array = array[..., :: -1 if rows else 1, :: -1 if cols else 1]
        return np.ascontiguousarray(array)

    def _slice_size(self) -> tuple[int, int]:
        return self.shape[1:]

    def _working_size(self) -> tuple[int, int]:
        return working_size(self.shape[1:], self.card.preprocessing, self._spacing)

    def _prepare(self, part: int | tiling.Tile) -> torch.Tensor:
        if isinstance(part, tiling.Tile):
            assert self._tiler is not None
            return self._tiler.pixels(part).to(self.device)
        return self._working(part).to(self.device)

    def _working(self, z: int) -> torch.Tensor:
        p = self.card.preprocessing
        slice_ = self._standing(np.asarray(self._need_image()[z]))
        x = torch.from_numpy(normalize(slice_, self._rgb, p, self._limits))[None]
        return resize(x, self._working_size(), antialias=True)

    def _guarded(self, work: Callable[[], T]) -> T:
        """Run on the device; step down the memory ladder when it is full, and stay there."""

        def on(rung: Rung) -> T:
            self._move(rung)
            with torch.no_grad(), exact_float32():
                return work()

        got = "a slice of {} x {} pixels".format(*self.shape[1:])
        way = self._working_size(), self.tile, self.model.stride
        advice, tile = tiling.tile_advice(*way), tiling.helpful_tile(*way)
        result, rung = with_memory_ladder(on, self._rungs, self._device_notes, got, advice, tile)
        self._rungs = self._rungs[self._rungs.index(rung) :]
        return result

    def _move(self, rung: Rung) -> None:
        if rung == self._rungs[0]:
            return
        self._forget()
        if rung.device != self.device:
            self.device = rung.device
            self.model.to(rung.device)
        for module in self.model.modules():
            if rung.block_bytes is not None and hasattr(module, "block_bytes"):
                setattr(module, "block_bytes", rung.block_bytes)  # noqa: B010, typed as a module
