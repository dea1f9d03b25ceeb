"""Write a checkpoint's test figures into its card, with how far its threshold moves the mask.

    python benchmarks/record_figures.py CHECKPOINT --images DIR --masks DIR [--write]

``moved`` is the part of the mask's pixels that some threshold changes: pixels that differ
between threshold 0 and 2.0 (plain attention), over the pixels of the mask at the default. Under
the rules of ``smooth_unet`` every cell changes at one threshold only, so nothing is missed.
Models without a threshold get ``dice_without_attention`` instead: every ``level_N`` at 0. Refined
models get ``coarse``: the figures of the mask that is refined (0 iterations).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_attnseg.engine.evaluate import evaluate
from napari_attnseg.engine.session import Session
from napari_attnseg.io.image import read_image
from napari_attnseg.io.pairs import pair_folders
from napari_attnseg.models.checkpoint import load_checkpoint, save_checkpoint
from napari_attnseg.settings import PLAIN_THRESHOLD

KEPT = ("dice", "iou", "precision", "recall", "accuracy", "specificity", "f1", "auc", "n")


def moved(session: Session, images: Iterable[Any]) -> float:
    """Changed pixels over mask pixels, summed over all slices of all images."""
    changed = area = 0
    for image in images:
        session.set_image(image)
        for z in range(session.n_slices):
            smooth, plain, default = (
                session.predict(z, tuning).labels
                for tuning in (
                    session.tuning.replace(threshold=0.0),
                    session.tuning.replace(threshold=PLAIN_THRESHOLD),
                    session.tuning,
                )
            )
            changed += int(np.count_nonzero(smooth != plain))
            area += int(np.count_nonzero(default))
    return changed / max(area, 1)


def measure(checkpoint: Any, pairs: tuple[tuple[Path, Path], ...]) -> dict[str, Any]:
    """Test figures at the default tuning; Dice at both ends of the threshold and ``moved``, or
    Dice without attention."""
    session = Session(checkpoint, "cpu")
    result = evaluate(session, pairs)
    found = {name: result[name] for name in (*KEPT, "pooled") if name in result}
    if "per_class" in result:
        found["per_class"] = {k: v["dice"] for k, v in result["per_class"].items()}
    if "iterations" in session.tuning.values:
        coarse = evaluate(session, pairs, tuning=session.tuning.replace(iterations=0))
        own = {"dice": coarse["dice"], "iou": coarse["iou"]}
        return found | {"coarse": own | {"pooled": {k: coarse["pooled"][k] for k in own}}}
    if "threshold" not in session.tuning.values:
        levels = [name for name in session.tuning.values if name.startswith("level_")]
        if levels:
            off = session.tuning.replace(**dict.fromkeys(levels, 0.0))
            found["dice_without_attention"] = evaluate(session, pairs, tuning=off)["dice"]
        return found
    for name, threshold in (("dice_threshold_0", 0.0), ("dice_plain", PLAIN_THRESHOLD)):
        tuning = session.tuning.replace(threshold=threshold)
        found[name] = evaluate(session, pairs, tuning=tuning)["dice"]
    return found | {"moved": moved(session, (read_image(image) for image, _ in pairs))}


def rounded(value: Any) -> Any:
    """Four decimals are enough on a card."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Measure, print, and with ``--write`` keep the figures in the card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--title", help="a new title for the card")
    parser.add_argument("--text", help="new remarks for the card")
    given = parser.parse_args()
    checkpoint = load_checkpoint(given.checkpoint)
    found = rounded(measure(checkpoint, pair_folders(given.images, given.masks).pairs))
    print(json.dumps(found, indent=1))
    if given.write:
        card = checkpoint.card
        card = replace(
            card,
            metrics={**card.metrics, "test": found},
            title=given.title or card.title,
            text=given.text or card.text,
        )
        save_checkpoint(given.checkpoint, checkpoint.model, card)


if __name__ == "__main__":
    main()
