"""What napari loads with the first labels layer of a window, loaded before it is needed."""

from __future__ import annotations

import contextlib
import importlib
import threading

NEEDED = ("pandas", "scipy.linalg", "skimage.color.colorconv")
"""Loaded by napari's labels (features, colours): 0.6 s, and 2 s where nothing was compiled yet."""


def warm_labels() -> threading.Thread:
    """Load them, and the units of layers (0.4 s), in a thread, so that the first image and the
    first Run do not hold the window."""

    def load() -> None:
        for name in NEEDED:
            with contextlib.suppress(ImportError):  # napari will say what is missing
                importlib.import_module(name)
        with contextlib.suppress(Exception):
            importlib.import_module("pint").get_application_registry().Unit("mm")
        with contextlib.suppress(Exception):  # patterns of dashed lines: made once, then kept
            importlib.import_module("vispy.visuals.line.dash_atlas").DashAtlas()

    thread = threading.Thread(target=load, name="attnseg-warm", daemon=True)
    thread.start()
    return thread
