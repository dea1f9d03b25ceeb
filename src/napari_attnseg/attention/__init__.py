"""Attention mechanisms, one per file; importing the package registers them."""

from importlib import import_module

from napari_attnseg.attention.base import (
    Attended,
    AttentionModule,
    attention_info,
    create_attention,
    list_attentions,
    plugin_problems,
    register_attention,
    sample_attention,
)

_MECHANISMS = (
    "additive_gate",
    "joint",
    "luong",
    "smooth",
)
for _name in _MECHANISMS:
    import_module(f"napari_attnseg.attention.{_name}")

__all__ = [
    "Attended",
    "AttentionModule",
    "attention_info",
    "create_attention",
    "list_attentions",
    "plugin_problems",
    "register_attention",
    "sample_attention",
]
