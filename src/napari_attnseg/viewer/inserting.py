"""Layers that we add, among those of the person."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.components import LayerList
    from napari.layers import Layer


def insert(layers: LayerList, index: int, layer: Layer, choose: bool = False) -> None:
    """Add a layer, without taking the person's selection away unless it is to be chosen."""
    chosen = layers.selection.active
    if choose or chosen is None:
        layers.insert(index, layer)
        return
    with _keeping_selection(layers):
        layers.insert(index, layer)
    if layers.selection.active is not chosen and chosen in layers:
        layers.selection.active = chosen


@contextlib.contextmanager
def _keeping_selection(layers: Any) -> Iterator[None]:
    """napari chooses every new layer; choosing it and the former one again takes a fifth of the
    time of adding it."""
    chooses = getattr(layers, "_activate_on_insert", None)
    if chooses is None:  # another napari: the selection is put right afterwards
        yield
        return
    layers._activate_on_insert = False
    try:
        yield
    finally:
        layers._activate_on_insert = chooses
