"""What can be said before Run: does the image suit the model, and what will the run cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_attnseg.control.handover import Handover, Sample
from napari_attnseg.control.volumes import result_bytes
from napari_attnseg.errors import AttnSegError
from napari_attnseg.io.suitability import Doubt, facts_of, suitability
from napari_attnseg.viewer.bringing import pixels_of
from napari_attnseg.viewer.layers import LayerSource, layer_source
from napari_attnseg.viewer.results import run_bytes

if TYPE_CHECKING:
    from napari_attnseg.cards import Card
    from napari_attnseg.viewer.dispatching import Dispatch
    from napari_attnseg.viewer.hub import Hub

WINDOW_BYTES = 100 << 20
"""What a run adds to the window's own memory, whatever the size of the volume: its layers lie in
files. Measured: 50 to 60 MB."""
WORTH_SAYING = 100 << 20
"""Bytes on disk below which nobody needs to think of them."""


def chosen_source(hub: Hub) -> LayerSource | None:
    """The chosen image as the engine will see it; ``None`` without one that can be used."""
    try:
        return layer_source(hub.source) if hub.source is not None else None
    except AttnSegError:  # Run will say what is wrong with it
        return None


class Asking:
    """Asks the engine what a run will cost; ``live.forecasted`` follows.

    Of an image that is not at hand a single slice is read, in a thread: shape and type tell the
    rest. What cannot be asked is let go: Run will say why.
    """

    def __init__(self, hub: Hub, dispatch: Dispatch) -> None:
        self._hub = hub
        self._handover = Handover(hub.scratch, dispatch)

    def ask(self) -> None:
        """About the chosen image and model."""
        hub, live = self._hub, self._hub.live
        if hub.source is None or not hub.checkpoint:
            return
        if hub.at_hand:
            hub.prepare()
            live.request_forecast()
            return
        pixels = pixels_of(hub.source)
        z = min(hub.visible_z(), pixels.shape[0] - 1)
        live.set_model(hub.checkpoint, hub.device)
        sample = Sample(pixels, z)
        self._handover.start(sample, lambda ref: live.request_forecast(ref, z), lambda error: None)

    def drop(self) -> None:
        """The choice is another one: what was asked is not about it."""
        self._handover.drop()
        self._hub.live.drop_forecast()


def doubts_about(source: LayerSource, card: Card) -> list[Doubt]:
    """What speaks against segmenting ``source`` with the model of ``card``; reads some voxels."""
    volume = source.volume
    placed = volume is not None and volume.geometry is not None and not volume.assumed
    return suitability(facts_of(source.array, source.rgb, source.spacing, placed), card)


def disk_words(shape: tuple[int, int, int], free: int, gathering: int = 0) -> str:
    """A sentence when the results of a volume (Z, Y, X) would not fit; ``free``: bytes;
    ``gathering``: those of answers along other axes, before they are results."""
    need = disk_bytes(shape) + gathering
    if need <= free:
        return ""
    return (
        f"the results need {amount(need)} of disk, but {amount(max(free, 0))} are "
        "free: make room, or set NAPARI_ATTNSEG_SCRATCH to a folder on a larger disk"
    )


def disk_bytes(shape: tuple[int, int, int]) -> int:
    """Bytes of scratch that a first run over a volume takes: the engine's files and the layers."""
    return result_bytes(shape) + run_bytes(shape)


def cost_words(event: Any, shape: tuple[int, int, int], gathering: int = 0) -> str:
    """``"About 1.2 GB of memory, 1.6 GB of disk, 4 min."`` from a ``Forecasted``."""
    parts = [f"{amount(event.memory_bytes + WINDOW_BYTES)} of memory"]
    if (disk := disk_bytes(shape) + gathering) >= WORTH_SAYING:
        parts.append(f"{amount(disk)} of disk")
    if event.stage_bytes >= WORTH_SAYING:
        room = f"{amount(event.stage_bytes)} (limit {amount(event.stage_limit)})"
        parts.append(f"{room} more for values moved later")
    if event.seconds is not None:
        parts.append(duration(event.seconds))
    return f"About {', '.join(parts)}."


def memory_words(event: Any) -> str:
    """A sentence when memory would not suffice."""
    need = event.memory_bytes + WINDOW_BYTES
    if not event.memory_free or need <= event.memory_free:
        return ""
    return (
        f"this needs about {amount(need)} of memory, but {amount(event.memory_free)} are free: "
        "it will be slower, or stop; close other programs or take a smaller model"
    )


def amount(nbytes: float) -> str:
    """``"480 MB"``, ``"1.2 GB"``."""
    mb = nbytes / (1 << 20)
    return f"{max(1, round(mb))} MB" if mb < 1000 else f"{mb / 1024:.1f} GB"


def duration(seconds: float) -> str:
    """``"8 s"``, ``"4 min"``, ``"1.5 h"``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
