"""Draw what every attention shows, from the networks that ``bench_shelf_proof.py --models`` kept.

    python benchmarks/shelf_pictures.py DIR             # into docs/attentions
    python benchmarks/shelf_pictures.py DIR --only se vit

The picture: our own drawn nuclei, brought to 128 x 128, with the outline of the mask, and beside it
up to three of the maps: pictures over the image (its grid's own cells), which of several wins
where, bars, profiles or a matrix. The ring is the position that a row is asked for.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import shelf_tasks as tasks
import torch
from PIL import Image
from safetensors.torch import load_model

from napari_attnseg.attention.recording import Record, recording
from napari_attnseg.engine.levels import over_image
from napari_attnseg.viewer.samples import draw_nuclei

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "attentions"
SIZE = 128
ASKED = (55, 50)
"""Row and column of the asked position: inside a nucleus."""
PANELS = 4
MOST_BYTES = 25_000
EVEN = 0.02
"""Maps whose numbers differ by less than this part of the largest are shown as even."""
INK, BAR = "#222222", "#4c78a8"


def network(name: str, models: Path) -> torch.nn.Module:
    """The trained network."""
    model = tasks.learner(name, far=False).model
    load_model(model, str(models / f"{name}.safetensors"))
    return model.eval()


def sample() -> torch.Tensor:
    """(1, 3, SIZE, SIZE) in [0, 1], the ground dark as in the images that were learnt from."""
    image = torch.from_numpy(draw_nuclei()[0]).float()[None, None] / 255
    small = torch.nn.functional.interpolate(image, (SIZE, SIZE), mode="area")
    return (small - small.median()).clamp(min=0).repeat(1, 3, 1, 1)


def look(name: str, models: Path) -> tuple[np.ndarray, np.ndarray, list[Record]]:
    """Picture (H, W), logits (H, W) and the chosen records."""
    model, x = network(name, models), sample()
    if name == tasks.STACKED:
        x, _ = tasks.shots((x, torch.zeros(1, SIZE, SIZE)), 1)
    place = tuple((p + 0.5) / SIZE for p in ASKED)
    query = (0.1, *place) if name == tasks.STACKED else place
    with torch.no_grad(), recording(model, query) as tape:
        logits = model(x)
    return x[0, 0].numpy(), logits[0, 0].numpy(), chosen(tape.records)


def chosen(records: list[Record]) -> list[Record]:
    """The last of every name, of steps the last step; pictures first, all kinds before a second
    of one, at most as many as fit."""
    last = list({r.name: r for r in records}.values())
    last.sort(key=lambda r: (not over_image(r), r.kind == "row"))
    first = list({r.kind: r for r in reversed(last)}.values())[::-1]
    rest = [r for r in last if r not in first]
    kept = [*first, *rest][: PANELS - 1]
    return [r for r in last if r in kept]


# --- drawing --------------------------------------------------------------------------------------


def draw(name: str, picture: np.ndarray, logits: np.ndarray, records: list[Record]) -> bytes:
    """A PNG with a palette, small enough for the pages."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = 1 + len(records)
    figure = Figure(figsize=(2.05 * count, 2.62), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, count, squeeze=False)[0]
    asks = any(r.kind in ("row", "cross") for r in records)
    _image(panels[0], picture, logits, asks)
    for axes, record in zip(panels[1:], records, strict=True):
        _record(axes, record)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return _small(buffer)


def _small(buffer: io.BytesIO) -> bytes:
    with Image.open(buffer) as whole:
        plain = whole.convert("RGB")
    for colours in (128, 96, 64, 48, 32, 24, 16):
        out = io.BytesIO()
        plain.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if len(out.getvalue()) <= MOST_BYTES:
            return out.getvalue()
    raise ValueError(f"got {len(out.getvalue())} bytes, expected at most {MOST_BYTES}")


def _image(axes: Any, picture: np.ndarray, logits: np.ndarray, asks: bool) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=np.percentile(picture, 99.8))
    if (logits > 0).any() and (logits < 0).any():
        axes.contour(logits, [0], colors=["#37c871"], linewidths=0.8)
    if asks:
        _ring(axes, 1)
    axes.set_axis_off()
    axes.set_title("image and mask", fontsize=8, color=INK)


def _ring(axes: Any, stride: float) -> None:
    y, x = ((p + 0.5) / stride - 0.5 for p in ASKED)
    axes.plot([x], [y], "o", ms=6, mfc="none", mec="#19c8f0", mew=1.3)


def _record(axes: Any, record: Record) -> None:
    values = record.values[0].float()
    if record.kind == "row" and record.geometry.ndim == 3:
        _slices(axes, record)
    elif over_image(record):
        _over(axes, record, values)
    elif record.kind == "matrix":
        m = values.reshape(values.shape[-2:]).numpy()
        signed = m.min() < -1e-3 * abs(m).max()
        end = float(abs(m).max())
        axes.imshow(m, **({"cmap": "RdBu_r", "vmin": -end, "vmax": end} if signed else MAGMA))
        axes.set_axis_off()
        axes.set_title(f"{record.name}, {m.shape[0]} x {m.shape[1]}\n{_range(m)}", fontsize=8)
    elif record.kind == "axes":
        _profile(axes, record, values.numpy())
    else:
        _bars(axes, record, values.numpy())


