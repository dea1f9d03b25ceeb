"""Does the window stay alive? Event-loop gaps while the engine works, cancelling, opening docks.

A real napari window (start it under a display or ``xvfb-run -a``). A timer asks to be called
every 5 ms; the gaps between its calls are what a hand on the mouse would feel. The same window is
measured idle, while a volume is predicted, and while a model trains, in turns, in one run.

    python benchmarks/bench_gui.py            # print the table
    python benchmarks/bench_gui.py --write    # and put it into benchmarks/RESULTS.md
    python benchmarks/bench_gui.py --large --write    # the row of the large volume alone
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from results import RESULTS, device, write_section

SECONDS = 8.0
PLUGIN = "napari-attnseg"


def pump(until: Callable[[], bool], seconds: float) -> bool:
    """Run the event loop until ``until()`` or for ``seconds``."""
    from qtpy.QtCore import QEventLoop, QTimer
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    ticker = QTimer()
    ticker.start(2)
    while time.perf_counter() < end and not until():
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
    return until()


def gaps(seconds: float = SECONDS) -> np.ndarray:
    """Milliseconds between calls of a 5 ms timer."""
    from qtpy.QtCore import Qt, QTimer

    calls: list[float] = []
    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(lambda: calls.append(time.perf_counter()))
    timer.start(5)
    pump(lambda: False, seconds)
    timer.stop()
    return np.diff(calls) * 1000


def window() -> tuple[Any, Any, dict[str, float]]:
    """A viewer with all docks; what each dock's opening cost (ms)."""
    import napari

    from napari_attnseg.viewer.hub import hub_for

    viewer = napari.Viewer()
    viewer.window.resize(1200, 800)
    volume = np.random.default_rng(0).integers(0, 255, (900, 224, 224), np.uint8)
    viewer.add_image(volume, name="noise")
    pump(lambda: False, 1.0)
    opening = {"an empty dock of napari": bare_dock(viewer)}
    for name in ("Segment", "Tune", "Train"):
        began = time.perf_counter()
        viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
        pump(lambda: True, 0.0)
        opening[name] = 1000 * (time.perf_counter() - began)
    assert "torch" not in sys.modules, "a dock imported torch into the window's process"
    pump(lambda: False, 6.0)  # the engine warms up
    return viewer, hub_for(viewer), opening


def bare_dock(viewer: Any) -> float:
    """What napari itself needs to open a dock with one label (ms)."""
    from qtpy.QtWidgets import QLabel

    began = time.perf_counter()
    dock = viewer.window.add_dock_widget(QLabel("nothing"), name="bare")
    pump(lambda: True, 0.0)
    spent = 1000 * (time.perf_counter() - began)
    viewer.window.remove_dock_widget(dock)
    return spent


@contextmanager
def predicting(hub: Any) -> Iterator[None]:
    """A long volume prediction is under way."""
    seen: list[Any] = []
    hub.live.slice_done.connect(seen.append)
    hub.run()
    assert pump(lambda: bool(seen), 60), "no slice came"
    yield
    assert hub.live.state.busy, "the prediction ended too early to be measured"
    hub.cancel()
    pump(lambda: not hub.live.state.busy, 30)


@contextmanager
def spinning() -> Iterator[None]:
    """Nothing happens but napari's own activity spinner, which repaints the window by itself."""
    from napari.utils import progress

    bar = progress(total=10, desc="nothing")
    pump(lambda: False, 0.5)
    yield
    bar.close()


@contextmanager
def training(hub: Any, out: Path) -> Iterator[None]:
    """A training from layers is under way in its own process."""
    from napari_attnseg.settings import RECIPES

    image = np.asarray(hub.source.data)[:8]
    labels = (image > 127).astype(np.uint8)
    settings = replace(RECIPES["threshold-matters"], epochs=1000, patience=0)
    epochs: list[Any] = []
    hub.training.epoch_done.connect(epochs.append)
    ref = hub.training.open_image(image)
    hub.training.start_layers(settings, out / "bench.safetensors", ref, labels)
    assert pump(lambda: bool(epochs), 120), "no epoch came"
    yield
    assert hub.training.busy


def stop_time(stop: Callable[[], Any], free: Callable[[], bool]) -> float:
    """Milliseconds from pressing Cancel to a free engine."""
    began = time.perf_counter()
    stop()
    assert pump(free, 30), "Cancel did not free the engine"
    return 1000 * (time.perf_counter() - began)


def cancel_times(hub: Any) -> list[float]:
    """Cancel of a prediction, several times."""
    times = []
    for _ in range(5):
        seen: list[Any] = []
        hub.live.slice_done.connect(seen.append)
        hub.run()
        pump(lambda s=seen: bool(s), 60)
        times.append(stop_time(hub.cancel, lambda: not hub.live.state.busy))
    return times


