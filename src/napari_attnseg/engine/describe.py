"""The engine described as plain data, so that docks need not import torch to be built."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any

from napari_attnseg import __version__
from napari_attnseg.settings import CUT, RECIPES

FORMAT = 1


def arguments(function: Any) -> list[dict[str, Any]]:
    """Keyword arguments with a plain default: ``name``, ``default``, ``annotation``."""
    found = []
    for p in inspect.signature(function).parameters.values():
        if p.default is not p.empty and isinstance(p.default, bool | int | float | str | None):
            note = "" if p.annotation is p.empty else str(p.annotation)
            found.append({"name": p.name, "default": p.default, "annotation": note})
    return found


def summary(thing: Any) -> str:
    """First paragraph of the docstring on one line."""
    text = inspect.getdoc(thing) or ""
    return " ".join(text.split("\n\n")[0].split())


def describe() -> dict[str, Any]:
    """Everything that docks show about the engine.

    Layout: ``format``, ``version``, ``models`` and ``attentions`` (each ``name``, ``doc``,
    ``arguments``, ``tunables``), ``checkpoints`` (``name``, ``path``, ``card``), ``devices`` (see
    ``device.list_devices``), ``cut`` (the probability cut as a tunable), ``recipes``.
    """
    from napari_attnseg.engine.device import list_devices

    return {
        "format": FORMAT,
        "version": __version__,
        "models": _models(),
        "attentions": _attentions(),
        "checkpoints": _checkpoints(),
        "devices": list_devices(),
        "cut": asdict(CUT),
        "recipes": {name: settings.to_json() for name, settings in RECIPES.items()},
    }


def _models() -> list[dict[str, Any]]:
    import torch

    from napari_attnseg.models import create_model, list_models

    found = []
    for name in list_models():
        with torch.device("meta"):  # shapes only: no memory, no time
            model = create_model(name, in_channels=1, classes=1)
        found.append(_entry(name, model))
    return found


def _attentions() -> list[dict[str, Any]]:
    import torch

    from napari_attnseg.attention import create_attention, list_attentions

    found = []
    for name in list_attentions():
        with torch.device("meta"):
            module = create_attention(name, 8)
        found.append(_entry(name, module))
    return found


def _entry(name: str, module: Any) -> dict[str, Any]:
    return {
        "name": name,
        "doc": summary(type(module)),
        "arguments": arguments(type(module).__init__),
        "tunables": [asdict(t) for t in getattr(module, "tunables", ())],
    }


def _checkpoints() -> list[dict[str, Any]]:
    from napari_attnseg.cards import read_card, shipped_checkpoints

    return [
        {"name": name, "path": str(path), "card": read_card(path).to_json()}
        for name, path in shipped_checkpoints().items()
    ]
