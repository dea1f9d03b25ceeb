"""Another image is chosen while something is shown, or asked, of the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.messages import Event, SliceDone
from napari_attnseg.viewer.attention3d import attention_views
from napari_attnseg.viewer.hub import Hub, hub_for
from napari_attnseg.viewer.query import query_for
from napari_attnseg.widgets._compare import DIFFERENCE, TUNED
from napari_attnseg.widgets._foot import WorkLine
from napari_attnseg.widgets._legend import ClassLegend
from napari_attnseg.widgets._train_layers import SETTLE_MS
from napari_attnseg.widgets.train import TrainWidget
from napari_attnseg.widgets.tune import TuneWidget

pytestmark = pytest.mark.gui
RANDOM = np.random.default_rng(3)


class HeldClient(InProcessClient):
    """The real engine in this process; ``hold`` keeps its answers on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Event] | None = None

    @property
    def pid(self) -> int | None:
        return None

    def hold(self) -> None:
        self.held = []

    def let_go(self) -> int:
        held, self.held = self.held or [], None
        for event in held:
            self._tell(event)
        return len(held)

    def _tell(self, event: Event) -> None:
        if self.held is None:
            super()._tell(event)
        else:
            self.held.append(event)


@pytest.fixture
def hub(
    make_napari_viewer: Callable[..., Any], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """Two images that were both segmented by one model; the volume is chosen."""
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: HeldClient())
    viewer = make_napari_viewer()
    flat = viewer.add_image(RANDOM.random((40, 48)).astype(np.float32), name="flat")
    volume = viewer.add_image(RANDOM.random((3, 33, 47)).astype(np.float32), name="volume")
    made = hub_for(viewer)
    made.set_model(str(tiny_checkpoint))
    for layer in (flat, volume):
        made.set_source(layer)
        made.run()
    yield made
    made.close()


@pytest.fixture
def tune(hub: Hub, qtbot: Any) -> TuneWidget:
    made = TuneWidget(hub.viewer)
    qtbot.addWidget(made)
    return made


def test_a_comparison_ends_with_its_image(hub: Hub, tune: TuneWidget) -> None:
    first = hub.results
    assert first is not None
    tune.compare.set_mode(DIFFERENCE)
    assert not first.layer("labels").visible
    assert first.layer("difference").visible
    hub.set_source(hub.viewer.layers["flat"])
    assert tune.compare.mode == TUNED
    assert tune.compare.counts.isHidden()
    assert first.layer("labels").visible
    assert not first.layer("difference").visible
    hub.prepare()
    assert not hub.live.state.compare
    tune.compare.set_mode(DIFFERENCE)
    assert hub.results.layer("difference").visible
    assert not hub.results.layer("labels").visible
    assert first.layer("labels").visible


def test_maps_on_their_way_are_not_taken_for_those_of_another_image(
    hub: Hub, tune: TuneWidget
) -> None:
    hub.client.hold()
    hub.levels.look()
    tune.maps.show_maps("image")
    hub.set_source(hub.viewer.layers["flat"])
    assert hub.results is not None
    assert hub.client.let_go() >= 2
    assert hub.levels.known == ()
    assert attention_views(hub.viewer) == []
    hub.levels.look()
    tune.maps.show_maps("image")
    assert hub.levels.known
    (view,) = attention_views(hub.viewer)
    assert view.ndim == 2


def test_the_asked_pixel_lies_in_the_image_of_its_time(hub: Hub) -> None:
    query = query_for(hub)
    query.start()
    first, row = query.points, hub.results.layer("row")
    assert first is not None
    assert first.visible
    assert row.visible
    hub.set_source(hub.viewer.layers["flat"])
    assert not query.on
    assert not first.visible
    assert not row.visible
    query.start()
    assert query.points is not first
    assert query.points.ndim == 2


def test_the_legend_counts_the_slices_of_its_image(hub: Hub, qtbot: Any) -> None:
    hub.set_source(hub.viewer.layers["flat"])
    legend = ClassLegend(hub)
    qtbot.addWidget(legend)
    legend.follow(hub.results)
    hub.live.slice_done.emit(SliceDone(1, z=2))  # of the volume, whose run goes on
    legend.count()
    pixels = int((hub.results.labels.data == 1).sum())
    assert f"{pixels:,} pixels" in legend.rows[1].size.toolTip()


def test_the_legend_lets_go_of_the_labels_it_followed(hub: Hub, qtbot: Any) -> None:
    legend = ClassLegend(hub)
    qtbot.addWidget(legend)
    former = hub.results.labels
    legend.follow(hub.results)
    before = len(former.events.paint.callbacks)
    hub.set_source(hub.viewer.layers["flat"])
    legend.follow(hub.results)
    assert len(former.events.paint.callbacks) == before - 1


def test_many_questions_for_maps_leave_one_folder(hub: Hub) -> None:
    hub.levels.look()
    count = len(list(hub.scratch.path.iterdir()))
    for _ in range(5):
        hub.levels.look()
    assert len(list(hub.scratch.path.iterdir())) == count


def test_nothing_is_being_prepared_when_the_image_has_come(hub: Hub, qtbot: Any) -> None:
    line = WorkLine(hub)
    qtbot.addWidget(line)
    hub.live.bring(True)
    assert line.status.text()
    hub.live.bring(False)
    assert line.status.text() == ""
    assert line.progress.isHidden()


def test_the_mask_of_a_running_segmentation_is_counted_after_it(hub: Hub, qtbot: Any) -> None:
    dock = TrainWidget(hub.viewer)
    qtbot.addWidget(dock)
    panel = dock.layers
    mask = hub.results.layer("labels")
    panel.labels.choose(mask)
    panel._on_labels(mask)
    mask.data[:] = 1
    hub.client.hold()
    hub.run()
    assert hub.live.state.busy
    before = panel.count
    for _ in range(3):
        panel._on_paint()
        qtbot.wait(2 * SETTLE_MS)
        assert panel.count == before
    hub.client.let_go()
    qtbot.waitUntil(lambda: not hub.live.state.busy and not hub.making, timeout=30_000)
    mask.data[:] = 1
    panel._on_paint()
    qtbot.waitUntil(lambda: panel.count.counts[1:] == (mask.data.size,), timeout=30_000)
