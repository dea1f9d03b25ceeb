"""Training and comparing layers: a large image is hashed and copied behind the window."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.control import handover, scratch
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.comparing import CkaController
from napari_attnseg.control.handover import Pixels
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.control.training import TrainingController
from napari_attnseg.errors import InputError
from napari_attnseg.settings import RECIPES

SETTINGS = replace(
    RECIPES["threshold-matters"],
    options={"width": 0.125, "stride": 8},
    epochs=1,
    batch=4,
    crop=None,
    patience=0,
)
LABELS = np.zeros((2, 40, 48), np.uint8)
LABELS[:, 10:30, 10:30] = 1
PIXELS = Pixels(LABELS.astype(np.float32))


class Lane:
    """A training controller whose window does one thing after the other, when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self.client, self.scratch = InProcessClient(), Scratch(folder)
        self.training = TrainingController(self.client, self.scratch, self.calls.put)
        self.cka = CkaController(self.client, self.scratch, self.calls.put)
        self.told: list[Any] = []
        for lane in (self.training, self.cka):
            for name in ("busy_changed", "finished", "failed"):
                getattr(lane, name).connect(self.told.append)

    def arrive(self) -> None:
        """The image has come: the next thing in the window's thread."""
        self.calls.get(timeout=60)()

    @property
    def ends(self) -> list[str]:
        return [
            getattr(e, "reason", getattr(e, "message", "")) for e in self.told if e not in (0, 1)
        ]


@pytest.fixture
def lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    """Every image counts as large."""
    monkeypatch.setattr(handover, "AT_ONCE_BYTES", 0)
    made = Lane(tmp_path / "scratch")
    yield made
    made.client.close()
    made.scratch.close()


@pytest.fixture
def hashed_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads in which pixels were hashed."""
    names: list[str] = []
    plain = scratch.pixel_key

    def noted(array: Any) -> str:
        names.append(threading.current_thread().name)
        return plain(array)

    monkeypatch.setattr(scratch, "pixel_key", noted)
    return names


def test_a_training_starts_when_its_image_has_come(
    lane: Lane, hashed_by: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    assert lane.training.start_layers(SETTINGS, out, PIXELS, LABELS, device="cpu") == 0
    assert lane.training.busy
    assert lane.training.request is None
    with pytest.raises(InputError, match="press Stop"):
        lane.training.start_layers(SETTINGS, out, PIXELS, LABELS, device="cpu")
    lane.arrive()
    assert hashed_by == ["attnseg-handover"]
    assert lane.ends == ["done"]
    assert out.is_file()
    assert not lane.training.busy


def test_a_check_starts_when_its_image_has_come(lane: Lane, hashed_by: list[str]) -> None:
    verdicts: list[Any] = []
    lane.training.overfit_done.connect(verdicts.append)
    lane.training.overfit_step.connect(lambda _: lane.training.stop())
    lane.training.check(SETTINGS, image=PIXELS, labels=LABELS, device="cpu")
    assert lane.training.checking
    lane.arrive()
    assert hashed_by == ["attnseg-handover"]
    assert lane.ends == ["cancelled"]
    assert not lane.training.busy


def test_a_comparison_starts_when_its_image_has_come(
    lane: Lane, hashed_by: list[str], tiny_checkpoint: Path
) -> None:
    pixels = Pixels(np.random.default_rng(0).random((4, 32, 40)).astype(np.float32))
    lane.cka.start(str(tiny_checkpoint), image=pixels, device="cpu")
    assert lane.cka.busy
    lane.arrive()
    assert hashed_by == ["attnseg-handover"]
    assert lane.ends == ["done"]
    assert Path(lane.cka.table).is_file()


def test_stop_while_the_image_is_on_its_way(
    lane: Lane, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    out = tmp_path / "m.safetensors"
    lane.training.start_layers(SETTINGS, out, PIXELS, LABELS, device="cpu")
    lane.training.stop()
    lane.cka.start(str(tiny_checkpoint), image=PIXELS, device="cpu")
    lane.cka.stop()
    assert not lane.training.busy
    assert not lane.cka.busy
    assert lane.told[0] is True
    assert lane.ends == ["cancelled", "cancelled"]
    lane.arrive()
    lane.arrive()
    assert lane.training.request is None, "what was stopped does not come later"
    assert len(lane.ends) == 2
    assert not out.exists()


def test_an_image_that_does_not_come_is_one_sentence(lane: Lane, tmp_path: Path) -> None:
    lane.scratch.cap_bytes = 100
    out = tmp_path / "m.safetensors"
    lane.training.start_layers(SETTINGS, out, PIXELS, LABELS, device="cpu")
    lane.arrive()
    (sentence,) = lane.ends
    assert "scratch space" in sentence
    assert not lane.training.busy
    assert lane.told[-2] is False
