"""Write docs/attentions: one page per attention from its docstring, and a table of all.

python tools/attention_pages.py          # write
python tools/attention_pages.py --check  # fail when a page says something else

The pictures beside the pages come from ``benchmarks/shelf_pictures.py``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from napari_attnseg.attention.base import attention_class, attention_info, list_attentions
from napari_attnseg.attention.registry import attention_entry, sample_attention
from napari_attnseg.engine.experiment.plan_compare import natural

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "attentions"
WIDE = 64
"""Channels at which parameters are counted, as in the costs of the docstrings."""
KINDS = {
    "spatial": (
        "a number per position, never negative",
        "It becomes an image on its own grid over yours. Bright is much, in the map's own range, "
        "which stands beside its box.",
    ),
    "signed": (
        "a number per position, around zero",
        "It becomes an image over yours: orange is above zero, blue below.",
    ),
    "channel": (
        "a weight per channel or per scale",
        "Bars are drawn in the dock. They hold for the whole image, so nothing lies over it.",
    ),
    "axes": (
        "a profile along each axis",
        "A line per axis is drawn in the dock: the mean over the channels, in the band of them "
        "all.",
    ),
    "row": (
        "what one chosen position attends to",
        "Press **Ask a pixel** and drag the ring, or click the image: the layer shows where that "
        "position takes its answer from. Weights that sum to 1 are small on a large grid; the "
        "range stands beside the box.",
    ),
    "cross": (
        "what one chosen position attends to in its row and column, in one pass",
        "Press **Ask a pixel** and click the image: only the pixel's row and column hold weights.",
    ),
    "branch": (
        "shares of several branches or scales, which sum to 1",
        "Shares per position become a layer: choose one branch, or *which wins where* for labels "
        "of the strongest. Shares for the whole image are drawn as bars in the dock.",
    ),
    "region": (
        "how much each position belongs to each of several regions",
        "Choose one region, or *which wins where* for labels of the strongest.",
    ),
    "kernel": (
        "weights of the parts of a convolution's kernel",
        "Bars are drawn in the dock, for the image that you see; another image gives others.",
    ),
    "matrix": (
        "a matrix between channels or between pooled positions",
        "It is drawn in the dock, first row on top; in two colours where it has signs.",
    ),
    "propagation": (
        "weights of the neighbours, or the map after a step",
        "Choose one neighbour or ring, or *which wins where*; steps are listed one below the "
        "other.",
    ),
}
"""What each kind of map is, and how one looks at it."""
STRUCTURES = {
    "diagonal": "Over positions it is a diagonal matrix: every position answers for itself.",
    "dense": "Over positions it is a full matrix: every position may take from every other.",
    "lowrank": "Over positions it is a matrix of low rank: all positions meet in a few points.",
    "sparse": "Over positions it is a matrix in which most weights are exactly 0.",
    "banded": "Over positions it is a banded matrix: it carries over a few steps only.",
}
ROLES = {
    "refiner": "it changes features and keeps their shape",
    "gate": "it decides about a skip connection and asks the layer below",
    "conv": "it stands in place of a convolution",
    "fuser": "it joins maps of several resolutions",
    "class-aware": "it starts from class scores, with a loss of its own on them",
}
DEEPER = {"skip": "skip[1:]", "decoder": "decoder[1:]"}
"""The same places without the finest grid."""


def names() -> list[str]:
    """The attentions of this package, in the order of the catalogue."""
    return [name for name in list_attentions() if not attention_entry(name).source]


def page(name: str) -> str:
    """All that is known of one attention, as Markdown."""
    info = attention_info(name)
    parts = [
        _head(info),
        *_picture(info),
        f"## Formula\n\n{_fenced(info['doc']['formula'])}\n\nwhere\n\n"
        f"{_fenced(info['doc']['symbols'])}",
        _structure(info),
        f"## Cost\n\n{_text(info['doc']['cost'])}\n\nWeights at the defaults and C = {WIDE}: "
        f"{_parameters(name):,}.",
        f"## What to know\n\n{_text(info['doc']['notes'])}" if info["doc"]["notes"] else "",
        _shows(info),
        _train(info),
        _options(info),
        _source(info),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index() -> str:
    """The table of all attentions, as Markdown."""
    rows = [_index_row(attention_info(name)) for name in names()]
    head = "| | attention | name | in short | stands at | shows |\n|---|---|---|---|---|---|"
    return (
        f"# The attention shelf\n\n{len(rows)} mechanisms, each with its formula, cost, options, "
        "source and a picture of what it shows. Any of them can be placed in a U-Net "
        "(`--attention skip[1:]=cbam`, or the Train dock), its maps seen over your own image, and "
        "its effect turned down while you look. `napari-attnseg attentions NAME` prints the same "
        "facts; [add an attention](../add_an_attention.md) tells how to bring your own.\n\n"
        f"{head}\n" + "\n".join(rows) + "\n\n"
        "What each of them changes after a short training, and which of them carry information "
        "across the whole image, is measured in "
        "[benchmarks](../../benchmarks/RESULTS.md#what-every-attention-does).\n"
    )


def _head(info: dict[str, Any]) -> str:
    axes = " and ".join(f"{n}D" for n in info["ndim"])
    return (
        f"[All attentions](README.md)\n\n# {info['title']}\n\n"
        f"`{info['name']}` ({info['id']}), {info['role']}: {ROLES[info['role']]}. {axes}.\n\n"
        f"**{info['doc']['summary']}**"
    )


def _picture(info: dict[str, Any]) -> list[str]:
    name = info["name"]
    if not (FOLDER / f"{name}.png").is_file():
        return []
    return [
        f"![What {name} shows]({name}.png)\n\n*Drawn nuclei with the outline of the mask, and what "
        f"`{name}` shows in a small network after a short training on other nuclei.*"
    ]


def _structure(info: dict[str, Any]) -> str:
    words = STRUCTURES.get(info["structure"])
    return (
        f"{words} `operator(x)` writes it down on a small grid, and a test compares it with the "
        "module's answer."
        if words
        else ""
    )


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in sample_attention(name, WIDE).parameters())


def _shows(info: dict[str, Any]) -> str:
    maps = f"Maps: {', '.join(f'*{m}*' for m in info['maps'])}."
    lines = ["## What it shows, and how to look at it", "", maps, ""]
    placeable = 2 in info["ndim"]
    if placeable:
        lines += ["In the Tune dock open **Attention of every level** and tick a map.", ""]
    for kind in info["kinds"]:
        what, how = KINDS[kind]
        lines.append(f"- **{kind}**: {what}. {how}" if placeable else f"- **{kind}**: {what}.")
    lines.append("")
    if not placeable:
        lines.append(_RECORD)
    elif info["bypassable"]:
        lines.append(
            "Its level in the Tune dock lets it through by degrees: 0 is the network without it, 1 "
            "as trained. *Before*, *After* and *Diff* show the pixels that it wins and loses."
        )
    else:
        lines.append("It stands in place of a layer, so it cannot be turned down while one looks.")
    return "\n".join(lines)


_RECORD = """Its maps are collected by `recording`; positions are fractions of the volume:

