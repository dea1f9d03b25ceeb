"""The picture of an experiment: figures with their spread over seeds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from napari_attnseg.engine.experiment.plan import Plan, Table
from napari_attnseg.engine.experiment.tables import WORDS, Line

CURVE = 2.8
"""Height in inches of a panel of curves."""


def picture(plan: Plan, tables: Sequence[tuple[Table, list[Line]]]) -> bytes:
    """PNG: metrics against the threshold, or for every table points of its first metric, or
    curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    alone = plan.name == "smooth-attention"
    heights = [4.2 if alone else CURVE if t.curve else 0.34 * len(x) for t, x in tables]
    size = (7.5, (0.4 if alone else 1.2) + sum(heights))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)
    for panel, (table, lines) in zip(panels[:, 0], tables, strict=True):
        if alone:
            _against_threshold(panel, lines)
        elif table.curve:
            _curves(panel, table, lines)
        else:
            _points(panel, table, lines)
    figure.suptitle(plan.title)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()


def _against_threshold(axes: Any, lines: list[Line]) -> None:
    """One place per row with bars of one sd; the thresholds below 1 are joined by lines."""
    below = [i for i, line in enumerate(lines) if line.label.replace(".", "").isdigit()]
    for metric in ("iou", "dice", "precision", "recall"):
        known = {i: x.figures[metric] for i, x in enumerate(lines) if metric in x.figures}
        if not known:
            continue
        means, bars = [f.mean for f in known.values()], [f.sd or 0.0 for f in known.values()]
        drawn = axes.errorbar(list(known), means, bars, fmt="o", capsize=3, label=WORDS[metric])
        joined = [i for i in below if i in known]
        colour = drawn[0].get_color()
        axes.plot(joined, [known[i].mean for i in joined], color=colour, linewidth=1)
    axes.axvline(len(below) - 0.5, color="0.7", linewidth=1)
    short = [line.label.split(" (")[0].replace(" ", "\n") for line in lines]
    axes.set_xticks(range(len(lines)), [f"{s}\n(plain)" if s == "2.0" else s for s in short])
    axes.set(xlabel="threshold", ylabel="mean over test images")
    axes.grid(alpha=0.3)
    axes.legend(ncols=4, fontsize=8)


def _points(axes: Any, table: Table, lines: list[Line]) -> None:
    """One point per row with a bar of one sd, the first row on top; a hollow mark is the paper's
    figure."""
    metric = table.columns[0]
    marks = [f[metric] for f in table.published.values() if metric in f]
    for place, line in enumerate(lines):
        figure = line.figures.get(metric)
        if figure is not None:
            spread = figure.sd if figure.sd else None
            axes.errorbar(figure.mean, place, xerr=spread, fmt="o", color="#4c72b0", capsize=3)
        printed = table.published.get(line.label, {}).get(metric)
        if printed is not None:
            axes.plot(printed, place, "D", mfc="none", mec="0.2", markersize=5)
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    note = "; diamond: published" if marks else ""
    axes.set_title(f"{table.title}: {WORDS.get(metric, metric)}{note}", fontsize=9)
    axes.grid(alpha=0.3)


def _curves(axes: Any, table: Table, lines: list[Line]) -> None:
    """One line per row over the columns, with a bar of one sd."""
    for line in lines:
        known = {i: line.figures[c] for i, c in enumerate(table.columns) if c in line.figures}
        means, bars = [f.mean for f in known.values()], [f.sd or 0.0 for f in known.values()]
        style = "o--" if "fold" in line.label else "o-"
        axes.errorbar(list(known), means, bars, fmt=style, capsize=3, label=line.label)
    axes.set_title(table.title, fontsize=9)
    axes.set(xlabel="iteration (0: the coarse map)")
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=8)
