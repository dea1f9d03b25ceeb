"""Labels that a person paints on a layer of their own come back after a crash, in any size."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Labels, Layer

from napari_attnseg.cli.restore import _labels
from napari_attnseg.io.journal_folder import Left, discard, left_behind, set_aside
from napari_attnseg.viewer import journal_painted, journal_tiles
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.journal_restore import order_of, restore
from napari_attnseg.viewer.layers import METADATA, volume_to_layer_data
from napari_attnseg.viewer.strokes import new_strokes
from napari_attnseg.viewer.unpacking import read_for_window

pytestmark = pytest.mark.gui
SHAPE = (3, 11, 13)


@pytest.fixture
def hub(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Hub]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(journal_tiles, "TILE", 4)
    made: list[tuple[Hub, ViewerModel]] = []

    def make() -> Hub:
        viewer = ViewerModel()
        made.append((Hub(viewer), viewer))
        made[-1][0].set_model(str(tiny_checkpoint))
        return made[-1][0]

    yield make
    for one, _ in made:
        one.close()


def opened(hub: Hub, path: Path, shape: tuple[int, ...] = SHAPE) -> Any:
    tifffile.imwrite(path, np.zeros(shape, np.uint8), photometric="minisblack")
    layer: Any = Layer.create(*volume_to_layer_data(read_for_window(path)))
    return hub.viewer.add_layer(layer)


def stroke(layer: Labels, spot: tuple[int, ...], value: int) -> None:
    layer.data_setitem(tuple(np.array([n]) for n in spot), value)


def crashed(hub: Hub, root: Path) -> list[Left]:
    """What is found when the window is killed now."""
    for book in hub.keeper.painted.books:
        assert book.wait()
    (mine,) = root.glob("journals/open-*")
    shutil.copytree(mine, root / "journals" / "open-4194305-1")
    return sorted(left_behind(), key=order_of)


@pytest.mark.parametrize("shape", [SHAPE, (11, 13)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16])
@pytest.mark.parametrize("large", [1, 64])
def test_every_step_back_and_forth_is_there_after_a_kill(
    hub: Callable[[], Hub],
    tmp_path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    large: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Oracle: the layer itself, after each of many random steps of napari's own history; those
    of more than ``large`` tiles are packed behind the window."""
    monkeypatch.setattr(journal_painted, "_LARGE", large)
    first = hub()
    opened(first, tmp_path / "scan.tif", shape)
    rng = np.random.default_rng(1)
    before = rng.integers(0, 3, shape).astype(dtype)
    layer = first.viewer.add_labels(before, name="by hand")
    for k in range(40):
        what = rng.integers(5)
        if what < 3:
            top = min(np.iinfo(dtype).max, 70_000)
            spot = tuple(int(rng.integers(n)) for n in shape)
            stroke(layer, spot, int(rng.choice([0, 1, 7, top])))
        elif what == 3:
            layer.undo()
        else:
            layer.redo()
        if k == 20:
            layer.fill((0,) * len(shape), 5)
    now = np.array(layer.data)
    (left,) = crashed(first, tmp_path)
    assert left.thing() == "by hand"
    assert left.image == "scan"
    np.testing.assert_array_equal(_labels(left), now.reshape(-1, *now.shape[-2:]))
    words = restore(second := hub(), left)
    assert words.startswith("Brought back: by hand.")
    again = second.viewer.layers["by hand"]
    np.testing.assert_array_equal(again.data, now)
    assert again.data.dtype == dtype
    assert second.viewer.layers["scan"] is second.source
    assert not left.path.exists(), "its own journal is on the disk"
    stroke(again, (0,) * len(shape), 9)
    assert second.keeper.painted.kept(again)


