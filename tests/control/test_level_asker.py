"""Maps of every level and comparisons of values, through the real engine in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.cards import Card
from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.level_asker import LevelAsker
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import Event, Failed, Finished, ImageRef, Request
from napari_attnseg.control.questions import Cka, CkaDone, LevelMapsDone, StepDone
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.settings import Preprocessing, Tuning
from two_gates import two_gates

IMAGE = np.random.default_rng(0).random((3, 25, 13)).astype(np.float32)


@pytest.fixture
def client() -> Iterator[InProcessClient]:
    made = InProcessClient()
    yield made
    made.close()


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from napari_attnseg.models import base, checkpoint

    monkeypatch.setitem(base._REGISTRY, "two_gates", two_gates)
    model = base.create_model("two_gates")
    card = Card(spec=model.spec.to_json(), preprocessing=Preprocessing(intensity="unit"))
    checkpoint.save_checkpoint(tmp_path / "two.safetensors", model, card)
    return tmp_path / "two.safetensors"


@pytest.fixture
def live(client: InProcessClient, checkpoint: Path, tmp_path: Path) -> Iterator[LiveController]:
    scratch = Scratch(tmp_path / "scratch")
    made = LiveController(client, scratch)
    made.open_image(IMAGE)
    made.set_model(str(checkpoint), "cpu", Tuning.of(level_1=1.0, level_2=1.0))
    yield made
    scratch.close()


def asked(live: LiveController, *at: int) -> tuple[LevelMapsDone, tuple[np.ndarray, ...]]:
    asker = LevelAsker(live)
    seen: list[Any] = []
    asker.done.connect(lambda *answer: seen.append(answer))
    asker.ask(*at)
    asker.close()
    assert len(seen) == 1
    event, maps = seen[0]
    return event, maps


def test_maps_of_the_seen_slice_come_with_their_place(live: LiveController) -> None:
    live.set_slice(2)
    event, maps = asked(live)
    assert (event.z, event.y) == (2, -1)
    assert [(m.place, m.name, m.kind) for m in event.maps] == [
        ("skip.gate", "mean", "spatial"),
        ("skip.gate", "deviation", "signed"),
        ("skip.gate", "weights", "channel"),
        ("deep", "mean", "spatial"),
        ("deep", "deviation", "signed"),
        ("deep", "weights", "channel"),
    ]
    assert event.maps[0].title == "skip 1, 1/2 resolution"
    assert (event.maps[3].scale, event.maps[3].offset) == ((6.0, 6.0), (2.5, 2.5))
    assert maps[0].shape == (18, 12)  # 36 x 24 pixels with the padding
    assert maps[0][3, 2] == pytest.approx(IMAGE[2, 6:8, 4:6].mean())


def test_a_pixel_brings_its_rows(live: LiveController) -> None:
    event, maps = asked(live, 7, 5)
    both = zip(event.maps, maps, strict=True)
    rows = [(f.place, np.argwhere(m)) for f, m in both if f.kind == "row"]
    assert [place for place, _ in rows] == ["skip.gate", "deep"]
    assert [cells.tolist() for _, cells in rows] == [[[3, 2]], [[1, 0]]]


def test_a_refused_question_is_told_and_the_next_one_is_answered(live: LiveController) -> None:
    asker = LevelAsker(live)
    failed: list[Failed] = []
    done: list[Any] = []
    asker.failed.connect(failed.append)
    asker.done.connect(lambda *a: done.append(a))
    asker.ask(99, 0)
    asker.ask()
    asker.close()
    assert "outside the slice" in failed[0].message
    assert len(done) == 1


def test_before_and_after_a_level(live: LiveController) -> None:
    seen: list[Any] = []
    live.retuned.connect(lambda *a: seen.append(a))
    live.set_tuning(live.state.tuning.replace(cut=0.6))
    live.compare(True, level_1=0.0)
    event, labels, _, before = seen[-1]
    live.compare(False)
    live.set_tuning(live.state.tuning.replace(level_1=0.0))
    np.testing.assert_array_equal(before, seen[-1][1])
    gained = np.count_nonzero((labels > 0) & (before == 0))
    assert 0 < gained == event.gained
    assert event.lost == np.count_nonzero((labels == 0) & (before > 0))
    assert event.kept == np.count_nonzero((labels > 0) & (before > 0))
    assert seen[-1][3] is None


def test_comparing_with_plain_attention_needs_a_threshold(live: LiveController) -> None:
    failed: list[Failed] = []
    live.failed.connect(failed.append)
    live.compare(True)
    assert "no threshold" in failed[0].message


def run(client: InProcessClient, request: Request) -> list[Event]:
    events: list[Event] = []
    stop = client.subscribe(events.append)
    client.send(request)
    stop()
    return events


def image_ref(path: Path, shape: tuple[int, ...], rgb: bool = False) -> ImageRef:
    image = np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)
    np.save(path, image)
    return ImageRef("k", str(path), rgb)


@pytest.mark.parametrize("shape", [(1, 64, 96), (5, 40, 32)])
def test_cka_of_a_checkpoint_with_itself(
    client: InProcessClient, tiny_checkpoint: Path, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    image = image_ref(tmp_path / "image.npy", shape)
    wish = Cka(model_a=str(tiny_checkpoint), image=image, out=str(tmp_path / "cka"), size=32)
    events = run(client, wish)
    assert [type(e).__name__ for e in events] == ["Started", "StepDone", "CkaDone", "Finished"]
    answer = next(e for e in events if isinstance(e, CkaDone))
    table = json.loads(Path(answer.table).read_text())
    values = np.array(table["values"], float)
    assert table["layers_a"] == table["layers_b"]
    assert table["images"] == (16 if shape[0] == 1 else 5)  # a batch of 24 crops
    np.testing.assert_allclose(np.diagonal(values), 1, atol=1e-6)
    assert values.min() < 0.99
    assert Path(answer.picture).stat().st_size > 10_000


def test_cka_can_be_stopped(client: InProcessClient, tiny_checkpoint: Path, tmp_path: Path) -> None:
    image = image_ref(tmp_path / "image.npy", (9, 40, 32))
    out = str(tmp_path / "cka")
    number = client.new_id()
    events: list[Event] = []

    def watch(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepDone):
            client.cancel(number)

    client.subscribe(watch)
    client.send(Cka(number, str(tiny_checkpoint), image=image, out=out, size=32, batch=4))
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "cancelled"
    assert not any(isinstance(e, CkaDone) for e in events)


def test_cka_of_too_small_an_image_is_refused(
    client: InProcessClient, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    image = image_ref(tmp_path / "image.npy", (1, 20, 40))
    events = run(client, Cka(model_a=str(tiny_checkpoint), image=image, out=str(tmp_path / "o")))
    assert isinstance(events[-1], Failed)
    assert "larger image" in events[-1].message


def test_a_model_is_weighed_and_its_options_checked(client: InProcessClient) -> None:
    from napari_attnseg.control.questions import Weigh, Weighed

    options = {"attention": "pwa", "plan": "narrow"}
    told = run(client, Weigh(0, "dense_unet", options, 3, 2, (64, 96)))
    assert isinstance(told[0], Weighed)
    from napari_attnseg.models import create_model
    from napari_attnseg.models.macs import count_macs

    model = create_model("dense_unet", in_channels=3, classes=2, **options)
    found = told[0].data
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["macs"] == count_macs(model, (64, 96))
    assert [p["stride"] for p in found["places"]] == [2, 4, 8, 16]
    (refused,) = run(client, Weigh(0, "pam_unet", {"gate": "window"}))
    assert isinstance(refused, Failed)
    assert "cross" in refused.message
