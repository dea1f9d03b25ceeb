"""The paper's table: every figure against the threshold, from one pass of the encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from napari_attnseg.atomic import whole
from napari_attnseg.engine.evaluate import Pair, as_classes, read_pair
from napari_attnseg.engine.metrics import Counts, count, figures, mean_of
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.settings import PLAIN_THRESHOLD, Tuning

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, PLAIN_THRESHOLD)
"""The thresholds of the Smooth Attention paper; 2.0 is plain self-attention."""
COLUMNS = ("iou", "dice", "accuracy", "precision", "recall", "f1")
Row = dict[str, Any]


def sweep(
    checkpoint: Any,
    pairs: Iterable[Pair],
    device: str = "auto",
    tuning: Tuning | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Row]:
    """One row per threshold: mean over images of each figure, and ``changed``.

    ``changed`` is the part of the mask that differs from plain attention: pixels that change
    class, over all images, divided by foreground pixels of the plain mask. Encoder and
    attention run once per slice, whatever the number of thresholds.
    """
    session = checkpoint if isinstance(checkpoint, Session) else Session(checkpoint, device)
    if "threshold" not in session.tuning.values:
        raise InputError("this model has no threshold to sweep; use evaluate instead")
    tuning = session.tuning if tuning is None else tuning
    tunings = [tuning.replace(threshold=float(t)) for t in thresholds]
    per_image: list[list[Counts]] = []
    changed, area = [0] * len(tunings), 0
    for image, mask in pairs:
        counts, moved, plain_area = _one(session, Path(image), Path(mask), tunings)
        per_image.append(counts)
        changed = [a + b for a, b in zip(changed, moved, strict=True)]
        area += plain_area
    if not per_image:
        raise InputError("no image to sweep; expected at least one pair of image and mask")
    return [
        _row(t, [counts[i] for counts in per_image], changed[i] / max(area, 1))
        for i, t in enumerate(thresholds)
    ]


def _one(
    session: Session, image: Path, mask: Path, tunings: list[Tuning]
) -> tuple[list[Counts], list[int], int]:
    """Counts and changed pixels of one image at every tuning, and its plain area."""
    volume, reference = read_pair(image, mask)
    classes = max(2, session.model.spec.classes)
    reference = as_classes(reference, classes, mask.name)
    session.set_image(volume)
    totals: list[Counts | None] = [None] * len(tunings)
    moved, area = [0] * len(tunings), 0
    for z in range(session.n_slices):
        plain = session.predict(z, tunings[0].replace(threshold=PLAIN_THRESHOLD)).labels
        area += int((plain > 0).sum())
        for i, tuning in enumerate(tunings):
            labels = session.predict(z, tuning).labels
            counts = count(labels, reference[z], classes)
            before = totals[i]
            totals[i] = counts if before is None else before + counts
            moved[i] += int((labels != plain).sum())
    return [c for c in totals if c is not None], moved, area


def _row(threshold: float, counts: list[Counts], changed: float) -> Row:
    each = [figures(c) for c in counts]
    means = {name: mean_of(f[name] for f in each) for name in each[0]}
    return {"threshold": float(threshold), **means, "changed": changed, "n": len(counts)}


def to_markdown(rows: Sequence[Row], own: float | None = None) -> str:
    """The rows as a Markdown table, the best IoU in bold; ``own``: the model's own threshold."""
    head = ["threshold", *COLUMNS, "changed"]
    lines = [" | ".join(head), " | ".join(["---:"] * len(head))]
    best = max(row["iou"] for row in rows)
    for row in rows:
        name = f"{row['threshold']:g}"
        notes = ["plain"] if row["threshold"] >= PLAIN_THRESHOLD else []
        notes += ["the model's own"] if row["threshold"] == own else []
        cells = [f"{name} ({', '.join(notes)})" if notes else name]
        for column in COLUMNS:
            text = f"{row[column]:.4f}"
            cells.append(f"**{text}**" if column == "iou" and row["iou"] == best else text)
        lines.append(" | ".join([*cells, f"{100 * row['changed']:.2f} %"]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """IoU, Dice, precision and recall against the threshold as a picture (PNG, SVG or PDF).

    Plain attention (threshold 2.0) is the dashed line.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    inside = [row for row in rows if row["threshold"] < PLAIN_THRESHOLD]
    plain = [row for row in rows if row["threshold"] >= PLAIN_THRESHOLD]
    for name in ("iou", "dice", "precision", "recall"):
        points = [row["threshold"] for row in inside], [row[name] for row in inside]
        (line,) = axes.plot(*points, marker="o", label=name)
        for row in plain:
            axes.axhline(row[name], color=line.get_color(), linestyle="--", linewidth=1)
    axes.set(xlabel="threshold (dashed: plain attention, 2.0)", ylabel="mean over images")
    axes.grid(alpha=0.3)
    axes.legend()
    with whole(Path(path)) as draft:
        figure.savefig(draft, dpi=150)
