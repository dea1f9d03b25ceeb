"""The sessions that the engine keeps: a model on an image each; the longest unused leaves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_attnseg.control.message_base import Event, ImageRef
from napari_attnseg.control.messages import Note
from napari_attnseg.control.volumes import AXES
from napari_attnseg.errors import EngineError

if TYPE_CHECKING:
    from napari_attnseg.engine.session import Session

MAX_SESSIONS = 2
"""Models kept loaded; the one unused for longest leaves first."""


class Work(Protocol):
    """Any request about a model on an image."""

    @property
    def image(self) -> ImageRef: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def device(self) -> str: ...


def open_image(ref: ImageRef) -> np.ndarray:
    """The pixels of an image, as a read-only map."""
    try:
        return ref.open()
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(
            f"{Path(ref.path).name} cannot be read ({error}); open the image again and repeat"
        ) from error


class Sessions:
    """Opens and keeps sessions. ``images``: what each of them holds, by the same key."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[Any, ...], Session] = OrderedDict()
        self.images: dict[tuple[Any, ...], ImageRef] = {}
        self._told: dict[Session, set[str]] = {}
        self._held: Session | None = None

    def open(self, work: Work) -> Session:
        """The session of this checkpoint and device, with this image set.

        While slices of one image are being segmented its session keeps that image; questions
        about another one are answered by a session of their own.
        """
        from napari_attnseg.cards import resolve_checkpoint
        from napari_attnseg.engine.session import Session

        path = resolve_checkpoint(work.checkpoint)
        state = path.stat()
        tile = getattr(work, "tile", 0)
        key: tuple[Any, ...] = (str(path), state.st_mtime_ns, state.st_size, work.device, tile)
        if getattr(work, "axis", AXES[0]) != AXES[0]:
            key = (*key, "turned")  # live answers are of axial slices meanwhile
        known = self.kept.get(key)
        if known is not None and known is self._held and self.images[key] != work.image:
            key = (*key, "beside")
        if key not in self.kept:
            self._make_room()
            self.kept[key] = Session(path, device=work.device, tile=tile or None)
        self.kept.move_to_end(key)
        session = self.kept[key]
        if self.images.get(key) != work.image:
            ref = work.image
            session.set_image(
                open_image(ref), rgb=ref.rgb, flips=ref.flips, spacing_mm=ref.spacing_mm
            )
            self.images[key] = ref
            self._told[session] = set()
        return session

    @contextmanager
    def held(self, work: Work) -> Iterator[Session]:
        """:meth:`open`, and meanwhile the session keeps its image and is not let go."""
        session = self._held = self.open(work)
        try:
            yield session
        finally:
            self._held = None

    def has(self, session: Session, image: ImageRef) -> bool:
        """Whether ``session`` is still kept and still holds ``image``."""
        return any(s is session and self.images.get(k) == image for k, s in self.kept.items())

    def news(self, session: Session, request_id: int) -> Iterator[Event]:
        """What the session noticed about this image and has not told yet."""
        told = self._told[session]
        for text in session.notes:
            if text not in told:
                told.add(text)
                yield Note(request_id, text)

    def told(self, session: Session) -> None:
        """All that the session has noticed so far is told in another way."""
        self._told[session].update(session.notes)

    def clear(self) -> None:
        """Drop models and caches."""
        for session in self.kept.values():
            session.close()
        self.kept.clear()
        self.images.clear()
        self._told.clear()

    def _make_room(self) -> None:
        """Let the models unused for longest go, but the one that is at work."""
        while len(self.kept) >= MAX_SESSIONS:
            oldest = next(k for k, session in self.kept.items() if session is not self._held)
            gone = self.kept.pop(oldest)
            gone.close()
            self._told.pop(gone, None)
            self.images.pop(oldest, None)