def test_what_was_there_is_read_behind_the_window_and_is_older_than_any_stroke(
    hub: Callable[[], Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    go, begun = threading.Event(), journal_painted.PaintedBook._read

    def late(self: Any, stack: Any) -> None:
        old = np.array(stack)
        assert go.wait(10)
        begun(self, old)

    monkeypatch.setattr(journal_painted.PaintedBook, "_read", late)
    first = hub()
    opened(first, tmp_path / "scan.tif")
    layer = first.viewer.add_labels(np.ones(SHAPE, np.uint8), name="by hand")
    for spot in ((0, 0, 0), (1, 9, 9), (0, 0, 0)):
        stroke(layer, spot, int(layer.data[spot]) + 1)
    go.set()
    (left,) = crashed(first, tmp_path)
    np.testing.assert_array_equal(_labels(left), layer.data)


def test_strokes_come_back_as_strokes_with_their_classes(
    hub: Callable[[], Hub], tmp_path: Path
) -> None:
    first = hub()
    image = first.viewer.add_image(np.random.default_rng(2).random((11, 13)), name="made here")
    layer = new_strokes(first.viewer, image, ("background", "cell", "rim"))
    layer.paint((5, 5), 2)
    found = crashed(first, tmp_path)
    assert [left.thing() for left in found] == ["made here_strokes"]
    second = hub()
    restore(second, found[0])
    again = second.viewer.layers["made here_strokes"]
    assert again.metadata[METADATA]["strokes"]
    np.testing.assert_array_equal(again.data, layer.data)
    np.testing.assert_array_equal(second.viewer.layers["made here"].data, image.data)
    np.testing.assert_allclose(again.get_color(3), layer.get_color(3))
    assert list(again.properties["class"]) == ["unlabelled", "background", "cell", "rim"]


def test_pixels_that_were_kept_for_several_layers_are_brought_once(
    hub: Callable[[], Hub], tmp_path: Path
) -> None:
    first = hub()
    first.viewer.add_image(np.random.default_rng(2).random((11, 13)), name="made here")
    for name in ("a", "b"):
        first.viewer.add_labels(np.zeros((11, 13), np.uint8), name=name).paint((5, 5), 2)
    found = crashed(first, tmp_path)
    assert len(found) == 2
    assert len(list(found[0].path.parent.glob("*.npy"))) == 1
    second, brought = hub(), {}
    for left in found:
        restore(second, left, brought=brought)
    assert sorted(x.name for x in second.viewer.layers) == ["a", "b", "made here"]
    assert not found[0].path.parent.exists()


def test_labels_on_no_image_come_back_too(hub: Callable[[], Hub], tmp_path: Path) -> None:
    first = hub()
    layer = first.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="alone", scale=(2, 1, 1))
    layer.paint((1, 5, 5), 3)
    (left,) = crashed(first, tmp_path)
    second = hub()
    restore(second, left)
    (again,) = second.viewer.layers
    np.testing.assert_array_equal(again.data, layer.data)
    np.testing.assert_allclose(again.scale, (2, 1, 1))


def test_answers_and_saved_labels_are_not_offered(hub: Callable[[], Hub], tmp_path: Path) -> None:
    first = hub()
    first.set_source(opened(first, tmp_path / "scan.tif"))
    results = first.results_for(SHAPE)
    results.ensure_labels().paint((1, 5, 5), 1)
    assert first.keeper.painted.books == [], "it has a journal of its own kind"
    layer = first.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="by hand")
    layer.paint((1, 5, 5), 1)
    marks = first.keeper.marks()
    layer.paint((1, 9, 9), 1)
    first.keeper.saved_at(marks)
    (left,) = crashed(first, tmp_path)
    assert left.unsaved, "painted on since"
    discard(left)
    first.keeper.saved_at(first.keeper.marks())
    assert crashed(first, tmp_path) == []


def test_other_pixels_and_another_size(hub: Callable[[], Hub], tmp_path: Path) -> None:
    first = hub()
    layer = first.viewer.add_labels(np.zeros(SHAPE, np.uint8), name="by hand")
    layer.paint((1, 5, 5), 1)
    layer.data = np.full(SHAPE, 4, np.uint8)
    (left,) = crashed(first, tmp_path)
    np.testing.assert_array_equal(_labels(left), np.full(SHAPE, 4))
    discard(left)
    layer.data = np.full((2, 5, 5), 6, np.uint16)
    layer.paint((1, 1, 1), 300)
    newest = crashed(first, tmp_path)
    np.testing.assert_array_equal(
        next(_labels(left) for left in newest if left.facts["shape"] == [2, 5, 5]), layer.data
    )


def test_put_aside_together_they_keep_their_pixels(hub: Callable[[], Hub], tmp_path: Path) -> None:
    first = hub()
    first.viewer.add_image(np.random.default_rng(2).random((11, 13)), name="made here")
    for name in ("a", "b"):
        first.viewer.add_labels(np.zeros((11, 13), np.uint8), name=name).paint((5, 5), 2)
    found = crashed(first, tmp_path)
    for left in found:
        set_aside(left)
    assert left_behind() == []
    aside = [left for left in left_behind(closed=True) if not left.crashed]
    assert sorted(left.thing() for left in aside) == ["a", "b"]
    assert len({left.path.parent for left in aside}) == 1
    assert len(list(aside[0].path.parent.glob("*.npy"))) == 1
