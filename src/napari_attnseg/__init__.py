"""napari-attnseg: train, load, see and tune attention segmentation models in napari.

Everything here also works headless, without napari or Qt. Importing the package itself costs
nothing: names are resolved on first use, and only then is torch imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "list_models": "models",
    "create_model": "models",
    "list_attentions": "attention",
    "create_attention": "attention",
    "list_refinements": "refinement",
    "create_refinement": "refinement",
    "load_checkpoint": "models.checkpoint",
    "save_checkpoint": "models.checkpoint",
    "Session": "engine.session",
    "Tuning": "settings",
    "Card": "cards",
    "read_card": "cards",
    "AttnSegError": "errors",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
