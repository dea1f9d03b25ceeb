"""The two halves of the foundation in one place: the module class and the registry."""

from napari_attnseg.attention.info import attention_info
from napari_attnseg.attention.module import (
    PLACES,
    SIGNATURES,
    Attended,
    AttentionModule,
    Role,
    Structure,
)
from napari_attnseg.attention.registry import (
    GROUP,
    attention_class,
    create_attention,
    list_attentions,
    plugin_problems,
    register_attention,
    sample_attention,
)

__all__ = [
    "GROUP",
    "PLACES",
    "SIGNATURES",
    "Attended",
    "AttentionModule",
    "Role",
    "Structure",
    "attention_class",
    "attention_info",
    "create_attention",
    "list_attentions",
    "plugin_problems",
    "register_attention",
    "sample_attention",
]
