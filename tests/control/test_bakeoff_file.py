"""What a bake-off's folder says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from napari_attnseg.control.bakeoff_file import read_wish
from napari_attnseg.errors import InputError


def write(folder: Path, command: str, *labels: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [{"label": label} for label in ("plain U-Net", *labels)]
    told = {"command": command, "tables": [{"rows": rows}]}
    (folder / "compare.json").write_text(json.dumps(told))
    return folder


def test_a_command_with_everything_said(tmp_path: Path) -> None:
    command = (
        "napari-attnseg compare cbam 'skip[1:]=joint' --data /a/set --out /old --size 48 "
        "--epochs 2 --batch 4 --limit 12 --width 0.125 --labels id=1 --option levels=3 "
        "--seeds 0,2 --device cpu"
    )
    found = read_wish(write(tmp_path / "moved", command, "skip=cbam", "skip[1:]=joint"))
    assert found.contestants == ("skip=cbam", "skip[1:]=joint")
    assert found.out == str(tmp_path / "moved")
    assert (found.data, found.labels, found.limit) == ("/a/set", "id=1", 12)
    assert (found.size, found.epochs, found.batch) == (48, 2, 4)
    assert (found.width, found.levels, found.seeds) == (0.125, 3, (0, 2))


def test_what_is_not_said_is_the_command_lines_and_paths_are_from_where_it_ran(
    tmp_path: Path,
) -> None:
    folder = write(
        tmp_path / "out" / "first", "napari-attnseg compare se --data set --out out/first"
    )
    found = read_wish(folder)
    assert found.data == str(tmp_path / "set")
    assert (found.size, found.epochs, found.batch, found.width) == (128, 30, 8, 0.25)
    assert (found.levels, found.seeds, found.limit) == (4, (0, 1, 2), 0)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("napari-attnseg compare se --data a --out b --set lr=0.1", "--set lr=0.1"),
        ("napari-attnseg compare se --data a --out b --option norm=none", "norm=none"),
        ("napari-attnseg experiment pam-unet --data a --out b", "experiment"),
        ("napari-attnseg compare se --data a --out b --size large", "size"),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path: Path, command: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_wish(write(tmp_path, command, "skip=se"))


def test_a_folder_without_a_bake_off(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no results of a bake-off \(compare.json\)"):
        read_wish(tmp_path)
    (tmp_path / "compare.json").write_text("[]")
    with pytest.raises(InputError, match="no results"):
        read_wish(tmp_path)
