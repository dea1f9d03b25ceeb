"""What napari loads with the first labels layer of a window, loaded before it is needed."""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading
from collections.abc import Callable
from typing import Any

NEEDED = ("pandas", "scipy.linalg", "skimage.color.colorconv")
"""Loaded by napari's labels (features, colours): 0.6 s, and 2 s where nothing was compiled yet."""


_tidied = False
_read: list[Any] = []
"""Units that a thread has read and the window has not taken over yet."""


def warm_labels(then: Callable[[], object] = lambda: None) -> threading.Thread:
    """Load them, and the units of layers (0.4 s), in a thread, so that the first image and the
    first Run do not hold the window. ``then`` is called in that thread."""

    def load() -> None:
        for name in NEEDED:
            with contextlib.suppress(ImportError):  # napari will say what is missing
                importlib.import_module(name)
        with contextlib.suppress(Exception):
            read_units()
        with contextlib.suppress(Exception):  # patterns of dashed lines: made once, then kept
            importlib.import_module("vispy.visuals.line.dash_atlas").DashAtlas()
        then()

    thread = threading.Thread(target=load, name="attnseg-warm", daemon=True)
    thread.start()
    return thread


def read_units() -> None:
    """The units of layers, in any thread, for :func:`adopt_units`.

    pint fills its own registry at the first question; who asks while another thread fills it is
    told that there are no such units, and no layer can be made. So not that one is filled here.
    """
    import pint

    if not _filled(pint.get_application_registry()):
        _read.append(pint.UnitRegistry(on_redefinition="raise"))


def adopt_units() -> None:
    """In the window's thread: what was read is used from now on, unless it came too late."""
    while _read:
        import pint

        registry = _read.pop()
        if not _filled(pint.get_application_registry()):
            pint.set_application_registry(registry)


def _filled(shared: Any) -> bool:
    return type(shared.get()).__name__ != "LazyRegistry"


def tidy_up() -> None:
    """In the window's thread: :func:`adopt_units`; and once, look for garbage now. Python does so
    whenever a quarter more objects have come to stay, and docks and libraries bring so many that
    its 0.2 s fell into the first Run."""
    global _tidied
    adopt_units()
    if not _tidied:
        _tidied = True
        gc.collect()
