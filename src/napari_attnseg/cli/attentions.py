"""``attentions``: what can be placed in a network, and ``--attention`` of ``train``."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated, Any

import typer

from napari_attnseg.errors import InputError
from napari_attnseg.placement import EXAMPLE, parse_placements, write_placements

PLACED = "placed_unet"
"""The model in which attention is placed."""
WIDTH = 96
Placed = Annotated[
    list[str] | None,
    typer.Option(
        "--attention",
        help=f"Attention at a place of a U-Net, as {EXAMPLE.split(';')[0]} (repeatable; see "
        "attentions). Trains placed_unet.",
    ),
]


def attentions(
    name: Annotated[str | None, typer.Argument(help="One attention, to read all about it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List every attention, where it may stand and its options; or tell all about one."""
    from napari_attnseg.attention import attention_info, list_attentions, plugin_problems

    names = list_attentions() if name is None else [name]
    known = [attention_info(n) for n in names]
    if as_json:
        print(json.dumps(known if name is None else known[0], indent=1))
        return
    if name is not None:
        print("\n".join(_about(known[0])))
        return
    for info in known:
        print(f"  {info['id'] or '---':<4} {info['name']:<20} {info['title']}")
        where = f"{info['role']}: {', '.join(info['places'])}"
        options = " ".join(f"{a['name']}={_word(a['default'])}" for a in info["arguments"])
        print(textwrap.fill(f"{where}  {options}", WIDTH, initial_indent=" " * 7,
                            subsequent_indent=" " * 9))  # fmt: skip
    for failed, why in plugin_problems().items():
        print(f"  left out: {failed} ({why})")


def _about(info: dict[str, Any]) -> list[str]:
    """Everything known of one attention, for people."""
    doc = info["doc"]
    lines = [f"{info['title']} ({', '.join(filter(None, (info['id'], info['name'])))})"]
    lines += [info["paper"], "", *textwrap.wrap(doc["summary"], WIDTH), ""]
    lines += [f"places:  {', '.join(info['places'])} ({info['role']}: {info['signature']})"]
    lines += [f"shows:   {', '.join(info['kinds']) or 'nothing'}"]
    for part in ("formula", "symbols", "cost", "notes"):
        if doc[part]:
            lines += ["", f"{part}:", textwrap.indent(doc[part], "  ")]
    if info["arguments"]:
        lines += ["", "options:"]
    for argument in info["arguments"]:
        head = f"  {argument['name']}={_word(argument['default'])}"
        among = (
            f" One of {', '.join(map(str, argument['choices']))}." if argument["choices"] else ""
        )
        lines += textwrap.wrap(f"{head}  {argument['doc']}{among}", WIDTH, subsequent_indent="    ")
    return lines


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def with_attention(
    model: str | None, option: list[str] | None, attention: list[str] | None
) -> tuple[str | None, list[str] | None]:
    """``--model`` and ``--option`` with what ``--attention`` adds.

    Raises ``InputError`` for words that name no placement and for another model.
    """
    if not attention:
        return model, option
    if model not in (None, PLACED):
        raise InputError(
            f"got --attention and --model {model}; attention is placed in {PLACED}, leave --model "
            "out"
        )
    placed = [p for words in attention for p in parse_placements(words)]
    return PLACED, [*(option or []), f"attention={write_placements(placed)}"]
