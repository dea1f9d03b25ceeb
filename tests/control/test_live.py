"""The live lane with the real engine in this process and a tiny real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.control.client import InProcessClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.messages import (
    Event,
    Failed,
    Predict,
    Request,
    Retune,
    Retuned,
    SliceDone,
)
from napari_attnseg.control.questions import Forecasted
from napari_attnseg.control.scratch import KEPT_FOLDERS, Scratch
from napari_attnseg.control.state import outward
from napari_attnseg.control.volumes import result_bytes
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.settings import PLAIN_THRESHOLD, Tuning

SHAPE = (3, 45, 61)
TUNING = Tuning.of(threshold=0.1, rule="authors", gamma=1.0)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    made = Scratch(tmp_path / "scratch")
    yield made
    made.close()


@pytest.fixture
def client() -> Iterator[InProcessClient]:
    made = InProcessClient()
    yield made
    made.close()


@pytest.fixture
def image() -> np.ndarray:
    """Blobs on noise: both classes occur."""
    z, y, x = np.indices(SHAPE)
    waves = np.sin(y / 4) + np.cos(x / 5 + z)
    return (waves + np.random.default_rng(0).normal(0, 0.2, SHAPE)).astype(np.float32)


SIGNALS = (
    "started",
    "slice_done",
    "note",
    "finished",
    "failed",
    "retuned",
    "fingerprinted",
    "row_done",
    "objects_done",
    "described",
    "diagnosed",
    "engine_lost",
    "busy_changed",
    "state_changed",
)


class Seen(dict[str, list[tuple[Any, ...]]]):
    """What every signal carried."""

    def __init__(self, live: LiveController) -> None:
        super().__init__({name: [] for name in SIGNALS})
        for name in SIGNALS:
            getattr(live, name).connect(
                lambda *what, name=name: self[name].append(what), check_nargs=False
            )


@pytest.fixture
def live(
    client: InProcessClient, scratch: Scratch, image: np.ndarray, tiny_checkpoint: Path
) -> LiveController:
    made = LiveController(client, scratch)
    made.open_image(image)
    made.set_model(str(tiny_checkpoint), "cpu", TUNING)
    return made


@pytest.fixture
def session(image: np.ndarray, tiny_checkpoint: Path) -> Session:
    """The same model and image without any engine around."""
    made = Session(tiny_checkpoint, device="cpu")
    made.set_image(image)
    return made


@pytest.fixture
def tuning(session: Session) -> Tuning:
    """A cut at which a random model's mask is neither empty nor full."""
    probability = session.predict(0, TUNING).probability
    return TUNING.replace(cut=float(np.median(probability)))


def test_seen_slice_first_then_outward() -> None:
    assert outward(2, 6) == (2, 1, 3, 0, 4, 5)
    assert outward(0, 3) == (0, 1, 2)
    assert outward(0, 1) == (0,)


def test_a_run_gives_what_a_session_gives(
    live: LiveController, session: Session, tuning: Tuning
) -> None:
    seen = Seen(live)
    live.set_tuning(tuning)
    live.set_slice(1)
    live.run()
    assert [e.z for (e,) in seen["slice_done"]] == [1, 0, 2]
    assert [busy for (busy,) in seen["busy_changed"]] == [True, False]
    results = live.state.results
    assert results is not None
    for z in range(3):
        expected = session.predict(z, tuning)
        assert len(np.unique(expected.labels)) == 2
        for name in ("labels", "probability", "step", "received"):
            array = results.array(name)
            assert array is not None
            np.testing.assert_array_equal(array[z], getattr(expected, name))
    place = session.map_scale()
    assert (results.grid, results.map_scale) == (place.grid, place.scale)
    assert results.map_offset == place.offset
    (finished,) = seen["finished"][0]
    assert finished.reason == "done"
    assert finished.summary["provenance"]["tuning"]["threshold"] == 0.1


