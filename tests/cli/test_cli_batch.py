"""``predict`` over folders: goes on, is stopped and killed, refuses, and works on a cluster."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command_line import message
from PIL import Image

from napari_attnseg.cli._batch import duration


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of four images of odd sizes, one of them broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    fill(folder, 3)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    return folder


def fill(folder: Path, count: int) -> None:
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 60, (31 + i % 5, 43 - i % 7))
        pixels[8:20, 9:22] += 150
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"cell{i:02d}.png")


def status(out: Path) -> Counter[str]:
    with (out / "predictions.csv").open(newline="") as file:
        return Counter(line["status"] for line in csv.DictReader(file))


def test_a_folder_is_finished_and_then_kept(tiny_checkpoint, images, tmp_path) -> None:
    out = tmp_path / "out"
    code, error = message("predict", tiny_checkpoint, images, "--out", out)
    assert code == 1, "one file failed"
    assert error.count("error: ") == 1
    assert "3 of 4 masks written and verified" in error
    assert "1 failed" in error
    assert f"table: {out / 'predictions.csv'}" in error
    assert "[1 of 4]" in error, "nothing is known of the time yet"
    assert " left]" in error
    assert status(out) == {"ok": 3, "failed": 1}
    stamps = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    code, error = message("predict", tiny_checkpoint, images, "--out", out)
    assert code == 1
    assert "cell01.png: kept, cell01_mask.png is finished with the same model" in error
    assert "3 of 4 masks written and verified" in error
    assert "(3 of them before)" in error
    assert status(out) == {"kept": 3, "failed": 1}
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")} == stamps
    (images / "broken.png").unlink()
    assert message("predict", tiny_checkpoint, images, "--out", out, "--overwrite")[0] == 0
    assert status(out) == {"ok": 3, "failed": 1}, "the line of the file that is gone stays"
    assert all(p.stat().st_mtime_ns != stamps[p.name] for p in out.glob("*.png"))


def test_one_file_needs_no_table(tiny_checkpoint, images, tmp_path) -> None:
    folder = tmp_path / "o"
    code, error = message("predict", tiny_checkpoint, images / "cell00.png", "--out", folder)
    assert code == 0
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["cell00_mask.png"]
    assert "table: " not in error
    assert " of 1]" not in error


def test_doubts_are_noted_and_refused_when_strict(tiny_checkpoint, tmp_path) -> None:
    folder, out = tmp_path / "in", tmp_path / "o"
    folder.mkdir()
    fill(folder, 2)
    Image.fromarray(np.full((33, 35), 7, np.uint8)).save(folder / "flat.png")
    code, error = message("predict", tiny_checkpoint, folder, "--out", out)
    assert code == 0
    assert "note: flat.png: every value that was looked at is 7" in error
    common = ["predict", tiny_checkpoint, folder, "--out", out, "--strict"]
    code, error = message(*common)
    assert code == 1
    assert "refused: " in error
    assert "every value that was looked at is 7" in error
    assert "2 of 3 masks" in error
    assert status(out) == {"kept": 2, "refused": 1}
    code, _ = message("predict", tiny_checkpoint, folder, "--out", tmp_path / "p", "--strict")
    assert code == 1
    assert status(tmp_path / "p") == {"ok": 2, "refused": 1}
    assert not (tmp_path / "p" / "flat_mask.png").exists()


def test_ctrl_c_keeps_what_is_finished(tiny_checkpoint, images, tmp_path, monkeypatch) -> None:
    from napari_attnseg.engine.batch_make import Maker

    real, made = Maker.make, []

    def make(self, task, *more):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(task)
        return real(self, task, *more)

    monkeypatch.setattr(Maker, "make", make)
    code, error = message("predict", tiny_checkpoint, images, "--out", tmp_path / "o")
    assert code == 130
    assert "stopped; what was finished is kept" in error
    assert "2 not begun or not finished" in error
    assert sum(status(tmp_path / "o").values()) == 2


def test_without_dask_the_extra_is_named(tiny_checkpoint, images, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    there = ["--scheduler", "tcp://127.0.0.1:1"]
    code, error = message("predict", tiny_checkpoint, images, "--out", tmp_path / "o", *there)
    assert code == 1
    assert "pip install 'napari-attnseg[cluster]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcq://127.0.0.1:9"])
def test_nobody_answers(tiny_checkpoint, images, tmp_path, monkeypatch, address) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("napari_attnseg.engine.batch_cluster.CONNECT_SECONDS", 0.3)
    there = ["--scheduler", address]
    code, error = message("predict", tiny_checkpoint, images, "--out", tmp_path / "o", *there)
    assert code == 1
    assert f"no Dask scheduler answers at {address}" in error
    assert "Traceback" not in error
    assert not (tmp_path / "o").exists()


def test_tls_without_certificates(tiny_checkpoint, images, tmp_path) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    there = ["--scheduler", "tls://127.0.0.1:9", "--out", tmp_path / "o"]
    code, error = message("predict", tiny_checkpoint, images, *there)
    assert code == 1
    assert "names no certificates for a client; set distributed.comm.tls" in error
    with dask.config.set({"distributed.comm.tls.ca-file": str(tmp_path / "none.pem")}):
        code, error = message("predict", tiny_checkpoint, images, *there)
    assert code == 1
    assert "names no certificates" in error or "cannot be read" in error


def test_old_drafts_go_and_young_ones_stay(tiny_checkpoint, images, tmp_path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    for name, age in ((".attnseg-old.png", 4000), (".attnseg-young.png", 60), ("mine.png", 9000)):
        (out / name).write_bytes(b"x")
        os.utime(out / name, (time.time() - age,) * 2)
    message("predict", tiny_checkpoint, images / "cell00.png", "--out", out)
    names = {p.name for p in out.iterdir()}
    assert names == {".attnseg-young.png", "mine.png", "cell00_mask.png"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.34, "0.3 s"), (12.4, "12 s"), (59.9, "1 min 0 s"), (75, "1 min 15 s"), (7380, "2 h 3 min")],
)
def test_durations_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def interruptible() -> None:
    """Ctrl+C counts, though a shell that put the tests into the background has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_sample_killed_in_the_middle_it_goes_on_where_it_was(
    tiny_checkpoint, tmp_path, number
) -> None:
    folder, out, whole = tmp_path / "in", tmp_path / "o", tmp_path / "whole"
    folder.mkdir()
    fill(folder, 40)
    words = ["predict", tiny_checkpoint, folder, "--device", "cpu", "--out"]
    command = [sys.executable, "-m", "napari_attnseg", *map(str, words), str(out)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible)
    while len(list(out.glob("*_mask.png"))) < 5:
        assert running.poll() is None
        time.sleep(0.005)
    running.send_signal(number)
    error = running.communicate(timeout=60)[1]
    before = {p: p.stat().st_mtime_ns for p in out.glob("*_mask.png")}
    assert 5 <= len(before) < 40
    if number == signal.SIGKILL:
        assert running.returncode == -signal.SIGKILL
    else:
        assert running.returncode == 130
        assert "stopped; what was finished is kept" in error
        assert "Traceback" not in error
        assert not list(out.glob(".attnseg*"))
        assert sum(status(out).values()) in (len(before), len(before) - 1)
    code, error = message(*words, out)
    assert code == 0
    assert f"({len(before)} of them before)" in error
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert status(out) == {"kept": len(before), "ok": 40 - len(before)}
    assert message(*words, whole)[0] == 0
    for mask in whole.glob("*_mask.png"):
        assert np.array_equal(Image.open(mask), Image.open(out / mask.name))
