"""A bake-off of attention: its plan, its tables and its pictures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_attnseg.attention import list_attentions
from napari_attnseg.attention.registry import attention_entry
from napari_attnseg.cli import app
from napari_attnseg.engine.experiment import gallery
from napari_attnseg.engine.experiment.plan import Scale
from napari_attnseg.engine.experiment.plan_compare import PLAIN, compare
from napari_attnseg.errors import InputError

SMALL = Scale(size=32, width=0.1, options={"levels": 2})


def test_contestants_differ_in_their_attention_alone() -> None:
    plan = compare(["joint", "skip[1:]=attention_gate:inner=3", "head=smooth"], SMALL)
    plain, *others = plan.rows
    assert [row.label for row in plan.rows] == [
        PLAIN,
        "skip=joint",
        "skip[1:]=attention_gate:inner=3",
        "head=smooth",
    ]
    for row in others:
        options = {**row.settings.options, "attention": ""}
        assert options == plain.settings.options
        assert {**row.settings.to_json(), "options": options} == plain.settings.to_json()
    assert len({row.key for row in plan.rows}) == 4


@pytest.mark.parametrize("name", [n for n in list_attentions() if 2 in attention_entry(n).ndim])
def test_every_attention_has_a_natural_place(name: str) -> None:
    _, row = compare([name], SMALL).rows
    assert row.settings.options["attention"].endswith(f"={name}")


@pytest.mark.parametrize(
    ("contestants", "told"),
    [
        ([], "got no attention"),
        (["joint", "skip=joint"], "skip=joint twice"),
        (["nothing"], "got attention 'nothing'"),
        (["bottleneck=attention_gate"], "at bottleneck"),
    ],
)
def test_what_cannot_be_compared_is_refused(contestants: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        compare(contestants, SMALL)
    assert told in str(refused.value)


def test_3d_contestants_are_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"expected models of slices.*train each 3D model"):
        compare(["se"], Scale(options={"ndim": 3}))


def test_a_bake_off_writes_tables_and_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for n in range(6):
        mask = np.zeros((35, 41), np.uint8)
        mask[5 : 20 + n, 6:22] = 255
        pixels = rng.integers(0, 90, (35, 41)) + (mask > 0) * 150
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / "images" / f"{n}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{n}.png")
    out = tmp_path / "out"
    small = ["--size", "32", "--epochs", "1", "--width", "0.1", "--option", "levels=2"]
    words = ["compare", "joint", "--data", tmp_path / "data", "--out", out, "--seeds", "0", *small]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    with (out / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    report = json.loads((out / "compare.json").read_text())
    assert [row["row"] for row in rows] == [PLAIN, "skip=joint"]
    for row, run in zip(rows, report["runs"], strict=True):
        assert float(row["dice"]) == pytest.approx(run["metrics"]["dice"])
        assert int(row["parameters"]) == run["parameters"]
        assert float(row["gmacs"]) > 0
    table = (out / "compare.md").read_text()
    assert "| skip=joint |" in table
    assert "full: parameters" not in table  # there is no published size to stand beside
    for name in ("compare.png", "compare_masks.png", "compare_maps.png"):
        assert Image.open(out / name).size[0] > 400


def test_many_contestants_stand_in_blocks_that_a_page_can_hold() -> None:
    """One line of all would be as wide as a wall: 37 in blocks, none left out."""
    truth = np.zeros((12, 12), np.uint8)
    truth[3:8, 4:9] = 1
    image = gallery.Shown(None, 0, np.zeros((12, 12, 3), np.float32), truth)  # type: ignore[arg-type]
    cells = [gallery.Cell(truth, None, "") for _ in range(37)]
    drawn: list[int] = []

    def draw(axes: Any, shown: Any, cell: Any) -> None:
        drawn.append(next(i for i, c in enumerate(cells) if c is cell))

    labels = [f"skip=number{i}" for i in range(37)]
    width, height = Image.open(
        io.BytesIO(gallery._figure([image], [cells], labels, draw, "words"))
    ).size
    assert drawn == list(range(37))
    assert width <= 2400
    assert height > 5 * 200