```python
from napari_attnseg.attention.recording import recording

with recording(model, (0.5, 0.3, 0.7)) as tape:
    model(x)
tape.records
```"""


def _train(info: dict[str, Any]) -> str:
    name = info["name"]
    if 2 not in info["ndim"]:
        return (
            "## Use it\n\nIt works along the third axis of a volume. The networks here are 2D, so "
            "it cannot be placed by `--attention`; in a network of your own:\n\n"
            f"```python\nfrom napari_attnseg.attention import create_attention\n\n"
            f'attention = create_attention("{name}", 64)  # channels\n```'
        )
    natural_place, _, _ = natural(name).partition("=")
    place = DEEPER.get(natural_place, natural_place)
    option = next((f":{a['name']}={_word(a['default'])}" for a in info["arguments"]), "")
    known = "; ".join(info["places"])
    return (
        f"## Train it\n\n```\nnapari-attnseg train --data DIR --attention '{place}={name}' "
        f"--out {name}.safetensors\nnapari-attnseg compare {name} --data DIR --out bakeoff/"
        f"\n```\n\nIt may stand at: {known.replace('; ', ', ')}. `{natural_place}={name}` is every "
        f"place of that kind, `[1:]` leaves out the finest grid; options follow a colon"
        + (f", as in `{place}={name}{option}`" if option else "")
        + ". In the Train dock choose the model *U-Net with attention of your choice* and press "
        "**+ Add attention**."
    )


def _options(info: dict[str, Any]) -> str:
    if not info["arguments"]:
        return "## Options\n\nNone."
    lines = ["## Options", "", "| option | default | values | meaning |", "|---|---|---|---|"]
    for a in info["arguments"]:
        values = ", ".join(f"`{_word(c)}`" for c in a["choices"]) or a["type"]
        cells = (f"`{a['name']}`", f"`{_word(a['default'])}`", values, a["doc"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _source(info: dict[str, Any]) -> str:
    path = f"src/{attention_class(info['name']).__module__.replace('.', '/')}.py"  # not installed
    return f"## Source\n\n{info['paper']}.\n\nCode: [`{path}`](../../{path})"


def _index_row(info: dict[str, Any]) -> str:
    cells = (
        info["id"],
        f"[{info['title']}]({info['name']}.md)",
        f"`{info['name']}`",
        info["doc"]["summary"],
        ", ".join(info["places"]) if 2 in info["ndim"] else "volumes only",
        ", ".join(info["kinds"]),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _fenced(text: str) -> str:
    return f"```\n{text}\n```"


def _text(text: str) -> str:
    """A section as running text: stars and underscores are meant, and paragraphs stay."""
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(" ".join(p.split()) for p in paragraphs).replace("*", "\\*")


def _word(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def pages() -> dict[str, str]:
    """File name to its text."""
    return {"README.md": index(), **{f"{name}.md": page(name) for name in names()}}


def main() -> int:
    """0 when the pages are, or now are, right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    stale = [path for path in FOLDER.glob("*.md") if path.name not in wanted]
    differ = [n for n, t in wanted.items() if _read(FOLDER / n) != t]
    if check:
        print("\n".join(map(str, [*stale, *differ])))
        return int(bool(stale or differ))
    for path in stale:
        path.unlink()
    for name in differ:
        (FOLDER / name).write_text(wanted[name], encoding="utf-8")
    return 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
