"""``predict --keep-largest --fill-holes``: the steps are done, told and made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import coins

from napari_attnseg.cli import main
from napari_attnseg.engine.reproduce import reproduce
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.image import read_mask
from napari_attnseg.io.tidying import FILL_3D, KEEP_LARGEST, tidy


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    Image.fromarray(coins()[:130, :170]).save(tmp_path / "coins.png")

    def call(*words: str) -> int:
        given = ("predict", "nuclei_smooth_unet", str(tmp_path / "coins.png"), "--out", tmp_path)
        monkeypatch.setattr("sys.argv", ["napari-attnseg", *map(str, given), *words])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def test_steps_are_done_told_and_made_again(run: Any, tmp_path: Path, capsys: Any) -> None:
    mask = tmp_path / "coins_mask.png"
    assert run() == 0
    plain = read_mask(mask).view.copy()
    capsys.readouterr()
    assert run("--keep-largest", "--fill-holes") == 0
    said = capsys.readouterr().err
    expected = tidy(plain, (KEEP_LARGEST, FILL_3D))
    assert (expected != plain).any()
    np.testing.assert_array_equal(read_mask(mask).view, expected)
    largest = int((tidy(plain, (KEEP_LARGEST,)) != plain).sum())
    assert f"keep largest: {largest:,} voxels changed" in said
    told = comment_of(mask)["provenance"]
    assert told["postprocess"] == [KEEP_LARGEST, FILL_3D]
    assert reproduce(mask, image=tmp_path / "coins.png").equal
    assert run() == 0  # another question: the finished mask of the first does not count
    np.testing.assert_array_equal(read_mask(mask).view, plain)


def test_both_ways_of_filling_are_refused(run: Any, capsys: Any) -> None:
    assert run("--fill-holes", "--fill-holes-2d") == 1
    assert "expected one" in capsys.readouterr().err
