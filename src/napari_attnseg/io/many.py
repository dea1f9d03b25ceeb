"""What a reader says when a source holds several volumes; apart: docks need no more of a reader."""

from __future__ import annotations

from pathlib import Path

from napari_attnseg.errors import InputError


class ManyVolumes(InputError):
    """A source of several volumes was opened without saying which; ``count`` of them are there.

    ``names`` tells them apart where the source says how (else empty).
    """

    def __init__(self, message: str, count: int, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.count = count
        self.names = names


def chosen(path: Path, count: int, volume: int | None) -> int:
    """Which of ``count`` volumes; raises ``ManyVolumes`` or ``InputError``."""
    if volume is None and count > 1:
        raise ManyVolumes(
            f"{path.name} is 4D with {count} volumes; choose one with --volume K "
            f"(0 to {count - 1})",
            count,
        )
    if volume is not None and not 0 <= volume < count:
        raise InputError(
            f"got volume {volume}, but {path.name} has {count}; expected 0 to {count - 1}"
        )
    return volume or 0
