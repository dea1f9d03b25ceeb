"""A small refined checkpoint with random guidance, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from napari_attnseg.cards import read_card
from napari_attnseg.engine.coarse import refining
from napari_attnseg.engine.learner import build_model
from napari_attnseg.models.checkpoint import save_checkpoint
from napari_attnseg.settings import recipe


def refined_checkpoint(coarse: Path, out: Path, refine: str = "cspn") -> Path:
    """Three iterations on top of ``coarse``, whose bias is moved so that both classes occur."""
    options = {"width": 0.125, "levels": 2, "iterations": 3}
    settings = refining(replace(recipe("refinement"), options=options), coarse, refine)
    model = build_model(settings)
    with torch.no_grad():
        model.guidance.affinity.weight.mul_(20)
    save_checkpoint(out, model, replace(read_card(coarse), title="refined", tuning=model.tuning()))
    return out
