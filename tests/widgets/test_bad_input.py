"""Bad input in the docks of a real window: one sentence, nothing lost, and the next step works."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from qtpy.QtWidgets import QInputDialog

from napari_attnseg.cards import read_card
from napari_attnseg.control.messages import Failed
from napari_attnseg.viewer import preferences
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
WAIT_MS = 90_000
RNG = np.random.default_rng(3)


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SegmentWidget]:
    """The Segment dock in a viewer without layers, the tiny model chosen."""
    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    viewer = make_napari_viewer()
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, area="right")
    widget.hub.set_model(str(tiny_checkpoint))
    yield widget
    widget.hub.close()


def wait_idle(dock: SegmentWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not dock.hub.live.state.busy and not dock.hub.making, timeout=WAIT_MS)
    qtbot.wait(30)


def run(dock: SegmentWidget, qtbot: Any) -> None:
    dock.run.click()
    wait_idle(dock, qtbot)


def recarded(path: Path, target: Path, **changes: Any) -> Path:
    """The checkpoint at ``path`` with another card."""
    import json

    from safetensors.torch import load_file, save_file

    card = read_card(path).to_json() | changes
    save_file(load_file(path), target, metadata={"attnseg_card": json.dumps(card)})
    return target


# --- images ---------------------------------------------------------------------------------------


def test_a_4d_scan_asks_which_volume(
    dock: SegmentWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = RNG.normal(0, 99, (7, 8, 5, 3)).astype(np.float32)
    path = tmp_path / "four.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, -1, 1, 1])), path)
    asked: list[str] = []

    def cancel(parent: Any, title: str, text: str, *rest: Any) -> tuple[int, bool]:
        asked.append(text)
        return 0, False

    monkeypatch.setattr(QInputDialog, "getInt", cancel)
    dock.choose.open_path(str(path))
    assert "3 volumes" in asked[0]
    assert not dock.hub.viewer.layers
    assert not dock.errors.message
    monkeypatch.setattr(QInputDialog, "getInt", lambda *given: (2, True))
    dock.choose.open_path(str(path))
    (layer,) = dock.hub.viewer.layers
    assert layer.name.endswith("[2]")
    np.testing.assert_array_equal(layer.data, data[..., 2].transpose(2, 1, 0))


def test_pixels_that_are_no_numbers_are_counted_and_the_rest_is_segmented(
    dock: SegmentWidget, qtbot: Any
) -> None:
    image = RNG.random((48, 64)).astype(np.float32)
    image[3, 4:7] = np.nan
    image[9, 9] = np.inf
    notes: list[str] = []
    dock.hub.live.note.connect(notes.append)
    dock.hub.viewer.add_image(image, name="holes")
    run(dock, qtbot)
    assert any("NaN or infinite" in text for text in notes), notes
    assert dock.errors.message
    assert np.isfinite(dock.hub.results.layer("probability").data).all()
    assert dock.hub.results.layer("probability").data.max() > 0


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device", "x")])
def test_no_memory_or_disk_while_reading_is_a_sentence(
    dock: SegmentWidget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(path: Path, volume: object) -> None:
        raise error

    monkeypatch.setattr("napari_attnseg.io.image.read_image", refuse)
    Image.new("L", (9, 7)).save(tmp_path / "a.png")
    dock.choose.open_path(str(tmp_path / "a.png"))
    said = "Memory ran out" if isinstance(error, MemoryError) else "No space left on device (x)"
    assert said in dock.errors.message
    assert not dock.hub.viewer.layers


# --- models ---------------------------------------------------------------------------------------


def test_a_checkpoint_of_a_newer_format_is_refused(
    dock: SegmentWidget, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    newer = recarded(tiny_checkpoint, tmp_path / "newer.safetensors", format=2)
    before = dock.hub.checkpoint
    dock.choose._choose_model(str(newer))
    assert "this version reads up to 1; update" in dock.errors.message
    assert dock.hub.checkpoint == before
    assert str(newer) not in dock.hub.models


def test_a_model_whose_numbers_are_damaged_is_refused_by_the_engine(
    dock: SegmentWidget, tiny_checkpoint: Path, tmp_path: Path, qtbot: Any
) -> None:
    bad = tmp_path / "flipped.safetensors"
    raw = bytearray(tiny_checkpoint.read_bytes())
    raw[-100] ^= 0x41
    bad.write_bytes(raw)
    dock.hub.viewer.add_image(RNG.random((40, 40)))
    dock.hub.set_model(str(bad))
    run(dock, qtbot)
    assert "flipped.safetensors is damaged" in dock.errors.message
    dock.hub.set_model(str(tiny_checkpoint))
    run(dock, qtbot)
    assert not dock.errors.message


def test_colour_image_for_a_grey_model_and_the_reverse_are_said(
    dock: SegmentWidget, tmp_path: Path, qtbot: Any
) -> None:
    import torch

    from napari_attnseg.cards import Card
    from napari_attnseg.models.base import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint
    from napari_attnseg.settings import Preprocessing

    notes: list[str] = []
    dock.hub.live.note.connect(notes.append)
    dock.hub.viewer.add_image(RNG.integers(0, 255, (40, 40, 3), np.uint8), rgb=True, name="c")
    run(dock, qtbot)
    assert any("luminance" in text for text in notes), notes
    torch.manual_seed(0)
    model = create_model("smooth_unet", in_channels=3, width=0.125, stride=8)
    three = Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    path = tmp_path / "three.safetensors"
    save_checkpoint(path, model, Card(spec=model.spec.to_json(), preprocessing=three))
    dock.hub.set_source(dock.hub.viewer.add_image(RNG.random((40, 40)), name="g"))
    dock.hub.set_model(str(path))
    notes.clear()
    run(dock, qtbot)
    assert any("repeated" in text or "3 channels" in text for text in notes), notes
    assert dock.hub.results.layer("probability").data.max() > 0


# --- memory ---------------------------------------------------------------------------------------


def test_tiles_are_used_only_with_consent(dock: SegmentWidget, qtbot: Any) -> None:
    dock.hub.viewer.add_image(RNG.random((77, 61)).astype(np.float32), name="large")
    run(dock, qtbot)
    whole = dock.hub.results.layer("probability").data.copy()
    assert dock.hub.results.provenance["tile"] is None
    assert not dock.tiles.isVisibleTo(dock)
    dock.hub.live.failed.emit(Failed(1, "MemoryEndedError", "memory ran out", tile=32))
    assert dock.tiles.isVisibleTo(dock)
    assert "Use 32 px tiles (changes the answer)" in dock.tiles.text()
    run(dock, qtbot)
    assert dock.hub.results.provenance["tile"] is None, "offered is not agreed"

    dock.tiles.click()
    run(dock, qtbot)
    assert dock.hub.results.provenance["tile"]["pixels"] == 32
    cut = dock.hub.results.layer("probability").data.copy()
    assert np.abs(cut - whole).max() > 1e-4
    answers: list[Any] = []
    dock.hub.live.retuned.connect(lambda *given: answers.append(given))
    dock.hub.tune(cut=0.4)
    qtbot.waitUntil(lambda: bool(answers), timeout=WAIT_MS)
    np.testing.assert_array_equal(answers[0][2], cut, err_msg="the slider moves the same answer")

    dock.hub.set_source(dock.hub.viewer.add_image(RNG.random((60, 60)), name="other"))
    assert not dock.tiles.isVisibleTo(dock)
    assert dock.hub.live.state.tile == 0


# --- the engine -----------------------------------------------------------------------------------


def test_engine_killed_during_a_retune(dock: SegmentWidget, qtbot: Any) -> None:
    dock.hub.viewer.add_image(RNG.random((96, 96)), name="im")
    run(dock, qtbot)
    labels = dock.hub.results.labels
    dock.hub.tune(threshold=0.3)
    os.kill(dock.hub.client.pid, signal.SIGKILL)
    dock.hub.tune(threshold=0.4)
    qtbot.waitUntil(lambda: "SIGKILL" in dock.errors.message, timeout=10_000)
    assert labels in dock.hub.viewer.layers
    answers: list[Any] = []
    dock.hub.live.retuned.connect(lambda *given: answers.append(given))
    dock.hub.tune(cut=0.0)
    qtbot.waitUntil(lambda: bool((labels.data == 1).all()), timeout=WAIT_MS)
    run(dock, qtbot)
    assert not dock.errors.message


def test_closing_while_it_runs_leaves_no_engine(dock: SegmentWidget, qtbot: Any) -> None:
    import psutil

    dock.hub.viewer.add_image(RNG.random((200, 64, 64)), name="stack")
    seen: list[int] = []
    dock.hub.live.slice_done.connect(lambda event: seen.append(event.z))
    dock.run.click()
    qtbot.waitUntil(lambda: bool(seen), timeout=WAIT_MS)
    pid, scratch = dock.hub.client.pid, dock.hub.scratch.path
    dock.hub.viewer.close()
    qtbot.waitUntil(lambda: dock.hub.closed, timeout=10_000)
    qtbot.waitUntil(lambda: not psutil.pid_exists(pid), timeout=10_000)
    assert not scratch.exists()


def test_removing_the_mask_in_the_middle_breaks_nothing(dock: SegmentWidget, qtbot: Any) -> None:
    dock.hub.viewer.add_image(RNG.random((12, 64, 64)), name="stack")
    seen: list[int] = []
    dock.hub.live.slice_done.connect(lambda event: seen.append(event.z))
    dock.run.click()
    qtbot.waitUntil(lambda: len(seen) >= 2, timeout=WAIT_MS)
    dock.hub.viewer.layers.remove(dock.hub.results.labels)
    wait_idle(dock, qtbot)
    assert not dock.errors.message
    run(dock, qtbot)
    assert dock.hub.results.layer("labels") is not None


# --- export ---------------------------------------------------------------------------------------


def test_a_full_disk_while_exporting_is_a_sentence_and_the_button_comes_back(
    dock: SegmentWidget, qtbot: Any, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    dock.hub.viewer.add_image(RNG.random((200, 200)), name="im")
    run(dock, qtbot)
    target = tmp_path / "out" / "m.nii"
    target.parent.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the system itself refuses
    try:
        dock.after.export_to(str(target))
        qtbot.waitUntil(dock.after.export.isEnabled, timeout=10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "No space left for m.nii" in dock.errors.message
    assert not dock.after.verdict.isVisibleTo(dock)
    assert not list(target.parent.iterdir())
    with qtbot.waitSignal(dock.after.exported, timeout=WAIT_MS):
        dock.after.export_to(str(target))


def test_names_and_colours_of_the_classes_travel_with_the_export(
    dock: SegmentWidget, qtbot: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    colors = ["#101418", "#12ab34"]
    path = recarded(tiny_checkpoint, tmp_path / "tinted.safetensors", class_colors=colors)
    dock.hub.viewer.add_image(RNG.random((40, 40)), name="im")
    dock.hub.set_model(str(path))
    run(dock, qtbot)
    shown = dock.hub.results.labels.colormap.color_dict[1]
    np.testing.assert_allclose(np.asarray(shown)[:3] * 255, (0x12, 0xAB, 0x34), atol=0.5)
    with qtbot.waitSignal(dock.after.exported, timeout=WAIT_MS):
        dock.after.export_to(str(tmp_path / "m.tif"))
    import tifffile

    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        text = str(file.pages[0].tags["ImageDescription"].value)
    assert "#12ab34" in text
    assert "nuclei" in text
