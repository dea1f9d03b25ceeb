"""The plan of PAM-UNet's experiment: Tables I and II."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from napari_attnseg.engine.experiment import published
from napari_attnseg.engine.experiment.plan import Figures, Plan, Row, Scale, Table, scaled
from napari_attnseg.models.base import list_models
from napari_attnseg.settings import Preprocessing, recipe

Lines = tuple[tuple[str, str, dict[str, Any]], ...]
"""Label, model and options."""
Entries = tuple[tuple[str, str], ...]
TABLE_1: Lines = (
    ("PAM-UNet", "pam_unet", {"gate": "pla"}),
    ("Mobile-UNet", "mobile_unet", {}),
    ("U-Net (ResNet-50)", "unet_resnet50", {}),
    ("DeepLabv3+", "deeplabv3plus", {}),
    ("FCN-8s", "fcn8s", {}),
    ("HRNet", "hrnet", {}),
    ("ResUNet", "resunet", {}),
    ("Attention U-Net", "attention_unet", {}),
)
TABLE_2: Lines = (
    ("M encoder", "mobile_unet", {}),
    ("M encoder-decoder", "pam_unet", {"gate": "none"}),
    ("+ self", "pam_unet", {"gate": "self"}),
    ("+ cross", "pam_unet", {"gate": "cross"}),
    ("+ additive", "pam_unet", {"gate": "additive"}),
    ("+ PLA", "pam_unet", {"gate": "pla"}),
)


COLUMNS, NOTE = ("dice", "iou", "miou", "recall"), "published: LiTS (liver), FLOPS in 10^9"


def pam_unet(scale: Scale, base: Preprocessing | None) -> Plan:
    """Table I (against seven networks) and Table II (ablation of the gate)."""
    rows: dict[str, Row] = {}
    left_out: list[str] = []
    first, second = (_entries(t, scale, base, rows, left_out) for t in (TABLE_1, TABLE_2))
    tables = (
        _table("Table I: against other networks", first, published.PAM_TABLE_1, "PAM-UNet"),
        _table("Table II: what each part adds", second, published.PAM_TABLE_2, TABLE_2[1][0]),
    )
    title = "PAM-UNet: Tables I and II"
    return Plan("pam-unet", title, tuple(rows.values()), tables, scale.seeds, tuple(left_out))


def _entries(
    wanted: Lines,
    scale: Scale,
    base: Preprocessing | None,
    rows: dict[str, Row],
    left_out: list[str],
) -> Entries:
    """Lines of a table; adds to ``rows`` those that it does not share with another table."""
    here, found = set(list_models()), []
    for label, model, options in wanted:
        if model not in here:
            left_out.append(f"{label}: there is no model {model} in this installation")
            continue
        key = "_".join((model, *options.values()))
        start = replace(recipe("pam-unet"), model=model, options=options)
        rows.setdefault(key, Row(key, label, scaled(start, scale, base), start))
        found.append((label, key))
    return tuple(found)


def _table(title: str, entries: Entries, figures: Mapping[str, Figures], baseline: str) -> Table:
    return Table(title, entries, COLUMNS, figures, NOTE, costs=True, baseline=baseline)
