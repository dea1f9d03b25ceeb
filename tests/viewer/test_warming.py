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


UNITS = """
import sys, threading, time
import numpy as np
import napari.layers, pint
from napari_attnseg.viewer import warming
warming.NEEDED = ()  # straight to the units
sys.setswitchinterval(1e-4)
if "before" in sys.argv:
    warming.warm_labels().join(60)
    warming.tidy_up()
else:
    warming.warm_labels()
    time.sleep(0.05)  # they take 0.4 s
layer = napari.layers.Image(np.zeros((3, 4)), units=("mm", "mm"))
made = pint.get_application_registry().get()
for thread in threading.enumerate():
    thread is threading.main_thread() or thread.join(60)
warming.tidy_up()
assert pint.get_application_registry().get() is made, "units of two registries do not mix"
other = napari.layers.Image(np.zeros((3, 4)), units=("mm", "um"))
print(layer.units[0] == other.units[0], (1 * other.units[0]).to(other.units[1]).magnitude)
"""


@pytest.mark.parametrize("word", ["before", "meanwhile"])
def test_units_are_whole_whoever_asks_first(word: str) -> None:
    """A layer made while units are read was told that there are none."""
    told = subprocess.check_output([sys.executable, "-c", UNITS, word], text=True).split()
    assert told[0] == "True"
    assert float(told[1]) == pytest.approx(1000)


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
