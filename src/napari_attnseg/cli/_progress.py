"""Events of a training as lines of text."""

from __future__ import annotations

from typing import Any

from napari_attnseg.control.checks import OverfitDone, OverfitStep
from napari_attnseg.control.messages import EpochDone, Finished, Note, Started

SHOWN = ("iou", "miou", "accuracy")
"""Figures of every epoch that are printed, besides each Dice."""
NOTHING = 0.0005
"""A Dice below this reads 0.000."""
FILES = (("checkpoint", "checkpoint"), ("state", "state for --resume"))
"""Written files by kind, and their names in words."""
EVERY = 10
"""Steps of an overfit check between two lines."""


def describe(event: Any) -> str:
    """One line per event; heartbeats say nothing."""
    if isinstance(event, Started):
        notes = "".join(f"\nnote: {note}" for note in event.notes)
        return f"training on {event.device}, {_counted(event.total, 'epoch')}{notes}"
    if isinstance(event, EpochDone):
        return _epoch(event)
    if isinstance(event, Note):
        return f"note: {event.text}"
    if isinstance(event, Finished):
        return _finished(event)
    return ""


def describe_check(event: Any) -> str:
    """The same for the check on one image."""
    if isinstance(event, Started):
        notes = "".join(f"\nnote: {note}" for note in event.notes)
        return (
            f"learning one image on {event.device}, at most {_counted(event.total, 'step')}{notes}"
        )
    if isinstance(event, OverfitStep) and (event.step % EVERY == 0 or event.step == 1):
        return f"step {event.step}/{event.steps}  loss {event.loss:.4f}  dice {event.dice:.4f}"
    if isinstance(event, OverfitDone):
        return f"{event.text} ({event.seconds:.1f} s)"
    return ""


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _finished(event: Finished) -> str:
    """How it ended, what the best model reaches, and what was written."""
    found = event.summary
    how = "stopped" if event.reason == "cancelled" else "finished"
    lines = [f"{how} after {_counted(found.get('epochs', 0), 'epoch')}"]
    if event.reason not in ("done", "cancelled"):
        lines[0] += f": {event.reason}"
    if event.reason == "done" and found.get("new_epochs") == 0:
        lines[0] += " (all epochs were done before; give a larger --epochs to go on)"
    if found.get("best_epoch"):
        best = found["best_dice"]
        lines.append(
            f"best model: Dice {best:.3f} on {found['measured_on']}, epoch {found['best_epoch']}"
        )
        if best < NOTHING:
            lines.append("the model marks no right pixel yet: train longer, or look with --check")
    lines += [f"{word} written: {event.outputs[k]}" for k, word in FILES if k in event.outputs]
    return "\n".join(lines)


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
