"""The engine described as plain data, so that docks need not import torch to be built."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any

from napari_attnseg import __version__
from napari_attnseg.settings import CUT, RECIPES

FORMAT = 1
FIXED = ("in_channels", "classes", "channels")
"""Arguments that the data decides, not the person."""


def arguments(function: Any) -> list[dict[str, Any]]:
    """Keyword arguments with a plain default: ``name``, ``default``, ``annotation``."""
    found = []
    for p in inspect.signature(function).parameters.values():
        if p.name not in FIXED and isinstance(p.default, bool | int | float | str | None):
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
    from napari_attnseg.models import create_model, list_models
    from napari_attnseg.models.base import model_builder

    return [_entry(name, model_builder(name), create_model(name)) for name in list_models()]


def _attentions() -> list[dict[str, Any]]:
    from napari_attnseg.attention import create_attention, list_attentions

    modules = {name: create_attention(name, 8) for name in list_attentions()}
    return [_entry(name, type(module), module) for name, module in modules.items()]


def _entry(name: str, maker: Any, module: Any) -> dict[str, Any]:
    return {
        "name": name,
        "doc": summary(maker),
        "arguments": arguments(maker),
        "tunables": [asdict(t) for t in getattr(module, "tunables", ())],
    }


def _checkpoints() -> list[dict[str, Any]]:
    from napari_attnseg.cards import read_card, shipped_checkpoints

    return [
        {"name": name, "path": str(path), "card": read_card(path).to_json()}
        for name, path in shipped_checkpoints().items()
    ]
