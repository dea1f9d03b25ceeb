"""The Bake-off dock: a real bake-off on tiny images, its table, its pictures, its refusals."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt

from napari_attnseg.attention import attention_info, list_attentions
from napari_attnseg.control.bakeoff import BakeOffRow
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.viewer.hub import is_result
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._bakeoff_contestants import ContestantPanel, contestant_name
from napari_attnseg.widgets._bakeoff_table import DICE, NAME, STATE, ResultTable
from napari_attnseg.widgets.bakeoff import BakeOffWidget

pytestmark = pytest.mark.gui
SMALL = {"size": 32, "epochs": 1, "seeds": 1, "width": 0.1, "levels": 2}


class Client(InProcessClient):
    """The real engine, in this process: its starting is tested elsewhere."""

    pid = None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six grey images of 35 x 41 with a bright rectangle, and its mask."""
    folder = tmp_path_factory.mktemp("set") / "squares"
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for n in range(6):
        mask = np.zeros((35, 41), np.uint8)
        mask[5 : 20 + n, 6:22] = 255
        pixels = rng.integers(0, 90, (35, 41)) + (mask > 0) * 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{n}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def attentions() -> list[dict[str, Any]]:
    return [attention_info(name) for name in list_attentions()]


@pytest.fixture
def dock(
    make_napari_viewer: Callable[..., Any],
    attentions: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[BakeOffWidget]:
    monkeypatch.setattr("napari_attnseg.viewer.hub.ChildClient", lambda *_: Client())
    monkeypatch.setattr("napari_attnseg.widgets.bakeoff.read_description", lambda: None)
    remember("bakeoff", {"root": str(tmp_path / "results"), **SMALL})
    remember("device", "cpu")
    viewer = make_napari_viewer()
    widget = BakeOffWidget(viewer)
    widget.setup.contestants.describe(attentions)
    viewer.window.add_dock_widget(widget, name="Bake-off")
    yield widget
    widget.hub.close()
    remember("bakeoff", {})


def tick(panel: ContestantPanel, *names: str) -> None:
    for i in range(panel.list.count()):
        item = panel.list.item(i)
        if item.data(Qt.ItemDataRole.UserRole) in names:
            item.setCheckState(Qt.CheckState.Checked)


def test_what_is_missing_is_said_in_a_sentence(dock: BakeOffWidget, data: Path) -> None:
    assert "Setup" in dock.empty.text()
    assert dock.run.text() == "Run"
    dock.run_or_cancel()
    assert "no data set" in dock.errors.message.lower()
    dock.setup.data.setText(str(data))
    dock.run_or_cancel()
    assert "no attention is chosen" in dock.errors.message.lower()
    tick(dock.setup.contestants, "se", "cbam")
    assert dock.run.text() == "Run 3 trainings"
    dock.setup.data.setText("/nowhere/at/all")
    dock.run_or_cancel()
    assert "does not exist" in dock.errors.message
    assert dock.table.isHidden()
    assert not dock.work.busy


def test_ticks_and_own_placements_are_read_written_and_remembered(
    dock: BakeOffWidget, data: Path
) -> None:
    panel = dock.setup.contestants
    tick(panel, "scale", "cbam", "sk")
    own = panel.add_own("")
    own.show("bottleneck=se:reduction=4; skip[0]=cbam")
    wanted = ("skip=cbam", "head=scale", "decoder=sk", "bottleneck=se:reduction=4; skip[0]=cbam")
    assert sorted(panel.value) == sorted(wanted)
    dock.setup.data.setText(str(data))
    dock.setup.keep()
    again = ContestantPanel()
    again.show_contestants(recall("bakeoff")["contestants"])
    assert sorted(again.value) == sorted(wanted)  # kept while nothing is known yet
    again.describe(list(panel.known.values()))
    assert sorted(again.value) == sorted(wanted)
    assert [editor.value for _, editor in again.own] == [wanted[3]]
    name = contestant_name(wanted[3], panel.known)
    assert name == "Squeeze-and-excitation at bottleneck (reduction 4) + CBAM at skip[0]"
    panel.find.setText("omni")
    shown = [panel.list.item(i) for i in range(panel.list.count())]
    assert [item.text() for item in shown if not item.isHidden()] == [
        "Omni-dimensional convolution"
    ]
    panel.clear()
    assert panel.value == ()


def test_budgets_have_folders_of_their_own_and_contestants_share_them(
    dock: BakeOffWidget, data: Path
) -> None:
    setup = dock.setup
    setup.data.setText(str(data))
    before = setup.folder
    tick(setup.contestants, "se")
    setup.budget["seeds"].setValue(3)
    assert setup.folder == before
    for name, value in (("epochs", 2), ("size", 64), ("width", 0.5), ("levels", 3), ("limit", 10)):
        last = setup.folder
        setup.budget[name].setValue(value)
        assert setup.folder != last
    last = setup.folder
    setup.data.setText(str(data.parent / "other" / data.name))
    assert setup.folder != last


def test_a_bake_off_from_run_to_pictures(dock: BakeOffWidget, data: Path, qtbot: Any) -> None:
    setup, viewer = dock.setup, dock.hub.viewer
    own = viewer.add_image(np.zeros((20, 30)), name="mine")
    setup.data.setText(str(data))
    qtbot.waitUntil(lambda: setup.layout_found is not None, timeout=10_000)
    tick(setup.contestants, "cbam")
    assert "2 networks x 1 seed = 2 trainings" in setup.forecast.text()
    captions: list[str] = []
    dock.work.busy_changed.connect(lambda busy: captions.append(dock.run.text()))
    states: list[str] = []
    dock.work.step.connect(lambda _: states.append(dock.table.rows["skip_cbam"].text(STATE)))
    dock.run_or_cancel()
    assert dock.errors.message == ""
    assert captions == ["Cancel", "Show the kept results"]
    assert {"waiting", "epoch 1 of 1, seed 0", "done"} <= set(states)
    assert "2 of them are kept" in setup.forecast.text()
    with next(setup.folder.glob("compare.csv")).open() as file:
        figures = {line["key"]: float(line["dice"]) for line in csv.DictReader(file)}
    rows = dock.table.rows
    for key, value in figures.items():
        assert rows[key].text(DICE) == f"{value:.3f}"
    assert [dock.table.topLevelItem(i).text(NAME).removeprefix("⚠ ") for i in range(2)] == [
        "plain U-Net",
        "CBAM",
    ]
    assert "skip=cbam" not in dock.said.text()  # people read names

    dock.table.itemDoubleClicked.emit(rows["skip_cbam"], 0)
    assert dock.hub.checkpoint == rows["skip_cbam"].model
    assert dock.hub.card.spec["name"] == "placed_unet"

    dock.pictures.show_button.click()
    grid = viewer.canvas.grid
    assert (grid.enabled, grid.stride) == (True, 3)
    cells = {position: group for position, group in grid.iter_viewboxes(viewer.layers) if group}
    names = [[viewer.layers[i].name for i in group] for group in cells.values()]
    assert [cell[0].split(",")[0] for cell in names] == ["truth", "plain U-Net", "CBAM"]
    assert all(len(cell) >= 2 for cell in names)
    assert not own.visible
    assert dock.hub.source is own
    assert all(is_result(layer) for layer in viewer.layers if layer is not own)
    truth = viewer.layers["truth: mask"].data
    assert truth.shape == (35, 41)
    mask = viewer.layers["CBAM: mask"].data > 0
    both = mask.sum() + (truth > 0).sum()
    dice = 2 * (mask & (truth > 0)).sum() / both
    assert f"CBAM, Dice {dice:.2f}" in viewer.layers
    found = next(layer for layer in viewer.layers if layer.name.startswith("CBAM: map"))
    assert not found.visible
    dock.pictures.what.setCurrentIndex(1)
    assert found.visible
    assert not viewer.layers["CBAM: mask"].visible
    np.testing.assert_allclose(  # a map of the network's grid covers the image, and no more
        np.ptp(found.extent.world, axis=0),
        np.ptp(viewer.layers["CBAM: mask"].extent.world, axis=0),
        atol=2,
    )
    dock.pictures.show_button.click()
    assert list(viewer.layers) == [own]
    assert own.visible
    assert not grid.enabled


def test_cancelled_it_says_so_and_goes_on(dock: BakeOffWidget, data: Path) -> None:
    dock.setup.data.setText(str(data))
    tick(dock.setup.contestants, "se")

    def stop(event: Any) -> None:
        if event.key == "skip_se" and not event.epoch:
            dock.run_or_cancel()

    dock.work.step.connect(stop)
    dock.run_or_cancel()
    dock.work.step.disconnect(stop)
    assert "kept" in dock.status.text()
    assert dock.run.text() == "Go on: 1 training"
    assert dock.table.rows["skip_se"].text(STATE) == "stopped"
    assert dock.table.rows["plain"].text(STATE) == "done"
    dock.use_model("skip_se")
    assert "not trained yet" in dock.status.text()
    dock.run_or_cancel()
    assert dock.table.rows["skip_se"].text(STATE) == "done"
    assert dock.run.text() == "Show the kept results"


def test_what_goes_wrong_under_way_names_the_contestant(
    dock: BakeOffWidget, data: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(data, copied)
    dock.setup.data.setText(str(copied))
    tick(dock.setup.contestants, "se")

    def lose_the_test_image(event: Any) -> None:
        if event.key == "skip_se" and event.what == "training":
            (copied / "images" / "5.png").unlink(missing_ok=True)

    dock.work.step.connect(lose_the_test_image)
    dock.run_or_cancel()
    assert "Failed: Squeeze-and-excitation, seed 0: " in dock.said.text()
    assert "5.png" in dock.said.text()
    assert "5.png" in dock.table.rows["skip_se"].toolTip(STATE)
    assert dock.table.rows["skip_se"].text(STATE) == "failed"
    assert dock.table.rows["plain"].text(STATE) == "done"
    assert dock.run.text() == "Go on: 1 training"


def test_the_table_sorts_by_figures_and_marks_the_best(qtbot: Any) -> None:
    table = ResultTable()
    qtbot.addWidget(table)
    table.begin(("a", "b", "c"), ("A", "B", "C"), ("", "x=b", "x=c"), 2)
    told = {"seeds": (0, 1), "dice_sd": 0.01, "seconds": 100.0, "parameters": 5_000}
    table.take(BakeOffRow(key="a", dice=0.7, **told))
    table.take(BakeOffRow(key="c", dice=0.9, warning="marks every pixel", **told))
    table.take(BakeOffRow(key="b", dice=0.8, **told))
    order = [table.topLevelItem(i).key for i in range(3)]
    assert order == ["a", "b", "c"]
    table.sortByColumn(DICE, Qt.SortOrder.DescendingOrder)
    assert [table.topLevelItem(i).key for i in range(3)] == ["c", "b", "a"]
    assert table.rows["b"].font(DICE).bold()
    assert not table.rows["c"].font(DICE).bold()
    assert table.rows["a"].text(DICE) == "0.700 ± 0.010"
    chosen: list[str] = []
    table.chosen.connect(chosen.append)
    table.itemDoubleClicked.emit(table.rows["b"], 0)
    assert chosen == ["b"]


def test_results_of_another_folder_are_opened_and_gone_on_with(
    dock: BakeOffWidget, data: Path, tmp_path: Path
) -> None:
    setup = dock.setup
    setup.data.setText(str(data))
    tick(setup.contestants, "se")
    dock.run_or_cancel()
    made = setup.folder.rename(tmp_path / "elsewhere")
    figures = {key: row.text(DICE) for key, row in dock.table.rows.items()}
    setup.contestants.clear()
    setup.budget["size"].setValue(64)
    dock.open_results(str(tmp_path))
    assert "no results" in dock.errors.message
    dock.open_results(str(made))
    assert dock.errors.message == ""
    assert setup.folder == made
    assert setup.budget["size"].value() == 32
    assert {key: row.text(DICE) for key, row in dock.table.rows.items()} == figures
    assert dock.run.text() == "Show the kept results"
    (made / "runs" / "skip_se_seed0.json").unlink()
    dock.open_results(str(made))
    assert "1 of its 2 trainings" in dock.status.text()
    assert dock.run.text() == "Go on: 1 training"
    tick(setup.contestants, "cbam")
    assert setup.folder == made  # one more contestant joins the others
    setup.budget["epochs"].setValue(2)
    assert setup.folder.parent == tmp_path / "results"  # another budget does not


def test_an_option_that_cannot_be_names_its_contestant(dock: BakeOffWidget, data: Path) -> None:
    dock.setup.data.setText(str(data))
    tick(dock.setup.contestants, "se")
    dock.setup.contestants.add_own("").show("skip=vit:heads=7")
    dock.run_or_cancel()
    assert "skip=vit:heads=7" in dock.errors.message.lower()
    dock.setup.budget["epochs"].setValue(2)  # what was wrong may be right now
    assert dock.errors.message == ""
