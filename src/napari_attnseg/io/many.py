"""What a reader says when a source holds several volumes; apart: docks need no more of a reader."""

from __future__ import annotations

from napari_attnseg.errors import InputError


class ManyVolumes(InputError):
    """A source of several volumes was opened without saying which; ``count`` of them are there.

    ``names`` tells them apart where the source says how (else empty).
    """

    def __init__(self, message: str, count: int, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.count = count
        self.names = names