def test_retuning_gives_labels_probability_and_counts(
    live: LiveController, session: Session, tuning: Tuning
) -> None:
    seen = Seen(live)
    tuning = tuning.replace(rule="paper", gamma=0.9, threshold=0.0)
    live.compare(True)
    live.set_tuning(tuning, z=2)
    event, labels, probability, plain = seen["retuned"][-1]
    expected = session.predict(2, tuning)
    without = session.predict(2, tuning.replace(threshold=PLAIN_THRESHOLD))
    assert not np.array_equal(expected.labels, without.labels)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(probability, expected.probability)
    np.testing.assert_array_equal(plain, without.labels)
    comparison = session.compare(2, tuning)
    assert (event.gained, event.lost, event.kept) == comparison.counts
    assert event.area == np.count_nonzero(labels)
    assert (event.over, event.cells) == (expected.over, expected.step.size)
    live.compare(False)
    assert seen["retuned"][-1][3] is None


def test_a_moved_threshold_wakes_nothing_heavy(live: LiveController) -> None:
    seen = Seen(live)
    live.run()
    live.set_tuning(TUNING.replace(threshold=0.0))
    assert seen["retuned"][-1][0].woken
    assert not {"encode", "attend"} & set(seen["retuned"][-1][0].woken)


def test_release_brings_the_volume_along_in_the_same_files(
    live: LiveController, session: Session, tuning: Tuning
) -> None:
    live.run()
    before = live.state.results
    assert before is not None
    moved = tuning
    live.set_tuning(moved)
    seen = Seen(live)
    live.release()
    assert live.state.results == before
    assert len(seen["slice_done"]) == 3
    labels = before.array("labels")
    assert labels is not None
    for z in range(3):
        expected = session.predict(z, moved).labels
        assert not np.array_equal(expected, session.predict(z, TUNING).labels)
        np.testing.assert_array_equal(labels[z], expected)


def test_release_after_a_broken_run_still_completes_the_maps(live: LiveController) -> None:
    live.slice_done.connect(lambda e: e.done == 1 and live.cancel())
    live.run()
    live.slice_done.disconnect()
    live.release()
    assert live.state.results is not None
    received = live.state.results.array("received")
    assert received is not None
    assert [bool(r.any()) for r in received] == [True] * 3


def test_what_the_session_noticed_is_told_once_per_image(
    live: LiveController, client: InProcessClient
) -> None:
    seen = Seen(live)
    colour = np.random.default_rng(0).integers(0, 255, (1, 20, 20, 3), np.uint8)
    live.open_image(colour, rgb=True)
    for cut in (0.3, 0.4, 0.5):
        live.set_tuning(TUNING.replace(cut=cut))
    assert ["luminance" in text for (text,) in seen["note"]] == [True]
    live.open_image(255 - colour, rgb=True)
    live.request_row(1, 1)
    assert len(seen["note"]) == 2


def test_release_before_any_run_asks_nothing(live: LiveController) -> None:
    seen = Seen(live)
    live.release()
    assert not seen["started"]


def test_a_new_run_leaves_older_results_alone(live: LiveController) -> None:
    live.run()
    first = live.state.results
    assert first is not None
    kept = np.array(first.array("labels"))
    live.set_tuning(TUNING.replace(cut=0.99))
    live.run()
    assert live.state.results != first
    np.testing.assert_array_equal(first.array("labels"), kept)


def test_scratch_does_not_grow_with_runs(live: LiveController, scratch: Scratch) -> None:
    for number in range(10):
        live.set_tuning(TUNING.replace(cut=0.1 + number / 20))
        live.run()
    assert len(list(scratch.path.glob("run-*"))) == KEPT_FOLDERS


def test_cancel_keeps_what_was_finished(live: LiveController) -> None:
    seen = Seen(live)
    live.slice_done.connect(live.cancel)
    live.run()
    assert len(seen["slice_done"]) == 1
    (finished,) = seen["finished"][0]
    assert finished.reason == "cancelled"
    assert finished.summary["done"] == 1
    assert not live.state.busy


def test_a_broken_run_goes_on_in_its_files(live: LiveController) -> None:
    seen = Seen(live)
    live.slice_done.connect(lambda e: e.done == 2 and live.cancel())
    live.run()
    live.slice_done.disconnect()
    before = live.state.results
    assert before is not None
    live.run()
    assert live.state.results == before
    assert seen["finished"][-1][0].summary["computed"] == 1
    assert ["2 of 3 slices were finished before" in text for (text,) in seen["note"]] == [True]
    live.set_tuning(TUNING.replace(cut=0.2))
    live.run()
    assert live.state.results.folder != before.folder, "another question"
    assert seen["finished"][-1][0].summary["done"] == 3


