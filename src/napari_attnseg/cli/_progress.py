"""Events of a training as lines of text."""

from __future__ import annotations

import json
from typing import Any

from napari_attnseg.control.checks import OverfitDone, OverfitStep
from napari_attnseg.control.messages import EpochDone, Finished, Note, Started

SHOWN = ("iou", "miou", "accuracy")
"""Figures of every epoch that are printed, besides each Dice."""
EVERY = 10
"""Steps of an overfit check between two lines."""


def describe(event: Any) -> str:
    """One line per event; heartbeats say nothing."""
    if isinstance(event, Started):
        notes = "".join(f"\nnote: {note}" for note in event.notes)
        return f"training on {event.device}, {event.total} epochs{notes}"
    if isinstance(event, EpochDone):
        return _epoch(event)
    if isinstance(event, Note):
        return f"note: {event.text}"
    if isinstance(event, Finished):
        idle = event.reason == "done" and event.summary.get("new_epochs") == 0
        more = " (all epochs were done before; give a larger --epochs to go on)" if idle else ""
        return f"finished: {event.reason}{more}; {json.dumps(event.outputs)}"
    return ""


def describe_check(event: Any) -> str:
    """The same for the check on one image."""
    if isinstance(event, Started):
        notes = "".join(f"\nnote: {note}" for note in event.notes)
        return f"learning one image on {event.device}, at most {event.total} steps{notes}"
    if isinstance(event, OverfitStep) and (event.step % EVERY == 0 or event.step == 1):
        return f"step {event.step}/{event.steps}  loss {event.loss:.4f}  dice {event.dice:.4f}"
    if isinstance(event, OverfitDone):
        return f"{event.text} ({event.seconds:.1f} s)"
    return ""


def _epoch(event: EpochDone) -> str:
    shown = {k: v for k, v in event.validation.items() if k in SHOWN or k.startswith("dice")}
    figures = "  ".join(f"{k} {v:.4f}" for k, v in shown.items())
    gamma = "" if event.gamma is None else f"gamma {event.gamma:+.3f}  "
    own = "" if event.regulariser is None else f"regulariser {event.regulariser:.3g}  "
    return (
        f"epoch {event.epoch}/{event.epochs}  loss {event.loss:.4f}  "
        f"{event.measured_on}: {figures}  {gamma}{own}{event.seconds:.1f} s"
        f"{'  best' if event.best else ''}  {event.seconds_left:.0f} s left"
    )
