"""A disk that is really full: a small one is mounted, and what refuses is the system itself."""

from __future__ import annotations

import queue
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_attnseg.control import scratch as module
from napari_attnseg.control.child import ChildClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.errors import ExportError
from napari_attnseg.io.journal import Journal, replay
from napari_attnseg.io.runs import pack
from napari_attnseg.io.session_file import read_session, write_session
from napari_attnseg.settings import Tuning

SHAPE = (40, 120, 130)
NOISE = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, where the machine lets us mount one."""
    mount, target = shutil.which("mount"), tmp_path / "disk"
    target.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(target)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield target
    subprocess.run(["umount", "--lazy", str(target)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Somebody else's file, which leaves so many bytes."""
    path = disk / "somebody"
    path.write_bytes(b"x" * (shutil.disk_usage(disk).free - leave))
    return path


def test_an_engine_that_finds_no_room_says_so_and_works_on(
    disk: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is asked for before a run; here it goes in between."""
    monkeypatch.setattr(module, "FREE_BYTES", 0)
    calls: queue.Queue[Callable[[], None]] = queue.Queue()
    scratch, client = Scratch(disk), ChildClient(dispatch=calls.put, warm=False)
    live = LiveController(client, scratch)
    live.open_image(NOISE)
    live.set_model(str(tiny_checkpoint), "cpu", Tuning.of(threshold=0.1, rule="authors"))
    failed: list[Any] = []
    ended: list[Any] = []
    live.failed.connect(failed.append)
    live.finished.connect(ended.append)

    def until(what: list[Any]) -> None:
        end = time.monotonic() + 120
        while not what:
            assert time.monotonic() < end, (failed, ended)
            try:
                calls.get(timeout=0.05)()
            except queue.Empty:
                continue

    monkeypatch.setattr(Scratch, "ensure_room", lambda self, nbytes: None)
    taken = fill(disk, 200_000)
    live.run()
    until(failed)
    assert "No space left" in failed[0].message
    assert "\n" not in failed[0].message
    engine = client.pid
    taken.unlink()
    assert not ended
    live.open_image(NOISE[:3])
    live.run()
    until(ended)
    assert ended[0].reason == "done"
    assert client.pid == engine is not None, "the engine lived on"
    live.close()
    client.close()
    scratch.close()


def test_what_the_journal_held_when_the_disk_filled_up_is_readable(disk: Path) -> None:
    said: list[str] = []
    book = Journal(disk / "a.journal", {"image": {"name": "scan"}}, said.append)
    fill(disk, 300_000)
    wrote = {}
    for k in range(200):
        page = (1, (0, 0, k))
        if book.wait():
            wrote[page] = pack(np.random.default_rng(k).integers(0, 60_000, (64, 64), np.uint16))
            book.tiles("paint", {page: wrote[page]})
    book.close()
    assert len(said) == 1
    assert "No space left" in said[0]
    found = replay(book.path)
    assert found.facts["image"]["name"] == "scan"
    assert 10 < len(found.pages) < 60
    assert all(wrote[page] == data for page, data in found.pages.items())
    assert len(found.pages) >= len(wrote) - 1, "all but the one that met the end of the disk"


def test_a_session_that_does_not_fit_leaves_the_older_one(disk: Path) -> None:
    path = disk / "day.attnseg"
    write_session(path, {"images": [1]}, {"a": NOISE[:1]})
    before = path.read_bytes()
    somebody = fill(disk, 100_000)
    with pytest.raises(ExportError, match=r"cannot write .*day\.attnseg \(No space left"):
        write_session(path, {"images": [2]}, {"a": NOISE})
    assert path.read_bytes() == before
    assert sorted(disk.iterdir()) == [path, somebody]
    somebody.unlink()
    write_session(path, {"images": [2]}, {"a": NOISE})
    assert read_session(path).data["images"] == [2]


def test_scratch_that_is_full_keeps_what_was_there(disk: Path) -> None:
    scratch = Scratch(disk)
    scratch_room, module_free = scratch.room_bytes, module.FREE_BYTES
    assert scratch_room == 0 < module_free, "it is smaller than what is always left free"
    with pytest.raises(module.InputError, match="scratch space"):
        scratch.save(NOISE, "image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scratch, "ensure_room", lambda self, nbytes: None)
        scratch.save(NOISE[:1], "image")
        fill(disk, 10_000)
        with pytest.raises(module.InputError, match=r"cannot write scratch data .*No space left"):
            scratch.save(NOISE, "image")
    np.testing.assert_array_equal(np.load(scratch.path / "image.npy"), NOISE[:1])
    assert [p.name for p in scratch.path.iterdir()] == ["image.npy"]
    scratch.close()
