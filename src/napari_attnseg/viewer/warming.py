"""What napari loads with the first labels layer of a window, loaded before it is needed."""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading
from collections.abc import Callable

NEEDED = ("pandas", "scipy.linalg", "skimage.color.colorconv")
"""Loaded by napari's labels (features, colours): 0.6 s, and 2 s where nothing was compiled yet."""


_tidied = False


def warm_labels(then: Callable[[], object] = lambda: None) -> threading.Thread:
    """Load them, and the units of layers (0.4 s), in a thread, so that the first image and the
    first Run do not hold the window. ``then`` is called in that thread."""

    def load() -> None:
        for name in NEEDED:
            with contextlib.suppress(ImportError):  # napari will say what is missing
                importlib.import_module(name)
        with contextlib.suppress(Exception):
            importlib.import_module("pint").get_application_registry().Unit("mm")
        with contextlib.suppress(Exception):  # patterns of dashed lines: made once, then kept
            importlib.import_module("vispy.visuals.line.dash_atlas").DashAtlas()
        then()

    thread = threading.Thread(target=load, name="attnseg-warm", daemon=True)
    thread.start()
    return thread


def tidy_up() -> None:
    """In the window's thread, once: look for garbage now. Python does so whenever a quarter more
    objects have come to stay, and docks and libraries bring so many that its 0.2 s fell into the
    first Run."""
    global _tidied
    if not _tidied:
        _tidied = True
        gc.collect()
