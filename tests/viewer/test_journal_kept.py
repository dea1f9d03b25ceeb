"""What was kept stays until it is kept elsewhere, and belongs to the image it was made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer

from napari_attnseg.control.state import Results
from napari_attnseg.errors import InputError
from napari_attnseg.io.journal_folder import Left, left_behind
from napari_attnseg.viewer import journal_keeper
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.journal_restore import restore
from napari_attnseg.viewer.layers import volume_to_layer_data
from napari_attnseg.viewer.results import ResultLayers
from napari_attnseg.viewer.session_image import ImageGone, bring_image, image_facts, image_path
from napari_attnseg.viewer.unpacking import read_for_window

pytestmark = pytest.mark.gui
SHAPE = (3, 20, 30)


@pytest.fixture
def hub(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Hub]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    made: list[tuple[Hub, ViewerModel]] = []

    def make() -> Hub:
        viewer = ViewerModel()
        made.append((Hub(viewer), viewer))
        made[-1][0].set_model(str(tiny_checkpoint))
        return made[-1][0]

    yield make
    for one, _ in made:
        one.close()


def opened(viewer: ViewerModel, path: Path) -> Any:
    """The layer of an image file."""
    tifffile.imwrite(path, np.zeros(SHAPE, np.uint8), photometric="minisblack")
    return viewer.add_layer(Layer.create(*volume_to_layer_data(read_for_window(path))))


def labelled(hub: Hub, path: Path) -> ResultLayers:
    """An image of a file, with labels."""
    hub.set_source(opened(hub.viewer, path))
    results = hub.results_for(SHAPE)
    results.ensure_labels()
    return results


def crashed(hub: Hub, results: ResultLayers, root: Path) -> Left:
    """What a window that was killed with a stroke on ``results`` leaves."""
    assert hub.keeper.attach(results) is not None
    assert results.labels is not None
    results.labels.paint((1, 5, 5), 1)
    assert hub.keeper.kept(results)
    (mine,) = root.glob("open-*")
    shutil.copytree(mine, root / "open-4194305-1")
    (left,) = left_behind()
    return left


@pytest.mark.parametrize("works", [True, False])
def test_a_journal_goes_only_when_the_next_one_is_there(
    hub: Callable[[], Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    first = hub()
    left = crashed(first, labelled(first, tmp_path / "scan.tif"), tmp_path / "journals")

    def refuse() -> Path:
        raise InputError("no room")

    if not works:
        monkeypatch.setattr(journal_keeper, "new_folder", refuse)
    second = hub()
    words = restore(second, left)
    assert "painted pixel" in words
    assert left.path.exists() is not works


def test_answers_that_begin_late_are_a_step_of_their_own_image(
    hub: Callable[[], Hub], tmp_path: Path
) -> None:
    one = hub()
    waits, chosen = (labelled(one, tmp_path / f"{name}.tif") for name in ("waits", "chosen"))
    assert one.results is chosen
    one._answers.layers = waits
    ref: Any = SimpleNamespace(key="k")
    one.live._set(results=Results(ref, one.checkpoint, str(tmp_path)))
    one.live.started.emit(SimpleNamespace(notes=()))
    assert waits.edits is not None
    assert chosen.edits is not None
    assert waits.edits.answering
    assert not chosen.edits.answering


def test_another_image_of_the_same_file_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    viewer = ViewerModel()
    layer = opened(viewer, path)
    facts = image_facts(layer)
    assert image_path(layer) == (path, None)
    assert bring_image(viewer, facts) is layer
    with pytest.raises(ImageGone, match="was"):
        bring_image(viewer, facts | {"shape": [5, 20, 30]})
    assert len(viewer.layers) == 1
