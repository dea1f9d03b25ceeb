"""Which attention stands where in a U-shaped network, in words, as JSON and as values.

In words: ``skip[1:]=cbam:reduction=8; bottleneck=nonlocal``, that is placements separated by ``;``,
each ``selector=name`` with arguments after a colon. As JSON: ``[{"at": "skip[1:]", "use": "cbam",
"args": {"reduction": 8}}]``. Selectors name a part of the network, all of it or by number or slice,
numbers running from the finest grid: ``encoder[i]``, ``bottleneck``, ``skip[i]``, ``up[i]``,
``decoder[i]`` (after its convolutions; ``.pre``: before them, on skip and features together),
``head``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from napari_attnseg.errors import InputError

PARTS = ("encoder", "bottleneck", "skip", "up", "decoder", "head")
"""Parts of a U-shaped network, in the order in which data passes them."""
SINGLE = ("bottleneck", "head")
"""Parts that exist once."""
_SELECTOR = re.compile(
    r"(?P<part>[a-z]+)(\[(?P<which>-?\d+|(-?\d+)?:(-?\d+)?)\])?(?P<when>\.pre|\.post)?"
)
EXAMPLE = "skip[1:]=cbam:reduction=8; bottleneck=nonlocal"
NATURAL = {
    "refiner": "skip",
    "gate": "skip",
    "conv": "decoder",
    "fuser": "head",
    "class-aware": "head",
}
"""Where an attention of each role stands when nobody says where: at every skip, so that the finest
grids have it too, or where its role allows."""


@dataclass(frozen=True, order=True)
class Slot:
    """One place: ``part`` (see :data:`PARTS`), its ``level`` (0 = finest grid; 0 where the part
    exists once), ``pre``: before the convolutions of a decoder level."""

    part: str
    level: int = 0
    pre: bool = False

    def __str__(self) -> str:
        name = self.part if self.part in SINGLE else f"{self.part}[{self.level}]"
        return f"{name}.pre" if self.pre else name


@dataclass(frozen=True)
class Placement:
    """Attention ``use`` with ``args`` at all places that the selector ``at`` names."""

    at: str
    use: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        args = ",".join(f"{k}={_word(v)}" for k, v in self.args.items())
        return f"{self.at}={self.use}" + (f":{args}" if args else "")

    def slots(self, levels: int) -> tuple[Slot, ...]:
        """The places of a network with ``levels`` skips. Raises ``InputError`` for a selector
        that names none."""
        part, wanted, pre = _parse_selector(self.at)
        if part in SINGLE:
            return (Slot(part),)
        found = tuple(Slot(part, i, pre) for i in _chosen(wanted, levels))
        if not found:
            raise InputError(
                f"got {self.at}, which names no place of a network with {levels} levels; expected "
                f"{part}[0] to {part}[{levels - 1}]"
            )
        return found


def parse_placements(text: str) -> tuple[Placement, ...]:
    """Placements from words or JSON (see the module); none from an empty text.

    Raises ``InputError`` for what is neither, and for selectors that no network has.
    """
    text = text.strip()
    if text.startswith("["):
        return _from_json(text)
    return tuple(_parse_item(item) for item in _split(text, ";"))


def write_placements(placements: Iterable[Placement]) -> str:
    """The words for placements: :func:`parse_placements` gives them back."""
    return "; ".join(map(str, placements))


def file_stem(text: str) -> str:
    """Placements in words as a name for files; ``plain`` for none."""
    return re.sub(r"[^\w.]+", "_", text).strip("_") or "plain"


def _parse_item(item: str) -> Placement:
    at, equals, rest = item.partition("=")
    use, colon, args = rest.partition(":")
    at, use = at.strip(), use.strip()
    if not (equals and at and use) or (colon and not args.strip()):
        raise InputError(
            f"got attention {item!r}, expected PLACE=NAME or PLACE=NAME:ARGUMENT="
            f"VALUE, as {EXAMPLE!r}"
        )
    _parse_selector(at)
    return Placement(at, use, dict(_parse_argument(a, item) for a in _split(args, ",")))


def _parse_argument(text: str, item: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (equals and name.isidentifier() and value):
        raise InputError(f"got {text.strip()!r} in {item!r}, expected ARGUMENT=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _split(text: str, separator: str) -> list[str]:
    """Parts that are not empty; a separator inside quotes or brackets separates nothing."""
    parts = re.findall(rf'(?:"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[^{separator}])+', text)
    return [part.strip() for part in parts if part.strip()]


def _from_json(text: str) -> tuple[Placement, ...]:
    try:
        plain = json.loads(text)
        found = tuple(
            Placement(str(p["at"]), str(p["use"]), dict(p.get("args", {}))) for p in plain
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'got attention {text!r}, expected JSON as [{{"at": "skip[1:]", "use": "cbam", "args": '
            '{"reduction": 8}}]'
        ) from error
    for placement in found:
        _parse_selector(placement.at)
    return found


def _parse_selector(at: str) -> tuple[str, slice | int, bool]:
    """Part, which of it, and whether before the convolutions."""
    match = _SELECTOR.fullmatch(at)
    if match is None or match["part"] not in PARTS:
        listed = ", ".join(p if p in SINGLE else f"{p}[i]" for p in PARTS)
        raise InputError(f"got place {at!r}, expected one of {listed}; slices as skip[1:] too")
    part, which, when = match["part"], match["which"], match["when"]
    if part in SINGLE and which:
        raise InputError(f"got place {at!r}, but there is one {part} only; write {part}")
    if when and part != "decoder":
        raise InputError(f"got place {at!r}, but only decoder[i] has .pre and .post")
    if which is not None and ":" not in which:
        return part, int(which), when == ".pre"
    ends = (which or ":").split(":")
    low, high = (int(end) if end else None for end in ends)
    return part, slice(low, high), when == ".pre"


def _chosen(wanted: slice | int, levels: int) -> list[int]:
    every = list(range(levels))
    if isinstance(wanted, slice):
        return every[wanted]
    return [every[wanted]] if -levels <= wanted < levels else []


def _word(value: Any) -> str:
    """A value that :func:`json.loads` gives back, bare where it is a plain word."""
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.+-]*", value)
    reads_as_other = value in ("true", "false", "null", "NaN", "Infinity")
    return str(value) if plain and not reads_as_other else json.dumps(value)
