"""The report of an experiment, finished or not: JSON, Markdown and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from napari_attnseg.engine.experiment import published
from napari_attnseg.engine.experiment.failures import failure_words, failures
from napari_attnseg.engine.experiment.plan import Plan, Table
from napari_attnseg.engine.experiment.plan_smooth import THRESHOLDS
from napari_attnseg.engine.experiment.plot import picture
from napari_attnseg.engine.experiment.records import (
    Record,
    data_words,
    record_path,
    write_json,
    write_whole,
)
from napari_attnseg.engine.experiment.tables import (
    Line,
    Records,
    costs_markdown,
    csv_text,
    lines_of,
    markdown,
    twins,
    verdicts,
)
from napari_attnseg.io.layout import Layout


def write_report(plan: Plan, layout: Layout, out: Path, command: str = "") -> tuple[Path, ...]:
    """``<name>.json``, ``.md``, ``.png`` and ``.csv`` in ``out`` from the records that lie
    there."""
    records = _records(plan, out)
    costs = {row.key: _read(out / "costs" / f"{row.key}.json") or {} for row in plan.rows}
    tables = [(table, lines_of(plan, table, records, costs)) for table in plan.tables]
    failed = failures(out, plan)
    facts = _facts(plan, layout, records, command) | {"failed": failure_words(plan, failed)}
    paths = tuple(out / f"{plan.name}{suffix}" for suffix in (".json", ".md", ".png", ".csv"))
    write_json(paths[0], {**facts, **_data(plan, tables, records)})
    write_whole(paths[1], _text(plan, tables, records, facts))
    write_whole(paths[2], picture(plan, tables))
    write_whole(paths[3], csv_text(plan, records, costs, failed))
    return paths


Tables = list[tuple[Table, list[Line]]]


def _data(plan: Plan, tables: Tables, records: Records) -> dict[str, Any]:
    """Tables, published figures and all records as plain values."""
    return {
        "tables": [
            {"title": t.title, "rows": [_plain(line) for line in lines], "said": verdicts(t, lines)}
            for t, lines in tables
        ],
        "same_networks": twins(plan, records),
        "published": {t.title: t.published for t in plan.tables if t.published},
        "runs": [r for by_seed in records.values() for r in by_seed.values()],
    }


def _text(plan: Plan, tables: Tables, records: Records, facts: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    text = _head(facts)
    for table, lines in tables:
        text += f"\n## {table.title}\n\n{markdown(table, lines)}\n"
        text += "".join(f"{sentence}\n" for sentence in verdicts(table, lines))
        text += f"({table.published_note}.)\n" if table.published_note else ""
        text += _costs(table, lines) if table.costs else ""
    text += "".join(f"\n{sentence}\n" for sentence in (*facts["failed"], *twins(plan, records)))
    return text + (_published_thresholds() if plan.name == "smooth-attention" else "")


def _records(plan: Plan, out: Path) -> dict[str, dict[int, Record]]:
    found: dict[str, dict[int, Record]] = {row.key: {} for row in plan.rows}
    for run in plan.runs:
        record = _read(record_path(out, run))
        if record:
            found[run.row.key][run.seed] = record
    return found


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None


def _facts(plan: Plan, layout: Layout, records: Records, command: str) -> dict[str, Any]:
    """Data, split, seeds, device, versions and time."""
    runs = [r for by_seed in records.values() for r in by_seed.values()]
    return {
        "experiment": plan.name,
        "title": plan.title,
        "command": command,
        "data": data_words(layout),
        "unit": "volumes" if _is_volume(layout.train[0].image) else "images",
        "seeds": list(plan.seeds),
        **_size(plan),
        "done": len(runs),
        "of": len(plan.runs),
        "missing": [
            f"{run.row.label}, seed {run.seed}"
            for run in plan.runs
            if run.seed not in records[run.row.key]
        ],
        "left_out": list(plan.left_out),
        "devices": sorted({r["device"] for r in runs}),
        "versions": runs[-1]["versions"] if runs else {},
        "seconds": round(sum(r["train_seconds"] + r["test_seconds"] for r in runs), 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _size(plan: Plan) -> dict[str, Any]:
    """Pixels, channels and epochs; ``coarse_epochs`` of a model that others refine, or ``None``."""
    settings = plan.rows[0].settings
    below = {row.coarse for row in plan.rows}
    coarse = [row.settings.epochs for row in plan.rows if row.key in below]
    others = [row.settings.epochs for row in plan.rows if row.key not in below and not row.peer]
    return {
        "size": settings.preprocessing.size,
        "channels": settings.preprocessing.channels,
        "epochs": max(others, default=settings.epochs),
        "coarse_epochs": coarse[0] if coarse else None,
    }


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _head(facts: Mapping[str, Any]) -> str:
    """Everything about the runs that is no figure."""
    data = facts["data"]
    part = "them" if facts["unit"] == "images" else "their slices"
    lines = [
        f"# {facts['title']}",
        "",
        f"- data: {data['title']}, {data['train']} training {facts['unit']} (a fifth of "
        f"{part} for validation) and {data['test']} test {facts['unit']}; {data['labels']}",
        f"- split: {data['split']}",
        f"- {_scale_words(facts)}, seeds {', '.join(map(str, facts['seeds']))}",
        f"- {facts['done']} of {facts['of']} runs done, {facts['seconds']:.0f} s of training and "
        f"test on {', '.join(facts['devices']) or 'no device yet'}",
        f"- {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}; {facts['date']}",
        f"- command: `{facts['command']}`",
    ]
    lines += [f"- {note}" for note in (*data["notes"], *facts["left_out"])]
    lines += [f"- not run yet: {'; '.join(facts['missing'])}"] if facts["missing"] else []
    lines += [
        "",
        f"Figures are means over test {facts['unit']}, then mean ± standard deviation over seeds "
        "(a seed also draws the validation images). The best mean is bold.",
    ]
    return "\n".join(lines) + "\n"


def _scale_words(facts: Mapping[str, Any]) -> str:
    size = f"{facts['size']} x {facts['size']} pixels" if facts["size"] else "images as they are"
    words = f"{size}, {_counted(facts['channels'], 'channel')}"
    words += f", {_counted(facts['epochs'], 'epoch')} at most"
    if facts["coarse_epochs"] is None:
        return words
    return f"{words} after {_counted(facts['coarse_epochs'], 'epoch')} of the coarse model"


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _plain(line: Line) -> dict[str, Any]:
    figures = {c: {"mean": f.mean, "sd": f.sd, "n": f.n} for c, f in line.figures.items()}
    return {
        "label": line.label,
        "figures": figures,
        "missing_seeds": list(line.missing),
        "cost": dict(line.cost),
    }


def _costs(table: Table, lines: list[Line]) -> str:
    """The table of costs and what it means; empty before any was measured."""
    parts = [line.cost for line in lines if line.cost]
    if not parts:
        return ""
    run, full = parts[0]["run"], parts[0].get("full")  # a peer, without "full", is never first
    busy = max(part["load"] for part in parts)
    shape = "{channels} x {size} x {size}"
    published = (
        "; full, at full width and the paper's size, " + shape.format(**full) if full else ""
    )
    return (
        f"\n{costs_markdown(table, lines)}\nOne image: as trained here {shape.format(**run)}"
        f"{published}. CPU ms: median forward with {run['threads']} thread(s); the machine's "
        f"load was up to {busy:.1f} meanwhile.\n"
    )


def _published_thresholds() -> str:
    """The paper's IoU at every threshold, for its five data sets."""
    head = ["published IoU", *published.SMOOTH_IOU]
    rows = [head, [":--", *["--:"] * len(published.SMOOTH_IOU)]]
    for i, threshold in enumerate(THRESHOLDS):
        cells = [f"{values[i]:.4f}" for values in published.SMOOTH_IOU.values()]
        rows.append([f"{threshold:.1f}", *cells])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return (
        f"\n## As published\n\n{table}\n\nThe published IoU is taken per image column, and columns "
        "empty in both count as 1, so its values are not comparable, only its order.\n"
    )
