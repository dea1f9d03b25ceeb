"""Attention mechanisms, one per file; importing the package registers them."""

from napari_attnseg.attention import additive_gate as _additive_gate  # noqa: F401 (registers)
from napari_attnseg.attention import joint as _joint  # noqa: F401 (registers)
from napari_attnseg.attention import luong as _luong  # noqa: F401 (registers)
from napari_attnseg.attention import smooth as _smooth  # noqa: F401 (registers)
from napari_attnseg.attention.base import (
    Attended,
    AttentionModule,
    create_attention,
    list_attentions,
    register_attention,
)

__all__ = [
    "Attended",
    "AttentionModule",
    "create_attention",
    "list_attentions",
    "register_attention",
]
