"""Measures as a table that any spreadsheet opens: one row per class or part."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from napari_attnseg.io.export import write_text
from napari_attnseg.io.measures import Measures, Region

Row = dict[str, Any]


def rows_of(measures: Measures, **more: Any) -> list[Row]:
    """A row per class, then one per part; ``more`` columns come first (the file's name)."""
    regions = (*measures.classes, *measures.parts)
    return [{**more, **_row(measures, region)} for region in regions]


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
    """Text separated by ``comma``, with a header; rows may have different columns."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, restval="", delimiter=comma, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else _number(v) for k, v in row.items()})
    return out.getvalue()


def _number(value: Any) -> Any:
    """Whole numbers and words as they are, others with the digits that say something."""
    return f"{value:.9g}" if isinstance(value, float) else value


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table whole or not at all. Raises ``ExportError`` in one sentence."""
    write_text(path, csv_text(rows))
