"""A session with images of every kind, several results, a 3D model and a refined mask, dropped on
another window after the folder has moved, lost an image and had another one written anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from dicom_series import turned, write_series
from napari_attnseg.cards import Card
from napari_attnseg.models.base import create_model
from napari_attnseg.models.checkpoint import save_checkpoint
from napari_attnseg.settings import Preprocessing, Tuning
from napari_attnseg.viewer import preferences
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.layers import volume_to_layer_data
from napari_attnseg.viewer.refine_work import refine_work_for
from napari_attnseg.viewer.results import ResultLayers
from napari_attnseg.viewer.session import draft_of
from napari_attnseg.viewer.strokes import new_strokes
from napari_attnseg.viewer.unpacking import read_for_window
from napari_attnseg.widgets.segment import SegmentWidget
from refined_models import refined_checkpoint
from zarr_images import ranks
from zarr_images import write as write_zarr

pytestmark = pytest.mark.gui
WAIT_MS = 120_000
TURN = np.array([[-0.98, -0.17, 0, 3], [0.17, -0.98, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1.0]])


@pytest.fixture
def models(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, str]:
    """A 2D model, another one, one of volumes, and a refinement."""
    other = tmp_path / "other.safetensors"
    shutil.copy(tiny_checkpoint, other)
    small = {"in_channels": 1, "classes": 2, "width": 0.07, "levels": 2}
    spatial = create_model("placed_unet", attention="skip=cbam", ndim=3, **small)
    assert spatial.spec.to_json()["options"]["ndim"] == 3
    card = Card(
        spec=spatial.spec.to_json(),
        preprocessing=Preprocessing(),
        class_names=("background", "one", "two"),
        tuning=Tuning.of(),
        title="spatial",
    )
    save_checkpoint(tmp_path / "spatial.safetensors", spatial, card)
    refined = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    return {
        "tiny": str(tiny_checkpoint),
        "other": str(other),
        "spatial": str(tmp_path / "spatial.safetensors"),
        "refined": str(refined),
    }


def images(folder: Path) -> list[Path]:
    """Oblique and flipped NIfTI, an oblique DICOM series, OME-Zarr with two levels."""
    pixels = np.random.default_rng(1).normal(0, 200, (13, 11, 5)).astype(np.int16)
    nib.save(nib.Nifti1Image(pixels, TURN), folder / "scan.nii.gz")
    write_series(folder / "series", turn=turned("x", 20))
    write_zarr(folder / "cells.ome.zarr", ranks())
    return [folder / "scan.nii.gz", folder / "series", folder / "cells.ome.zarr"]


def answer(hub: Hub, name: str, model: str, seed: int) -> ResultLayers:
    """Labels of a model with an answer in every slice, strokes over it and values of its own."""
    hub.set_source(hub.viewer.layers[name])
    hub.set_model(model)
    if hub.tuning.get("threshold") is not None:
        hub.live.set_model(model, hub.device, hub.tuning.replace(threshold=0.1 * seed))
    shape = hub.source.data[0].shape if hub.source.multiscale else hub.source.data.shape
    results = hub.results_for(tuple(int(n) for n in shape), model)
    results.ensure_labels()
    hub.keeper.attach(results)
    assert results.edits is not None
    rng = np.random.default_rng(seed)
    for z in range(shape[0]):
        results.edits.write(z, rng.integers(0, 3, shape[1:]))
    results.labels.paint((1, 3, 3), 5)
    results.provenance = {"seed": seed}
    return results


def shown(hub: Hub) -> dict[str, Any]:
    """Everything in a window that a session must bring, as plain data."""
    found: dict[str, Any] = {}
    for layer in hub.viewer.layers:
        data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
        found[layer.name] = {
            "pixels": np.asarray(data),
            "world": np.asarray(layer.data_to_world((1,) * layer.ndim)),
            "affine": np.asarray(layer.affine.affine_matrix),
            "visible": layer.visible,
        }
    return found


def values_of(hub: Hub) -> dict[str, Any]:
    results = [*hub.every_result, *((k[1], r) for k, r in hub.refining._layers.items())]
    return {
        f"{r.source.name} {Path(m).stem}": {
            "held": [r.edits.mask(z).tolist() for z in range(r.shape[0])],
            "model": r.edits.model.tolist(),
            "provenance": dict(r.provenance),
        }
        for m, r in results
    }


@pytest.fixture
def worked(
    tmp_path: Path, models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the first window showed; its session lies in ``work/day.attnseg`` beside the data."""
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(preferences, "preferences_file", lambda: tmp_path / "settings.json")
    (tmp_path / "work" / "data").mkdir(parents=True)
    viewer = ViewerModel()
    hub = Hub(viewer)
    for path in images(tmp_path / "work" / "data"):
        made: Any = Layer.create(*volume_to_layer_data(read_for_window(path)))
        viewer.add_layer(made)
    own = np.random.default_rng(5).integers(0, 70_000, (5, 11, 13)).astype(np.int32)
    hand = viewer.add_layer(Labels(own, name="by hand", scale=(2, 1, 1), opacity=0.4))
    hand.visible = False
    answer(hub, "series", models["other"], 1)
    answer(hub, "cells", models["spatial"], 2)
    answer(hub, "scan", models["tiny"], 3)
    answer(hub, "scan", models["spatial"], 4)
    last = answer(hub, "scan", models["other"], 5)
    last.labels.data = last.labels.data.astype(np.uint16)
    last.labels.paint((2, 5, 5), 300)
    strokes = new_strokes(viewer, viewer.layers["scan"], ("background", "nuclei"))
    strokes.paint((2, 4, 4), 2)
    work = refine_work_for(hub)
    work.choose(models["refined"])
    work.set_values(iterations=2, strength=0.6, carry=1)
    work.watch.follow(strokes, 1)
    work.set_coarse(viewer.layers["by hand"])
    refined = work.layers_for(hub.source, models["refined"], last.shape)
    refined.ensure_labels()
    for z in range(5):
        refined.edits.write(z, np.random.default_rng(z).integers(0, 2, (11, 13)))
    refined.labels.paint((2, 8, 8), 4)
    hub.keeper.refined(refined)
    viewer.dims.set_point(0, hub.source.data_to_world((3, 0, 0))[0])
    viewer.layers.move(viewer.layers.index(hand), 1)
    viewer.layers.selection.active = strokes
    draft_of(hub).write(tmp_path / "work" / "day.attnseg")
    found = {"layers": shown(hub), "values": values_of(hub), "tuning": hub.tuning}
    hub.close()
    return found


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any]) -> Iterator[Callable[[], Any]]:
    hubs: list[Hub] = []

    def make() -> SegmentWidget:
        viewer = make_napari_viewer()
        _, dock = viewer.window.add_plugin_dock_widget("napari-attnseg", "Segment")
        hubs.append(dock.hub)
        return dock

    yield make
    for hub in hubs:
        hub.close()


