"""Steps that are too large for memory lie in the scratch folder that was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_attnseg.control.scratch import Scratch
from napari_attnseg.viewer import journal_steps
from napari_attnseg.viewer.refined import RefinedLayers
from napari_attnseg.viewer.results import ResultLayers

pytestmark = pytest.mark.gui
SHAPE = (3, 11, 13)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    made = Scratch(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("kind", [ResultLayers, RefinedLayers])
def test_large_steps_leave_the_system_folder_alone(
    kind: type[ResultLayers], scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_steps, "MEMORY_BYTES", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "the system has no such folder"))
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros(SHAPE, np.uint8), contrast_limits=(0, 1))
    layers = kind(viewer, image, "net", scratch=scratch)
    labels = layers.ensure_labels()
    assert layers.edits is not None
    layers.edits.begin_run()
    for z in range(3):
        layers.edits.write(z, np.full(SHAPE[1:], z + 1, np.uint8))
    (step,) = layers.edits.timeline.undo
    assert step.on_disk > 0
    assert step.in_memory == 0
    labels.undo()
    assert not labels.data.any()
    labels.redo()
    assert [int(plane.min()) for plane in labels.data] == [1, 2, 3]
