"""The preview of a training on folders: over everything while it runs, out of sight after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from napari.components import ViewerModel

from napari_attnseg.viewer.strokes import PreviewLayer


def test_the_validation_picture_steps_back_and_the_next_training_brings_it_again(
    tmp_path: Path,
) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((9, 11)), name="mine")
    preview, ground = PreviewLayer(viewer, None), tmp_path / "ground.npy"
    np.save(ground, np.ones((7, 13)))
    preview.show_ground(ground)
    preview.show(0, np.full((7, 13), 0.5, np.float32))
    made = [x for x in viewer.layers if x is not image]
    assert len(made) == 2
    assert all(x.visible for x in made)
    preview.step_back()
    assert [x for x in viewer.layers if x is not image] == made
    assert not any(x.visible for x in made)
    preview.show_ground(ground)
    preview.show(0, np.full((7, 13), 0.7, np.float32))
    assert all(x.visible for x in made)


def test_the_preview_over_the_trained_image_stays(tmp_path: Path) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((7, 13)), name="mine")
    preview = PreviewLayer(viewer, image)
    preview.show(0, np.full((7, 13), 0.5, np.float32))
    preview.step_back()
    assert preview.layer is not None
    assert preview.layer.visible
