"""The Compare layers dock: a real comparison, its cells, its files, its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.widgets.cka import FOLDER, CkaWidget

pytestmark = pytest.mark.gui


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CkaWidget]:
    """The real engine, in this process: its starting is tested elsewhere."""
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: InProcessClient())
    viewer = make_napari_viewer()
    widget = CkaWidget(viewer)
    widget.hub.add_model(tiny_checkpoint)
    viewer.window.add_dock_widget(widget, name="Compare layers (CKA)")
    yield widget
    widget.hub.close()


def test_what_is_missing_is_said_in_a_sentence(dock: CkaWidget, tmp_path: Path) -> None:
    dock.run_or_cancel()
    assert "no image" in dock.errors.message
    dock.tabs.setCurrentIndex(FOLDER)
    dock.folder.setText("")
    dock.run_or_cancel()
    assert "folder is chosen" in dock.errors.message
    assert not dock.work.busy
    assert not dock.save.isEnabled()


def test_a_model_with_itself_over_an_image_layer(
    dock: CkaWidget, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    image = np.random.default_rng(0).random((64, 96)).astype(np.float32)
    dock.hub.viewer.add_image(image, name="cells")
    dock.first.setCurrentIndex(dock.first.findData(str(tiny_checkpoint)))
    captions: list[str] = []
    dock.work.busy_changed.connect(lambda busy: captions.append(dock.run.text()))
    dock.run_or_cancel()
    assert captions == ["Cancel", "Compare"]
    assert dock.errors.message == ""
    shown = dock.heatmap
    n = len(shown.rows)
    assert shown.rows == shown.columns
    assert n > 10
    assert f"{n} x {n} layers over 16 images" in dock.status.text()
    np.testing.assert_allclose(np.diagonal(shown.values), 1, atol=1e-6)
    np.testing.assert_allclose(shown.values, shown.values.T, atol=1e-9)
    assert shown.cell_at(n - 0.5, 0.5) == (0, n - 1)
    assert shown.cell_at(-0.1, 0.5) is None
    words = shown.words(0, n - 1)
    assert shown.rows[0] in words.replace("\u200b", "")
    assert f"{shown.values[0, n - 1]:.3f}" in words
    dock.save_to(tmp_path / "kept.png")
    table = json.loads((tmp_path / "kept.json").read_text())
    assert table["layers_a"] == list(shown.rows)
    assert (tmp_path / "kept.png").stat().st_size > 5000
    dock.tabs.setCurrentIndex(FOLDER)
    dock.folder.setText(str(tmp_path / "nowhere"))
    dock.run_or_cancel()
    assert dock.errors.message != ""
    assert shown.isHidden()
    assert not dock.save.isEnabled()


def test_both_models_may_come_from_files(
    dock: CkaWidget, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path, button in zip(paths, (dock.load, dock.load_second), strict=True):
        path.write_bytes(tiny_checkpoint.read_bytes())
        monkeypatch.setattr(
            "napari_attnseg.widgets.cka.checked_model_file", lambda _, path=path: str(path)
        )
        button.click()
    assert [dock.first.currentData(), dock.second.currentData()] == [str(p) for p in paths]


def test_too_small_an_image_is_refused_by_the_engine(
    dock: CkaWidget, tiny_checkpoint: Path
) -> None:
    dock.hub.viewer.add_image(np.zeros((20, 40)), name="small")
    dock.run_or_cancel()
    assert "larger image" in dock.errors.message
    assert dock.run.text() == "Compare"
