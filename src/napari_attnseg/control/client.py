"""The engine as seen from controllers: one protocol, two forms (in this process, or a child)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from napari_attnseg.control.messages import Cancel, Event, Request

EventCallback = Callable[[Event], None]


class EngineClient(Protocol):
    """Send complete requests, get events back through every subscribed callback, in order."""

    def new_id(self) -> int:
        """A request number never used before by this client (from 1)."""

    def send(self, request: Request) -> int:
        """Queue a request; one with ``id == 0`` gets a new number. Returns the number."""

    def cancel(self, request_id: int, now: bool = True) -> None:
        """Stop a request: ``Finished`` comes within about a second, or it ended already.

        ``now=False``: nobody waits for the end; the step at work may take its time.
        """

    def subscribe(self, callback: EventCallback) -> Callable[[], None]:
        """Call ``callback`` with every event; returns a function that ends it."""

    def close(self) -> None:
        """Free the engine; may be called twice."""


class BaseClient:
    """Numbers and subscribers, shared by both forms."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._callbacks: list[EventCallback] = []

    def new_id(self) -> int:
        """A request number never used before by this client (from 1)."""
        return next(self._ids)

    def subscribe(self, callback: EventCallback) -> Callable[[], None]:
        """Call ``callback`` with every event; returns a function that ends it."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

        return unsubscribe

    def _numbered(self, request: Request) -> Request:
        return request if request.id else replace(request, id=self.new_id())

    def _tell(self, event: Event) -> None:
        for callback in tuple(self._callbacks):
            callback(event)


class InProcessClient(BaseClient):
    """The engine in this process: ``send`` returns when all work is done.

    Callbacks may send and cancel: that work joins the queue and is served between the steps of
    the running one, exactly as in the child process. Imports torch at the first request.
    """

    def __init__(self, worker: Any = None) -> None:
        super().__init__()
        self._worker = worker
        self._desk: Any = None
        self._running = False

    def send(self, request: Request) -> int:
        """Do the request now (or after the running step, when called from a callback)."""
        request = self._numbered(request)
        self._submit(request)
        return request.id

    def cancel(self, request_id: int, now: bool = True) -> None:
        """Stop a request at its next step."""
        self._submit(Cancel(self.new_id(), request_id))

    def close(self) -> None:
        """Drop models and caches."""
        desk, self._desk = self._desk, None
        if desk is not None:
            desk.close()

    def _submit(self, request: Request) -> None:
        desk = self._open()
        desk.submit(request)
        if self._running:
            return
        self._running = True
        try:
            while self._desk is desk and desk.step():
                pass
        finally:
            self._running = False

    def _open(self) -> Any:
        if self._desk is None:
            from napari_attnseg.engine.desk import Desk

            if self._worker is None:
                from napari_attnseg.engine.service import Engine

                self._worker = Engine()
            self._desk = Desk(self._worker, self._tell)
        return self._desk
