"""The list of refinements; one joins by ``@register_refinement("name")`` in its own file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from napari_attnseg.errors import InputError

if TYPE_CHECKING:
    from napari_attnseg.refinement.base import Refinement

R = TypeVar("R", bound="type[Refinement]")
_REGISTRY: dict[str, type[Refinement]] = {}
_CONTROLS: set[str] = set()


def register_refinement(name: str, control: bool = False) -> Callable[[R], R]:
    """Class decorator: the refinement becomes ``create_refinement("name", ...)``.

    ``control``: what experiments compare refinements with; it is not offered to users.
    """

    def add(cls: R) -> R:
        _REGISTRY[name] = cls
        if control:
            _CONTROLS.add(name)
        return cls

    return add


def list_refinements(controls: bool = False) -> list[str]:
    """Names of all refinements, sorted; with ``controls`` also those that experiments compare
    them with."""
    return sorted(n for n in _REGISTRY if controls or n not in _CONTROLS)


def create_refinement(name: str, **options: Any) -> Refinement:
    """A refinement by name; ``options`` are those of its class (``iterations``, ``kernel`` ...)."""
    if name not in _REGISTRY:
        known = ", ".join(list_refinements())
        raise InputError(f"got refinement {name!r}, expected one of {known}")
    return _REGISTRY[name](**options)
