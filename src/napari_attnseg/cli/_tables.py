"""Results and cards as people read them: aligned columns, a dash where a figure is undefined."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_attnseg.cards import Card

WIDTH = 96


def cell(value: Any) -> str:
    """One value: four decimals, thousands parted, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Rows in columns of equal width: the first to the left, the others to the right."""
    if not rows:
        return []
    columns = max(map(len, rows))
    full = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in full) for i in range(columns)]
    return [
        indent
        + "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in full
    ]


def figures_table(result: Mapping[str, Any]) -> str:
    """``engine.evaluate``'s result: a row per figure, a column per way of counting.

    ``per_image`` rows, when there are any, follow as a table of their own.
    """
    plain = {k: v for k, v in result.items() if not isinstance(v, Mapping | list)}
    count = plain.pop("n", None)
    columns: dict[str, Mapping[str, Any]] = {"mean of images": plain}
    if isinstance(result.get("pooled"), Mapping):
        columns["all pixels"] = result["pooled"]
    classes = result.get("per_class")
    columns |= classes if isinstance(classes, Mapping) else {}
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    rows = [["", *columns]]
    rows += [[name, *(cell(f.get(name)) for f in columns.values())] for name in names]
    lines = aligned(rows)
    if count is not None:
        lines.append(f"images: {count}")
    others = [k for k, v in result.items() if isinstance(v, Mapping)]
    for name in (k for k in others if k not in ("pooled", "per_class")):
        lines += ["", f"{name}:", *nested(result[name], "  ")]
    if result.get("per_image"):
        lines += ["", *per_image_table(result["per_image"])]
    return "\n".join(lines)


def per_image_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row per image."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    return aligned([names, *([cell(row.get(name)) for name in names] for row in rows)])


def nested(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """Plain data as ``name  value`` lines, tables inside it set in."""
    plain = [[k, cell(v)] for k, v in values.items() if not isinstance(v, Mapping | list)]
    lines = aligned(plain, indent)
    for name, inner in values.items():
        if isinstance(inner, Mapping):
            lines += [f"{indent}{name}:", *nested(inner, indent + "  ")]
        elif isinstance(inner, list):
            lines.append(f"{indent}{name}  {', '.join(map(cell, inner))}")
    return lines


def metrics_table(metrics: Mapping[str, Any]) -> list[str]:
    """A card's metrics: a column per part of the data (validation, test, test by pixels)."""
    columns: dict[str, Mapping[str, Any]] = {}
    for part, figures in metrics.items():
        if isinstance(figures, Mapping):
            columns[part] = {k: v for k, v in figures.items() if not isinstance(v, Mapping)}
            for inner, values in figures.items():
                if isinstance(values, Mapping):
                    columns[f"{part}, {inner}"] = values
    loose = {k: v for k, v in metrics.items() if not isinstance(v, Mapping)}
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    rows = [["", *columns], *([n, *(cell(f.get(n)) for f in columns.values())] for n in names)]
    return [*aligned(rows if names else [], "  "), *nested(loose, "  ")]


def card_text(card: Card) -> str:
    """The card as a person reads it."""
    options = ", ".join(f"{k} {cell(v)}" for k, v in card.spec.get("options", {}).items())
    colour = "colour" if card.preprocessing.channels == 3 else "grey (colour images by luminance)"
    facts = {
        "model": f"{card.spec.get('name')} ({options})" if options else card.spec.get("name"),
        "parameters": f"{card.parameters:,}",
        "input": f"{colour}, intensity: {card.preprocessing.intensity}",
        "classes": ", ".join(f"{i} {name}" for i, name in enumerate(card.class_names)),
        "tuning": ", ".join(f"{k} {cell(v)}" for k, v in card.tuning.values.items()),
    }
    width = max(map(len, facts)) + 2
    lines = [card.title, *textwrap.wrap(card.text, WIDTH), ""]
    for name, fact in facts.items():
        lines += textwrap.wrap(
            f"{name:<{width}}{fact}", WIDTH, subsequent_indent=" " * width, break_long_words=False
        )
    if card.metrics:
        lines += ["", "metrics:", *metrics_table(card.metrics)]
    command = card.provenance.get("command", "not recorded")
    lines += ["", f"training command: {command}", f"digest: {card.digest}"]
    return "\n".join(lines).strip()
