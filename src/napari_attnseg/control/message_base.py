"""What every message is made of: the bases of requests and events, and a reference to an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageRef:
    """An image the engine can open: a ``.npy`` file in view order (Z, Y, X) or (Z, Y, X, C).

    ``flips``: which view axes must be reversed to stand as in training (see
    ``Geometry.flips``). ``spacing_mm``: per view axis, or empty when unknown. ``key`` changes
    whenever the pixels change, so that caches never answer for older pixels.
    """

    key: str
    path: str
    rgb: bool = False
    flips: tuple[bool, bool, bool] = (False, False, False)
    spacing_mm: tuple[float, ...] = ()


@dataclass(frozen=True)
class Request:
    """Base of all requests; ``id`` is given by the client and returns in every event."""

    id: int = 0


@dataclass(frozen=True)
class Event:
    """Base of all events; ``id`` is the request's."""

    id: int = 0
