"""An attention described as plain data: for the command line, the docks and the pages of docs."""

from __future__ import annotations

import inspect
import re
from typing import Any

from napari_attnseg.attention.module import PLACES, SIGNATURES
from napari_attnseg.attention.options import SUPPLIED, type_words
from napari_attnseg.attention.recording import KINDS
from napari_attnseg.attention.registry import Entry, attention_entry

SECTIONS = ("Formula", "Symbols", "Cost", "Notes", "Args")
_HEAD = re.compile(rf"^({'|'.join(SECTIONS)}):\s*$")
_ITEM = re.compile(r"^(\w+):\s*(.*)$")


def attention_info(name: str) -> dict[str, Any]:
    """What a person is told of an attention, without building it.

    ``name``, ``title``, ``id``, ``paper``, ``role``, ``signature`` (in words), ``places`` (legal
    in a U-shaped network), ``ndim`` (spatial axes), ``kinds`` and ``maps`` (what it shows),
    ``bypassable``, ``weighed_by``, ``structure``, ``doc`` (``summary``, ``formula``, ``symbols``,
    ``cost``, ``notes``) and ``arguments``, each with ``name``, ``type``, ``default``, ``choices``
    and ``doc``. Raises ``InputError`` for an unknown name.
    """
    entry = attention_entry(name)
    cls = entry.cls
    told = sections(cls)
    return {
        "name": entry.name,
        "title": entry.title,
        "id": entry.id,
        "paper": entry.paper,
        "role": cls.role,
        "signature": SIGNATURES[cls.role],
        "places": list(PLACES[cls.role]),
        "ndim": list(entry.ndim),
        "kinds": [k for k in KINDS if k in cls.emits],
        "maps": list(cls.maps),
        "bypassable": cls.role in ("refiner", "gate", "class-aware"),
        "weighed_by": cls.weighed_by,
        "structure": cls.structure,
        "doc": {k: told[k] for k in ("summary", "formula", "symbols", "cost", "notes")},
        "arguments": _arguments(entry, items(told["args"])),
    }


def _arguments(entry: Entry, docs: dict[str, str]) -> list[dict[str, Any]]:
    found = []
    for p in inspect.signature(entry.cls).parameters.values():
        plain = isinstance(p.default, bool | int | float | str | None)
        if p.name in SUPPLIED or not plain:
            continue
        found.append(
            {
                "name": p.name,
                "type": type_words(p),
                "default": p.default,
                "choices": list(entry.cls.choices.get(p.name, ())),
                "doc": docs.get(p.name) or _prose(entry.cls, p.name),
            }
        )
    return found


def sections(cls: type) -> dict[str, str]:
    """The docstring's ``summary`` (first paragraph, one line) and sections, in small letters;
    those it does not have are empty. Lines of a section lose their indentation."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    parts: dict[str, list[str]] = {"summary": []}
    current = "summary"
    for line in lines:
        head = _HEAD.match(line)
        if head:
            current = head[1].lower()
            parts[current] = []
        elif current != "summary" and line and not line.startswith(" "):
            current = "rest"
            parts.setdefault("rest", []).append(line)
        else:
            parts[current].append(line[4:] if current not in ("summary", "rest") else line)
    summary = " ".join("\n".join(parts["summary"]).split("\n\n")[0].split())
    told = {k: "\n".join(v).strip() for k, v in parts.items()}
    return {**dict.fromkeys(("formula", "symbols", "cost", "notes", "args"), ""), **told} | {
        "summary": summary
    }


def items(text: str) -> dict[str, str]:
    """``name: words`` entries of a section, continued by indented lines."""
    found: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        item = None if line.startswith(" ") else _ITEM.match(line)
        if item:
            last = item[1]
            found[last] = item[2].strip()
        elif last and line.strip():
            found[last] = f"{found[last]} {line.strip()}"
    return found


def _prose(cls: type, argument: str) -> str:
    """The sentence about an argument in a docstring without ``Args``: after ```name```: ..."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    found = re.search(rf"``{argument}``:? (.*?)(?=\. ``|\. [A-Z]|\.$|$)", text)
    return found[1].strip() if found else ""
