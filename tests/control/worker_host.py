"""The real engine process with a worker of our making: started by the tests, not imported.

It counts slices instead of segmenting them, so that timing, death and noise can be arranged.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from napari_attnseg.control.checks import Overfit
from napari_attnseg.control.messages import (
    AttentionRow,
    Described,
    Diagnose,
    Event,
    Finished,
    Predict,
    Request,
    Retune,
    Retuned,
    RowDone,
    SliceDone,
    Started,
    Train,
)
from napari_attnseg.control.questions import Cka, StepDone
from napari_attnseg.engine import host, service


class Counting:
    """Steps last ``tuning.cut`` seconds; ``checkpoint`` names what goes wrong."""

    def __init__(self) -> None:
        self.stopping: set[int] = set()

    def handle(self, request: Request) -> Iterator[Event | None]:
        if isinstance(request, Predict):
            return self.count(request)
        if isinstance(request, Train):
            return self.train(request)
        if isinstance(request, (Cka, Overfit)):
            return self.go_on(request)
        return self.answer(request)

    def count(self, request: Predict) -> Iterator[Event | None]:
        yield Started(request.id, total=len(request.order))
        for z in request.order:
            if request.id in self.stopping:
                yield Finished(request.id, "cancelled")
                return
            if request.checkpoint == "abort":
                os.abort()
            time.sleep(request.tuning.cut)
            yield SliceDone(request.id, z)
        yield Finished(request.id)

    def go_on(self, request: Cka | Overfit) -> Iterator[Event | None]:
        """Steps until it is stopped; ``device`` names what goes wrong."""
        yield Started(request.id)
        done = 0
        while request.id not in self.stopping:
            done += 1
            time.sleep(0.01)
            yield StepDone(request.id, done, 1000)
            if request.device == "abort":
                os.abort()
        yield Finished(request.id, "cancelled")

    def train(self, request: Train) -> Iterator[Event | None]:
        """Saving takes two seconds, longer than a soft cancel may."""
        try:
            yield Started(request.id)
            while request.id not in self.stopping:
                time.sleep(0.01)
                yield None
        finally:
            time.sleep(2)
            Path(request.out).write_text("saved")
        yield Finished(request.id, "cancelled")

    def answer(self, request: Request) -> Iterator[Event]:
        if isinstance(request, Retune):
            time.sleep(request.tuning.cut)
            yield Retuned(request.id, request.z)
        elif isinstance(request, AttentionRow):
            print("a library says hello", flush=True)
            os.write(1, b"and writes to the descriptor\n" * 100)
            os.system("echo and so does its child process")
            sys.__stdout__.write("even like this\n")
            sys.__stdout__.flush()
            assert sys.stdin is not None
            yield RowDone(request.id)
        elif isinstance(request, Diagnose):
            nice = os.nice(0) if hasattr(os, "nice") else 0
            yield Described(request.id, {"pid": os.getpid(), "nice": nice})

    def stop(self, request_id: int) -> None:
        self.stopping.add(request_id)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    service.Engine = Counting  # type: ignore[misc,assignment]
    host.main()
