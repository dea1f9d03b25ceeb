"""No cell of a table is a formula, whatever files, layers and classes are called."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_attnseg.engine.batch import Row
from napari_attnseg.engine.batch_table import Table
from napari_attnseg.engine.experiment import tables
from napari_attnseg.io.csv_cells import cell, text_of
from napari_attnseg.io.measure_files import measure_file
from napari_attnseg.io.measure_space import Space
from napari_attnseg.io.measures import measure
from napari_attnseg.io.measures_csv import csv_text, rows_of, write_csv

EVIL = ("=1+1", "+SUM(A1)", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")', "'=1")
BEGIN = tuple("=+-@\t\r\n")


def cells_of(text: str, comma: str = ",") -> list[str]:
    """Every cell as a spreadsheet takes it: quotes are no part of it."""
    return [c for line in csv.reader(io.StringIO(text, newline=""), delimiter=comma) for c in line]


def formulas(cells: list[str]) -> list[str]:
    def number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    return [c for c in cells if c.startswith(BEGIN) and not number(c)]


LIKELY = st.builds("{}{}".format, st.sampled_from("'=+-@"), st.text())


@given(st.text() | st.sampled_from(EVIL) | LIKELY)
def test_every_text_comes_back_and_none_is_a_formula(words: str) -> None:
    assert text_of(cell(words)) == words.replace("\r", " ")
    assert not formulas([cell(words)])


@pytest.mark.parametrize("value", [-1.5, 3, None, True, "-3.25e-7", "+4", "liver", "a=b", ""])
def test_numbers_and_plain_words_stay(value: object) -> None:
    assert cell(value) == value


@pytest.mark.parametrize("comma", [",", "\t"])
@pytest.mark.parametrize("evil", EVIL)
def test_measures(tmp_path: Path, evil: str, comma: str) -> None:
    """The class, the file and a column all bear the name; negative places stay numbers."""
    ids = np.zeros((3, 5, 7), np.uint8)
    ids[1, 2:4, 2:5] = 1
    away = np.diag([2.0, 1.0, 1.0, 1.0])
    away[:3, 3] = -40.0
    found = measure(ids, Space(away, "mm", ("R", "A", "S")), names={1: evil}, parts=True)
    text = csv_text(rows_of(found, mask=evil, **{evil: evil}), comma)
    cells = cells_of(text, comma)
    assert not formulas(cells)
    assert cells.count(cell(evil)) == 7
    assert "-38" in cells
    write_csv(tmp_path / "t.csv", rows_of(found, mask=evil))
    assert not formulas(cells_of((tmp_path / "t.csv").read_text(encoding="utf-8")))


def test_a_batch_keeps_its_lines_by_their_own_names(tmp_path: Path) -> None:
    """The table is read again when a batch goes on: names must come back as they are."""
    rows = [Row(f"/scans/{n}", n, "ok", counts={1: 4}) for n in ("=a_mask.png", "-b_mask.png")]
    rows.append(Row("-c.png", "@c_mask.png", "failed", error="=cmd"))
    Table(tmp_path, ("background", "=liver"), []).add(rows[0])
    for row in rows:
        again = Table(tmp_path, ("background", "=liver"), [r.mask for r in rows])
        again.add(row)
    text = (tmp_path / "predictions.csv").read_text(encoding="utf-8")
    assert not formulas(cells_of(text))
    assert len(text.splitlines()) == 4
    assert "''" not in text


def test_a_mask_on_the_disk(tmp_path: Path) -> None:
    from napari_attnseg.io.export import write_mask

    path = tmp_path / "=1+1.png"
    write_mask(path, np.ones((1, 4, 5), np.uint8), None, {1: "@liver"})
    rows = measure_file(path, names={1: "@liver"}).rows()
    assert not formulas(cells_of(csv_text(rows)))


def test_an_experiment() -> None:
    row = SimpleNamespace(label="=row", key="-k")
    plan: Any = SimpleNamespace(tables=(), rows=(row,))
    record = {"metrics": {}, "train_seconds": 1.0, "parameters": 3}
    failed = {("-k", 1): "@why"}
    text = tables.csv_text(plan, {"-k": {0: record}}, {}, failed)
    assert len(text.splitlines()) == 3
    assert not formulas(cells_of(text))
