"""Measures as a table that any spreadsheet opens: one row per class or part."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from napari_attnseg.io.agreement import Agreement
from napari_attnseg.io.csv_cells import cell
from napari_attnseg.io.export import write_text
from napari_attnseg.io.measures import Measures, Region

Row = dict[str, Any]


def rows_of(measures: Measures, **more: Any) -> list[Row]:
    """A row per class, then one per part; ``more`` columns come first (the file's name)."""
    regions = (*measures.classes, *measures.parts)
    return [{**more, **_row(measures, region)} for region in regions]


def rows_against(measures: Measures, agreements: Iterable[Agreement], **more: Any) -> list[Row]:
    """:func:`rows_of` with the figures of each class against a reference; classes that only the
    reference has follow, with no voxel."""
    against = {a.id: a for a in agreements}
    rows = rows_of(measures, **more)
    for row in rows:
        if row["part"] == "" and row["id"] in against:
            row |= against.pop(row["id"]).row()
    missed = [more | {"id": a.id, "class": a.name, "voxels": 0} | a.row() for a in against.values()]
    return rows + missed


def _row(measures: Measures, region: Region) -> Row:
    space = measures.space
    known = space.unit == "mm"
    row: Row = {
        "id": region.id,
        "class": region.name,
        "part": region.part or "",
        "parts": "" if region.part else region.parts,
        "voxels": region.voxels,
        "volume_ml": region.size / 1000 if known and not space.flat else "",
        "area_mm2": region.size if known and space.flat else "",
        "surface_mm2": region.surface if known and not space.flat else "",
        "perimeter_mm": region.surface if known and space.flat else "",
        "mean": region.mean,
        "sd": region.sd,
    }
    for axis, low, high, at in zip("zyx", region.low, region.high, region.centroid, strict=True):
        row |= {f"{axis}_first": low, f"{axis}_last": high - 1, f"{axis}_centroid": at}
    world = zip(space.axes, region.world_low, region.world_high, region.world_centroid, strict=True)
    for axis, least, most, place in world if known else ():
        row |= {f"{axis}_min_mm": least, f"{axis}_max_mm": most, f"{axis}_centroid_mm": place}
    return row


def csv_text(rows: Iterable[Mapping[str, Any]], comma: str = ",") -> str:
    """Text separated by ``comma``, with a header; rows may have different columns. Words that a
    spreadsheet would take for a formula are escaped (`io.csv_cells`)."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=comma, lineterminator="\n")
    writer.writerow(map(cell, columns))
    writer.writerows([_shown(row.get(name)) for name in columns] for row in rows)
    return out.getvalue()


def _shown(value: Any) -> Any:
    """Whole numbers as they are, others with the digits that say something."""
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else cell(value)


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table whole or not at all. Raises ``ExportError`` in one sentence."""
    write_text(path, csv_text(rows))
