"""The engine described as plain data, so that docks need not import torch to be built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from napari_attnseg import __version__
from napari_attnseg.settings import CUT, RECIPES

FORMAT = 3
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

    Layout: ``format``, ``version``, ``attentions`` (as ``attention.attention_info``, and their
    ``tunables``), ``models`` (each ``name``, ``doc``, ``arguments``, ``tunables``, ``title``,
    ``paper``, ``ndim``, ``parameters`` and ``places`` of their defaults, ``choices`` of arguments
    that have a few, and ``needs_coarse``: no architecture to start from, it is trained on top of a
    trained model), ``checkpoints`` (``name``, ``path``, ``card``), ``devices`` (see
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
    from napari_attnseg.models.base import Sketch, model_builder, model_info

    found = []
    for name in list_models():
        builder, info = model_builder(name), model_info(name)
        sketch = info.sketch
        if sketch is None:
            with unfilled():
                model = create_model(name)
            count = sum(p.numel() for p in model.parameters())
            sketch = Sketch(count, model.places, model.tunables)
        about = {
            "title": info.title,
            "paper": info.paper,
            "ndim": info.ndim,
            "choices": {option: list(values) for option, values in info.choices.items()},
            "needs_coarse": info.needs_coarse,
            "places": [asdict(place) for place in sketch.places],
            "parameters": sketch.parameters,
        }
        found.append(_entry(name, builder, sketch) | about)
    return found


@contextmanager
def unfilled() -> Iterator[None]:
    """Build models without drawing their weights: memory that nobody touches costs nothing, and
    a network of 130 million numbers is there in milliseconds."""
    from torch.nn import init

    names = [n for n in dir(init) if n.endswith("_") and not n.startswith("_")]
    kept = {n: getattr(init, n) for n in names}
    try:
        for name in names:
            setattr(init, name, lambda tensor, *args, **kwargs: tensor)
        yield
    finally:
        for name, function in kept.items():
            setattr(init, name, function)


WINDOW = (32, 64, 64)
"""Voxels of the window for which a 3D model is weighed."""


def weigh(
    name: str, options: dict[str, Any], in_channels: int, classes: int, size: tuple[int, int]
) -> dict[str, Any]:
    """What a model with these options costs: ``parameters``, ``macs`` of one image of ``size`` (of
    a 3D model: of a window of :data:`WINDOW` voxels), ``size`` of that image or window, ``places``
    (plain data), ``weights``: whether ImageNet weights are published for its encoder.

    Raises ``InputError`` for options that the model cannot have.
    """
    from napari_attnseg.models import create_model
    from napari_attnseg.models.macs import count_macs

    with unfilled():
        model = create_model(name, in_channels=in_channels, classes=classes, **options)
    seen = WINDOW if model.ndim == 3 else size
    encoder = getattr(model, "encoder", None)
    whole = getattr(encoder, "width", 1.0) == 1.0  # published weights fit no narrower network
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": count_macs(model, seen),
        "size": list(seen),
        "places": [asdict(place) for place in model.places],
        "weights": getattr(encoder, "published", None) is not None and whole,
    }


def _attentions() -> list[dict[str, Any]]:
    from napari_attnseg.attention import attention_info, list_attentions, sample_attention

    return [
        attention_info(name) | {"tunables": [asdict(t) for t in sample_attention(name).tunables]}
        for name in list_attentions()
    ]


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
