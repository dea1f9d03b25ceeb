"""The plan of a bake-off: one U-Net with different attention, all else equal.

Every contestant is ``placed_unet`` with its own placements, trained with the same seeds, split and
budget; the plain U-Net is always among them, because the spread over its seeds is the measure of
what a difference means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napari_attnseg.engine.experiment.plan import Plan, Row, Scale, Table, scaled
from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.placement import NATURAL, file_stem, parse_placements, write_placements
from napari_attnseg.settings import Preprocessing, TrainSettings

NAME = "compare"
PLAIN = "plain U-Net"
METRICS = ("dice", "iou", "miou", "precision", "recall")
START = TrainSettings(
    model="placed_unet",
    options={"width": 0.25, "levels": 4, "attention": ""},
    preprocessing=Preprocessing(
        channels=3, intensity="unit", mean=(0.0,) * 3, std=(1.0,) * 3, size=128
    ),
    epochs=30,
    lr=2e-3,
    optimizer="adamw",
    weight_decay=1e-4,
    schedule="onecycle",
    loss="dicece",
    augment=True,
    augmentation="turns",
)
"""The budget of every contestant unless another is asked for."""


def natural(name: str) -> str:
    """The placement of an attention of which only the name was given."""
    from napari_attnseg.attention.base import attention_class

    return f"{NATURAL[attention_class(name).role]}={name}"


def compare(contestants: Sequence[str], scale: Scale, base: Preprocessing | None = None) -> Plan:
    """The bake-off of ``contestants``, each a placement in words (``skip[1:]=cbam``) or the name
    of an attention, which then stands where its role most naturally does.

    Raises ``InputError`` for what cannot be built, for equal contestants, and for none.
    """
    words = [_said(c) for c in contestants]
    if not words:
        raise InputError("got no attention to compare, expected one or more, as skip[1:]=cbam")
    twice = sorted({w for w in words if words.count(w) > 1})
    if twice:
        raise InputError(f"got {twice[0]} twice, expected different contestants")
    rows = [_row(PLAIN, "", scale, base), *(_row(w, w, scale, base) for w in words if w)]
    entries = tuple((row.label, row.key) for row in rows)
    table = Table("Attention compared", entries, METRICS, costs=True, baseline=PLAIN)
    title = "Bake-off: one U-Net, different attention"
    return Plan(NAME, title, tuple(rows), (table,), scale.seeds, go_on=True)


def _said(contestant: str) -> str:
    given = contestant.strip()
    return write_placements(parse_placements(given if "=" in given else natural(given)))


def _row(label: str, attention: str, scale: Scale, base: Preprocessing | None) -> Row:
    settings = scaled(START, scale, base)
    settings = replace(settings, options={**settings.options, "attention": attention})
    if settings.options.get("ndim") == 3:
        raise InputError(
            "got ndim=3 for a bake-off, expected models of slices: it trains and shows contestants "
            "on pictures of one size, which volumes have not; train each 3D model with `train "
            "--option ndim=3 --attention ...` and judge them with `evaluate`"
        )
    try:  # what cannot be built is told before anything is trained
        create_model(
            settings.model,
            in_channels=settings.preprocessing.channels,
            classes=settings.classes,
            **settings.options,
        )
    except InputError as error:
        raise InputError(f"{label}: {error}") from error  # of many, which
    return Row(file_stem(attention), label, settings, settings)
