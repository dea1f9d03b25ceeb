"""Two machines with one home folder, played by real processes that give other names of theirs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_attnseg import living
from napari_attnseg.control.scratch import PREFIX, Scratch, sweep
from napari_attnseg.io.journal_folder import close_folder, discard, left_behind, new_folder

CODE = """
import socket, sys, time
socket.gethostname = lambda: {host!r}
from napari_attnseg import living
living.BEAT_SECONDS = {beat}
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.io.journal import Journal
from napari_attnseg.io.journal_folder import new_folder
scratch, folder = Scratch({scratch!r}), new_folder()
book = Journal(folder / "0.journal", {{"image": {{"name": "scan"}}}})
book.tiles("paint", {{(1, (0, 0, 0)): b"\\0ab"}})
book.wait()
print(scratch.path, folder, sep="\\n", flush=True)
time.sleep(600)
"""
HOUR = 3600.0


class Window:
    """A process that keeps a journal and a scratch folder."""

    def __init__(self, tmp_path: Path, host: str, beat: float = 1000.0) -> None:
        code = CODE.format(host=host, beat=beat, scratch=str(tmp_path / "scratch"))
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.scratch = Path(self.process.stdout.readline().strip())
        self.folder = Path(self.process.stdout.readline().strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def silent(self, seconds: float) -> None:
        """As if nothing had been heard of it for so long."""
        then = time.time() - seconds
        for path in (self.folder, self.scratch):
            os.utime(path, (then, then))


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Window]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    made: list[Window] = []
    yield made
    for window in made:
        window.kill()


def test_a_window_of_another_machine_is_left_alone_until_it_was_silent_for_long(
    windows: list[Window], tmp_path: Path
) -> None:
    windows.append(other := Window(tmp_path, "Login Node-2"))
    assert "@login_node-2" in other.folder.name
    assert left_behind() == []
    assert sweep(tmp_path / "scratch") == []
    other.kill()
    assert left_behind() == [], "nobody here can know yet"
    other.silent(living.SILENT_SECONDS + 5)
    (left,) = left_behind()
    assert left.crashed
    assert "its window on login_node-2 has not been heard of since" in left.words()
    assert sweep(tmp_path / "scratch") == [], "a laptop may sleep for a night"
    other.silent(8 * 24 * HOUR)
    assert sweep(tmp_path / "scratch") == [other.scratch]
    discard(left)
    assert left_behind() == []
    (aside,) = left_behind(closed=True)
    assert aside.path.read_bytes(), "put aside, not removed: it may only have slept"


def test_a_living_process_is_heard_of_again_and_again(
    windows: list[Window], tmp_path: Path
) -> None:
    windows.append(other := Window(tmp_path, "far", beat=0.05))
    other.silent(8 * 24 * HOUR)
    end = time.monotonic() + 20
    while time.time() - min(p.stat().st_mtime for p in (other.folder, other.scratch)) > HOUR:
        assert time.monotonic() < end, "no beat came"
        time.sleep(0.02)
    assert left_behind() == []
    assert sweep(tmp_path / "scratch") == []


def test_of_a_process_of_this_machine_the_system_knows(
    windows: list[Window], tmp_path: Path
) -> None:
    import socket

    windows.append(mine := Window(tmp_path, socket.gethostname()))
    mine.silent(8 * 24 * HOUR)
    assert left_behind() == [], "it lives, whatever the clock says"
    assert sweep(tmp_path / "scratch") == []
    mine.kill()
    (left,) = left_behind()
    assert "its window ended without closing" in left.words()
    assert sweep(tmp_path / "scratch") == [mine.scratch]


def test_the_clock_of_the_disk_counts_and_not_that_of_this_machine(
    windows: list[Window], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows.append(other := Window(tmp_path, "far"))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert left_behind() == []
    assert other.process.poll() is None


def test_windows_of_one_process_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path))
    folders = [new_folder() for _ in range(3)]
    assert len(set(folders)) == 3
    for folder in folders:
        (folder / "x.journal").write_bytes(b"")
    assert left_behind() == []
    for folder in folders:
        close_folder(folder)
    assert not living._heart._folders & set(folders)


@pytest.mark.parametrize("name", ["12-34", "12-34@far", "12-34@node-7.x", "12-34@"])
def test_a_mark_is_read_back(name: str) -> None:
    match = re.fullmatch(living.MARK, name)
    assert match is not None
    assert (match["pid"], match["start"]) == ("12", "34")
    assert living.is_ours(match) is (name == "12-34")


def test_scratch_of_this_process_stays(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    assert scratch.path.name.startswith(f"{PREFIX}-{os.getpid()}-")
    assert sweep(tmp_path) == []
    scratch.close()
    assert scratch.path not in living._heart._folders