class Turns:
    """The longest turn of the event loop by the clock and in processor time of its thread, the one
    that is under way at the end included."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self._calls: list[tuple[float, float]] = []
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._call)
        self._call()
        self._timer.start(5)

    def end(self) -> tuple[float, float]:
        """Both in milliseconds."""
        self._timer.stop()
        self._call()
        longest = np.diff(np.array(self._calls), axis=0).max(0)
        return float(longest[0]), float(longest[1])

    def _call(self) -> None:
        self._calls.append((1000 * time.perf_counter(), 1000 * time.thread_time()))


LARGE = "Run on a volume of 300 MB, longest turn until its layers are there and slices come in"


def large_volume(viewer: Any, hub: Any) -> tuple[str, str, str]:
    """The row of a volume whose pixels are handed over behind the window."""
    volume = np.zeros((300, 1000, 1000), np.uint8)
    volume[::2] = 7  # pixels that are really there
    hub.set_source(viewer.add_image(volume, name="large", contrast_limits=(0, 255)))
    pump(lambda: False, 3.0)
    seen: list[Any] = []
    hub.live.slice_done.connect(seen.append)
    turns = Turns()
    hub.run()
    assert pump(lambda: len(seen) > 3 and not hub.making, 120), "no slice came"
    pump(lambda: False, 0.5)
    gap, spent = turns.end()
    hub.cancel()
    pump(lambda: not hub.live.state.busy, 30)
    plain, plain_spent = plain_turn(volume)
    figure = f"{max(0, gap - plain):.0f} ms ({gap:.0f} ms, {spent:.0f} of processor time; napari "
    figure += f"alone given the same layers: {plain:.0f} ms, {plain_spent:.0f})"
    return LARGE, "<= 100 ms beyond plain napari", figure


def plain_turn(volume: np.ndarray) -> tuple[float, float]:
    """The longest turn of napari alone, in a window without docks where nothing else runs, given
    one a turn what a run adds to ``volume``: a labels layer and a hidden image; the median of
    three, by the clock and in processor time."""
    import gc

    import napari
    from napari.layers import Image, Labels
    from napari.utils.colormaps import DirectLabelColormap

    viewer = napari.Viewer()
    viewer.window.resize(1200, 800)
    viewer.add_image(volume, name="large", contrast_limits=(0, 255))
    pump(lambda: False, 1.0)
    gc.collect()  # else the new window would make Python look for garbage in the middle
    colors = DirectLabelColormap(color_dict={0: "transparent", None: "#888888", 1: "#ff9f1c"})
    found = []
    for _ in range(3):
        labels = Labels(np.zeros(volume.shape, np.uint8), colormap=colors)
        image = Image(np.zeros(volume.shape, np.float16), contrast_limits=(0, 1), visible=False)
        pump(lambda: False, 0.5)
        turns = Turns()
        for layer in (labels, image):
            viewer.add_layer(layer)
            pump(lambda: False, 0.5)
        found.append(turns.end())
    viewer.close()
    longest, spent = np.median(np.array(found), axis=0)
    return float(longest), float(spent)


def import_time() -> float:
    """Best of seven: ``import napari_attnseg`` over a bare interpreter, ms."""
    code = "import time; t=time.perf_counter(); import napari_attnseg; print(time.perf_counter()-t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(7)]
    return 1000 * min(times)


def measure() -> list[tuple[str, str, str]]:
    """All rows: what, target, measured."""
    rows = [("`import napari_attnseg`", "<= 50 ms", f"{import_time():.1f} ms")]
    viewer, hub, opening = window()
    bare = opening.pop("an empty dock of napari")
    for name, spent in opening.items():
        rows.append((f"opening {name}, over an empty dock", "<= 300 ms", f"{spent - bare:.0f} ms"))
    idle, spinner, busy, train = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            idle.append(gaps())
            with spinning():
                spinner.append(gaps())
            with predicting(hub):
                busy.append(gaps())
        idle.append(gaps())
        with training(hub, Path(folder)):
            train.append(gaps())
        stop = stop_time(hub.training.stop, lambda: not hub.training.busy)
        idle.append(gaps())
    rest, spin = (float(np.percentile(np.concatenate(g), 99)) for g in (idle, spinner))
    for name, found, base in (
        ("predicting / idle with napari's activity spinner turning", busy, spin),
        ("predicting / idle without any progress shown", busy, rest),
        ("training / idle", train, rest),
    ):
        p99 = float(np.percentile(np.concatenate(found), 99))
        figure = f"{p99 / base:.2f} x ({p99:.1f} / {base:.1f} ms)"
        rows.append((f"event-loop gaps, p99, {name}", "<= 1.2 x", figure))
    cancels = cancel_times(hub)
    rows.append(("Cancel of a prediction, worst of 5", "<= 1 s", f"{max(cancels):.0f} ms"))
    rows.append(("Stop of a training", "<= 1 s", f"{stop:.0f} ms"))
    rows.append(large_volume(viewer, hub))
    hub.close()
    return rows


def large_alone() -> tuple[str, str, str]:
    """The row of the large volume, in a window that has done nothing before."""
    viewer, hub, _ = window()
    found = large_volume(viewer, hub)
    hub.close()
    return found


def replace_row(row: str) -> None:
    """Put ``row`` in the place of the one about a volume of 300 MB."""
    lines = RESULTS.read_text().splitlines()
    kept = [row if line.startswith("| Run on a volume of 300 MB") else line for line in lines]
    RESULTS.write_text("\n".join(kept) + "\n")


def main() -> None:
    """Measure, print, and with ``--write`` record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--large", action="store_true", help="the row of the large volume alone")
    wish = parser.parse_args()
    lines = ["| what | target | measured |", "|---|---|---|"]
    rows = [large_alone()] if wish.large else measure()
    lines += [f"| {what} | {target} | {figure} |" for what, target, figure in rows]
    table = "\n".join(lines)
    print(table)
    if wish.write and wish.large:
        replace_row(lines[-1])
    elif wish.write:
        write_section(
            "The window", f"{device()}\n\n`xvfb-run -a python benchmarks/bench_gui.py`\n\n{table}"
        )


if __name__ == "__main__":
    main()
