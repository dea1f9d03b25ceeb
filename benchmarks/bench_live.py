"""The live threshold in a real window: from a slider event to the labels array and the screen.

A napari window with the Tune dock over a 512 x 512 image, the engine in its child process, CPU.
Three figures for each of the two ways a threshold is answered (cell select and general path):

- *array*: from the slider event to the answer standing in the labels layer's array;
- *screen*: from the slider event to the next swapped frame, less what repainting the unchanged
  layer costs in napari, measured in turns in the same run;
- *drag*: after a drag at 60 Hz, until the last value's answer is on the screen.

    xvfb-run -a -s '-screen 0 1600x1000x24' python benchmarks/bench_live.py           # print
    xvfb-run -a -s '-screen 0 1600x1000x24' python benchmarks/bench_live.py --write   # and keep
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from frames import Frames

SIDE = 512
TARGETS = {
    ("cells", "array"): 40.0,
    ("general", "array"): 80.0,
    ("cells", "screen"): 50.0,
    ("general", "screen"): 50.0,
    ("cells", "drag"): 150.0,
    ("general", "drag"): 150.0,
}
PATHS = {"cells": "cell select", "general": "general path"}


def host_general() -> None:
    """The engine process with its cell select turned off (everything else is the same)."""
    from napari_attnseg.engine import host, session

    class GeneralSession(session.Session):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"use_cells": False}))

    session.Session = GeneralSession  # type: ignore[misc]
    host.main([a for a in sys.argv[1:] if a != "--host-general"])


def make_image() -> np.ndarray:
    """Bright discs of several sizes, blurred, with noise; uint8, the same in every run."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for _ in range(150):
        cy, cx, r = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(6, 18)
        image = np.maximum(image, rng.uniform(0.3, 1) * ((y - cy) ** 2 + (x - cx) ** 2 < r * r))
    noisy = gaussian_filter(image, 1.5) + 0.05 * rng.standard_normal((SIDE, SIDE))
    return (255 * noisy.clip(0, 1)).astype(np.uint8)


class Window(Frames):
    """The napari window, its Tune dock and the moments of interest."""

    def __init__(self, checkpoint: str, way: str) -> None:
        import napari

        from napari_attnseg.widgets.tune import TuneWidget

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1200, 850)
        self.viewer.add_image(make_image(), name="blobs")
        self.dock = TuneWidget(self.viewer)
        self.viewer.window.add_dock_widget(self.dock, area="right", name="Tune")
        self.hub = self.dock.hub
        if way == "general":
            rest = self.hub.client._command[3:]
            self.hub.client._command = [sys.executable, __file__, "--host-general", *rest]
        self.hub.set_model(checkpoint)
        self.native = self.viewer.window._qt_viewer.canvas.native
        self.swapped = self.answered = self.changed = 0.0
        self._seen = np.zeros((SIDE, SIDE), np.uint8)
        self.native.frameSwapped.connect(self._on_swapped)
        self.hub.live.retuned.connect(self._on_answer)  # after the hub's own: labels are written
        self.dock.set_kind("quantile")

    def _on_answer(self, *answer: Any) -> None:
        self.answered = time.perf_counter()
        if self.labels is not None and not np.array_equal(self._seen, self.labels.data):
            self.changed, self._seen = self.answered, np.array(self.labels.data)

    def ready(self) -> None:
        """First answer, first curves, first frames."""
        self.dock.analyse()
        assert self.pump(180, lambda: self.dock.curves is not None), "the engine did not answer"
        assert self.pump(60, lambda: self.answered > 0)
        self.pump(2.0)

    @property
    def labels(self) -> Any:
        return self.hub.results.layer("labels")

    @property
    def idle(self) -> bool:
        """No question in flight: the last answer was the newest value's."""
        return self.hub.live._retune._flying is None

    def repaint(self) -> float:
        """Seconds from asking napari to repaint the unchanged labels to the swapped frame."""
        start = time.perf_counter()
        self.labels.refresh(extent=False, highlight=False, thumbnail=False)
        assert self.pump(5, lambda: self.swapped > start)
        seconds = self.swapped - start
        self.pump(0.05)
        return seconds

    def move(self, position: float) -> tuple[float, float] | None:
        """Seconds to the array and to the screen; ``None`` when no pixel changed."""
        start = time.perf_counter()
        self.dock.rows["threshold"].slider.setValue(position)
        assert self.pump(10, lambda: self.answered > start and self.idle)
        answered = self.answered
        if self.changed < start:
            return None
        assert self.pump(5, lambda: self.swapped > answered)
        seconds = answered - start, self.swapped - start
        self.pump(0.05)
        return seconds

    def drag(self, seconds: float = 2.0) -> float:
        """Seconds from the last of a 60 Hz row of slider events to its answer's frame."""
        positions = 0.5 + 0.45 * np.sin(np.linspace(0, 7, round(60 * seconds)))
        began = time.perf_counter()
        last = began
        for i, position in enumerate(positions):
            self.pump(max(0.0, began + i / 60 - time.perf_counter()))
            last = time.perf_counter()
            self.dock.rows["threshold"].slider.setValue(float(position))
        assert self.pump(20, lambda: self.answered > last and self.idle)
        assert self.pump(5, lambda: self.swapped > self.changed)
        ended = max(self.swapped, self.answered)  # an equal mask is on the screen already
        self.pump(0.3)
        return ended - last

    def close(self) -> None:
        self.hub.close()
        self.viewer.close()


