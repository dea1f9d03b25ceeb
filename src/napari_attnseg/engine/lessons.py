"""Long work of the training lane: training itself, and the check on one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_attnseg.control.checks import Overfit
from napari_attnseg.control.messages import Event, Finished, Started, Train
from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.engine.data import Source


def source_of(work: Train | Overfit) -> Source:
    """Folders of files, or one image layer with its labels."""
    from napari_attnseg.engine.data import FolderSource, LayerSource

    if work.image is not None:
        return LayerSource(work.image, work.labels, work.settings.sparse)
    if not (work.images and work.masks):
        raise InputError(
            "got no folder of images or no folder of masks, expected both; choose two folders"
        )
    return FolderSource(work.images, work.masks)


class _Latched:
    """A stop that was once asked for stays asked for."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self.on = False

    def __call__(self) -> bool:
        self.on = self.on or self._stopped()
        return self.on


def training(work: Train, wish: list[int], stopped: Callable[[], bool]) -> Iterator[Event | None]:
    """Events of one training; ``wish[0]``: the slice of the next preview."""
    from napari_attnseg.engine.train import train

    preview = Path(work.scratch) / "preview.npy" if work.scratch else None
    should_stop = _Latched(stopped)
    events = train(
        work.settings,
        source_of(work),
        work.out,
        device=work.device,
        resume=work.resume,
        preview=(lambda: (wish[0], preview)) if preview else None,
        should_stop=should_stop,
        command="Train dock, from layers" if work.image else "Train dock, from folders",
    )
    began = False
    try:
        for event in events:
            began = began or isinstance(event, Started)
            yield None if event is None else replace(event, id=work.id)
            if not began and should_stop():  # still reading files: nothing to save
                yield Finished(work.id, "cancelled", summary={"epochs": 0})
                return
    finally:
        events.close()


def checking(work: Overfit, stopped: Callable[[], bool]) -> Iterator[Event | None]:
    """Events of one overfit-one-image check."""
    from napari_attnseg.engine.overfit import overfit

    should_stop = _Latched(stopped)
    events = overfit(
        work.settings,
        source_of(work),
        device=work.device,
        steps=work.steps,
        should_stop=should_stop,
    )
    try:
        for event in events:
            yield None if event is None else replace(event, id=work.id)
            if should_stop():
                break
    finally:
        events.close()
    yield Finished(work.id, "cancelled" if should_stop.on else "done")
