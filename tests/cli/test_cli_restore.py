"""``restore`` on the command line: lists what is left, and writes it where the image lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from napari_attnseg.cli import app
from napari_attnseg.io.journal import Journal
from napari_attnseg.io.runs import pack

SHAPE = (5, 7, 11)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A journal whose process cannot be alive, and its scan."""
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    scan = tmp_path / "scan.nii.gz"
    affine = np.diag([1.5, -2.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(np.zeros(SHAPE[::-1], np.int16), affine), scan)
    facts = {
        "image": {"name": "scan", "path": str(scan), "shape": list(SHAPE), "part": None},
        "model": "/somewhere/tiny.safetensors",
        "shape": list(SHAPE),
    }
    path = tmp_path / "journals" / "open-1-77" / "0-1.journal"
    book = Journal(path, facts)
    model, held = np.zeros(SHAPE[1:], np.uint8), np.zeros(SHAPE[1:], np.uint16)
    model[1:3, 2:9] = 1
    held[2, 5] = 256 + 2
    book.tiles("answer", {(0, (3, 0, 0)): pack(model)})
    book.tiles("paint", {(1, (3, 0, 0)): pack(held)})
    book.close()
    expected = np.zeros(SHAPE, np.uint8)
    expected[3, 1:3, 2:9] = 1
    expected[3, 2, 5] = 2
    return {"path": path, "expected": expected, "affine": affine, "scan": scan}


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["restore", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_lists_and_writes_what_is_left(journal: dict[str, Any], tmp_path: Path) -> None:
    assert "scan by tiny: 1 step by hand; its window ended without closing" in run()
    told = json.loads(run("--json", "--to", str(tmp_path / "out")))
    assert told["crashed"]
    written = nib.load(told["written"])
    np.testing.assert_array_equal(written.affine, journal["affine"])
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, journal["expected"])
    run("--to", str(tmp_path / "out"))
    assert len(list((tmp_path / "out").iterdir())) == 2, "nothing is overwritten"
    assert journal["path"].exists()


def test_a_missing_image_costs_only_the_space(journal: dict[str, Any], tmp_path: Path) -> None:
    import tifffile

    journal["scan"].unlink()
    told = json.loads(run("--json", "--to", str(tmp_path / "out")))
    np.testing.assert_array_equal(tifffile.imread(told["written"]), journal["expected"])


def test_a_layer_called_like_a_path_is_written_into_the_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    facts = {
        "image": {"name": "../cells/9:1", "path": "", "shape": list(SHAPE), "part": None},
        "model": "tiny",
        "shape": list(SHAPE),
    }
    book = Journal(tmp_path / "journals" / "open-1-77" / "0-1.journal", facts)
    book.tiles("paint", {(1, (3, 0, 0)): pack(np.full(SHAPE[1:], 257, np.uint16))})
    book.close()
    run("--to", str(tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".._cells_9_1_tiny_labels.tif"]


def test_nothing_left_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path))
    assert "nothing unsaved" in run()


def test_painted_and_refined_and_damaged_ones_are_written_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    bare = {"image": {"name": "x", "path": ""}, "model": "", "shape": list(SHAPE)}
    wide = np.zeros(SHAPE[1:], np.uint64)
    wide[2, 5] = (1 << 63) | 70_000
    held = {(1, (3, 0, 0)): pack(np.full(SHAPE[1:], 257, np.uint16))}
    for k, (facts, pages) in enumerate(
        [
            ({"painted": {"name": "hand/1"}}, held),
            ({"painted": {"name": "many"}}, {(1, (3, 0, 0)): pack(wide)}),
            ({"refined": {"carry": 0}, "model": "cspn"}, held),
            ({"painted": {"name": "torn"}}, {(1, (3, 9, 0)): pack(wide)}),
        ]
    ):
        book = Journal(tmp_path / "journals" / "open-1-77" / f"{k}.journal", bare | facts)
        book.tiles("paint", pages)
        book.close()
    result = CliRunner().invoke(app, ["restore", "--to", str(tmp_path / "out")])
    assert result.exit_code == 1
    written = {p.name: p for p in (tmp_path / "out").iterdir()}
    assert set(written) == {"hand_1.tif", "many.npy", "x_cspn_refined.tif"}
    assert np.load(written["many.npy"])[3, 2, 5] == 70_000
    assert "torn was not written" in result.output
