"""``models`` and ``info``: what can be chosen, what a file holds, what this machine offers."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from napari_attnseg.cards import read_card, resolve_checkpoint, shipped_checkpoints
from napari_attnseg.cli._tables import card_text

ABOUT = ("title", "paper", "ndim", "parameters", "choices", "places")
"""What is told of an architecture with its default options."""


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the architectures that can be trained and the checkpoints that ship."""
    from napari_attnseg.engine.describe import describe

    known = describe()["models"]
    shipped = {name: read_card(path) for name, path in shipped_checkpoints().items()}
    if as_json:
        data = {
            "models": [m["name"] for m in known],
            "architectures": {m["name"]: {k: m[k] for k in ABOUT} for m in known},
            "checkpoints": {n: c.metrics for n, c in shipped.items()},
        }
        print(json.dumps(data, indent=1))
        return
    print("architectures (millions of parameters, title, options):")
    for m in known:
        options = " ".join(f"{a['name']}={_word(a['default'])}" for a in m["arguments"])
        print(f"  {m['name']:<16} {m['parameters'] / 1e6:6.2f} M  {m['title']}")
        print(f"  {'':<16} {'':>8}  {options}")
    print("shipped checkpoints:")
    for name, card in shipped.items():
        print(f"  {name:<28} {card.title}")


def _word(value: object) -> str:
    """A value as ``--option`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def info(
    model: Annotated[str | None, typer.Argument(help="Checkpoint file or shipped name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="Device to examine: auto, cpu, cuda:0, mps")] = "auto",
) -> None:
    """Show a checkpoint's card, or without MODEL the state of this machine."""
    if model is not None:
        card = read_card(resolve_checkpoint(model))
        print(json.dumps(card.to_json(), indent=1) if as_json else card_text(card))
        return
    from napari_attnseg.engine.device import diagnose, report_text

    report = diagnose(device)
    print(json.dumps(report, indent=1) if as_json else report_text(report))
