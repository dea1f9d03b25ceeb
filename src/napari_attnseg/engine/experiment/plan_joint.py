"""The plan of Joint Attention's experiment: forms and structures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from napari_attnseg.engine.experiment import published
from napari_attnseg.engine.experiment.plan import Plan, Row, Scale, Table, scaled
from napari_attnseg.models.base import model_options
from napari_attnseg.settings import Preprocessing, recipe

STRUCTURES = tuple(range(1, 10))


COLUMNS = ("dice", "precision", "recall", "specificity", "accuracy", "auc")
FORMS = (("DenseUNet", "none"), ("DenseUNet-SA", "sa"), ("DenseUNet-PWA", "pwa"))


def joint_attention(scale: Scale, base: Preprocessing | None) -> Plan:
    """DenseUNet, -SA, -PWA, -JA; then the nine structures (the default one is the JA row)."""
    default = int(model_options("dense_unet")["structure"])
    rows = [_row(scale, base, key, label, attention=key) for label, key in FORMS]
    for n in sorted(STRUCTURES, key=lambda n: n != default):  # the JA row before its ablation
        own = {"attention": "ja", "structure": n}
        rows.append(_row(scale, base, f"ja_{n}", f"structure {n}", **own))
    forms = (*FORMS, ("DenseUNet-JA", f"ja_{default}"))
    title = "Joint Attention in DenseUNet"
    return Plan("joint-attention", title, tuple(rows), _tables(forms, default), scale.seeds)


def _row(scale: Scale, base: Preprocessing | None, key: str, label: str, **options: Any) -> Row:
    start = recipe("joint-attention")
    full = replace(start, options={**start.options, **options})
    return Row(key, label, scaled(full, scale, base), full)


def _tables(forms: tuple[tuple[str, str], ...], default: int) -> tuple[Table, Table]:
    structures = tuple((f"structure {n}", f"ja_{n}") for n in STRUCTURES)
    first = Table(
        f"Forms of attention (JA: structure {default})",
        forms,
        COLUMNS,
        published.JOINT_ISIC,
        "published: ISIC-2017",
        costs=True,
        baseline="DenseUNet",
    )
    return first, Table("The nine structures of Joint Attention", structures, COLUMNS)
