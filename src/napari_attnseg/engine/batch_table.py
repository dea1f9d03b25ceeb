"""``predictions.csv``: one line per file of a batch, whole on the disk after every file."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_attnseg.engine.batch import Row
from napari_attnseg.errors import InputError
from napari_attnseg.io.csv_cells import text_of
from napari_attnseg.io.export import write_text
from napari_attnseg.io.measures_csv import csv_text

NAME = "predictions.csv"
MANY, SECONDS = 500, 1.0
"""A table of more lines than this is written at most every so many seconds (and at the end)."""
FIRST = ("file", "mask", "status", "seconds")
LAST = ("verified", "device", "notes", "error")


class Table:
    """The table in ``folder``. Lines of files that this batch has nothing to do with, or has not
    come to yet, stay as an earlier batch left them.

    ``names``: classes, background first. ``order``: the names of this batch's masks. Raises
    ``InputError`` when something else is called ``predictions.csv`` there.
    """

    def __init__(self, folder: Path, names: Sequence[str], order: Iterable[str]) -> None:
        self.path = folder / NAME
        self._names = tuple(names)
        self._place = {mask: i for i, mask in enumerate(order)}
        self._lines = _read(self.path)
        self._written = 0.0

    def add(self, row: Row) -> None:
        """Take in what came of a file, and write the table. Raises ``ExportError``."""
        line = self._line(row)
        if row.status == "kept":  # when it was made, and how long it took, was said then
            line["seconds"] = self._lines.get(row.mask, {}).get("seconds", "")
        self._lines[row.mask] = line
        if len(self._lines) <= MANY or time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Write it whole, or not at all."""
        ordered = sorted(self._lines.values(), key=lambda r: self._place.get(str(r["mask"]), -1))
        columns = dict.fromkeys(FIRST)
        columns |= dict.fromkeys(c for line in ordered for c in line if c not in LAST)
        columns |= dict.fromkeys(LAST)
        write_text(self.path, csv_text({c: line.get(c) for c in columns} for line in ordered))
        self._written = time.monotonic()

    def _line(self, row: Row) -> dict[str, Any]:
        line: dict[str, Any] = {
            "file": row.file,
            "mask": row.mask,
            "status": row.status,
            "seconds": None if row.seconds is None else round(row.seconds, 3),
        }
        for number, name in enumerate(self._names[1:], 1):
            voxels = row.counts.get(number, 0) if row.good else None
            line[f"voxels_{name}"] = voxels
            body = row.voxel_mm3
            line[f"volume_ml_{name}"] = (
                None if voxels is None or body is None else voxels * body / 1000
            )
        return line | {
            "verified": "yes" if row.verified else "no",
            "device": row.device,
            "notes": "; ".join(row.notes),
            "error": row.error,
        }


def is_table(folder: Path) -> bool:
    """Whether a table of a batch is there."""
    try:
        return bool(_read(folder / NAME))
    except InputError:
        return False


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of an earlier table by mask."""
    if not path.exists():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            ours = {*FIRST, *LAST} <= set(reader.fieldnames or ())
            lines = [_plain(line) for line in reader] if ours else []
    except (OSError, ValueError, csv.Error):
        ours = False
    if not ours:
        raise InputError(
            f"{path} is there and is no table of a batch; move it away, or choose another --out"
        )
    return {line["mask"]: line for line in lines}


def _plain(line: Mapping[str | None, str | None]) -> dict[str, Any]:
    """The words that were written."""
    return {text_of(k): text_of(v or "") for k, v in line.items() if k}
