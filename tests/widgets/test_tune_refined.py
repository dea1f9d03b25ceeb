"""The Tune dock over a refined model: iterations are a slider of whole numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.engine.session import Session
from napari_attnseg.viewer.hub import hub_for
from napari_attnseg.widgets._sliders import IntRow
from napari_attnseg.widgets.tune import TuneWidget
from refined_models import refined_checkpoint

pytestmark = pytest.mark.gui
IMAGE = np.random.default_rng(5).random((66, 81)).astype(np.float32)
WAIT = 60_000


def test_iterations_move_the_mask_live(
    make_napari_viewer: Any, qtbot: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = refined_checkpoint(tiny_checkpoint, tmp_path / "refined.safetensors")
    oracle = Session(model, "cpu")
    oracle.set_image(IMAGE)
    cut = float(np.median(oracle.steps(0)[0].probability))
    masks = {n: oracle.predict(0, oracle.tuning.replace(cut=cut, iterations=n)) for n in (0, 12)}
    viewer = make_napari_viewer()
    viewer.add_image(IMAGE, name="cells")
    hub = hub_for(viewer)
    hub.set_model(str(model))
    dock = TuneWidget(viewer)
    qtbot.addWidget(dock)
    row = dock.rows["iterations"]
    assert isinstance(row, IntRow)
    assert (row.value(), row.trained, row.tunable.maximum) == (3, 3, 12)
    dock.analyse()
    qtbot.waitUntil(lambda: dock.curves is not None, timeout=WAIT)
    dock.rows["cut"].spin.setValue(cut)
    dock.rows["cut"].set_value(cut)
    dock.rows["cut"].moved.emit("cut", cut)
    for position, count in ((0.0, 0), (1.0, 12)):
        row.slider.setValue(position)
        assert row.value() == count

        def right(wanted: np.ndarray = masks[count].labels) -> bool:
            layer = hub.results.layer("labels")
            return layer is not None and np.array_equal(
                np.asarray(layer.data).reshape(66, 81), wanted
            )

        qtbot.waitUntil(right, timeout=WAIT)
    assert not np.array_equal(masks[0].labels, masks[12].labels)
    hub.close()
