"""Write into docs/models.md what each model weighs and costs, measured, and the cards of those
with attention: what of the paper they keep and where their attention stands.

python tools/model_table.py          # write
python tools/model_table.py --check  # fail when the file says something else
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from napari_attnseg.models.base import (
    create_model,
    list_models,
    model_builder,
    model_info,
    model_options,
)
from napari_attnseg.models.macs import count_macs

FILE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- table: python tools/model_table.py -->", "<!-- end of the table -->"
CARDS, CARDS_END = "<!-- cards: python tools/model_table.py -->", "<!-- end of the cards -->"
FORMS: dict[str, tuple[dict[str, Any], ...]] = {
    "anu_net": ({"gates": "last"}, {"gates": "none"}),
    "attention_unet": ({"gating": "coarse"},),
    "cara_net": ({"plan": "50"},),
    "dense_unet": ({"attention": "none"}, {"plan": "121"}, {"plan": "narrow"}),
    "hrnet": ({"plan": "w32"}, {"plan": "w48"}),
    "pam_unet": ({"gate": "none"}, {"plan": "light"}, {"plan": "tiny"}),
    "resunet": ({"up": "transposed", "shortcut": 3},),
    "trans_unet": ({"encoder": "resnet50"},),
    "unet": ({"encoder": "resnet18"}, {"encoder": "resnet34"}, {"encoder": "efficientnet_lite0"}),
}
"""Options worth a row of their own, besides the defaults."""
HEAD = (
    "| model | options | parameters (M) | GMACs at 128 | GMACs at 256 | attention at |",
    "|---|---|--:|--:|--:|---|",
)


def row(name: str, options: dict[str, Any]) -> str:
    """One form for images of three channels and one class, from shapes alone."""
    with torch.device("meta"):
        model = create_model(name, in_channels=3, classes=1, **options)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    costs = [f"{count_macs(model, (side, side)) / 1e9:.2f}" for side in (128, 256)]
    grids = Counter("full" if p.stride == 1 else f"1/{p.stride}" for p in model.places)
    strides = ", ".join(grid if n == 1 else f"{n} x {grid}" for grid, n in grids.items())
    label = "" if options else f"**`{name}`**"
    words = ", ".join(f"`{k}={v}`" for k, v in options.items())
    return f"| {label} | {words} | {millions:.2f} | {costs[0]} | {costs[1]} | {strides} |"


def table() -> str:
    """All rows, and the papers."""
    names = list_models(ndim=2)
    rows = [row(name, options) for name in names for options in ({}, *FORMS.get(name, ()))]
    papers = [f"- `{n}`: {model_info(n).title}. {model_info(n).paper}" for n in names]
    return "\n".join([*HEAD, *rows, "", *papers])


def card(name: str) -> str:
    """What of its paper a model with attention keeps, its options and places; empty for others."""
    with torch.device("meta"):
        places = create_model(name, in_channels=3, classes=1).places
    if not places:
        return ""
    about = inspect.getdoc(inspect.getmodule(model_builder(name))) or ""
    about = about.replace("``", "`")
    about = re.sub(r":(?:class|func|meth|data):`~?([^`]+)`", r"`\1`", about)
    options = ", ".join(f"`{k}={v}`" for k, v in model_options(name).items())
    lines = [f"- {p.title}" for p in places]
    info = model_info(name)
    told = [f"### {info.title} (`{name}`)", about, f"Paper: {info.paper}.", f"Options: {options}."]
    return "\n\n".join([*told, "Attention:", "\n".join(lines)])


def cards() -> str:
    """The cards of all models with attention."""
    return "\n\n".join(filter(None, map(card, list_models(ndim=2))))


def main() -> int:
    """0 when the file is, or now is, right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = FILE.read_text()
    new = _between(_between(old, BEGIN, END, table()), CARDS, CARDS_END, cards())
    if check:
        return int(new != old)
    FILE.write_text(new)
    return 0


def _between(text: str, begin: str, end: str, made: str) -> str:
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{made}\n\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    sys.exit(main())