def test_a_scroll_reorders_what_is_left(live: LiveController, image: np.ndarray) -> None:
    live.open_image(np.concatenate([image] * 4))
    order: list[int] = []

    def scroll(event: SliceDone) -> None:
        order.append(event.z)
        if event.done == 2:
            live.set_slice(8)
        if event.done == 4:
            live.set_slice(8, axis=1)

    live.slice_done.connect(scroll)
    live.run()
    assert order[:4] == [0, 1, 8, 7]
    assert order[4:] == [4, 2, 6, 10, 3, 5, 9, 11]
    live.set_tuning(TUNING.replace(cut=0.3))
    order.clear()
    live.slice_done.disconnect()
    live.slice_done.connect(lambda e: order.append(e.z))
    live.release()
    assert order == [0, 8, 4, 2, 6, 10, 1, 3, 5, 7, 9, 11], "the cut that is seen fills evenly"


def test_a_forecast_comes_before_a_run(live: LiveController, scratch: Scratch) -> None:
    found: list[Any] = []
    live.forecasted.connect(found.append)
    live.set_slice(1)
    live.request_forecast()
    (told,) = found
    assert told.disk_bytes >= result_bytes(SHAPE)
    assert told.memory_bytes > 10 << 20
    assert told.seconds > 0
    assert told.disk_free > 0
    live.forget_image()
    live.request_forecast()
    assert len(found) == 1, "there is nothing to forecast"


def test_live_answers_come_between_slices(live: LiveController) -> None:
    order: list[str] = []
    live.slice_done.connect(lambda e: order.append("slice"))
    live.retuned.connect(lambda *e: order.append("tuned"))

    def drag(event: SliceDone) -> None:
        if event.done == 1:
            for cut in np.linspace(0.4, 0.6, 9):
                live.set_tuning(TUNING.replace(cut=float(cut)))

    live.slice_done.connect(drag)
    live.run()
    assert order == ["slice", "tuned", "tuned", "slice", "slice"]
    assert live.state.tuning.cut == 0.6


def test_a_second_run_replaces_the_first(live: LiveController) -> None:
    seen = Seen(live)
    once: list[int] = []

    def again(event: SliceDone) -> None:
        if not once:
            once.append(live.run())

    live.slice_done.connect(again)
    first = live.run()
    assert len(seen["finished"]) == 1
    assert seen["finished"][0][0].id == once[0] != first
    assert len(seen["slice_done"]) == 4


def test_another_image_silences_answers_to_the_older(
    live: LiveController, image: np.ndarray
) -> None:
    seen = Seen(live)
    live.slice_done.connect(lambda e: e.done == 1 and live.open_image(image[:2, :20, :20] + 0))
    live.run()
    assert len(seen["slice_done"]) == 1
    assert not seen["finished"]
    assert not live.state.busy
    assert live.state.results is None
    assert live.state.shape == (2, 20, 20)
    live.run()
    assert len(seen["slice_done"]) == 3


def test_the_same_pixels_again_disturb_nothing(live: LiveController, image: np.ndarray) -> None:
    live.run()
    before = live.state
    live.open_image(image.copy())
    live.set_model(before.checkpoint, before.device)
    assert live.state == before


def test_pixels_changed_in_place_are_another_image(
    live: LiveController, image: np.ndarray, tiny_checkpoint: Path, tuning: Tuning
) -> None:
    live.set_tuning(tuning)
    live.run()
    image[0] = -image[0]
    live.open_image(image)
    live.run()
    fresh = Session(tiny_checkpoint, device="cpu")
    fresh.set_image(image)
    assert live.state.results is not None
    labels = live.state.results.array("labels")
    assert labels is not None
    np.testing.assert_array_equal(labels[0], fresh.predict(0, tuning).labels)


