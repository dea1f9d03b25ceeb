"""Take the pictures of the README in a real window: run again after every change of a dock.

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/pictures/make_pictures.py

``threshold.gif``: the threshold of the shipped nuclei model moves over scikit-image's coins
(a real photograph); ``segment.png``, ``tune.png``, ``train.png``: the docks;
``attention3d.png``: attention as a relief over the scan. ``refine.png``: iterations as a layer and
the affinity of a pixel; ``strokes.gif``: a refined mask follows the brush.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_attnseg.demo import PLUGIN, settle, tune_to, wait

HERE = Path(__file__).parent
SIZE = (1280, 800)
STROKE = tuple((103 + round(0.3 * k), 226 + 2 * k) for k in range(9))
"""Pixels of the drawn nuclei along which background is painted."""


def grab(viewer: Any, after: float = 1.2) -> Image.Image:
    """The whole window."""
    settle(after)  # legends count a moment after the mask
    return Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])


def keep(picture: Image.Image, name: str) -> None:
    """A picture of few colours beside this script."""
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE)
    few.save(HERE / f"{name}.png", optimize=True)


def open_sample(viewer: Any, sample: str, model: str) -> Any:
    """Sample, model and first answer."""
    import napari_attnseg.widgets  # noqa: F401
    from napari_attnseg.viewer.hub import hub_for

    viewer.layers.clear()
    viewer.open_sample(PLUGIN, sample)
    hub = hub_for(viewer)
    hub.set_model(model)
    hub.set_source(next(x for x in viewer.layers if type(x).__name__ == "Image"))
    if viewer.dims.ndim == 3:
        viewer.dims.set_current_step(0, viewer.layers[0].data.shape[0] // 2)
    hub.run()
    wait(lambda: not hub.live.state.busy and not hub.making, "segmentation")
    viewer.reset_view()
    return hub


def threshold_gif(viewer: Any, tune: Any) -> None:
    """The slider by mouse-like steps through the quantiles of step, and back."""
    from napari_attnseg.widgets._compare import DIFFERENCE, TUNED

    hub = open_sample(viewer, "coins", "nuclei_smooth_unet")
    tune.set_kind("quantile")
    tune.compare.set_mode(DIFFERENCE)
    steps = np.sort(np.asarray(hub.live.state.results.array("step")[0]).ravel())
    frames = []
    for quantile in (*np.linspace(0.99, 0.02, 14), *np.linspace(0.1, 0.95, 6)):
        tune_to(hub, float(np.quantile(steps, quantile)))
        frames.append(grab(viewer, 0.4).resize((960, 600), Image.Resampling.LANCZOS))
    # one palette from several frames, so that the colours of gained and lost pixels are in it
    sheet = Image.fromarray(np.concatenate([np.asarray(f) for f in frames[::5]]))
    palette = sheet.quantize(256, Image.Quantize.MAXCOVERAGE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    small[0].save(
        HERE / "threshold.gif", save_all=True, append_images=small[1:], duration=180, loop=0
    )
    tune.compare.set_mode(TUNED)


def refine_pictures(viewer: Any) -> None:
    """The second of six steps with the rose of a pixel, then a stroke point by point."""
    from napari_attnseg.viewer.refined import CHANGE, MASK

    viewer.layers.clear()
    viewer.open_sample(PLUGIN, "nuclei")
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "Refine", tabify=True)
    work = dock.work
    dock.choose.image.choose(next(x for x in viewer.layers if type(x).__name__ == "Image"))
    dock.choose.choose_model("nuclei_cspn")
    dock.run.click()
    wait(lambda: work.begun and 0 in work.fresh, "refinement")
    dock.steps.reference.setCurrentIndex(1)
    for what in (MASK, CHANGE):
        dock.steps.boxes[what].setChecked(True)
        wait(lambda what=what: work.shown.layers and work.shown.layers.alive(what), what)  # type: ignore[misc]
    work.shown.layers.go(1)
    dock.affinity.ask.click()
    dock.affinity.pixel.ask(117, 236)
    settle(1.5)
    dock.affinity.ensurePolished()
    area = dock.choose.parentWidget().parentWidget().parentWidget()
    area.verticalScrollBar().setValue(area.verticalScrollBar().maximum())
    keep(grab(viewer), "refine")
    dock.affinity.ask.click()
    for what in (MASK, CHANGE):
        dock.steps.boxes[what].setChecked(False)
    strokes_gif(viewer, dock)


def strokes_gif(viewer: Any, dock: Any) -> None:
    """Background between two nuclei that the mask has joined."""
    dock.strokes.new.click()
    dock.strokes.pick(1)
    layer, work = dock.work.watch.layer, dock.work
    layer.brush_size = 5
    frames = [grab(viewer, 0.5)]
    for y, x in STROKE:
        layer.paint((y, x), 1)
        settle(0.1)
        wait(lambda: not work.control.busy, "the mask")
        frames.append(grab(viewer, 0.3))
    small = [f.resize((960, 600), Image.Resampling.LANCZOS) for f in frames]
    palette = small[-1].quantize(256, Image.Quantize.MAXCOVERAGE)
    drawn = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in small]
    drawn[0].save(
        HERE / "strokes.gif", save_all=True, append_images=drawn[1:], duration=300, loop=0
    )


def train_picture(viewer: Any) -> None:
    """A few strokes on nuclei and on the ground, ready to train."""
    from skimage.measure import label, regionprops

    viewer.layers.clear()
    viewer.open_sample(PLUGIN, "nuclei")
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "Train", tabify=True)
    dock.layers.image.choose(next(x for x in viewer.layers if type(x).__name__ == "Image"))
    dock.layers.new.click()
    strokes, truth = dock.layers.labels.layer, np.asarray(viewer.layers["nuclei_truth"].data) > 0
    strokes.brush_size = 5
    for found in regionprops(label(truth))[::5]:
        y, x = found.centroid
        for off in range(-4, 5, 2):
            strokes.paint((round(y), round(x + off)), 2)
    for y in (28, 150, 205):
        for x in range(60, 200, 2):
            if not truth[y - 5 : y + 6, x - 5 : x + 6].any():
                strokes.paint((y, x), 1)
    settle(1.5)
    keep(grab(viewer), "train")


def main() -> None:
    """All pictures, with settings and journals of nobody."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "settings.yaml")
        take_all()


def take_all() -> None:
    """One window."""
    import napari
    from qtpy.QtWidgets import QScrollArea

    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    segment_dock, _ = viewer.window.add_plugin_dock_widget(PLUGIN, "Segment")
    hub = open_sample(viewer, "nuclei", "nuclei_smooth_unet")
    hub.ask_row(120, 96)
    settle(2.0)
    keep(grab(viewer), "segment")
    tune_dock, tune = viewer.window.add_plugin_dock_widget(PLUGIN, "Tune", tabify=True)
    open_sample(viewer, "phantom", "ct_organs_smooth_unet")
    tune.analyse()
    settle(2.0)
    keep(grab(viewer), "tune")
    tune.maps_button.setChecked(True)
    tune.maps.show_maps("surface")
    wait(lambda: viewer.dims.ndisplay == 3, "relief")
    settle(1.0)
    area = tune.findChild(QScrollArea)
    area.verticalScrollBar().setValue(area.verticalScrollBar().maximum())
    keep(grab(viewer), "attention3d")
    tune.maps.clear.click()
    tune.maps_button.setChecked(False)
    threshold_gif(viewer, tune)
    refine_pictures(viewer)
    train_picture(viewer)
    del segment_dock, tune_dock
    viewer.close()


if __name__ == "__main__":
    main()
