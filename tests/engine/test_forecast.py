"""The forecast against what a run then takes, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asking import TUNING, image_of, noise, only, run_of

from napari_attnseg.control import messages as m
from napari_attnseg.control import questions as q
from napari_attnseg.engine import forecast as module
from napari_attnseg.engine.forecast import resident, watched_memory
from napari_attnseg.engine.service import Engine
from napari_attnseg.settings import Tuning

SHAPE = (9, 33, 41)


@pytest.fixture
def work(tmp_path: Path, tiny_checkpoint: Path) -> q.Forecast:
    ref = image_of(tmp_path, noise(*SHAPE))
    about = {"z": 2, "slices": SHAPE[0], "out": str(tmp_path), "stage_bytes": 1 << 20}
    return q.Forecast(1, ref, str(tiny_checkpoint), "cpu", TUNING, **about)  # type: ignore[arg-type]


def told(engine: Engine, work: q.Forecast) -> q.Forecasted:
    (found,) = only(q.Forecasted, engine.handle(work))
    return found


def test_a_forecast_is_measured_and_its_slice_is_kept(engine: Engine, work: q.Forecast) -> None:
    found = told(engine, work)
    assert found.seconds is not None
    assert found.seconds > 0
    assert "measured on slices 2, 3 and 1" in found.note
    assert found.memory_free > 0
    assert found.disk_free > 0
    (session,) = engine._sessions.kept.values()
    assert session.pipeline.chain.counts["encode"] == 3
    run = run_of(Path(work.out), work.image, work.checkpoint, (2,))
    list(engine.handle(run))
    assert session.pipeline.chain.counts["encode"] == 3, "the run has its first slice at once"


@pytest.mark.parametrize(("busy", "paid"), [((0, 0.4), 0), ((0, 0.4, 0.4), 0.4), ((0, 2.0), 2.0)])
def test_what_other_programs_took_is_not_forecast(
    engine: Engine, work: q.Forecast, monkeypatch: pytest.MonkeyPatch, busy: tuple[float, ...], paid
) -> None:
    """Seconds that the machine spent elsewhere while each slice was computed: of one slice they do
    not count; a slow slice is not followed by a third."""
    from napari_attnseg.engine.session import Session

    real, waits = Session.stepwise, iter((*busy, 0, 0))

    def slow(self, *args, **options):
        time.sleep(next(waits))
        yield from real(self, *args, **options)

    list(engine.handle(work))  # libraries are ready
    again = replace(work, id=2, image=replace(work.image, key="anew"))
    plain = told(engine, replace(again, id=3, image=replace(work.image, key="plain")))
    monkeypatch.setattr(Session, "stepwise", slow)
    seconds = (told(engine, again).seconds or 0) / SHAPE[0]
    assert paid <= seconds < paid + 0.3, plain.seconds


def test_room_for_moved_values_is_told_with_its_limit(engine: Engine, work: q.Forecast) -> None:
    found = told(engine, replace(work, slices=10**6))
    assert found.stage_limit == found.stage_bytes == 1 << 20, "more would be needed"
    assert found.disk_bytes > found.stage_bytes
    few = told(engine, replace(work, id=2))
    assert (few.stage_bytes, few.stage_limit) == (0, 1 << 20), "all of it lies in memory"


def test_the_second_question_measures_nothing(engine: Engine, work: q.Forecast) -> None:
    first = told(engine, work)
    (session,) = engine._sessions.kept.values()
    again = told(engine, replace(work, id=2, slices=18))
    assert session.pipeline.chain.counts["encode"] == 3
    assert again.seconds == pytest.approx(2 * (first.seconds or 0))
    assert again.disk_bytes > first.disk_bytes


def test_a_run_makes_the_pace_more_exact(engine: Engine, work: q.Forecast) -> None:
    told(engine, work)
    run = run_of(Path(work.out), work.image, work.checkpoint, range(SHAPE[0]))
    events = [e for e in engine.handle(run) if isinstance(e, m.SliceDone)]
    heavy = [e.seconds for e in events if e.z not in (0, 1, 2, 3)]  # waited for; known before
    found = told(engine, work)
    assert "measured on the last run" in found.note
    assert found.seconds == pytest.approx(SHAPE[0] * np.median(heavy))
    list(engine.handle(replace(run, id=3, tuning=TUNING.replace(threshold=0.3))))
    assert told(engine, work).seconds == found.seconds, "a moved threshold is no pace of a run"


def test_the_disk_is_what_a_run_writes(engine: Engine, work: q.Forecast, tmp_path: Path) -> None:
    found = told(engine, work)
    list(engine.handle(run_of(tmp_path, work.image, work.checkpoint, range(SHAPE[0]))))
    written = sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    assert found.disk_bytes == pytest.approx(written, rel=0.15)


def test_one_slice_is_forecast_too(engine: Engine, work: q.Forecast, tmp_path: Path) -> None:
    ref = image_of(tmp_path, np.zeros((1, 33, 41), np.float32), "one")
    found = told(engine, replace(work, image=ref, z=0, slices=1, out=""))
    assert "measured on slice 0" in found.note
    assert found.disk_free == 0


def test_too_little_memory_is_said(
    engine: Engine, work: q.Forecast, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 10

    told(engine, work)
    monkeypatch.setattr(module.psutil, "virtual_memory", Little)
    monkeypatch.setattr(module, "readable_bytes", lambda n: f"{n:.0f} B")
    assert "10 B are free" in told(engine, replace(work, slices=10**6)).note


def test_memory_is_watched_between_two_moments() -> None:
    with watched_memory() as most:
        block = np.ones(40 << 20, np.uint8)
        before, end = resident(), time.monotonic() + 5
        while most() < before - (4 << 20) and time.monotonic() < end:
            time.sleep(0.002)  # on a busy machine the watcher comes late
        del block
    assert most() >= before - (4 << 20)
    assert most() - resident() > 20 << 20


CHILD = """
import json, sys
from pathlib import Path
from napari_attnseg.control.messages import Finished, decode
from napari_attnseg.control.questions import Forecasted
from napari_attnseg.engine.forecast import resident
from napari_attnseg.engine.service import Engine
import napari_attnseg.engine.session
forecast, run = (decode(line) for line in sys.stdin.buffer.read().splitlines())
engine = Engine()
base = resident()
(told,) = (e for e in engine.handle(forecast) if isinstance(e, Forecasted))
Path("/proc/self/clear_refs").write_text("5")
(last,) = (e for e in engine.handle(run) if isinstance(e, Finished))
most = next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l)
engine.close()
print(json.dumps([told.memory_bytes - base, int(most.split()[1]) * 1024 - base, last.reason]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(("name", "size"), [("smooth_unet", 256), ("attention_unet", 160)])
def test_memory_of_a_run_is_within_half_of_the_forecast(
    name: str, size: int, tmp_path: Path
) -> None:
    """Both above the bare engine, so that what torch itself takes cannot hide the difference."""
    import torch

    from napari_attnseg.cards import Card
    from napari_attnseg.models.base import create_model
    from napari_attnseg.models.checkpoint import save_checkpoint
    from napari_attnseg.settings import Preprocessing

    torch.manual_seed(0)
    model = create_model(name, in_channels=1, classes=1, width=0.25)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, Card(spec=model.spec.to_json(), preprocessing=Preprocessing()))
    ref = image_of(tmp_path, noise(12, size, size))
    about = (ref, str(path), "cpu", Tuning())
    ask = q.Forecast(1, *about, z=6, slices=12, stage_bytes=1 << 30)
    stages = {"stages": str(tmp_path / "stages"), "stage_bytes": 1 << 30}
    run = m.Predict(2, *about, tuple(range(12)), str(tmp_path / "out"), **stages)  # type: ignore[arg-type]
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=m.encode(ask) + b"\n" + m.encode(run),
        stdout=subprocess.PIPE,
        check=True,
    )
    forecast, measured, reason = json.loads(child.stdout)
    assert reason == "done"
    assert measured > 20 << 20, "there is something to forecast"
    assert measured / 1.5 < forecast < 1.5 * measured, (forecast / 1e6, measured / 1e6)
