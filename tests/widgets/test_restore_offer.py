"""The offer after a crash: one window after the other, each whole; what is missing is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels

from napari_attnseg.io.journal import Journal
from napari_attnseg.io.journal_folder import left_behind
from napari_attnseg.io.runs import pack
from napari_attnseg.viewer.journal_painted import labels_facts
from napari_attnseg.viewer.session_image import image_facts
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
SHAPE = (11, 13)


@pytest.fixture
def window(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], SegmentWidget]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    made: list[SegmentWidget] = []

    def make() -> SegmentWidget:
        viewer = make_napari_viewer()
        made.append(SegmentWidget(viewer))
        viewer.window.add_dock_widget(made[-1], area="right")
        return made[-1]

    yield make
    for dock in made:
        dock.hub.close()


def left(tmp_path: Path, window: int, image: str, *labels: str, numbered: int = 0) -> None:
    """What a window of long ago left of labels painted on ``image``."""
    path = tmp_path / f"{image}.tif"
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint8), photometric="minisblack")
    layer = Image(np.zeros(SHAPE, np.uint8), name=image)
    for k, name in enumerate(labels, numbered):
        facts = {
            "painted": labels_facts(Labels(np.zeros(SHAPE, np.uint8), name=name)),
            "image": image_facts(layer) | {"path": str(path)},
            "model": "",
            "shape": [1, *SHAPE],
            "axes": 2,
            "dtype": "|u1",
        }
        file = tmp_path / "journals" / f"open-1-{window}@{os.uname().nodename.lower()}"
        book = Journal(file / f"{k}.journal", facts)
        book.tiles("paint", {(1, (0, 0, 0)): pack(np.full(SHAPE, 257 + k, np.uint16))})
        book.close()
        os.utime(book.path, (1e9 + window, 1e9 + window))


def names(dock: SegmentWidget) -> list[str]:
    return sorted(layer.name for layer in dock.hub.viewer.layers)


@pytest.mark.skipif(os.name == "nt", reason="the name of the machine is asked for otherwise")
def test_windows_are_offered_one_after_the_other(
    window: Callable[[], SegmentWidget], tmp_path: Path, qtbot: Any
) -> None:
    left(tmp_path, 7, "old", "first")
    left(tmp_path, 8, "new", "second", "third")
    left(tmp_path, 6, "oldest", "unwanted", "neither")
    dock = window()
    qtbot.waitUntil(lambda: bool(dock.restore.found), timeout=10_000)
    said = dock.restore.words.text()
    assert "second" in said
    assert "third" in said
    assert "first" not in said
    assert "(2 more windows after this one.)" in said
    dock.restore.bring.click()
    assert names(dock) == ["new", "second", "third"]
    assert dock.errors.message == "Brought back: second. And third."
    assert dock.hub.viewer.layers["third"].data.max() == 2
    assert "first: 1 step by hand" in dock.restore.words.text()
    dock.restore.bring.click()
    assert names(dock) == ["first", "new", "old", "second", "third"]
    assert "(" not in dock.restore.words.text().split("closing")[1]
    dock.restore.leave.click()
    assert dock.restore.isHidden()
    assert left_behind() == []
    aside = left_behind(closed=True)
    assert sorted(x.thing() for x in aside) == ["neither", "unwanted"]


@pytest.mark.skipif(os.name == "nt", reason="the name of the machine is asked for otherwise")
def test_an_image_that_is_gone_stops_there_and_nothing_is_lost(
    window: Callable[[], SegmentWidget], tmp_path: Path, qtbot: Any
) -> None:
    left(tmp_path, 7, "scan", "first", "second")
    left(tmp_path, 7, "other", "third", numbered=5)
    (tmp_path / "scan.tif").rename(tmp_path / "moved.tif")
    dock = window()
    qtbot.waitUntil(lambda: bool(dock.restore.found), timeout=10_000)
    dock.restore.bring.click()
    assert "scan is not where it was" in dock.errors.message
    assert dock.restore.where.isVisibleTo(dock)
    assert len(left_behind()) == 2
    assert names(dock) == ["other", "third"], "what has its image comes all the same"
    dock.restore.bring_back(tmp_path / "moved.tif")
    assert names(dock) == ["first", "other", "scan", "second", "third"], "both lay on it"
    assert dock.restore.isHidden()
    assert left_behind() == []