MAGMA: dict[str, Any] = {"cmap": "magma"}


def _over(axes: Any, record: Record, values: torch.Tensor) -> None:
    several = record.kind in ("branch", "region", "propagation")
    name = f"{record.name} {record.step}" if record.step else record.name
    if several:
        m = values.argmax(0).numpy()
        words = _wins(axes, record, values, m)
    else:
        m = record.flat[0].float()
        m = _mosaic(m).numpy() if m.ndim == 3 else m.numpy()
        end = float(abs(m).max())
        signed = record.kind == "signed" or m.min() < -1e-3 * end
        look = {"cmap": "PuOr_r", "vmin": -end, "vmax": end} if signed else MAGMA
        if not signed and record.kind == "spatial":  # a few extreme cells would hide the rest
            look = {**look, "vmin": np.percentile(m, 1), "vmax": np.percentile(m, 99)}
        if m.max() - m.min() < EVEN * end:  # rounding is no picture
            look = {**look, "vmin": 0, "vmax": 2 * end}
        axes.imshow(m, **look, interpolation="nearest")
        words = f"{_said(record, name)}\n{_range(m)}"
    if record.kind in ("row", "cross") and record.geometry.ndim == 2:
        _ring(axes, SIZE / m.shape[-1])
    axes.set_axis_off()
    axes.set_title(words, fontsize=8, color=INK)


def _wins(axes: Any, record: Record, values: torch.Tensor, winner: np.ndarray) -> str:
    """Who wins where; where one wins everywhere, its share."""
    first = int(winner.flat[0])
    if (winner != first).any():
        end = max(len(values) - 1, 19)
        axes.imshow(winner, cmap="tab20", vmin=0, vmax=end, interpolation="nearest")
        return f"{record.name}: which\nof {len(values)} wins where"
    share = values[first].numpy()
    axes.imshow(share, **MAGMA, interpolation="nearest")
    who = record.labels[first] if record.labels else str(first + 1)
    return f"{record.name}: share of {who}\n{_range(share)}"


def _said(record: Record, name: str) -> str:
    if record.geometry.ndim == 3:
        return f"{name}, {len(record.flat[0])} slices"
    return f"{name} of the ring" if record.kind in ("row", "cross") else name


def _mosaic(slices: torch.Tensor) -> torch.Tensor:
    """Four slices as a picture of two by two."""
    return torch.cat([torch.cat([*slices[:2]], 1), torch.cat([*slices[2:4]], 1)], 0)


def _slices(axes: Any, record: Record) -> None:
    """What the ring's pixel takes from the same pixel of every slice."""
    volume = record.flat[0].float()
    y, x = (p * n // SIZE for p, n in zip(ASKED, volume.shape[1:], strict=True))
    axes.bar(range(1, len(volume) + 1), volume[:, y, x].numpy(), color=BAR, width=0.8)
    _plain(axes)
    axes.set_title("row of the ring in slice 1:\nshare of every slice", fontsize=8, color=INK)


def _profile(axes: Any, record: Record, values: np.ndarray) -> None:
    mean = values.mean(0)
    axes.fill_between(range(len(mean)), values.min(0), values.max(0), color=BAR, alpha=0.25, lw=0)
    axes.plot(mean, color=BAR, lw=1.2)
    _plain(axes)
    words = "rows" if record.axis == 0 else "columns"
    axes.set_title(f"{record.name}: along the {words},\n{len(values)} channels", fontsize=8)


def _bars(axes: Any, record: Record, values: np.ndarray) -> None:
    heights = values.mean(1) if values.ndim == 2 else values
    axes.bar(range(len(heights)), heights, color=BAR, width=0.8)
    low, high = float(heights.min()), float(heights.max())
    axes.set_ylim(min(0.0, low), max(high, 0.0) * 1.05 + 1e-9)
    few = len(record.labels) == len(heights) <= 6
    axes.set_xticks(range(len(heights)) if few else [0, len(heights) - 1])
    labels = record.labels if few else ("1", str(len(heights)))
    axes.set_xticklabels([word.replace(" ", "\n") for word in labels], fontsize=6)
    _plain(axes)
    axes.set_title(f"{record.name}\n{_range(heights)}", fontsize=8, color=INK)


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=6, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_box_aspect(1)


def _range(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.2g} to {high:.2g}"


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    there = sorted(path.stem for path in given.models.glob("*.safetensors"))
    for name in given.only or there:
        png = draw(name, *look(name, given.models))
        (given.out / f"{name}.png").write_bytes(png)
        print(name, len(png), flush=True)


if __name__ == "__main__":
    main()
