"""The plan of Smooth Attention's experiment: the threshold."""

from __future__ import annotations

from dataclasses import replace

from napari_attnseg.engine.experiment.plan import Plan, Row, Scale, Table, scaled
from napari_attnseg.settings import PLAIN_THRESHOLD, Preprocessing, recipe

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, PLAIN_THRESHOLD)
PLAIN = f"{PLAIN_THRESHOLD:.1f} (plain attention)"


def smooth_attention(scale: Scale, base: Preprocessing | None) -> Plan:
    """Thresholds 0.1 to 0.9 and 2.0 (the paper's rows), and gamma held at 0: no attention."""
    full = recipe("smooth-attention")
    start = replace(scaled(full, scale, base), threshold_draw="fixed")
    rows = []
    for t in THRESHOLDS:
        label = PLAIN if t >= PLAIN_THRESHOLD else f"{t:g}"
        rows.append(Row(f"threshold_{t:g}", label, replace(start, threshold=t), full))
    off = replace(start, threshold=PLAIN_THRESHOLD, gamma_start=0.0, gamma_lr_factor=0.0)
    rows.append(Row("no_attention", "no attention (gamma 0)", off, full))
    table = Table(
        "Thresholds",
        tuple((row.label, row.key) for row in rows),
        ("iou", "dice", "accuracy", "precision", "recall", "f1"),
        baseline=PLAIN,
    )
    title = "Smooth Attention: the threshold (the paper's Tables 1 to 5)"
    return Plan("smooth-attention", title, tuple(rows), (table,), scale.seeds)
