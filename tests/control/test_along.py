"""The live lane along other axes: the run, its steps, and values that wait for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.cards import Card
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.control.slicing import LATER
from napari_attnseg.control.volumes import result_bytes
from napari_attnseg.engine.axes import segment_along
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tuning

TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)
IMAGE = np.random.default_rng(0).normal(size=(5, 33, 41)).astype(np.float32)


@pytest.fixture
def live(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[LiveController]:
    client, scratch = InProcessClient(), Scratch(tmp_path / "scratch")
    made = LiveController(client, scratch)
    made.open_image(IMAGE, spacing=(2.0, 1.0, 1.0))
    made.set_model(str(tiny_checkpoint), "cpu", TUNING)
    yield made
    made.close()
    client.close()
    scratch.close()


def test_a_run_along_all_axes(live: LiveController, tiny_checkpoint: Path) -> None:
    steps: list[Any] = []
    done: list[int] = []
    ended: list[Any] = []
    live.stepped.connect(steps.append)
    live.slice_done.connect(lambda event: done.append(event.z))
    live.finished.connect(ended.append)
    live.set_slice(3)
    live.set_along("all")
    live.run()
    assert len(steps) == steps[-1].total == 5 + 33 + 41
    assert done[0] == 3
    assert ended[0].summary["provenance"]["axis"] == "all"
    session = Session(tiny_checkpoint, "cpu")
    session.set_image(IMAGE, spacing_mm=(2.0, 1.0, 1.0))
    expected = [a.probability for _, a in segment_along(session, "all", TUNING)]
    results = live.state.results
    assert results is not None
    np.testing.assert_array_equal(results.array("probability"), expected)


def test_values_wait_for_the_next_run(live: LiveController) -> None:
    retuned: list[Any] = []
    notes: list[str] = []
    ended: list[Any] = []
    live.retuned.connect(lambda *parts: retuned.append(parts))
    live.note.connect(notes.append)
    live.finished.connect(ended.append)
    live.set_along("coronal")
    live.run()
    live.set_tuning(TUNING.replace(threshold=0.3))
    live.release()
    assert not retuned
    assert len(ended) == 1
    assert notes[-1] == LATER
    live.set_along("axial")
    live.set_tuning(TUNING.replace(threshold=0.4))
    assert len(retuned) == 1


def test_one_slice_has_axial_ones_alone(live: LiveController) -> None:
    live.set_along("all")
    live.open_image(IMAGE[:1])
    assert live.along == "axial"
    ended: list[Any] = []
    live.finished.connect(ended.append)
    live.run()
    assert ended[0].reason == "done"
    with pytest.raises(InputError, match="coronal"):
        live.set_along("oblique")


def test_the_disk_is_asked_for_all_classes(
    live: LiveController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: 5 x 33 x 41 voxels; labels and probability, and a float32 per class gathered."""
    from napari_attnseg.models.base import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint

    voxels, classes = 5 * 33 * 41, 7
    model = create_model("smooth_unet", in_channels=1, classes=classes, width=0.125)
    card = Card(spec=model.spec.to_json(), class_names=tuple(map(str, range(classes))))
    save_checkpoint(tmp_path / "seven.safetensors", model, card)
    live.set_model(str(tmp_path / "seven.safetensors"), "cpu", card.tuning)
    needed = {"axial": 5 * voxels, "coronal": (5 + 8) * voxels, "all": (5 + 4 * 7) * voxels}
    for axis, need in needed.items():
        live.set_along(axis)
        assert result_bytes(IMAGE.shape) + live.gathering(IMAGE.shape) == need
        monkeypatch.setattr(live.scratch, "cap_bytes", live.scratch.used_bytes + need - 1)
        with pytest.raises(InputError, match="scratch space"):
            live.run()
        assert not live.state.busy
    live.set_along("all")
    live.set_model(str(tmp_path / "gone.safetensors"), "cpu", card.tuning)
    assert live.gathering(IMAGE.shape) == 4 * voxels, "the engine tells that it is gone"


def test_the_forecast_follows_the_axis(live: LiveController) -> None:
    """By hand: rows of 2 mm, columns of 1 mm; 33 coronal slices are 10 x 41, 41 sagittal ones
    10 x 33 as the network sees them, and an axial one has 33 x 41 pixels."""
    found: dict[str, Any] = {}
    for axis in ("axial", "coronal", "sagittal", "all"):
        live.forecasted.connect(lambda told, axis=axis: found.__setitem__(axis, told))
        live.set_along(axis)
        live.request_forecast()
        live.forecasted.disconnect()
    each = found["axial"].seconds / 5
    assert found["coronal"].seconds == pytest.approx(each * 33 * 10 * 41 / (33 * 41))
    assert found["sagittal"].seconds == pytest.approx(each * 41 * 10 * 33 / (33 * 41))
    assert found["all"].seconds == pytest.approx(each * 25)
    assert found["all"].disk_bytes == (5 + 4) * 5 * 33 * 41
    assert found["coronal"].disk_bytes == (5 + 8) * 5 * 33 * 41
    assert "by pixels" in found["all"].note
    assert "by pixels" not in found["axial"].note