def test_fingerprint_with_and_without_reference(
    live: LiveController, session: Session, tuning: Tuning
) -> None:
    seen = Seen(live)
    live.set_tuning(tuning)
    live.request_fingerprint(points=16)
    (curves,) = seen["fingerprinted"][-1]
    expected = session.fingerprint(0, tuning, 16)
    assert curves.thresholds == tuple(expected.thresholds)
    assert curves.area == tuple(expected.area)
    assert curves.components == tuple(expected.components)
    assert sorted(curves.step) == sorted(expected.step.ravel().tolist())
    assert curves.dice == ()
    reference = (np.random.default_rng(0).random(SHAPE[1:]) > 0.5).astype(np.uint8)
    live.request_fingerprint(reference, points=16)
    (curves,) = seen["fingerprinted"][-1]
    assert curves.dice == tuple(session.fingerprint(0, tuning, 16, reference).dice)


def test_an_attention_row_and_what_is_received(live: LiveController, session: Session) -> None:
    seen = Seen(live)
    live.request_row(13, 27, z=1)
    event, row, received = seen["row_done"][-1]
    np.testing.assert_array_equal(row, session.attention_row(1, 13, 27, TUNING))
    np.testing.assert_array_equal(received, session.received(1, TUNING))
    assert row.sum() == pytest.approx(1.0, abs=1e-5)
    assert (event.z, event.y, event.x) == (1, 13, 27)
    live.request_row()
    event, row, received = seen["row_done"][-1]
    assert row is None
    np.testing.assert_array_equal(received, session.received(0, TUNING))


def test_objects_are_numbered(live: LiveController) -> None:
    seen = Seen(live)
    labels = np.zeros((1, 9, 9), np.uint8)
    labels[0, 1:3, 1:3] = labels[0, 5:8, 5:8] = 1
    live.split_objects(labels)
    event, ids = seen["objects_done"][-1]
    assert event.count == 2
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(ids > 0, labels > 0)
    live.split_objects(labels, min_size=5)
    assert seen["objects_done"][-1][0].count == 1


def test_the_engine_describes_itself_and_is_remembered(
    live: LiveController, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from napari_attnseg.control import describing

    monkeypatch.setattr(describing, "cache_file", lambda: tmp_path / "c" / "describe.json")
    seen = Seen(live)
    live.describe()
    ((first,),) = seen["described"]
    (model,) = [m for m in first["models"] if m["name"] == "smooth_unet"]
    assert {"threshold", "rule", "gamma"} == {t["name"] for t in model["tunables"]}
    assert {"width", "stride"} <= {a["name"] for a in model["arguments"]}
    assert "smooth" in {a["name"] for a in first["attentions"]}
    assert "cpu" in {d["name"] for d in first["devices"]}
    live.describe()
    assert len(seen["described"]) == 3, "from the disk at once, then fresh"
    (tmp_path / "c" / "describe.json").write_text("{ broken")
    live.describe()
    assert len(seen["described"]) == 4


def test_diagnosis_is_words_and_data(live: LiveController) -> None:
    seen = Seen(live)
    live.diagnose()
    ((event,),) = seen["diagnosed"]
    assert event.report["device"] == "cpu"
    assert event.report["ok"] is True
    assert "torch" in event.text


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        ({"checkpoint": "nonsense"}, "CheckpointError", "nonsense"),
        ({"device": "cuda:7"}, "DeviceError", "cuda:7"),
        ({"tuning": TUNING.replace(wobble=1.0)}, "InputError", "wobble"),
    ],
)
def test_problems_are_one_sentence_and_the_engine_goes_on(
    live: LiveController, change: dict[str, Any], kind: str, word: str
) -> None:
    seen = Seen(live)
    good = live.state
    live.set_model(
        change.get("checkpoint", good.checkpoint),
        change.get("device", good.device),
        change.get("tuning", good.tuning),
    )
    live.run()
    ((event,),) = seen["failed"]
    assert (event.kind, word in event.message) == (kind, True)
    assert "Traceback" in event.report
    assert not live.state.busy
    live.set_model(good.checkpoint, good.device, good.tuning)
    live.run()
    assert len(seen["finished"]) == 1


