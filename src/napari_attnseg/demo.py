"""The main job played once in a real window: open, run, tune, export, and say what was done."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.errors import EngineError

PLUGIN = "napari-attnseg"
PATIENCE_SECONDS = 300.0
PLAYS = (("phantom", "ct_organs_smooth_unet"), ("nuclei", "nuclei_smooth_unet"))
"""Sample and checkpoint, in the order they are played; the last one stays on screen."""


@dataclass
class Story:
    """What the summary will tell: one line per step."""

    lines: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        """Print a line at once and keep it."""
        print(line, flush=True)
        self.lines.append(line)


def run_demo(out: Path, interactive: bool = True) -> None:
    """Play the demo; results go to ``out``. With ``interactive`` the window stays for the person.

    Raises ``EngineError`` when a step does not answer in time.
    """
    import napari

    story = Story()
    viewer = napari.Viewer(title="napari-attnseg demo")
    viewer.window.resize(1500, 940)
    for sample, model in PLAYS:
        _play(viewer, sample, model, out, story)
    (out / "summary.txt").write_text("\n".join(story.lines) + "\n")
    print(f"screenshots, masks and summary.txt are in {out.resolve()}", flush=True)
    if interactive:
        napari.run()
    viewer.close()


def _play(viewer: Any, sample: str, model: str, out: Path, story: Story) -> None:
    import napari_attnseg.widgets  # noqa: F401  (tells the hub how events reach Qt's main thread)
    from napari_attnseg.viewer.hub import hub_for

    viewer.layers.clear()
    viewer.open_sample(PLUGIN, sample)
    hub = hub_for(viewer)
    hub.set_model(model)
    hub.set_source(next(layer for layer in viewer.layers if type(layer).__name__ == "Image"))
    segment, _ = _docks(viewer)
    if viewer.dims.ndim == 3:
        viewer.dims.set_current_step(0, viewer.dims.nsteps[0] // 2)
    _segment(viewer, hub, sample, out, story)
    _tune(viewer, hub, sample, out, story)
    _export(hub, segment, sample, out, story)


def _docks(viewer: Any) -> tuple[Any, Any]:
    """Segment and Tune, one above the other (a second call finds them again)."""
    _, segment = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    _, tune = viewer.window.add_plugin_dock_widget(PLUGIN, "Tune", tabify=True)
    settle(0.3)
    return segment, tune


def _segment(viewer: Any, hub: Any, sample: str, out: Path, story: Story) -> None:
    began = time.monotonic()
    hub.run()
    wait(lambda: not hub.live.state.busy and not hub.making, "segmentation")
    labels = hub.results.labels
    share = 100 * float((np.asarray(labels.data) > 0).mean())
    story.tell(
        f"{sample}: {np.asarray(labels.data).shape} segmented with {hub.checkpoint} in "
        f"{time.monotonic() - began:.1f} s (engine start included), {share:.1f} % foreground"
    )
    settle(1.0)
    _shot(viewer, out / f"{sample}_segmented.png", story)


def _tune(viewer: Any, hub: Any, sample: str, out: Path, story: Story) -> None:
    """Move the threshold through its range as a hand would; count what changes."""
    z = hub.visible_z()
    trained = float(hub.tuning.get("threshold"))
    masks, seconds = [], []
    steps = np.sort(np.asarray(hub.live.state.results.array("step")[z]).ravel())
    for quantile in (0.0, 0.25, 0.5, 0.75, 0.95, None):
        threshold = 1.0 if quantile is None else float(steps[int(quantile * (steps.size - 1))])
        seconds.append(tune_to(hub, threshold))
        masks.append(np.asarray(hub.results.edits.data)[z] > 0)
    changed = np.any([m != masks[0] for m in masks], axis=0).sum() / max(1, masks[0].sum())
    story.tell(
        f"{sample}: threshold moved through its range, median {1000 * np.median(seconds):.0f} ms "
        f"an answer, {100 * changed:.1f} % of the mask's pixels changed"
    )
    settle(0.8)
    _shot(viewer, out / f"{sample}_threshold_high.png", story)
    hub.tune(threshold=trained)
    hub.live.release()
    settle(0.3)
    wait(lambda: not hub.live.state.busy, "tuning the volume")


def tune_to(hub: Any, threshold: float) -> float:
    """Move the threshold, wait for the visible slice's answer; seconds it took."""
    answers: list[Any] = []

    def keep(event: Any) -> None:
        answers.append(event)

    hub.live.retuned.connect(keep)
    began = time.monotonic()
    hub.tune(threshold=threshold)
    wait(lambda: bool(answers), "live threshold")
    hub.live.retuned.disconnect(keep)
    return time.monotonic() - began


def _export(hub: Any, segment: Any, sample: str, out: Path, story: Story) -> None:
    """Through the dock's own export, so that the tick is the one a person sees."""
    suffix = ".nii.gz" if hub.results.shape[0] > 1 else ".png"
    verdicts: list[str] = []
    segment.after.exported.connect(verdicts.append)
    segment.after.export_to(str(out / f"{sample}_mask{suffix}"))
    wait(lambda: bool(verdicts), "export")
    story.tell(f"{sample}: {re.sub('<[^>]+>', '', verdicts[0])}")


def _shot(viewer: Any, path: Path, story: Story) -> None:
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    story.tell(f"screenshot {path.name}")


def settle(seconds: float) -> None:
    """Let the window work for a while."""
    wait(None, "", seconds)


def wait(done: Callable[[], bool] | None, what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Run the event loop until ``done()``; raises ``EngineError`` when it never is."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        if done is not None and done():
            return
        time.sleep(0.005)
    if done is not None:
        raise EngineError(f"{what} gave no answer in {seconds:.0f} s; see the messages above")
