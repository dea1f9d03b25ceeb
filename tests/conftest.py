"""Shared fixtures. napari's settings go to a temporary file before napari is imported."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

import pytest

_CONFIG = tempfile.mkdtemp(prefix="attnseg-test-")
os.environ["NAPARI_CONFIG"] = os.path.join(_CONFIG, "settings.yaml")
os.environ["SOURCE_DATE_EPOCH"] = "1700000000"  # equal masks are equal files, whatever the hour
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads that wait for each other stall

if importlib.util.find_spec("napari") is None:  # the headless half is tested without napari
    collect_ignore = ["viewer", "widgets"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images with ground truth beside the checkout; the test is skipped without them."""
    if not DATA.is_dir():
        pytest.skip(f"real data folder is absent ({DATA.name} beside the checkout)")
    return DATA


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight ``smooth_unet`` (width 1/8, stride 8, one channel, one class) on disk."""
    import torch

    from napari_attnseg.cards import Card
    from napari_attnseg.models.base import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint
    from napari_attnseg.settings import Preprocessing, Tuning

    torch.manual_seed(0)
    model = create_model(
        "smooth_unet", in_channels=1, classes=1, width=0.125, stride=8, rule="authors"
    )
    with torch.no_grad():
        model.attention.gamma.fill_(1.0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    card = Card(
        spec=model.spec.to_json(),
        preprocessing=Preprocessing(),
        class_names=("background", "nuclei"),
        tuning=Tuning.of(threshold=0.1, rule="authors", gamma=1.0),
        title="tiny",
    )
    save_checkpoint(path, model, card)
    return path
