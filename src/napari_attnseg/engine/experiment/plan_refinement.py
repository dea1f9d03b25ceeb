"""The plan of the refinement experiment: CSPN and DySPN on one coarse U-Net, and their controls.

All rows of a seed stand on the same coarse checkpoint, so that their differences are those of the
refinements. The controls share the guidance network and its training with CSPN and DySPN:

- *second U-Net*: its output is added to the coarse logits; nothing is carried anywhere;
- *fold form*: the published operator, which puts every product back on the pixel it came from;
- *coarse trained on*: the same loss and epochs with propagation switched off. Weights that all
  stand on the pixel itself give the coarse map back, so what learns is the coarse model;
- *random walker*: a classical peer, seeded by the pixels that the coarse model is sure of.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from napari_attnseg.engine.experiment import published
from napari_attnseg.engine.experiment.plan import Plan, Row, Scale, Table, scaled
from napari_attnseg.settings import Preprocessing, TrainSettings

COARSE = "coarse"
ITERATIONS = 6
COARSE_EPOCHS, EPOCHS = 3, 40
_START = TrainSettings(
    model="unet",
    options={"width": 1.0, "levels": 4},
    preprocessing=Preprocessing(
        channels=3, intensity="unit", mean=(0.0,) * 3, std=(1.0,) * 3, size=256
    ),
    epochs=COARSE_EPOCHS,
    lr=1e-3,
)
"""The report's coarse model: a full U-Net on 256 x 256 pixels, Adam at 1e-3, batches of 8."""
_REFINER: dict[str, Any] = {"width": 1.0, "levels": 4, "iterations": ITERATIONS}
ROWS: tuple[tuple[str, str, str, bool], ...] = (
    ("cspn", "CSPN", "cspn", True),
    ("dyspn", "DySPN", "dyspn", True),
    ("second", "second U-Net", "none", True),
    ("cspn_fold", "CSPN, fold form", "cspn_fold", True),
    ("dyspn_fold", "DySPN, fold form", "dyspn_fold", True),
    ("trained_on", "coarse trained on", "off", False),
)
"""Key, label, ``refine`` option, and whether the coarse model stays frozen."""
ITERATED = ("CSPN", "DySPN", "CSPN, fold form", "DySPN, fold form")
METRICS = ("iou", "gain", "better", "miou", "dice", "boundary")
NOTE = (
    "published: Oxford-IIIT Pet, 3312 training images of 256 pixels, one training each; what the "
    "report calls mIoU is the mean over images of the foreground's IoU. Its CSPN and DySPN were "
    "in fold form. Its example Abyssinian_100: coarse 0.66, CSPN 0.79, DySPN 0.43"
)


def refinement(scale: Scale, base: Preprocessing | None) -> Plan:
    """The coarse U-Net, CSPN, DySPN, the controls and a random walker."""
    first = replace(scale, epochs=scale.coarse_epochs, changes=_without_epochs(scale))
    coarse = scaled(_START, first, base)
    rows = [Row(COARSE, "coarse U-Net", coarse, _START)]
    for key, label, refine, frozen in ROWS:
        full = _refiner(_START, refine, frozen)
        here = scaled(full, scale, base)
        here = replace(here, options={**here.options, **_own(coarse, refine, frozen)})
        rows.append(Row(key, label, here, full, coarse=COARSE))
    walker = Row("walker", "random walker", coarse, _START, coarse=COARSE, peer="random_walker")
    rows.append(walker)
    title = "Refinement: CSPN and DySPN on a coarse U-Net"
    iterations = int(scale.options.get("iterations", ITERATIONS))
    return Plan("refinement", title, tuple(rows), _tables(rows, iterations), scale.seeds)


def _without_epochs(scale: Scale) -> dict[str, Any]:
    return {name: value for name, value in scale.changes.items() if name != "epochs"}


def _own(coarse: TrainSettings, refine: str, frozen: bool) -> dict[str, Any]:
    """The options that make a row what it is."""
    spec = {"name": coarse.model, "options": dict(coarse.options)}
    return {"coarse": json.dumps(spec, sort_keys=True), "refine": refine, "frozen": frozen}


def _refiner(coarse: TrainSettings, refine: str, frozen: bool) -> TrainSettings:
    """The report's: 40 epochs, otherwise as the coarse model."""
    options = {**_REFINER, **_own(coarse, refine, frozen)}
    return replace(coarse, model="refined", options=options, epochs=EPOCHS, coarse=COARSE)


def _tables(rows: list[Row], iterations: int) -> tuple[Table, ...]:
    entries = tuple((row.label, row.key) for row in rows)
    steps = tuple(f"iou@{t}" for t in range(iterations + 1))
    return (
        Table(
            "Refinements and controls",
            entries,
            METRICS,
            published.REFINEMENT,
            NOTE,
            costs=True,
            baseline="coarse U-Net",
        ),
        Table(
            "IoU after every iteration",
            tuple(entry for entry in entries if entry[0] in ITERATED),
            steps,
            curve=True,
        ),
    )
