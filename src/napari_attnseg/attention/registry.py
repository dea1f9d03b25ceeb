"""The list of attention modules that exist.

A module joins by ``@register_attention("name", ...)`` in its own file, or from another package
through the entry-point group ``napari_attnseg.attentions`` (entry name = attention name, value =
class), or from a single file of one's own (see ``own_files``). What cannot be loaded or built is
left out of the list, with the reason in :func:`plugin_problems`; it stops nothing else.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeVar

from napari_attnseg.attention.module import AttentionModule
from napari_attnseg.attention.options import check_options
from napari_attnseg.attention.recording import KINDS
from napari_attnseg.errors import InputError
from napari_attnseg.own_files import own_files

GROUP = "napari_attnseg.attentions"


@dataclass(frozen=True)
class Entry:
    """What is known of an attention without building it. ``id``: its number in the catalogue
    (``A01`` ...), empty for others. ``ndim``: spatial axes it can work on. ``source``:
    the entry point of the package, or the file, that brought it; empty for our own."""

    name: str
    cls: type[AttentionModule]
    id: str = ""
    title: str = ""
    paper: str = ""
    ndim: tuple[int, ...] = (2,)
    source: str = ""


M = TypeVar("M", bound=type[AttentionModule])
_REGISTRY: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}
_PROBLEMS: dict[str, str] = {}
_FILES: set[str] = set()


def register_attention(
    name: str,
    *,
    id: str = "",
    title: str = "",
    paper: str = "",
    kinds: tuple[str, ...] = (),
    ndim: tuple[int, ...] = (2,),
    aliases: tuple[str, ...] = (),
) -> Callable[[M], M]:
    """Class decorator: the module becomes ``create_attention(name, channels, ...)``.

    ``kinds``: kinds of the maps it shows (set as ``emits`` of the class). ``aliases``: former
    names, understood but not listed. Raises ``ValueError`` when a name or an id is taken.
    """
    unknown = [k for k in kinds if k not in KINDS]
    if unknown:
        raise ValueError(f"got kinds {unknown}, expected some of {', '.join(KINDS)}")

    def add(cls: M) -> M:
        _claim(Entry(name, cls, id, title or _words(name), paper, ndim), aliases)
        if kinds:
            cls.emits = kinds
        return cls

    return add


def _claim(entry: Entry, aliases: tuple[str, ...]) -> None:
    for name in (entry.name, *aliases):
        known = _REGISTRY.get(_ALIASES.get(name, name))
        if known is not None and not _same(known.cls, entry.cls):
            raise ValueError(
                f"got a second attention called {name!r} ({entry.cls}), expected a new name"
            )
    for known in _REGISTRY.values():
        if entry.id and known.id == entry.id and known.name != entry.name:
            raise ValueError(f"got id {entry.id} for {entry.name!r}, it is {known.name!r} already")
    _REGISTRY[entry.name] = entry
    _ALIASES.update(dict.fromkeys(aliases, entry.name))


def _same(a: type, b: type) -> bool:
    """The same class, or the same one after its file was loaded again."""
    return a is b or (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


# --- other packages and own files -----------------------------------------------------------------


def _load_plugins() -> None:
    """Take in what other installed packages and own files bring; each is tried once."""
    for found in entry_points(group=GROUP):
        known = _REGISTRY.get(found.name)
        if found.name not in _PROBLEMS and (known is None or known.source != found.value):
            _tried(found.name, found.value, partial(_from_package, found))
    for path in own_files():
        if str(path) not in _PROBLEMS and str(path) not in _FILES:
            _tried(str(path), str(path), partial(_from_file, path))


def _tried(name: str, source: str, take: Callable[[], None]) -> None:
    """Run it; a failure takes back what it brought, is kept and told once."""
    entries, aliases = dict(_REGISTRY), dict(_ALIASES)
    try:
        take()
    except Exception as error:  # whatever a stranger's code raises
        _REGISTRY.clear()
        _REGISTRY.update(entries)
        _ALIASES.clear()
        _ALIASES.update(aliases)
        _PROBLEMS[name] = f"{type(error).__name__}: {error}"
        told = f"attention {name!r} of {source} was left out: {_PROBLEMS[name]}"
        warnings.warn(told, RuntimeWarning, stacklevel=4)


def _from_package(found: EntryPoint) -> None:
    cls = found.load()
    if not (isinstance(cls, type) and issubclass(cls, AttentionModule)):
        raise TypeError(f"got {cls!r}, expected a class derived from AttentionModule")
    known = _REGISTRY.get(found.name)
    if known is not None and not _same(known.cls, cls):
        raise ValueError(f"the name is taken by {known.cls.__module__}.{known.cls.__qualname__}")
    entry = known or Entry(found.name, cls, title=_words(found.name))
    _REGISTRY[found.name] = replace(entry, source=found.value)
    sample_attention(found.name)


def _from_file(path: Path) -> None:
    """Run a file, which registers what it holds by the decorator."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    before = set(_REGISTRY)
    spec = spec_from_file_location(f"napari_attnseg_own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    new = sorted(set(_REGISTRY) - before)
    if not new:
        raise ValueError("the file registers no attention; put @register_attention('name') on it")
    for name in new:
        _REGISTRY[name] = replace(_REGISTRY[name], source=str(path))
        sample_attention(name)
    _FILES.add(str(path))


def plugin_problems() -> dict[str, str]:
    """Attentions of other packages, and own files, that could not be used, each with the reason:
    it cannot be loaded, it is no attention, its name is taken, it cannot be built with its
    defaults."""
    _load_plugins()
    return dict(_PROBLEMS)


# --- asking ---------------------------------------------------------------------------------------


def list_attentions() -> list[str]:
    """Names of all attention modules: those of the catalogue in its order, then all others by
    name, those of other installed packages included."""
    _load_plugins()
    return sorted(_REGISTRY, key=lambda name: (_REGISTRY[name].id or "~", name))


def attention_entry(name: str) -> Entry:
    """The entry called ``name`` (or formerly so); raises ``InputError`` with the known names."""
    canonical = _ALIASES.get(name, name)
    if canonical not in _REGISTRY:
        _load_plugins()
    if canonical not in _REGISTRY:
        why = f" ({_PROBLEMS[name]})" if name in _PROBLEMS else ""
        raise InputError(
            f"got attention {name!r}{why}, expected one of {', '.join(list_attentions())}"
        )
    return _REGISTRY[canonical]


def attention_class(name: str) -> type[AttentionModule]:
    """The class called ``name``; raises ``InputError`` with the known names otherwise."""
    return attention_entry(name).cls


def create_attention(
    name: str, channels: Any, *, ndim: int | None = None, **options: Any
) -> AttentionModule:
    """A fresh module for ``channels`` input channels (of a fuser: those of each map).

    ``ndim``: spatial axes, 2 or 3 (``None``: what the module is made for first). ``options`` are
    those of its class. Raises ``InputError`` for an unknown name, axes it does not work on, an
    option it does not have or a value of another type.
    """
    entry = attention_entry(name)
    if ndim is not None and ndim not in entry.ndim:
        able = " or ".join(map(str, entry.ndim))
        raise InputError(f"got {ndim} spatial axes for {entry.name!r}, expected {able}")
    known = inspect.signature(entry.cls).parameters
    check_options(entry.name, options, known)
    if "ndim" in known:
        options = {"ndim": ndim or entry.ndim[0], **options}
    return entry.cls(channels, **options)


def sample_attention(name: str, channels: int = 8, **options: Any) -> AttentionModule:
    """A module with the defaults, to look at: whatever else its role needs is filled in."""
    entry = attention_entry(name)
    if entry.cls.role == "class-aware":
        options = {"classes": 2, **options}
    wide = (channels,) * 4 if entry.cls.role == "fuser" else channels
    return create_attention(name, wide, **options)
