"""The picture of an experiment: figures with their spread over seeds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from napari_attnseg.engine.experiment.plan import THRESHOLDS, Plan, Table
from napari_attnseg.engine.experiment.tables import WORDS, Line
from napari_attnseg.settings import PLAIN_THRESHOLD


def picture(plan: Plan, tables: Sequence[tuple[Table, list[Line]]]) -> bytes:
    """PNG: metrics against the threshold, or bars of the first metric for every table."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 4.4 if plan.name == "smooth-attention" else 1.2 + 0.34 * sum(
        len(lines) for _, lines in tables
    )  # fmt: skip
    figure = Figure(figsize=(7.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    if plan.name == "smooth-attention":
        _against_threshold(figure.add_subplot(), *tables[0])
    else:
        ratios = [len(lines) for _, lines in tables]
        panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=ratios)
        for panel, (table, lines) in zip(panels[:, 0], tables, strict=True):
            _bars(panel, table, lines)
    figure.suptitle(plan.title)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=150, format="png")
    return buffer.getvalue()


def _against_threshold(axes: Any, table: Table, lines: list[Line]) -> None:
    """Lines over the thresholds with bars of one sd; plain and no attention at the right."""
    inside = [t for t in THRESHOLDS if t < PLAIN_THRESHOLD]
    places = [*inside, 1.05, 1.2]
    for metric in ("iou", "dice", "precision", "recall"):
        known = [(x, line.figures[metric]) for x, line in zip(places, lines, strict=True)
                 if metric in line.figures]  # fmt: skip
        if not known:
            continue
        xs, ys = [x for x, _ in known], [f.mean for _, f in known]
        bars = [f.sd or 0.0 for _, f in known]
        drawn = axes.errorbar(xs, ys, bars, marker="o", ls="", capsize=3, label=WORDS[metric])
        lined = [(x, y) for x, y in zip(xs, ys, strict=True) if x < 1]
        if lined:
            axes.plot(*zip(*lined, strict=True), color=drawn[0].get_color(), linewidth=1)
    axes.axvline(0.975, color="0.7", linewidth=1)
    axes.set_xticks(places, [*(f"{t:g}" for t in inside), "plain\n(2.0)", "no\nattention"])
    axes.set(xlabel="threshold", ylabel="mean over test images")
    axes.grid(alpha=0.3)
    axes.legend(ncols=4, fontsize=8)


def _bars(axes: Any, table: Table, lines: list[Line]) -> None:
    """One bar per row, the first row on top; a hollow mark where the paper's figure is."""
    metric = table.columns[0]
    for place, line in enumerate(lines):
        figure = line.figures.get(metric)
        if figure is not None:
            axes.barh(place, figure.mean, xerr=figure.sd or 0.0, color="#4c72b0", capsize=3)
        printed = table.published.get(line.label, {}).get(metric)
        if printed is not None:
            axes.plot(printed, place, "D", mfc="none", mec="0.2", markersize=5)
    means = [line.figures[metric].mean for line in lines if metric in line.figures]
    printed_all = [f[metric] for f in table.published.values() if metric in f]
    low = min([*means, *printed_all], default=0.0)
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(max(0.0, low - 0.1), 1.0)
    note = "; diamond: published" if printed_all else ""
    axes.set_title(f"{table.title}: {WORDS.get(metric, metric)}{note}", fontsize=9)
    axes.grid(alpha=0.3, axis="x")
