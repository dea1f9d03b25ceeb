"""One question in flight at a time; of those that wait only the newest is kept."""

from __future__ import annotations

from dataclasses import replace

from napari_attnseg.control.client import EngineClient
from napari_attnseg.control.messages import Request


class Latest:
    """Newest-wins sending: a drag of sixty questions a second never builds a queue."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._flying: Request | None = None
        self._waiting: Request | None = None

    def ask(self, request: Request) -> None:
        """Send now, or as soon as the question in flight is answered."""
        if self._flying:
            self._waiting = request
            return
        self._flying = replace(request, id=self._client.new_id())
        self._client.send(self._flying)

    @property
    def flying(self) -> Request | None:
        """The question in flight."""
        return self._flying

    def holds(self, request_id: int) -> bool:
        """Whether this is the number of the question in flight."""
        return self._flying is not None and request_id == self._flying.id

    def answered(self, request_id: int) -> Request | None:
        """Take the answer; the newest waiting question leaves.

        Returns the question, or ``None`` when the answer is not ours any more.
        """
        if not self.holds(request_id):
            return None
        asked, waiting = self._flying, self._waiting
        self._flying = self._waiting = None
        if waiting is not None:
            self.ask(waiting)
        return asked

    def cancel(self) -> None:
        """:meth:`drop`, and the engine need not go on with it."""
        flying = self._flying
        self.drop()
        if flying is not None:
            self._client.cancel(flying.id, now=False)

    def drop(self) -> None:
        """Forget both: the answer, when it comes, is not ours any more."""
        self._flying = self._waiting = None
