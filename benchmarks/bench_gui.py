"""Does the window stay alive? Event-loop gaps while the engine works, cancelling, opening docks.

A real napari window (start it under a display or ``xvfb-run -a``). A timer asks to be called
every 5 ms; the gaps between its calls are what a hand on the mouse would feel. The same window is
measured idle, while a volume is predicted, and while a model trains, in turns, in one run.

    python benchmarks/bench_gui.py            # print the table
    python benchmarks/bench_gui.py --write    # and put it into benchmarks/RESULTS.md
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
from results import device, write_section

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


def handover_gap(viewer: Any, hub: Any) -> float:
    """Run on a volume of 300 MB: the longest gap (ms) until the engine begins."""
    from qtpy.QtCore import Qt, QTimer

    volume = np.zeros((300, 1000, 1000), np.uint8)
    volume[::2] = 7  # pages that are really there
    hub.set_source(viewer.add_image(volume, name="large", contrast_limits=(0, 255)))
    pump(lambda: False, 3.0)
    begun: list[Any] = []
    hub.live.started.connect(begun.append)
    calls = [time.perf_counter()]
    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.timeout.connect(lambda: calls.append(time.perf_counter()))
    timer.start(5)
    hub.run()
    assert pump(lambda: bool(begun), 60), "the image was not handed over"
    timer.stop()
    hub.cancel()
    pump(lambda: not hub.live.state.busy, 30)
    return 1000 * float(np.diff(calls).max())


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
    words = "Run on a volume of 300 MB, longest gap until the engine begins"
    rows.append((words, "<= 100 ms", f"{handover_gap(viewer, hub):.0f} ms"))
    hub.close()
    return rows


def main() -> None:
    """Measure, print, and with ``--write`` record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    lines = ["| what | target | measured |", "|---|---|---|"]
    lines += [f"| {what} | {target} | {figure} |" for what, target, figure in measure()]
    table = "\n".join(lines)
    print(table)
    if write:
        write_section(
            "The window", f"{device()}\n\n`xvfb-run -a python benchmarks/bench_gui.py`\n\n{table}"
        )


if __name__ == "__main__":
    main()