def measure(checkpoint: str, way: str, events: int, drags: int) -> dict[str, np.ndarray]:
    """Milliseconds of every event, by figure."""
    window = Window(checkpoint, way)
    window.ready()
    window.dock.rows["threshold"].slider.setSliderDown(True)  # a held handle: no release between
    rng = np.random.default_rng(1)
    array, screen, plain = [], [], []
    for position in rng.uniform(0.03, 0.97, events):
        plain.append(window.repaint())
        moved = window.move(float(position))
        if moved is not None:
            array.append(moved[0])
            screen.append(moved[1])
    behind = [window.drag() for _ in range(drags)]
    window.close()
    names = {"array": array, "screen": screen, "plain": plain, "drag": behind}
    return {name: 1000 * np.asarray(values) for name, values in names.items()}


def rows(way: str, found: dict[str, np.ndarray]) -> list[str]:
    """Markdown rows of one way."""

    def p(name: str, q: int) -> float:
        return float(np.percentile(found[name], q))

    over = p("screen", 95) - p("plain", 95)
    worst = float(found["drag"].max())
    lines = [
        ("array", "slider event to labels array", p("array", 50), p("array", 95), p("array", 95)),
        ("screen", "slider event to swapped frame", p("screen", 50), p("screen", 95), over),
        ("plain", "repaint of the same layer alone", p("plain", 50), p("plain", 95), None),
        ("drag", "last value of a 60 Hz drag on screen", p("drag", 50), worst, worst),
    ]
    out = []
    for name, words, half, high, judged in lines:
        verdict = ""
        if judged is not None:
            target = TARGETS[way, name]
            extra = f"{judged:.0f} ms over the repaint, " if name == "screen" else ""
            verdict = f"{extra}<= {target:.0f} ms: {'met' if judged <= target else 'MISSED'}"
        out.append(f"| {PATHS[way]} | {words} | {half:.1f} | {high:.1f} | {verdict} |")
    return out


def report(
    found: dict[str, dict[str, np.ndarray]], checkpoint: str, load: tuple[float, ...]
) -> str:
    """The section of RESULTS.md."""
    count, drags = len(found["cells"]["array"]), len(found["cells"]["drag"])
    lines = [
        "## live threshold",
        "",
        f"A napari window (1200 x 850, software rendering) with the Tune dock, {SIDE} x {SIDE} "
        f"image, checkpoint `{checkpoint}`, engine in its child process, CPU. "
        f"About {count} single slider events and {drags} drags of 2 s at "
        f"60 Hz; p95 (of drags the worst). {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} CPUs, load average {load[0]:.1f} at the start and {load[1]:.1f} at the "
        "end (the run itself keeps about one busy). "
        "Command: `xvfb-run -a -s '-screen 0 1600x1000x24' python benchmarks/bench_live.py "
        "--write`.",
        "",
        "| path | what | p50 ms | p95 ms | target |",
        "|---|---|---:|---:|---|",
    ]
    for way, values in found.items():
        lines += rows(way, values)
    return "\n".join(lines) + "\n"


def write_section(text: str, path: Path) -> None:
    """Put the section into the file, in place of an older one with the same title."""
    title = text.splitlines()[0]
    old = path.read_text() if path.exists() else "# Results\n"
    kept: list[str] = []
    inside = False
    for line in old.splitlines():
        if line.startswith("## "):
            inside = line == title
        if not inside:
            kept.append(line)
    path.write_text("\n".join(kept).rstrip() + "\n\n" + text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=120)
    parser.add_argument("--drags", type=int, default=5)
    parser.add_argument("--checkpoint", default="nuclei_smooth_unet", help="name or path")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("NAPARI_CONFIG", str(Path(name) / "settings.yaml"))
        load = os.getloadavg()[0]
        found = {w: measure(options.checkpoint, w, options.events, options.drags) for w in PATHS}
        text = report(found, options.checkpoint, (load, os.getloadavg()[0]))
    print(text)
    if options.write:
        write_section(text, Path(__file__).with_name("RESULTS.md"))


if __name__ == "__main__":
    host_general() if "--host-general" in sys.argv else main()
