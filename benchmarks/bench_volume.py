"""A whole CT: memory of window and engine, time, the first slice, and MONAI's sliding window.

A generated volume of 512 x 512 x N (int16, uncompressed ``.nii``) is opened in a napari window,
segmented, and its threshold is moved afterwards; then the same network runs over the same file
under ``monai.inferers.SliceInferer`` (its sliding window over slices), as a script of a few lines
would use it. Every form has a process of its own.

    xvfb-run -a python benchmarks/bench_volume.py --write         # the whole table, some minutes
    xvfb-run -a python benchmarks/bench_volume.py tiny:40 tiny:80 tiny:160 --no-monai

Memory is the sum over the window's process and its engine: ``anon`` is memory of their own,
``pss`` adds their share of mapped files (which the system takes back when it needs room). The
first visible slice is there when the canvas has been drawn with it. Processor time is what the
processes used, whatever else the machine was doing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import device, write_section
from volume_parts import SIDE, Watched, mark, write_phantom

SHIPPED = "ct_organs_smooth_unet"
TINY = "tiny"
"""A ``smooth_unet`` of an eighth of the width with random weights."""
TABLE = (f"{TINY}:100", f"{TINY}:300", f"{TINY}:600", f"{SHIPPED}:100")
"""Models and slices of the whole table."""


# --- measured in processes of their own -----------------------------------------------------------


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


def in_window(path: str, model: str) -> None:
    """Open, look at the middle, run, move the threshold."""
    import napari

    from napari_attnseg.viewer.hub import hub_for

    viewer = napari.Viewer()
    hub = hub_for(viewer)
    hub.client.start()
    wait(lambda: False, 8.0)  # the engine imports torch
    mark("idle")
    began = time.perf_counter()
    viewer.open(path, plugin="napari-attnseg")
    opened = time.perf_counter() - began
    hub.set_model(model)
    slices = viewer.layers[0].data.shape[0]
    viewer.dims.set_current_step(0, slices // 2)
    answers: list[Any] = []
    hub.live.retuned.connect(lambda *event: answers.append(event))
    hub.prepare()
    hub.live.set_tuning(hub.tuning, z=0)  # the model is loaded for another slice
    hub.live.set_slice(slices // 2)
    assert wait(lambda: bool(answers), 120), "the engine did not answer"
    wait(lambda: False, 1.0)
    mark("run", opened=opened)
    seconds, first, done = _run(hub, hub.run)
    mark("move", seconds=seconds, first=first, kept=done.summary.get("kept"))
    woken = done.summary["computed"]
    wait(lambda: False, 1.0)
    tuning = hub.tuning.replace(threshold=float(hub.tuning.values["threshold"]) * 0.9)

    def move() -> None:
        hub.live.set_tuning(tuning)
        hub.live.release()

    moved, _, _ = _run(hub, move)
    mark("end", seconds=moved, computed=woken, dtype=str(hub.results.maps["probability"].dtype))
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
        preprocessing=known.preprocessing,
        class_names=names,
        tuning=tuning,
    )
    save_checkpoint(folder / f"{TINY}.safetensors", model, card)
    return str(folder / f"{TINY}.safetensors")


# --- the table ------------------------------------------------------------------------------------


def row(path: Path, slices: int, name: str, model: str, monai: bool) -> str:
    """Measure one volume."""
    ours = Watched(__file__, "--child", "window", path, model)
    marks = ours.wait()
    extra = {k: ours.extra(("run",), k, "idle") for k in ("anon", "pss")}
    engine = ours.extra(("run",), "anon", "idle", "engine_")
    run, move = marks["move"]["seconds"], marks["end"]["seconds"]
    spent = ours.spent("run", "move", "engine")
    cells = [
        name,
        f"{SIDE}x{SIDE}x{slices} {''.join(path.suffixes)}",
        f"{extra['anon']:.0f} / {extra['pss']:.0f} MB",
        f"{engine:.0f} MB",
        f"{marks['move']['first']:.2f} s",
        f"{run:.0f} s",
        f"{spent:.1f} + {ours.spent('run', 'move', 'own'):.1f} s",
        f"{move:.0f} s ({ours.spent('move', 'end', 'engine'):.1f} s)",
    ]
    if not monai:
        return f"| {' | '.join([*cells, '', '', '', ''])} |"
    theirs = Watched(__file__, "--child", "monai", path, model)
    seconds = theirs.wait()["end"]["seconds"]
    most, used = theirs.extra(("run",), "anon", "idle"), theirs.spent("run", "end", "own")
    cells += [
        f"{most:.0f} MB",
        f"{seconds:.0f} s",
        f"{used:.1f} s",
        f"1/{most / extra['anon']:.1f}, {seconds / run:.2f}x, {used / spent:.2f}x",
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "model",
    "volume",
    "extra at the peak: anon / pss (target <= 1500)",
    "of it the engine's, anon",
    "first visible slice (target <= 1 s)",
    "run",
    "processor time of it: engine + window",
    "moved threshold (of processors)",
    "MONAI: extra, anon",
    "MONAI: run",
    "MONAI: processor time",
    "memory (target < 1/2 at 600), speed, speed in processor time of the engine (target >= 1x)",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def wishes(words: list[str]) -> list[tuple[str, int]]:
    """``MODEL:SLICES`` as pairs."""
    found = [word.rpartition(":") for word in words]
    return [(name, int(slices)) for name, _, slices in found]


def measure(wish: argparse.Namespace) -> list[str]:
    """All rows, printed as they come."""
    lines = [HEAD]
    with tempfile.TemporaryDirectory() as folder:
        tiny = tiny_model(Path(folder))
        todo = [(*pair, ".nii") for pair in wishes(wish.runs or list(TABLE))]
        todo += [(*todo[-1][:2], ".nii.gz")] if wish.gz else []
        for name, slices, suffix in todo:
            path = Path(folder) / f"ct{slices}{suffix}"
            write_phantom(path, slices)
            model, monai = tiny if name == TINY else name, suffix == ".nii" and not wish.no_monai
            lines.append(row(path, slices, name, model, monai))
            print(lines[-1], flush=True)
            path.unlink()
    return lines


def main() -> None:
    """Measure, print, and with ``--write`` record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help=f"MODEL:SLICES, default {' '.join(TABLE)}")
    parser.add_argument("--gz", action="store_true", help="the last one as .nii.gz, too")
    parser.add_argument("--no-monai", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.child:
        (in_window if wish.child[0] == "window" else in_monai)(*wish.child[1:])
        return
    load = os.getloadavg()[0]
    lines = measure(wish)
    command = " ".join(["xvfb-run -a python benchmarks/bench_volume.py", *sys.argv[1:]])
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    text = (
        f"`{command}` on {device()}; float32, OMP_NUM_THREADS={threads} in every process, of which "
        "a run leaves one to the window where there are several. Load of the machine by "
        f"everything when it began: {load:.1f}. `{TINY}`: a `smooth_unet` of an eighth of the "
        "width with random weights. Extra: above the window and its engine with torch imported "
        "and nothing open. First visible slice: from the press of Run, with the model loaded, "
        "until the canvas was drawn with it. MONAI: `SliceInferer` with the same network in a "
        "process of its own, above that with the model loaded.\n\n"
    )
    print("\n".join(lines))
    if wish.write:
        write_section("volume", text + "\n".join(lines))


if __name__ == "__main__":
    main()
