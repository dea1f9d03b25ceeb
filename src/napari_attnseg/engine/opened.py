"""A model with an image on a device: what every question of a session stands on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

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
from napari_attnseg.engine.disk_tier import DiskTier, Kept
from napari_attnseg.engine.live_window import LiveWindow
from napari_attnseg.engine.loading import (
    MEMORY_BESIDE_DISK,
    as_volume,
    default_cache_bytes,
    load_source,
)
from napari_attnseg.engine.pipeline import Pipeline
from napari_attnseg.engine.predict import Answer, cut_logits
from napari_attnseg.engine.preprocess import (
    channel_note,
    intensity_limits,
    nonfinite_note,
    normalize,
    resize,
)
from napari_attnseg.engine.seen import Seen
from napari_attnseg.engine.stages import ByteCache, bytes_of
from napari_attnseg.engine.turned import Turned, depth_along, in_order, size_along, standing
from napari_attnseg.engine.values import checked_values
from napari_attnseg.engine.windows import PATCH, Windows
from napari_attnseg.errors import InputError
from napari_attnseg.io.pages import let_go
from napari_attnseg.io.volume import Volume
from napari_attnseg.settings import Tuning

T = TypeVar("T")


MAP_BYTES = 32 << 20
"""Maps of attention that are kept (they cost a pass over the attention each)."""


class OpenImage:
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
        self._windows: Windows | None = None
        self.device = choose_device(device)
        self._rungs = ladder(self.device)
        self.model.to(self.device).eval()
        self._device_notes: list[str] = []
        self._image_notes: list[str] = []
        self._image: np.ndarray | Turned | None = None
        self.axis, self._rgb = 0, False
        self._flips = self._upright = (False, False, False)
        self._spacing: tuple[float, ...] = ()
        self._apart: tuple[float, ...] = ()
        self._limits = (0.0, 1.0)
        limit = default_cache_bytes() if cache_bytes is None else cache_bytes
        self.pipeline = Pipeline(self.model, self._prepare, self._slice_size, limit, use_cells)
        self._received = ByteCache(MAP_BYTES)
        self._levels = ByteCache(MAP_BYTES)
        self.window = LiveWindow()
        self._tier: DiskTier | None = None

    # -- what is set -----------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        """Classes of the masks, background included."""
        return max(2, self.model.spec.classes)

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
        self._upright = volume.flips if flips is None else flips
        self._apart = volume.spacing_mm if spacing_mm is None else spacing_mm
        self.look_along(0)
        maps = any(t.name == "threshold" for t in self.model.tunables)
        seen = self._windows.note if self._windows else ""
        told = bool(self.model.places), maps
        cut = tiling.tile_note(self.tile, *told) if self.tile and self.tiled else None
        notes = (volume.note, note, nonfinite_note(view, volume.rgb), cut, seen)
        self._image_notes = [text for text in notes if text]

    def look_along(self, axis: int) -> None:
        """Take slices along view axis ``axis`` from now on (0: axial, as :meth:`set_image` does; 1:
        coronal; 2: sagittal). Shape, slice numbers and answers are then those of the turned volume
        (see ``turned``); what was computed is forgotten."""
        if axis and self.model.ndim == 3:
            raise InputError(
                f"got slices along axis {axis} for a 3D model, which sees the volume as a whole; "
                "expected axial ones"
            )
        image = self._need_image()
        view = image.source if isinstance(image, Turned) else image
        self._image, self.axis = (Turned(view, axis) if axis else view), axis
        self._flips = standing(self._upright, axis)
        self._spacing = in_order(self._apart, axis) if len(self._apart) == 3 else self._apart
        flat = self.model.ndim == 2
        plan = tiling.Plan.of(self._working_size(), self.tile if flat else None, self.model.stride)
        self._tiler = tiling.Tiler(plan, self._working) if len(plan) > 1 else None
        self._windows = None if flat else self._windowed()
        self._forget()

    @property
    def windows(self) -> int:
        """Windows of a 3D model over the whole volume; 0 for models of slices."""
        return self._windows.count if self._windows is not None else 0

    def missing(self, z: int, tuning: Tuning | None = None) -> int:
        """Windows that a 3D model must still compute for slice ``z``; 0 for models of slices."""
        if self._windows is None:
            return 0
        return self._windows.missing(self._window_key(self._values(tuning)), self._depth_of(z))

    def keep_on_disk(self, folder: Path, limit: int) -> None:
        """Let heavy results that leave memory lie in ``folder``, ``limit`` bytes at most.

        Values that are moved later then wake only the stages behind them, for all slices kept.
        """
        if self._tier is None or self._tier.folder.parent != folder:
            self.close()
            self._tier = self.pipeline.heavy.below = DiskTier(folder, limit)
            self.pipeline.spare_memory(MEMORY_BESIDE_DISK)
        self._tier.limit = limit

    def kept(self) -> Kept:
        """What is kept of the heavy stages of this image."""
        disk = self._tier
        memory = self.pipeline.heavy
        slices = {getattr(part, "z", part) for part in memory.inputs()}
        if disk is None:
            return Kept(len(slices), memory.used, 0, 0)
        slices |= {getattr(part, "z", part) for part in disk.inputs()}
        return Kept(len(slices), memory.used, disk.used, disk.limit, disk.problem)

    def heavy_bytes(self, z: int, tuning: Tuning | None = None) -> tuple[int, int]:
        """Bytes of what is kept of slice ``z`` for values that move, and of one map on its grid."""
        found = self._guarded(lambda: self.pipeline.attended(z, self._values(tuning)))
        return bytes_of(found), bytes_of(getattr(found.attended, "step", None))

    def close(self) -> None:
        """Remove what lies on disk."""
        tier, self._tier, self.pipeline.heavy.below = self._tier, None, None
        if tier is not None:
            tier.close()

    def _need_image(self) -> np.ndarray | Turned:
        if self._image is None:
            raise InputError("no image is set; call set_image(...) with an array or a path first")
        return self._image

    def _forget(self) -> None:
        self.model.forget()
        self.pipeline.clear()
        self.window.clear()
        self._received.clear()
        self._levels.clear()

    def _leave_memory(self) -> None:
        """Free what memory is kept for answers; what lies on disk still holds."""
        self.model.forget()
        self.pipeline.leave_memory()
        self.window.clear()
        self._received.clear()
        self._levels.clear()

    def provenance(self, tuning: Tuning | None = None) -> dict[str, Any]:
        """What an exported mask should say about its making, as plain data."""
        from napari_attnseg import __version__

        return {
            "program": f"napari-attnseg {__version__}",
            "model": Path(self.name).name,
            "model_digest": self.card.digest,
            "spec": dict(self.card.spec),
            "tuning": self._tuned(tuning).to_json(),
            "preprocessing": asdict(self.card.preprocessing),
            "device": str(self.device),
            "tile": {"pixels": self.tile, "overlap": tiling.OVERLAP} if self.tiled else None,
            **({"window": list(self._windows.window)} if self._windows else {}),
            "notes": list(self.notes),
        }

    # -- inside ----------------------------------------------------------------------------------

    def _tuned(self, tuning: Tuning | None) -> Tuning:
        return self.tuning if tuning is None else self.tuning.replace(**tuning.to_json())

    def _values(self, tuning: Tuning | None) -> dict[str, Any]:
        """All values by name, checked against the model's tunables."""
        return checked_values(self.model.tunables, self._tuned(tuning))

    def _windowed(self) -> Windows:
        """The windows of a 3D model; with ``tile`` they have that side within slices."""
        patch = self.card.preprocessing.patch or PATCH
        depth = depth_along(self.shape[0], self.card.preprocessing, self._spacing)
        sides = (patch[0], self.tile or patch[1], self.tile or patch[2])
        working = (depth, *self._working_size())
        return Windows(self.shape, working, sides, lambda z: self._working(self._depth_of(z)))

    def _depth_of(self, z: int) -> int:
        """Slice ``z`` in the network's standing, and back."""
        return self.n_slices - 1 - z if self._flips[0] else z

    def _window_key(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """What the logits of a 3D model depend on."""
        return tuple(sorted((t.name, values[t.name]) for t in self.model.tunables))

    def _through_windows(
        self, z: int, values: dict[str, Any]
    ) -> Generator[None, None, tuple[Answer, bool]]:
        """Slice ``z`` of a 3D model, and whether any window was computed for it."""
        assert self._windows is not None
        wanted = {t.name: values[t.name] for t in self.model.tunables}
        key, at = self._window_key(values), self._depth_of(z)
        new = self._windows.missing(key, at) > 0

        def net(x: torch.Tensor) -> torch.Tensor:
            return self._guarded(lambda: self.model(x.to(self.device), **wanted).cpu())

        logits = yield from self._windows.logits(key, at, net)
        return cut_logits(logits, values["cut"]), new

    def seen(self, z: int, near: tuple[int, int] | None = None) -> Seen:
        """What one forward sees: slice ``z`` or, of a 3D model, the window that weighs most in the
        answer of voxel (z, *near) (default: in the middle of the slice)."""
        shape, padded = self.shape, self.model.padded_size
        if self._windows is None:
            work = self._working_size()
            return Seen.slice(z, shape[1:], work, padded(work), self._flips[1:])
        at = (z, *(near or (shape[1] // 2, shape[2] // 2)))
        return Seen.window(at, self._windows, padded(self._windows.window), self._flips)

    def _pixels(self, seen: Seen) -> torch.Tensor:
        """The same as the network gets it: (1, C, H, W) or (1, C, d, h, w)."""
        if self._windows is None:
            return self._prepare(seen.key)  # type: ignore[arg-type]
        return self._windows.pixels(seen.first).to(self.device)  # type: ignore[arg-type]

    def _need_whole(self, what: str) -> None:
        if self.model.ndim == 3:
            raise InputError(
                f"there is no {what} of a 3D model: it belongs to the threshold of Smooth "
                "Attention, which knows slices alone; choose a model with that attention"
            )
        self._need_uncut(what)

    def _need_uncut(self, what: str) -> None:
        if self.tiled:
            raise InputError(
                f"there is no {what} of a slice that is cut into tiles; "
                "segment it without tiles, or a smaller image"
            )

    def _check_slice(self, z: int) -> None:
        if not 0 <= z < self.n_slices:
            raise InputError(f"got slice {z}, expected 0 to {self.n_slices - 1}")

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
        return size_along(self.axis, self.shape[1:], self.card.preprocessing, self._spacing)

    def _prepare(self, part: int | tiling.Tile) -> torch.Tensor:
        if isinstance(part, tiling.Tile):
            assert self._tiler is not None
            return self._tiler.pixels(part).to(self.device)
        return self._working(part).to(self.device)

    def _working(self, z: int) -> torch.Tensor:
        p = self.card.preprocessing
        image = self._need_image()
        slice_ = self._standing(np.asarray(image[z]))
        x = torch.from_numpy(normalize(slice_, self._rgb, p, self._limits))[None]
        let_go(image)
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
        if rung.device == self.device:
            self._leave_memory()
        else:
            self._forget()
            self.device = rung.device
            self.model.to(rung.device)
        for module in self.model.modules():
            if rung.block_bytes is not None and hasattr(module, "block_bytes"):
                setattr(module, "block_bytes", rung.block_bytes)  # noqa: B010, typed as a module
