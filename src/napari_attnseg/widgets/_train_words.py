"""Names of model files and sentences about a training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def default_folder() -> str:
    """Where trained models go until the person chooses a folder."""
    return str(Path.home() / "attnseg_models")


def free_path(folder: Path, name: str, tries: int = 1000) -> Path:
    """``<folder>/<name>.safetensors``; numbered when that exists, so that nothing is lost.

    Characters that a file system may refuse become ``_``; ``tries=0``: the plain name.
    """
    stem = re.sub(r"[^\w\-. ]+", "_", name.strip().removesuffix(".safetensors")).strip(" .")
    stem = stem or "my_model"
    plain = folder / f"{stem}.safetensors"
    path, number = plain, 2
    while tries and number < tries and path.exists():
        path, number = folder / f"{stem}_{number}.safetensors", number + 1
    return path


def duration(seconds: float) -> str:
    """``"40 s"``, ``"3 min"``, ``"1.5 h"``; empty below a second."""
    if seconds < 1:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def closing_words(event: Any, path: Path) -> str:
    """Why the training ended and what is kept; ``event``: ``Finished``."""
    reason = str(event.reason)
    epochs = int(event.summary.get("epochs", 0))
    why = {
        "done": f"Finished all {epochs} epochs",
        "cancelled": f"Stopped after {epochs} epochs",
    }.get(reason, reason[:1].upper() + reason[1:])
    if not path.is_file():
        return f"{why}. Nothing was trained yet."
    if reason == "done" and event.summary.get("new_epochs") == 0:
        why += " before; to go on, ask for more epochs and press Resume"
    best = int(event.summary.get("best_epoch", 0))
    if not best:
        return f"{why}; no epoch was completed. The model as it was is in {path.name}."
    dice = float(event.summary.get("best_dice", 0.0))
    # a Dice on what was learnt must not pass for a test
    kept_back = event.summary.get("measured_on", "validation") == "validation"
    where = "validation part" if kept_back else "training pixels themselves; none was kept back"
    return f"{why}. Kept: epoch {best}, {path.name}. Dice {dice:.3f} ({where})."
