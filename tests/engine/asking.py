"""What the tests of the engine's requests share: images as references, runs, what was told."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from napari_attnseg.control import messages as m
from napari_attnseg.engine.service import Engine
from napari_attnseg.settings import Tuning

E = TypeVar("E", bound=m.Event)
TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal noise, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def image_of(folder: Path, image: np.ndarray, name: str = "image", **about: Any) -> m.ImageRef:
    """``image`` in a file of ``folder``."""
    np.save(folder / f"{name}.npy", image)
    return m.ImageRef(name, str(folder / f"{name}.npy"), **about)


def run_of(
    folder: Path, image: m.ImageRef, model: Path | str, order: Iterable[int], **more: Any
) -> m.Predict:
    """A run into ``folder / "out"`` on the processor, number 1."""
    wish = {"id": 1, "device": "cpu", "tuning": TUNING, "out": str(folder / "out")} | more
    return m.Predict(image=image, checkpoint=str(model), order=tuple(order), **wish)


def seen_first(z: int, count: int) -> tuple[int, ...]:
    """All slices, ``z`` before the others."""
    return (z, *(k for k in range(count) if k != z))


def answers(
    engine: Engine, request: m.Request, until: int = 0, kind: type[m.Event] = m.SliceDone
) -> list[m.Event]:
    """All events; with ``until`` the work is stopped after so many of ``kind``."""
    events: list[m.Event] = []
    for event in engine.handle(request):
        if event is None:
            continue
        events.append(event)
        if isinstance(event, kind) and until and len(only(kind, events)) == until:
            engine.stop(request.id)
    return events


def only(kind: type[E], events: Iterable[m.Event | None]) -> list[E]:
    """The events of one kind, heartbeats left out."""
    return [e for e in events if isinstance(e, kind)]


def done(events: Iterable[m.Event]) -> list[int]:
    """The slices that were told, in their order."""
    return [e.z for e in only(m.SliceDone, events)]


def ended(events: list[m.Event]) -> m.Finished:
    """The last event, which is the end of a run."""
    last = events[-1]
    assert isinstance(last, m.Finished)
    return last
