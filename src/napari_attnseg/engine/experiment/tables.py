"""From records to tables: mean and spread over seeds, and what can honestly be said of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from napari_attnseg.engine.experiment.plan import Plan, Table
from napari_attnseg.engine.experiment.records import Record
from napari_attnseg.io.csv_cells import cell

NOTHING = 0.0005
"""A share below this reads 0.000."""
WORDS = {
    "iou": "IoU",
    "dice": "Dice",
    "miou": "mIoU",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "TNR",
    "f1": "F1",
    "auc": "AUC",
    "gmacs": "GMACs",
    "gain": "IoU gained",
    "better": "images better",
    "boundary": "boundary IoU",
    **{f"iou@{t}": f"at {t}" for t in range(25)},
}


@dataclass(frozen=True)
class Figure:
    """A metric over seeds: mean, sample standard deviation (``None`` for one seed), how many."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Figure | None:
        """``None`` without a value; undefined values (``None``) are left out."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        return cls(mean(known), stdev(known) if len(known) > 1 else None, len(known))

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.sd:.4f}" if self.sd is not None else "")


@dataclass(frozen=True)
class Line:
    """One row of a table. ``missing``: seeds without a record. ``constant``: what is wrong with
    masks that are the same everywhere, in words; empty for a network that tells pixels apart."""

    label: str
    figures: Mapping[str, Figure]
    missing: tuple[int, ...]
    cost: Mapping[str, Any]
    constant: str = ""


Records = Mapping[str, Mapping[int, Record]]
"""Row key to seed to record."""


def lines_of(plan: Plan, table: Table, records: Records, costs: Mapping[str, Any]) -> list[Line]:
    """The rows of a table in the plan's order."""
    lines = []
    for label, key in table.entries:
        found = [r for seed, r in sorted(records.get(key, {}).items()) if seed in plan.seeds]
        figures = {c: Figure.of(r["metrics"].get(c) for r in found) for c in table.columns}
        missing = tuple(s for s in plan.seeds if s not in records.get(key, {}))
        known = {c: f for c, f in figures.items() if f is not None}
        lines.append(Line(label, known, missing, costs.get(key, {}), _constant(found)))
    return lines


def _constant(records: Sequence[Record]) -> str:
    """Words for the worst of a row's runs: no right pixel is marked, or none is left unmarked."""
    for metric, words in (
        ("recall", "marks no right pixel (recall 0)"),
        ("specificity", "marks every pixel (specificity 0)"),
    ):
        values = [r["metrics"].get(metric) for r in records]
        count = sum(v is not None and v < NOTHING for v in values)
        if count:
            return words if count == len(values) else f"{words} with {count} of {len(values)} seeds"
    return ""


def _warnings(lines: Sequence[Line]) -> list[str]:
    return [
        f"Warning: {x.label} {x.constant}; its figures say nothing about the network "
        "(train longer)."
        for x in lines
        if x.constant
    ]


def markdown(table: Table, lines: Sequence[Line]) -> str:
    """The table; the best mean of every column is bold (never of constant masks), published
    figures stand beside."""
    sound = [x for x in lines if not x.constant]
    best = {c: _best([x.figures[c].mean for x in sound if c in x.figures]) for c in table.columns}
    published = [c for c in table.columns if any(c in f for f in table.published.values())]
    head = ["", *(WORDS.get(c, c) for c in table.columns)]
    head += [f"published {WORDS.get(c, c)}" for c in published]
    rows = [head]
    for line in lines:
        printed = table.published.get(line.label, {})
        cells = [line.label, *(_cell(line, c, best[c]) for c in table.columns)]
        rows.append(cells + [f"{printed[c]:.4g}" if c in printed else "" for c in published])
    return _rows(rows)


def costs_markdown(table: Table, lines: Sequence[Line]) -> str:
    """Parameters, GMACs and milliseconds, as trained and as published; empty without any."""
    if not any(line.cost for line in lines):
        return ""
    full = any("full" in line.cost for line in lines)
    parts = ("as trained", "full") if full else ("as trained",)
    units = ("parameters", "GMACs", "CPU ms")
    head = ["", *(f"{part}: {unit}" for part in parts for unit in units)]
    published = any("gmacs" in figures for figures in table.published.values())
    rows = [head + ["published GMACs"] * published]
    for line in lines:
        cells = [line.label]
        for name in ("run", "full")[: len(parts)]:
            cells += _cost_cells(line.cost.get(name))
        printed = table.published.get(line.label, {}).get("gmacs")
        rows.append(cells + ["" if printed is None else f"{printed:g}"] * published)
    return _rows(rows)


