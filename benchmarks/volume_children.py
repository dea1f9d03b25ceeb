"""What ``bench_volume.py`` measures, each in a process of its own that prints its marks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from volume_parts import SIDE, mark

SHIPPED = "ct_organs_smooth_unet"
TINY = "tiny"
"""A ``smooth_unet`` of an eighth of the width with random weights."""


def wait(until: Callable[[], bool], seconds: float) -> bool:
    """Let the window live until ``until()`` or for ``seconds``; the waiting itself costs nothing
    to speak of, unlike a loop around ``processEvents``."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop, ticker = QEventLoop(), QTimer()
    ticker.timeout.connect(lambda: until() and loop.quit())
    ticker.start(20)
    QTimer.singleShot(int(1000 * seconds), loop.quit)
    loop.exec()
    ticker.stop()
    return until()


def awake(hub: Any) -> None:
    """Until the engine has imported torch and lies still."""
    from napari_attnseg.control.messages import Describe, Described

    heard: list[Any] = []
    stop = hub.client.subscribe(heard.append)
    hub.client.start()
    hub.client.send(Describe(hub.client.new_id()))
    assert wait(lambda: any(isinstance(e, Described) for e in heard), 300), "no engine came up"
    stop()
    wait(lambda: False, 2.0)


def in_window(path: str, model: str) -> None:
    """Open, look at the middle, run, move the threshold."""
    import napari

    from napari_attnseg.viewer.hub import hub_for

    viewer = napari.Viewer()
    hub = hub_for(viewer)
    awake(hub)
    mark("idle")
    began = time.perf_counter()
    viewer.open(path, plugin="napari-attnseg")
    mark("opened", seconds=time.perf_counter() - began)
    hub.set_model(model)
    slices = viewer.layers[0].data.shape[0]
    viewer.dims.set_current_step(0, slices // 2)
    answers: list[Any] = []
    hub.live.retuned.connect(lambda *event: answers.append(event))
    hub.prepare()
    hub.live.set_tuning(hub.tuning, z=0)  # the model is loaded for another slice
    hub.live.set_slice(slices // 2)
    assert wait(lambda: bool(answers), 300), "the engine did not answer"
    wait(lambda: False, 1.0)
    mark("run")
    seconds, first, done = _run(hub, hub.run)
    mark("move", seconds=seconds, first=first, kept=done.summary.get("kept"))
    assert done.summary["done"] == slices, done.summary
    wait(lambda: False, 1.0)
    tuning = hub.tuning.replace(threshold=float(hub.tuning.values["threshold"]) * 0.9)

    def move() -> None:
        hub.live.set_tuning(tuning)
        hub.live.release()

    moved, _, _ = _run(hub, move)
    mark("end", seconds=moved, dtype=str(hub.results.maps["probability"].dtype))
    hub.close()
    viewer.close()


def _run(hub: Any, begin: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds until all slices are there and until the first one is drawn; the last event."""
    seen: list[float] = []
    drawn: list[float] = []
    ended: list[Any] = []
    live, canvas = hub.live, hub.viewer.window._qt_viewer.canvas._scene_canvas
    began = time.perf_counter()

    def on_slice(event: Any) -> None:
        seen.append(time.perf_counter() - began)

    def on_draw(event: Any) -> None:
        if seen and not drawn:
            drawn.append(time.perf_counter() - began)

    ends = [(signal, ended.append) for signal in (live.finished, live.failed)]
    signals = [(live.slice_done, on_slice), *ends]
    for signal, slot in signals:
        signal.connect(slot)
    canvas.events.draw.connect(on_draw, position="last")
    begin()
    assert wait(lambda: bool(ended), 7200), "the run did not end"
    seconds = time.perf_counter() - began
    for signal, slot in signals:
        signal.disconnect(slot)
    canvas.events.draw.disconnect(on_draw)
    if not hasattr(ended[0], "summary"):
        raise RuntimeError(ended[0].message)
    return seconds, (drawn or [seconds])[0], ended[0]


def in_monai(path: str, model: str) -> None:
    """Load, scale, infer slice by slice, cut: MONAI's parts as a script uses them."""
    import torch
    from monai.inferers import SliceInferer
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, ScaleIntensityRange

    from napari_attnseg.engine.session import Session

    session = Session(model, device="cpu")
    net, p = session.model, session.card.preprocessing
    mark("idle")
    mark("run")
    began = time.perf_counter()
    load = Compose(
        [
            LoadImage(image_only=True),
            EnsureChannelFirst(),
            ScaleIntensityRange(p.low, p.high, 0.0, 1.0, clip=True),
        ]
    )
    image = load(path)[None].as_tensor()
    infer = SliceInferer(roi_size=(SIDE, SIDE), spatial_dim=2, sw_batch_size=1, overlap=0.0)
    with torch.no_grad():
        logits = infer(image, lambda x: net(x.transpose(-1, -2)).transpose(-1, -2))
        labels = logits.argmax(1).to(torch.uint8)
    seconds = time.perf_counter() - began
    mark("end", seconds=seconds, foreground=int((labels > 0).sum()))


def in_predict(path: str, model: str, *more: str) -> None:
    """The command line, whole: from an empty Python to the verified mask."""
    from napari_attnseg.cli import app

    mark("run")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as out:
        app(["predict", model, path, "--out", out, *more], standalone_mode=False)
        (mask,) = Path(out).glob("*_mask.nii.gz")
        mark("end", seconds=time.perf_counter() - began, mask=mask.stat().st_size)


def tiny_model(folder: Path) -> str:
    """The file of a small network with the shipped one's classes and preprocessing."""
    import torch

    from napari_attnseg.cards import Card, read_card, resolve_checkpoint
    from napari_attnseg.models.base import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint
    from napari_attnseg.settings import Tuning

    torch.manual_seed(0)
    model = create_model(
        "smooth_unet", in_channels=1, classes=4, width=0.125, stride=16, rule="authors"
    )
    known = read_card(resolve_checkpoint(SHIPPED))
    names, tuning = known.class_names, Tuning.of(threshold=0.01, rule="authors", gamma=0.5)
    card = Card(
        spec=model.spec.to_json(),
        preprocessing=replace(known.preprocessing, spacing_mm=None),
        class_names=names,
        tuning=tuning,
    )
    save_checkpoint(folder / f"{TINY}.safetensors", model, card)
    return str(folder / f"{TINY}.safetensors")


def full_size_model(folder: Path) -> str:
    """The shipped network without the pixel size that it asks for: MONAI's form sees all pixels of
    a slice, and so must ours beside it."""
    from napari_attnseg.models.checkpoint import load_checkpoint, save_checkpoint

    known = load_checkpoint(SHIPPED)
    card = replace(known.card, preprocessing=replace(known.card.preprocessing, spacing_mm=None))
    save_checkpoint(folder / f"{SHIPPED}.safetensors", known.model, card)
    return str(folder / f"{SHIPPED}.safetensors")


CHILDREN: dict[str, Callable[..., None]] = {
    "window": in_window,
    "monai": in_monai,
    "predict": in_predict,
}
