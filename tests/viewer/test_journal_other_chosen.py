"""A run belongs to the labels that it answers for, whatever has been chosen since."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.io.journal import replay
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.results import ResultLayers

pytestmark = pytest.mark.gui
SHAPE = (3, 32, 40)


@pytest.fixture
def hub(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    viewer = ViewerModel()
    hub = Hub(viewer)
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        viewer.add_image(rng.integers(0, 200, SHAPE, np.uint8), name=name)
    hub.set_model(str(tiny_checkpoint))
    yield hub
    hub.close()


def run(hub: Hub, name: str) -> ResultLayers:
    """A whole run over an image, with the real engine."""
    hub.set_source(hub.viewer.layers[name])
    hub.run()
    finish(hub)
    assert hub.results is not None
    return hub.results


def finish(hub: Hub) -> None:
    end = time.monotonic() + 120
    while hub.live.state.busy:
        assert time.monotonic() < end
        time.sleep(0.02)


def facts(hub: Hub, results: ResultLayers) -> dict[str, Any]:
    assert hub.keeper.kept(results)
    return replay(hub.keeper._books[id(results)].journal.path).facts


def test_a_run_that_ends_while_another_image_is_chosen(hub: Hub) -> None:
    two = run(hub, "two")
    two.provenance = {"mark": "of two"}
    one = run(hub, "one")
    first = dict(one.provenance)
    hub.tune(threshold=0.3)
    finish(hub)
    hub.live.release()
    hub.set_source(hub.viewer.layers["two"])  # the rest of one is still under way
    finish(hub)
    assert hub.results is two
    assert one.provenance != first
    assert facts(hub, one)["provenance"] == one.provenance
    assert facts(hub, one)["provenance"]["tuning"]["threshold"] == 0.3
    assert two.provenance == {"mark": "of two"}
    assert facts(hub, two)["provenance"] != one.provenance


def test_the_slice_that_was_last_worked_at_is_kept(hub: Hub) -> None:
    one = run(hub, "one")
    assert one.labels is not None
    hub.viewer.dims.set_point(0, 2)
    assert facts(hub, one)["z"] == 1, "looking alone is no work"
    one.labels.data_setitem((np.array([2]), np.array([5]), np.array([7])), 9)
    assert facts(hub, one)["z"] == 2
    hub.viewer.dims.set_point(0, 0)
    hub.tune(threshold=0.3)
    finish(hub)
    assert facts(hub, one)["z"] == 0
    run(hub, "two")
    hub.viewer.dims.set_point(0, 1)
    one.labels.data_setitem((np.array([2]), np.array([5]), np.array([8])), 9)
    assert facts(hub, one)["z"] == 0, "somebody looks at another image"


@pytest.fixture
def under_way(hub: Hub) -> tuple[Hub, ResultLayers, ResultLayers]:
    """The engine answers for the first labels, the second ones are chosen; both have a run and a
    drag of the threshold behind them."""
    for name in ("one", "two"):
        hub.set_source(hub.viewer.layers[name])
        results = hub.results_for(SHAPE)
        results.ensure_labels()
        hub.keeper.attach(results)
        assert results.edits is not None
        results.edits.tuning = hub.tuning
        results.edits.begin_run()
        results.edits.write(0, np.ones(SHAPE[1:], np.uint8))
        results.edits.tuned(hub.tuning.replace(threshold=0.5))
        results.edits.write(0, np.full(SHAPE[1:], 2, np.uint8))
    one, two = (r for _, r in hub.every_result)
    assert hub.results is two
    hub.live.set_model(hub.checkpoint, hub.device, hub.tuning.replace(threshold=0.7))
    hub._answers.layers = one
    hub.live._run = 77
    return hub, one, two


def test_ctrl_z_on_the_chosen_labels_leaves_the_run_of_others_alone(
    under_way: tuple[Hub, ResultLayers, ResultLayers],
) -> None:
    hub, _, two = under_way
    ended: list[Any] = []
    hub.live.finished.connect(ended.append)
    assert two.edits is not None
    two.edits.travel(back=True)
    assert hub.live._run == 77
    assert not ended
    assert (two.edits.data[0] == 1).all()
    assert hub.tuning == two.edits.tuning
    assert hub.tuning.get("threshold") == 0.1, "the drag was one step"
    two.edits.travel(back=False)
    assert (two.edits.data[0] == 2).all()
    assert hub.tuning.get("threshold") == 0.7


def test_ctrl_z_on_labels_that_are_not_chosen_ends_their_run_and_moves_no_slider(
    under_way: tuple[Hub, ResultLayers, ResultLayers],
) -> None:
    hub, one, _ = under_way
    ended: list[Any] = []
    hub.live.finished.connect(ended.append)
    assert one.edits is not None
    one.edits.travel(back=True)
    assert hub.live._run == 0, "what it still had to say would come after the step was taken back"
    assert [event.reason for event in ended] == ["cancelled"]
    assert hub.tuning.get("threshold") == 0.7
    assert (one.edits.data[0] == 1).all()


def test_another_model_with_its_own_values_is_no_step(
    hub: Hub, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    shutil.copy(tiny_checkpoint, other)
    hub.set_source(hub.viewer.layers["one"])
    results = hub.results_for(SHAPE)
    labels = results.ensure_labels()
    hub.keeper.attach(results)
    edits = results.edits
    assert edits is not None
    labels.paint((0, 5, 5), 1)
    hub.live.set_model(hub.checkpoint, hub.device, hub.tuning.replace(threshold=0.4))
    edits.write(0, np.full(SHAPE[1:], 2, np.uint8))
    made = edits.tuning
    hub.set_model(str(other))
    hub.live.set_model(str(other), hub.device, hub.tuning.replace(threshold=0.9))
    hub.set_model(str(tiny_checkpoint))
    assert hub.results is results
    assert hub.tuning.get("threshold") == 0.1, "the model's own"
    assert edits.tuning == made
    assert [step.kind for step in edits.timeline.undo] == ["code", "tuning"]
    labels.undo()
    assert hub.tuning.get("threshold") == 0.1
    labels.undo()
    assert edits.count == 0


def test_an_answer_to_a_moved_value_begins_the_journal_of_its_own_labels(hub: Hub) -> None:
    for name in ("one", "two"):
        hub.set_source(hub.viewer.layers[name])
        hub.results_for(SHAPE).ensure_labels()
    one, two = (r for _, r in hub.every_result)
    hub._answers.layers = one
    hub.live.retuned.emit(SimpleNamespace(z=0), np.ones(SHAPE[1:], np.uint8), None, None)
    assert set(hub.keeper._books) == {id(one)}
    assert os.environ["NAPARI_ATTNSEG_JOURNALS"] in str(hub.keeper._folder)
    assert two.edits is not None
