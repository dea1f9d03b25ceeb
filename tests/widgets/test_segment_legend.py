"""The class legend and the foot of the Segment dock, in a real window with the real engine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint

from napari_attnseg.control.messages import Finished, SliceDone, Started
from napari_attnseg.viewer import preferences
from napari_attnseg.viewer.journal import apply
from napari_attnseg.viewer.samples import ct_phantom
from napari_attnseg.widgets._foot import outcome, stopped
from napari_attnseg.widgets.segment import SegmentWidget

pytestmark = pytest.mark.gui
WAIT_MS = 90_000


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SegmentWidget]:
    """Three slices of the phantom (2 x 2 x 3 mm), the organ model chosen, a low window."""
    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(900, 520)
    data, settings, _ = ct_phantom()[0]
    kept = {k: settings[k] for k in ("scale", "translate", "units")}
    viewer.add_image(data[15:18], name="scan", **kept)
    widget = SegmentWidget(viewer)
    viewer.window.add_dock_widget(widget, area="right")
    widget.hub.set_model("ct_organs_smooth_unet")
    yield widget
    widget.hub.close()


def run(dock: SegmentWidget, qtbot: Any) -> None:
    dock.run.click()
    qtbot.waitUntil(lambda: not dock.hub.live.state.busy and not dock.hub.making, timeout=WAIT_MS)
    qtbot.wait(30)


def test_legend_names_colours_and_volumes_and_run_stays_in_sight(
    dock: SegmentWidget, qtbot: Any
) -> None:
    assert dock.after.legend.isHidden()
    run(dock, qtbot)
    assert "3 slices segmented in" in dock.status.text()
    legend, labels = dock.after.legend, dock.hub.results.labels
    assert [row.name.text() for row in legend.rows.values()] == [
        "1  liver",
        "2  spleen",
        "3  kidneys",
    ]
    legend.count()
    one = float(np.prod(np.abs(dock.hub.source.scale)))
    liver = int((labels.data == 1).sum())
    assert liver * one > 10_000, "the phantom has a liver"
    assert legend.rows[1].size.text() == f"{liver * one / 1000:.3g} ml"
    assert f"{liver:,} voxels" in legend.rows[1].size.toolTip()

    y, x = np.argwhere(labels.data[1] == 1)[0]
    place = labels.data_to_world((1, y, x))
    assert "class: liver" in labels.get_status(place, world=True)["coordinates"]
    outside = labels.get_status(labels.data_to_world((1, 0, 0)), world=True)["coordinates"]
    assert "class: background" in outside

    legend.rows[2].swatch.click()
    assert (labels.mode, labels.selected_label) == ("paint", 2)
    before = legend.rows[2].size.text()
    labels.data_setitem((np.full(400, 1), *np.divmod(np.arange(400), 20)), 2)
    qtbot.waitUntil(lambda: legend.rows[2].size.text() != before, timeout=30_000)

    shown = dock.run.mapTo(dock, QPoint(0, dock.run.height()))
    assert dock.run.isVisible()
    assert shown.y() <= dock.height(), "Run is not below the fold"
    assert dock.run.visibleRegion().boundingRect().height() == dock.run.height()
    assert dock.status.visibleRegion().boundingRect().height() == dock.status.height()

    run(dock, qtbot)
    assert dock.status.text() == "3 slices from memory: nothing has changed."


def test_outcomes_in_words() -> None:
    assert outcome(1, {"computed": 1}, 1.26) == "Image segmented in 1.3 s."
    assert outcome(1, {"computed": 1}, 0.03) == "Image segmented in less than 0.1 s."
    assert outcome(30, {"computed": 0}, 0.01) == "30 slices from memory: nothing has changed."
    assert outcome(30, {"computed": 20}, 2.0, ready=11) == (
        "30 slices segmented in 2.0 s, 11 of them known before."
    )
    assert stopped(1, 1) == "Cancelled."
    assert stopped(0, 30) == "Cancelled. Run goes on where it was."
    assert stopped(11, 30) == "Cancelled: 11 of 30 slices are done. Run goes on from there."
    assert outcome(30, {"computed": 28}, 2.0) == (
        "30 slices segmented in 2.0 s, 2 of them known before."
    )


def test_a_stopped_run_tells_what_is_done_by_earlier_ones_too(
    dock: SegmentWidget, qtbot: Any
) -> None:
    run(dock, qtbot)
    live = dock.hub.live
    live.busy_changed.emit(True)
    live.started.emit(Started(total=3, ready=1, device="cpu"))
    assert dock.progress.value() == 1
    live.slice_done.emit(SliceDone(z=1, done=1, total=3, seconds=0.5))
    assert dock.work.moving.text().startswith("Slice 2 of 3")
    live.finished.emit(Finished(reason="cancelled"))
    assert dock.status.text() == stopped(2, 3)
    live.busy_changed.emit(True)
    live.finished.emit(Finished(reason="cancelled"))
    assert dock.status.text() == stopped(0, 3), "of a run that had not begun"


def test_the_question_about_dropped_files_is_one_row_and_asked_once(
    dock: SegmentWidget, make_napari_viewer: Callable[..., Any]
) -> None:
    assert dock.choose.consent.isVisible()
    assert dock.choose.consent.height() <= dock.choose.image.height() + 8
    dock.choose.refuse_reader.click()
    assert not dock.choose.consent.isVisible()
    again = SegmentWidget(dock.hub.viewer)
    assert again.choose.consent.isHidden()


def test_the_line_under_the_model_names_its_architecture(dock: SegmentWidget) -> None:
    from napari_attnseg.engine.describe import describe

    dock.hub.live.described.emit(describe())
    assert dock.choose.about.text().startswith("Smooth Attention U-Net. Finds ")


def test_sizes_follow_steps_over_slices_that_are_not_seen(dock: SegmentWidget, qtbot: Any) -> None:
    """A large mask, so that counting takes turns: the legend agrees with the pixels at the end."""
    run(dock, qtbot)
    results, legend = dock.hub.results, dock.after.legend

    def agrees() -> bool:
        return bool((legend._counts.sum(0)[1:4] == ids()[1:4]).all())

    def ids() -> Any:
        return np.bincount(np.asarray(results.labels.data).ravel(), minlength=4)

    qtbot.waitUntil(agrees, timeout=WAIT_MS)
    seen = dock.hub.visible_z()
    changed = apply(results, "swap", lambda labels: np.where(labels == 1, 2, labels))
    assert changed > int((results.labels.data[seen] == 2).sum()), "other slices changed too"
    qtbot.waitUntil(agrees, timeout=5_000)
    results.labels.undo()
    assert ids()[1] > 0
    qtbot.waitUntil(agrees, timeout=5_000)
