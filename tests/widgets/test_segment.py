"""The Segment dock in a real window, with the engine in its real child process."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.viewer import preferences
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets import opening
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
WAIT_MS = 90_000


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> Iterator[SegmentWidget]:
    """The dock in a viewer without layers, the tiny model chosen."""
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


def layer_names(dock: SegmentWidget) -> list[str]:
    return [layer.name for layer in dock.hub.viewer.layers]


def test_one_click_gives_a_mask_then_edits_objects_and_a_verified_export(
    dock: SegmentWidget, qtbot: Any, tmp_path: Path
) -> None:
    assert dock.choose.empty.isVisibleTo(dock)
    dock.run.click()
    assert "Cancel" in dock.run.text()
    wait_idle(dock, qtbot)
    assert not dock.errors.message
    assert dock.run.text().startswith("Run")
    assert not dock.choose.empty.isVisibleTo(dock)
    results = dock.hub.results
    first = layer_names(dock)
    assert [f"nuclei_tiny_{w}" for w in ("probability", "step", "received", "labels")] == first[2:]
    for name in ("probability", "step", "received"):
        assert results.layer(name).data.max() > 0
    np.testing.assert_array_equal(results.labels.data, results.layer("probability").data >= 0.5)

    labels = results.labels
    wanted = 1 - labels.data[20, 20]
    labels.data_setitem((np.array([20]), np.array([20])), wanted)
    qtbot.waitUntil(dock.after.reset.isEnabled, timeout=30_000)
    assert dock.after.edits.text().startswith("1 painted pixel stays")
    dock.run.click()
    wait_idle(dock, qtbot)
    assert layer_names(dock) == first, "layers are created once"
    assert labels.data[20, 20] == wanted

    counted: list[Any] = []
    dock.hub.live.objects_done.connect(lambda event, ids: counted.append(event))
    dock.after.split.click()
    qtbot.waitUntil(lambda: bool(counted), timeout=WAIT_MS)
    assert "object" in dock.after.objects.text()
    with qtbot.waitSignal(dock.after.exported, timeout=WAIT_MS):
        dock.after.export_to(str(tmp_path / "mask.png"))
    assert "✓" in dock.after.verdict.text()
    from PIL import Image

    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), labels.data)

    dock.after.reset.click()
    assert labels.data[20, 20] == 1 - wanted
    assert not dock.after.reset.isEnabled()


def test_an_oblique_volume_is_run_cancelled_killed_and_exported_in_place(
    dock: SegmentWidget, qtbot: Any, tmp_path: Path
) -> None:
    turn = np.deg2rad(12)
    affine = np.eye(4)
    affine[:2, :2] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * 2
    data = np.random.default_rng(1).normal(0, 200, (48, 40, 60)).astype(np.int16)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data, affine), path)
    dock.choose.open_path(str(path))
    assert not dock.errors.message
    dock.hub.viewer.dims.set_point(0, dock.hub.source.data_to_world((31, 0, 0))[0])
    assert dock.hub.visible_z() == 31
    seen: list[int] = []
    dock.hub.live.slice_done.connect(lambda event: seen.append(event.z))

    dock.run.click()
    qtbot.waitUntil(lambda: len(seen) >= 3, timeout=WAIT_MS)
    dock.run.click()  # Cancel
    wait_idle(dock, qtbot)
    assert seen[:3] == [31, 30, 32]
    labels = dock.hub.results.labels
    finished = labels.data[31].copy()
    assert dock.hub.results.layer("probability").data[31].max() > 0

    seen.clear()
    dock.run.click()
    qtbot.waitUntil(lambda: len(seen) >= 2, timeout=WAIT_MS)
    os.kill(dock.hub.client.pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: "SIGKILL" in dock.errors.message, timeout=10_000)
    wait_idle(dock, qtbot)
    assert labels in dock.hub.viewer.layers
    np.testing.assert_array_equal(labels.data[31], finished)
    assert dock.run.text().startswith("Run")

    told: list[str] = []
    dock.hub.live.note.connect(told.append)
    dock.run.click()
    wait_idle(dock, qtbot)
    assert not dock.errors.message, "nothing went wrong"
    assert "finished before" in "".join(told), "the run went on where it was"
    assert (dock.hub.results.layer("probability").data.reshape(60, -1).max(1) > 0).all()
    with qtbot.waitSignal(dock.after.exported, timeout=WAIT_MS):
        dock.after.export_to(str(tmp_path / "mask.nii.gz"))
    written = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.data.transpose(2, 1, 0))


def test_the_threshold_moves_the_mask_before_and_after_a_run_and_a_pixel_can_be_asked(
    dock: SegmentWidget, qtbot: Any
) -> None:
    dock.open_sample("nuclei")
    got: list[Any] = []
    dock.hub.live.retuned.connect(lambda *answer: got.append(answer))
    dock.hub.tune(cut=0.0)
    qtbot.waitUntil(lambda: bool(got), timeout=WAIT_MS)
    assert (dock.hub.results.labels.data == 1).all()
    dock.hub.tune(cut=1.0)
    qtbot.waitUntil(lambda: len(got) == 2, timeout=WAIT_MS)
    assert not dock.hub.results.labels.data.any()

    rows: list[Any] = []
    dock.hub.live.row_done.connect(lambda *answer: rows.append(answer))
    dock.after.ask.click()
    qtbot.waitUntil(lambda: bool(rows), timeout=WAIT_MS)
    row = dock.hub.results.layer("row")
    assert row.visible
    assert row.data.sum() == pytest.approx(1.0, abs=1e-3), "one row of a softmax"
    np.testing.assert_allclose(row.scale, (8, 8))
    dock.after.query.points.data = [[200.0, 30.0]]  # the person drags the ring
    qtbot.waitUntil(lambda: len(rows) == 2, timeout=WAIT_MS)
    assert (rows[1][0].y, rows[1][0].x) == (200, 30)
    dock.after.ask.click()
    assert not row.visible
    dock.after.ask.click()  # on again
    qtbot.waitUntil(lambda: len(rows) == 3, timeout=WAIT_MS)
    assert row.visible


def test_removing_the_image_in_the_middle_stops_the_run(dock: SegmentWidget, qtbot: Any) -> None:
    viewer = dock.hub.viewer
    pixels = np.random.default_rng(0).random((4000, 48, 48), np.float32)  # seconds of work
    image = viewer.add_image(pixels, name="stack")
    seen: list[int] = []
    dock.hub.live.slice_done.connect(lambda event: seen.append(event.z))
    dock.run.click()
    qtbot.waitUntil(lambda: len(seen) >= 1, timeout=WAIT_MS)
    viewer.layers.remove(image)
    wait_idle(dock, qtbot)
    assert len(seen) < 4000
    assert not dock.errors.message
    assert dock.hub.source is None
    assert "stack_tiny_labels" in layer_names(dock), "what was finished stays"
    assert dock.choose.empty.isVisibleTo(dock)


def test_bad_choices_are_one_sentence_and_change_nothing(
    dock: SegmentWidget, qtbot: Any, tmp_path: Path
) -> None:
    before = dock.hub.checkpoint
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"PK\x03\x04 not a checkpoint at all")
    dock.choose._choose_model(str(bad))
    assert "pickle" in dock.errors.message
    assert dock.hub.checkpoint == before
    assert dock.choose.model.currentData() == before
    dock.errors.clear()
    dock.hub.viewer.add_image(np.zeros((2, 3, 16, 16)), name="four")
    dock.run.click()
    assert "4 axes" in dock.errors.message
    assert dock.run.text().startswith("Run")
    torn = tmp_path / "torn.nii.gz"
    torn.write_bytes(b"\x1f\x8b\x08\x00 nothing")
    dock.errors.clear()
    dock.choose.open_path(str(torn))
    assert dock.errors.message
    assert layer_names(dock) == ["four"]


def test_the_layer_list_is_followed(dock: SegmentWidget) -> None:
    viewer, combo = dock.hub.viewer, dock.choose.image
    assert combo.layer is None
    first = viewer.add_image(np.zeros((16, 16)), name="first")
    assert combo.layer is first
    second = viewer.add_image(np.zeros((16, 16)), name="second")
    assert dock.hub.source is first, "a later layer does not take over"
    viewer.add_labels(np.zeros((16, 16), np.uint8))
    assert combo.count() == 2
    second.name = "renamed"
    assert "renamed" in [combo.itemText(i) for i in range(combo.count())]
    combo.setCurrentIndex(combo.findText("renamed"))
    assert dock.hub.source is second
    viewer.layers.remove(second)
    assert dock.hub.source is first


def test_the_default_reader_is_changed_only_with_consent(dock: SegmentWidget) -> None:
    from napari.settings import get_settings

    assert not opening.is_default_reader()
    dock.choose.accept_reader.click()
    assert opening.is_default_reader()
    assert get_settings().plugins.extension2reader["*.nii.gz"] == "napari-attnseg"


def test_hubs_are_shared_by_proxies_and_end_with_the_window(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    from napari.utils._proxies import PublicOnlyProxy

    viewer = make_napari_viewer()
    hub = hub_for(PublicOnlyProxy(viewer))
    assert hub is hub_for(viewer)
    assert hub.viewer is viewer
    scratch = hub.scratch.path
    assert scratch.is_dir()
    hub.close()
    hub.close()
    assert not scratch.exists()
    assert hub_for(viewer) is not hub
    hub_for(viewer).close()


def test_choices_are_remembered_by_the_next_window(
    dock: SegmentWidget, make_napari_viewer: Callable[..., Any], tiny_checkpoint: Path
) -> None:
    dock.choose.device.setCurrentIndex(0)
    dock.hub.set_device("cpu")
    dock.hub.close()
    hub = hub_for(make_napari_viewer())
    assert hub.checkpoint == str(tiny_checkpoint)
    assert hub.device == "cpu"
    hub.close()


def test_the_dock_needs_no_more_than_300_pixels(dock: SegmentWidget) -> None:
    assert dock.minimumSizeHint().width() <= 300
    parts = (dock.choose, dock.run, dock.status, dock.errors, dock.tiles, dock.after)
    for offered in (0, 512):
        dock.tiles._offer(offered)
        assert max(part.minimumSizeHint().width() for part in parts) <= 284


def test_a_second_model_s_answer_hides_the_first_one_s(
    dock: SegmentWidget, qtbot: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    second = tmp_path / "second.safetensors"
    shutil.copy(tiny_checkpoint, second)
    dock.run.click()
    wait_idle(dock, qtbot)
    first = dock.hub.results.labels
    assert first.visible
    dock.hub.set_model(str(second))
    dock.run.click()
    wait_idle(dock, qtbot)
    assert not first.visible
    assert first in dock.hub.viewer.layers
    assert dock.hub.results.labels.visible
    assert dock.errors.message.startswith("The results of tiny are hidden, not deleted")
    first.visible = True  # the person wants to see both
    dock.hub.tune(cut=0.3)
    got: list[Any] = []
    dock.hub.live.retuned.connect(lambda *answer: got.append(answer))
    qtbot.waitUntil(lambda: bool(got), timeout=WAIT_MS)
    assert first.visible
    dock.hub.set_model(str(tiny_checkpoint))
    dock.run.click()
    wait_idle(dock, qtbot)
    assert first.visible
    assert "second" in dock.errors.message
