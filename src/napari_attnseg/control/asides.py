"""Questions to the engine that need no image and no model: objects, devices, what there is."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal

from napari_attnseg.control import messages as m
from napari_attnseg.control.client import EngineClient
from napari_attnseg.control.describing import read_description, write_description
from napari_attnseg.control.scratch import Scratch


class Asides:
    """Asked and answered beside runs and live answers; nothing replaces them."""

    note = Signal(str)
    failed = Signal(object)  # Failed
    objects_done = Signal(object, object)  # ObjectsDone, ids (Z,Y,X) uint16
    described = Signal(dict)
    diagnosed = Signal(object)  # Diagnosed

    def __init__(self, client: EngineClient, scratch: Scratch) -> None:
        self.client = client
        self.scratch = scratch
        self._lock = threading.RLock()
        self._others: set[int] = set()

    def split_objects(
        self, labels: Any, watershed: bool = False, min_distance: int = 5, min_size: int = 0
    ) -> int:
        """Number the objects of class labels (Z,Y,X); ``objects_done`` follows."""
        with self._lock:
            source = whole_file(labels) or self.scratch.save(labels, "objects_from")
            out = self.scratch.folder("objects") / "ids.npy"
            return self._send(
                m.SplitObjects(0, str(source), str(out), watershed, min_distance, min_size)
            )

    def diagnose(self, device: str = "auto") -> int:
        """Report on driver, torch, devices and self-test; ``diagnosed`` follows."""
        return self._send(m.Diagnose(device=device))

    def describe(self) -> int:
        """Models, attentions, devices: at once from the disk cache, then fresh from the engine."""
        cached = read_description()
        if cached is not None:
            self.described.emit(cached)
        return self._send(m.Describe())

    def _send(self, request: m.Request) -> int:
        number = self.client.new_id()
        with self._lock:
            self._others.add(number)
        self.client.send(replace(request, id=number))
        return number

    def _on_other(self, event: m.Event) -> None:
        if isinstance(event, m.Note):
            self.note.emit(event.text)
            return
        self._others.discard(event.id)
        if isinstance(event, m.ObjectsDone):
            ids = np.load(event.out, mmap_mode="r", allow_pickle=False)
            self.objects_done.emit(event, ids)
            self.scratch.drop(Path(event.out).parent)  # whoever shows them has a copy
        elif isinstance(event, m.Described):
            write_description(event.data)
            self.described.emit(event.data)
        elif isinstance(event, m.Diagnosed):
            self.diagnosed.emit(event)
        elif isinstance(event, m.Failed):
            self.failed.emit(event)


def whole_file(array: Any) -> Path | None:
    """The ``.npy`` file that holds just this array (the layers of large volumes lie in some)."""
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous or not array.filename:
        return None
    path = Path(str(array.filename))
    fits = path.is_file() and path.stat().st_size == array.offset + array.nbytes
    return path if fits and path.suffix == ".npy" else None
