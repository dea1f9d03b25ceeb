"""Refinements of a coarse segmentation, one per file; importing the package registers them."""

from napari_attnseg.refinement import controls as _controls  # noqa: F401 (registers)
from napari_attnseg.refinement import cspn as _cspn  # noqa: F401 (registers)
from napari_attnseg.refinement import dyspn as _dyspn  # noqa: F401 (registers)
from napari_attnseg.refinement import fold as _fold  # noqa: F401 (registers)
from napari_attnseg.refinement.anchors import Anchors
from napari_attnseg.refinement.base import Refinement
from napari_attnseg.refinement.registry import (
    create_refinement,
    list_refinements,
    register_refinement,
)

__all__ = [
    "Anchors",
    "Refinement",
    "create_refinement",
    "list_refinements",
    "register_refinement",
]
