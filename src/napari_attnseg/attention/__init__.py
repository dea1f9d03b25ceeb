"""Attention mechanisms, one per file; importing the package registers them."""

from importlib import import_module
from pkgutil import iter_modules

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

for _found in iter_modules(__path__):  # a file joins by being there
    import_module(f"{__name__}.{_found.name}")

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
