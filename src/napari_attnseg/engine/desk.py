"""The order in which an engine serves requests: live first, newest wins, long work in steps.

The same desk stands in the child process (``engine.host``) and in the in-process client, so that
both forms behave alike. It knows nothing of torch.
"""

from __future__ import annotations

import platform
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from napari_attnseg.control.kinds import LONG, NEWEST_WINS, place
from napari_attnseg.control.messages import (
    Cancel,
    Event,
    Failed,
    Finished,
    Request,
    Stopping,
)
from napari_attnseg.errors import AttnSegError, is_memory_error, plain_sentence


class Worker(Protocol):
    """What answers requests: ``engine.service.Engine``, or a part of a test."""

    def handle(self, request: Request) -> Iterator[Event | None]:
        """Events of one request; ``None`` is a heartbeat between two steps of long work."""

    def stop(self, request_id: int) -> None:
        """Ask long work to end at its next step with ``Finished``."""

    def close(self) -> None:
        """Give back memory and device."""


def failure(request: Request, error: BaseException) -> Failed:
    """One sentence for the person and a report to copy."""
    report = "".join(traceback.format_exception(error))
    head = f"request: {type(request).__name__} {request.id}\nPython {sys.version}\n"
    head += f"{platform.platform()}\n\n"
    sentence = plain_sentence(error)
    if sentence is not None:
        known = isinstance(error, AttnSegError)
        memory = is_memory_error(error)
        kind = type(error).__name__ if known else "DeviceError" if memory else "EngineError"
        return Failed(request.id, kind, sentence, head + report, getattr(error, "tile", 0))
    words = f"the engine met an error of its own ({type(error).__name__}: {error}); "
    words += "copy the report to tell the developers"
    return Failed(request.id, "EngineError", words, head + report)


class Desk:
    """Takes requests with ``submit``; each ``step`` does one piece of work and emits its events."""

    def __init__(self, worker: Worker, emit: Callable[[Event], None]) -> None:
        self._worker = worker
        self._emit = emit
        self._newest: dict[tuple[type[Request], str], Request] = {}
        self._light: deque[Request] = deque()
        self._aside: deque[tuple[Request, Iterator[Event | None]]] = deque()
        self._waiting: deque[Request] = deque()
        self._active: tuple[Request, Iterator[Event | None]] | None = None
        self._ended = 0  # the request whose end was told

    @property
    def busy(self) -> bool:
        """Whether a next ``step`` would do something."""
        waiting = (self._newest, self._light, self._aside, self._waiting)
        return any(waiting) or self._active is not None

    def submit(self, request: Request) -> None:
        """Queue a request; ``Cancel`` takes effect at once."""
        if isinstance(request, Cancel):
            self._cancel(request.target)
        elif isinstance(request, NEWEST_WINS):
            self._newest[place(request)] = request
        elif isinstance(request, LONG):
            self._waiting.append(request)
        else:
            self._light.append(request)

    def step(self) -> bool:
        """Do one piece of work; false when there is nothing to do."""
        for cls in NEWEST_WINS:
            key = next((k for k in self._newest if k[0] is cls), None)
            if key is not None:
                self._serve(self._newest.pop(key))
                return True
        if self._light:
            self._serve(self._light.popleft())
            return True
        if self._aside:
            self._go_on(*self._aside.popleft())
            return True
        if self._active is None and self._waiting:
            request = self._waiting.popleft()
            self._active = request, self._worker.handle(request)
        if self._active is None:
            return False
        self._advance(*self._active)
        return True

    def close(self) -> None:
        """Close running work (its ``finally`` saves) and the worker."""
        self._aside.clear()
        if self._active:
            events = self._active[1]
            self._active = None
            getattr(events, "close", lambda: None)()
        self._worker.close()

    def _serve(self, request: Request) -> None:
        try:
            events = self._worker.handle(request)
        except Exception as error:
            self._emit(failure(request, error))
        else:
            self._go_on(request, events)

    def _go_on(self, request: Request, events: Iterator[Event | None]) -> None:
        """Light work to its end, or to a heartbeat: there it steps aside for what is newer."""
        try:
            for event in events:
                if event is None:
                    self._aside.append((request, events))
                    return
                self._emit(event)
        except Exception as error:
            self._emit(failure(request, error))

    def _advance(self, request: Request, events: Iterator[Event | None]) -> None:
        try:
            event = next(events)
        except StopIteration:
            self._active = None
        except Exception as error:
            self._active = None
            self._emit(failure(request, error))
        else:
            if isinstance(event, (Finished, Failed)):
                self._ended = request.id
            if event is not None:
                self._emit(event)

    def _cancel(self, target: int) -> None:
        if self._active and self._active[0].id == target:
            if self._ended != target:
                self._emit(Stopping(target))
                self._worker.stop(target)
            return
        for work in [w for w in self._aside if w[0].id == target]:
            self._aside.remove(work)
            self._emit(Finished(target, "cancelled"))
        queues: list[deque[Request]] = [self._waiting, self._light]
        for queue in queues:
            for request in [r for r in queue if r.id == target]:
                queue.remove(request)
                self._emit(Finished(target, "cancelled"))
        for key in [k for k, r in self._newest.items() if r.id == target]:
            del self._newest[key]
            self._emit(Finished(target, "cancelled"))
