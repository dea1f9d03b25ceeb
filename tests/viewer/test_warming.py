"""The first labels layer of a window loads nothing more once it was prepared for."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from napari_attnseg.viewer import warming

pytestmark = pytest.mark.gui
CODE = """
import sys
import numpy as np
from napari.components import ViewerModel
from napari_attnseg.viewer.results import ResultLayers
viewer = ViewerModel()
image = viewer.add_image(np.zeros((3, 16, 16), np.uint8), contrast_limits=(0, 1))
layers = ResultLayers(viewer, image, "tiny")
if "warm" in sys.argv:
    from napari_attnseg.viewer.warming import warm_labels
    warm_labels().join(60)
before = set(sys.modules)
layers.ensure_labels()
print(len([name for name in set(sys.modules) - before if not name.startswith("napari")]))
"""


@pytest.mark.parametrize(("word", "least", "most"), [("cold", 100, 2000), ("warm", 0, 20)])
def test_labels_load_little(word: str, least: int, most: int) -> None:
    loaded = int(subprocess.check_output([sys.executable, "-c", CODE, word], text=True))
    assert least <= loaded <= most


def test_garbage_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[int] = []

    def told(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            whole.append(info["generation"])

    monkeypatch.setattr(warming, "_tidied", False)
    gc.callbacks.append(told)
    try:
        warming.tidy_up()
        warming.tidy_up()
    finally:
        gc.callbacks.remove(told)
    assert whole == [2]


def test_what_follows_comes_after_everything_is_loaded() -> None:
    loaded: list[bool] = []
    warming.warm_labels(lambda: loaded.append("pandas" in sys.modules)).join(60)
    assert loaded == [True]