def test_a_broken_live_question_is_told_once(live: LiveController) -> None:
    seen = Seen(live)
    live.request_row(1000, 0)
    assert len(seen["failed"]) == 1
    live.request_row(3, 3)
    assert len(seen["row_done"]) == 1


def test_asking_without_an_image_is_refused_or_nothing(
    client: InProcessClient, scratch: Scratch
) -> None:
    empty = LiveController(client, scratch)
    seen = Seen(empty)
    with pytest.raises(InputError, match="no image"):
        empty.run()
    empty.release()
    empty.cancel()
    empty.refresh()
    empty.request_row(0, 0)
    empty.request_fingerprint()
    empty.set_tuning(TUNING)
    assert not any(seen[name] for name in SIGNALS if name != "state_changed")


def test_a_full_scratch_refuses_a_run_in_one_sentence(
    live: LiveController, scratch: Scratch
) -> None:
    scratch.cap_bytes = scratch.used_bytes + 1000
    with pytest.raises(InputError, match="scratch space"):
        live.run()
    assert not live.state.busy


def test_a_lost_scratch_file_is_said(live: LiveController) -> None:
    seen = Seen(live)
    assert live.state.image is not None
    Path(live.state.image.path).unlink()
    live.run()
    ((event,),) = seen["failed"]
    assert "open the image again" in event.message


def test_two_controllers_of_one_client_do_not_hear_each_other(
    live: LiveController, client: InProcessClient, scratch: Scratch
) -> None:
    other = LiveController(client, scratch)
    seen = Seen(other)
    live.run()
    live.request_row(1, 1)
    live.set_tuning(TUNING.replace(cut=0.4))
    assert not any(seen.values())
    other.close()


class Held:
    """A client that keeps requests, so that a test can answer late and out of order."""

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.cancelled: list[int] = []
        self.tell: Any = None

    def new_id(self) -> int:
        return len(self.sent) + 100

    def send(self, request: Request) -> int:
        self.sent.append(request)
        return request.id

    def cancel(self, request_id: int, now: bool = True) -> None:
        self.cancelled.append(request_id)

    def subscribe(self, callback: Any) -> Any:
        self.tell = callback
        return lambda: None

    def close(self) -> None:
        pass


def test_one_retune_flies_and_only_the_newest_follows(scratch: Scratch, image: np.ndarray) -> None:
    held = Held()
    live = LiveController(held, scratch)
    live.open_image(image)
    live.set_model("m")
    for cut in (0.1, 0.2, 0.3):
        live.set_tuning(Tuning(cut))
    (first,) = held.sent
    assert isinstance(first, Retune)
    held.tell(Retuned(first.id, buffer=first.buffer))
    _, second = held.sent
    assert isinstance(second, Retune)
    assert second.tuning.cut == 0.3
    assert second.buffer != first.buffer, "the answer being read is never overwritten"
    held.tell(Retuned(second.id, buffer=second.buffer))
    assert len(held.sent) == 2


def test_events_of_a_cancelled_run_and_of_strangers_are_dropped(
    scratch: Scratch, image: np.ndarray
) -> None:
    held = Held()
    live = LiveController(held, scratch)
    live.open_image(image)
    live.set_model("m")
    seen = Seen(live)
    old = live.run()
    new = live.run()
    assert held.cancelled == [old]
    strange: list[Event] = [SliceDone(old, 0), Failed(old), SliceDone(999), Failed(999)]
    for event in strange:
        held.tell(event)
    assert not seen["slice_done"]
    assert not seen["failed"]
    held.tell(SliceDone(new, 2))
    assert seen["slice_done"] == [(SliceDone(new, 2),)]
    assert all(isinstance(r, Predict) for r in held.sent)


def test_a_run_does_not_wait_for_a_forecast(scratch: Scratch, image: np.ndarray) -> None:
    held = Held()
    live = LiveController(held, scratch)
    live.open_image(image)
    live.set_model("m")
    seen: list[Event] = []
    live.forecasted.connect(seen.append)
    live.request_forecast()
    (asked,) = held.sent
    live.run()
    assert held.cancelled == [asked.id]
    held.tell(Forecasted(asked.id))
    assert not seen
    live.request_forecast()
    held.tell(Forecasted(held.sent[-1].id))
    assert len(seen) == 1