def csv_text(
    plan: Plan,
    records: Records,
    costs: Mapping[str, Any],
    failed: Mapping[tuple[str, int], str] | None = None,
) -> str:
    """One line per run: row, seed, every figure of the tables, time and costs; of a failed run
    why, in a last column, which stands only where one failed."""
    failed = failed or {}
    columns = list(dict.fromkeys(c for table in plan.tables for c in table.columns))
    head = ["row", "key", "seed", *columns, "train_seconds", "parameters", "gmacs", "cpu_ms"]
    head += ["error"] if failed else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in plan.rows:
        cost = costs.get(row.key, {}).get("run", {})
        named = cell(row.label), cell(row.key)
        for seed, record in sorted(records.get(row.key, {}).items()):
            figures = [record["metrics"].get(c) for c in columns]
            macs = round(cost["macs"] / 1e9, 6) if cost else None
            spent = [record["train_seconds"], record["parameters"], macs, cost.get("ms")]
            writer.writerow([*named, seed, *figures, *spent, *[""] * bool(failed)])
        for (key, seed), why in failed.items():
            if key == row.key:
                blank = [""] * (len(columns) + 4)
                writer.writerow([*named, seed, *blank, cell(why)])
    return out.getvalue()


def _rows(rows: list[list[str]]) -> str:
    rule = [":--", *["--:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], rule, *rows[1:])) + "\n"


def _best(values: list[float]) -> float | None:
    """The highest, unless all are equal."""
    return max(values) if len(set(values)) > 1 else None


def _cell(line: Line, column: str, best: float | None) -> str:
    figure = line.figures.get(column)
    if figure is None:
        return "not run" if line.missing else "undefined"
    text = f"**{figure}**" if figure.mean == best and not line.constant else str(figure)
    return text + (f" (seed {_and(line.missing)} missing)" if line.missing else "")


def _cost_cells(part: Mapping[str, Any] | None) -> list[str]:
    if not part:
        return ["not measured"] * 3
    ms = part["ms"]
    return [
        f"{part['parameters']:,}",
        f"{part['macs'] / 1e9:.4g}",
        f"{ms:.0f}" if ms >= 10 else f"{ms:.2g}",
    ]


def verdicts(table: Table, lines: Sequence[Line]) -> list[str]:
    """Sentences: rows that mask all or nothing, which row leads, and whether it is apart from the
    baseline. None of a curve, whose last column is judged elsewhere."""
    if table.curve:
        return []
    column = table.columns[0]
    word = WORDS.get(column, column)
    sound = [x for x in lines if not x.constant]
    known = {x.label: x.figures[column] for x in sound if column in x.figures}
    said = _warnings(lines)
    if not known:
        return said
    top = max(known, key=lambda label: known[label].mean)
    if len(known) > 1 and len({figure.mean for figure in known.values()}) == 1:
        return [*said, f"All {'other ' if said else ''}rows have the same {word}."]
    said.append(f"Highest {word}: {top} ({known[top]}).")
    base = known.get(table.baseline)
    if base is not None and top != table.baseline:
        said.append(_apart(top, known[top], table.baseline, base, word))
    said += _range_words(known, word)
    return said + _published_verdict(table, known, word, column)


def _range_words(known: Mapping[str, Figure], word: str) -> list[str]:
    """How far the rows lie apart, and the seeds within a row."""
    means = [figure.mean for figure in known.values()]
    spreads = [figure.sd for figure in known.values() if figure.sd is not None]
    if len(means) < 3 or not spreads:
        return []
    return [
        f"The rows range over {max(means) - min(means):.4f} {word}; seeds of one row spread by "
        f"{mean(spreads):.4f} on average."
    ]


def _apart(top: str, figure: Figure, baseline: str, base: Figure, word: str) -> str:
    """Whether two means differ by more than the seeds differ among themselves."""
    gap = figure.mean - base.mean
    start = f"It is {gap:.4f} {word} above {baseline} ({base})"
    spreads = [f.sd for f in (figure, base) if f.sd is not None]
    if len(spreads) < 2:
        return f"{start}; one seed says nothing about spread."
    wide = max(spreads)
    verdict = "less than" if gap < wide else "within twice" if gap < 2 * wide else "more than twice"
    return f"{start}: {verdict} the larger spread over seeds ({wide:.4f})."


def _published_verdict(
    table: Table, known: Mapping[str, Figure], word: str, column: str
) -> list[str]:
    """How many pairs of rows stand in the same order as in the paper."""
    printed = {k: f[column] for k, f in table.published.items() if column in f and k in known}
    labels = list(printed)
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    if not pairs:
        return []
    same = sum((printed[a] - printed[b]) * (known[a].mean - known[b].mean) > 0 for a, b in pairs)
    return [f"Order by {word} as published: {same} of {len(pairs)} pairs of rows."]


def twins(plan: Plan, records: Records) -> list[str]:
    """Rows that gave the same network bit for bit, by seed."""
    labels = {row.key: row.label for row in plan.rows}
    said = []
    for seed in plan.seeds:
        groups: dict[str, list[str]] = {}
        for key, by_seed in records.items():
            if seed in by_seed and key in labels:
                groups.setdefault(str(by_seed[seed].get("digest")), []).append(labels[key])
        said += [
            f"Seed {seed}: {_and(group)} are the same network bit for bit."
            for group in groups.values()
            if len(group) > 1
        ]
    return said


def _and(words: Iterable[Any]) -> str:
    listed = [str(word) for word in words]
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else listed[0]