def drop(viewer: Any, path: Path) -> None:
    """As the mouse drops a file on the canvas."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    free, left = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
    event = QDropEvent(QPointF(40, 40), Qt.DropAction.CopyAction, mime, left, free)
    viewer.window._qt_viewer.dropEvent(event)


def same(hub: Hub, worked: dict[str, Any]) -> None:
    now, then = shown(hub), worked["layers"]
    assert list(now) == list(then), "in the order in which they stood"
    for name, facts in now.items():
        np.testing.assert_array_equal(facts["pixels"], then[name]["pixels"], name)
        assert facts["pixels"].dtype == then[name]["pixels"].dtype
        np.testing.assert_allclose(facts["world"], then[name]["world"], atol=1e-6)
        np.testing.assert_allclose(facts["affine"], then[name]["affine"], atol=1e-6)
        assert facts["visible"] == then[name]["visible"], name


def test_everything_is_as_it_was(
    worked: dict[str, Any], window: Callable[[], Any], tmp_path: Path, models: Any, qtbot: Any
) -> None:
    moved = Path(shutil.move(tmp_path / "work", tmp_path / "elsewhere"))
    dock = window()
    hub = dock.hub
    drop(hub.viewer, moved / "day.attnseg")
    qtbot.waitUntil(lambda: len(hub.viewer.layers) == len(worked["layers"]), timeout=WAIT_MS)
    assert not dock.session.where.isVisibleTo(dock)
    same(hub, worked)
    now = values_of(hub)
    assert json.dumps(now, sort_keys=True) == json.dumps(worked["values"], sort_keys=True)
    assert (hub.source.name, hub.checkpoint) == ("scan", models["other"])
    assert hub.tuning == worked["tuning"]
    assert hub.visible_z() == 3
    work = hub.refining
    assert work.checkpoint == models["refined"]
    state = work.control.state
    assert (state.iterations, state.strength, state.carry) == (2, 0.6, 1)
    assert work.coarse.name == "by hand"
    assert work.watch.layer.name == "scan_strokes"
    assert hub.viewer.layers.selection.active is work.watch.layer
    last = hub.results
    last.labels.undo()
    assert last.labels.data[2, 5, 5] == 300, "what was restored is no step"


def test_what_is_gone_is_asked_for_and_what_changed_is_told(
    worked: dict[str, Any], window: Callable[[], Any], tmp_path: Path, qtbot: Any
) -> None:
    data = tmp_path / "work" / "data"
    shutil.move(data / "series", tmp_path / "archive")
    pixels = np.zeros((13, 11, 5), np.int16)
    nib.save(nib.Nifti1Image(pixels, TURN), data / "scan.nii.gz")
    dock = window()
    hub, said = dock.hub, []
    dock.session._complain = said.append
    drop(hub.viewer, tmp_path / "work" / "day.attnseg")
    qtbot.waitUntil(lambda: dock.session.where.isVisibleTo(dock), timeout=WAIT_MS)
    assert "series is not where it was" in dock.session.words.text()
    qtbot.waitUntil(lambda: bool(said), timeout=WAIT_MS)
    assert "The pixels of scan have changed since" in said[0]
    assert "series_other_labels" not in hub.viewer.layers
    dock.session.take_from("series", tmp_path / "archive")
    qtbot.waitUntil(lambda: "series_other_labels" in hub.viewer.layers, timeout=WAIT_MS)
    assert not dock.session.where.isVisibleTo(dock)
    worked["layers"]["scan"]["pixels"] = np.asarray(hub.viewer.layers["scan"].data)
    same(hub, worked)
