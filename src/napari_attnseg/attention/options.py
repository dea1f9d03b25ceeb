"""Whether the options given for an attention are some that it has, of the type it wants."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from napari_attnseg.errors import InputError

SUPPLIED = ("channels", "context_channels", "out_channels", "classes", "ndim")
"""Arguments that the network decides, not the person."""


def check_options(name: str, options: Mapping[str, Any], known: Mapping[str, Parameter]) -> None:
    """Raise ``InputError`` for an option that the constructor of attention ``name``, whose
    arguments are ``known``, does not have, or a value of another type."""
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    allowed = [n for n in known if n != "channels"]
    for option, value in options.items():
        if option not in allowed:
            near = difflib.get_close_matches(option, allowed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            words = ", ".join(n for n in allowed if n not in SUPPLIED) or "none"
            raise InputError(
                f"got option {option!r} for attention {name!r}, expected {words}{hint}"
            )
        _check_type(name, option, value, type_words(known[option]))


def type_words(argument: Parameter) -> str:
    """The annotation as it was written: ``"int | None"``; empty without one."""
    note = argument.annotation
    if note is argument.empty:
        return ""
    return note.__name__ if isinstance(note, type) else str(note)


TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
}


def _check_type(name: str, option: str, value: Any, annotation: str) -> None:
    """Refuse a value of another type than the option's; other annotations are not judged."""
    words = [w.strip() for w in annotation.split("|")]
    if not all(w in TYPES for w in words):
        return
    fits = any(isinstance(value, TYPES[w]) for w in words)
    if not fits or (isinstance(value, bool) and "bool" not in words):
        raise InputError(
            f"got {option}={value!r} for attention {name!r}, expected {' or '.join(words)}"
        )
