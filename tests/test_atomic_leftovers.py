"""Links are written through, and what killed programs left behind goes with the next export."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg import atomic
from napari_attnseg.atomic import sweep, whole, write_whole
from napari_attnseg.errors import ExportError
from napari_attnseg.io.export import write_mask, write_text

DAY = 24 * 3600.0
IDS = np.ones((2, 3, 4), np.uint8)
DIES = """
import os, signal, sys
from pathlib import Path
import numpy as np
from napari_attnseg import atomic
from napari_attnseg.io.export import write_mask
left = [int(sys.argv[2])]
def dying(*args, real=os.replace):
    if Path(args[1]).parent == Path(sys.argv[1]).parent:  # zarr renames its own files, too
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
    real(*args)
atomic.os.replace = dying
write_mask(Path(sys.argv[1]), np.full((2, 3, 4), 2, np.uint8))
"""
links = pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="no links here")


def killed_while_writing(path: Path, renames: int = 0) -> list[str]:
    """What lies in the folder after an export that was killed before its next rename."""
    done = subprocess.run([sys.executable, "-c", DIES, str(path), str(renames)], check=False)
    assert done.returncode == -9
    return sorted(os.listdir(path.parent))


@links
@pytest.mark.parametrize("name", ["m.nii.gz", "m.tif", "m.ome.zarr"])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "work").mkdir()
    target, link = tmp_path / "store" / name, tmp_path / "work" / name
    write_mask(target, IDS)
    link.symlink_to(target)
    write_mask(link, np.zeros_like(IDS))
    assert link.is_symlink()
    assert os.listdir(tmp_path / "work") == [name]
    assert os.listdir(tmp_path / "store") == [name]
    from napari_attnseg.io.image import read_mask

    assert not read_mask(target).data.any()


@links
def test_a_link_to_nothing_yet_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "a.json").symlink_to(Path("store") / "b.json")
    write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "store" / "b.json").read_bytes() == b"new"


@links
def test_links_that_lead_nowhere_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("b.txt")
    (tmp_path / "b.txt").symlink_to("a.txt")
    (tmp_path / "c.txt").symlink_to(tmp_path / "gone" / "c.txt")
    for name in ("a.txt", "c.txt"):
        with pytest.raises(ExportError, match="nothing was changed"):
            write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()


@pytest.mark.parametrize("name", ["m.nii.gz", "m.ome.zarr"])
def test_what_a_killed_export_left_goes_with_the_next(tmp_path: Path, name: str) -> None:
    names = killed_while_writing(tmp_path / name)
    assert len(names) == 1
    assert names[0].startswith(".attnseg-")
    write_text(tmp_path / "table.csv", "a\n")
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_folder_that_had_stepped_aside_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames: the old labels are under another name alone."""
    path = tmp_path / "m.ome.zarr"
    write_mask(path, IDS)
    names = killed_while_writing(path, renames=1)
    assert "m.ome.zarr" not in names
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["m.ome.zarr"]
    from napari_attnseg.io.image import read_mask

    assert (read_mask(path).data == 1).all()


def test_drafts_of_the_living_and_of_other_machines_stay(tmp_path: Path) -> None:
    with whole(tmp_path / "a") as ours:
        far = tmp_path / ".attnseg-1-2@elsewhere@abc.nii"
        old = tmp_path / ".attnseg-9-9@elsewhere@abc.nii"
        nameless, marker = tmp_path / ".attnseg-abcdefgh.tif", tmp_path / ".attnseg-run-12"
        for path in (far, old, nameless, marker):
            path.write_bytes(b"draft")
        for path in (old, nameless):
            os.utime(path, (time.time() - 2 * DAY,) * 2)
        write_whole(tmp_path / "b", b"b")
        there = set(os.listdir(tmp_path))
        assert {ours.name, far.name, marker.name, "b"} == there
        ours.write_bytes(b"a")
    assert (tmp_path / "a").read_bytes() == b"a"


def test_a_folder_of_a_long_run_stays_while_its_process_lives(tmp_path: Path) -> None:
    """A run along all axes writes for hours into a folder beside its masks."""
    with tempfile.TemporaryDirectory(prefix=atomic.draft_prefix(), dir=tmp_path) as folder:
        os.utime(folder, (time.time() - 2 * DAY,) * 2)
        write_whole(tmp_path / "b", b"b")
        assert Path(folder).is_dir()
    assert os.listdir(tmp_path) == ["b"]


def test_a_name_of_ours_says_who_writes_it(tmp_path: Path) -> None:
    with whole(tmp_path / "a.nii.gz") as draft:
        found = atomic.DRAFT.match(draft.name)
        assert found is not None
        assert int(found["pid"]) == os.getpid()
        assert draft.name.endswith(".nii.gz")
        draft.write_bytes(b"")


def test_a_program_that_is_ended_takes_its_own_drafts_along(tmp_path: Path) -> None:
    own, aside = (tmp_path / f"{atomic.draft_prefix()}{n}" for n in ("x.csv", "was-m.csv"))
    other = tmp_path / ".attnseg-1-1@elsewhere@y.csv"
    for path in (own, aside, other):
        path.touch()
    atomic.drop_own(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([aside, other])


def test_a_key_right_after_the_draft_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(draft: Path) -> None:
        draft.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_begin", begun)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.csv", b"new")
    assert not list(tmp_path.iterdir())
