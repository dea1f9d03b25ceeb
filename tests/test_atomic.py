"""A writer that is killed at the worst moment leaves the older file as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from napari_attnseg.atomic import whole, write_whole

KILLED_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
from napari_attnseg import atomic
def now(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "sync":
    atomic.os.fsync = now
else:
    atomic.os.replace = now
path = Path(sys.argv[1])
exec(sys.argv[2])
"""
WRITERS = {
    "plain": ("a.json", "atomic.write_whole(path, b'new')"),
    "record": (
        "r.json",
        "from napari_attnseg.engine.experiment.records import write_json\nwrite_json(path, {})",
    ),
    "checkpoint": (
        "m.safetensors",
        "import torch\n"
        "from napari_attnseg.models.checkpoint import _write_whole\n"
        "_write_whole(path, {'a': torch.ones(3)}, {})",
    ),
    "session": (
        "s.attnseg",
        "from napari_attnseg.io.session_file import write_session\n"
        "write_session(path, {'images': []}, {})",
    ),
    "mask": (
        "m.tif",
        "import numpy as np\n"
        "from napari_attnseg.io.export import write_mask\n"
        "write_mask(path, np.ones((2, 3, 4), np.uint8))",
    ),
}


@pytest.mark.parametrize("moment", ["sync", "rename"])
@pytest.mark.parametrize("name", WRITERS)
def test_killed_before_the_rename_the_old_file_stays(
    name: str, moment: str, tmp_path: Path
) -> None:
    file, code = WRITERS[name]
    (tmp_path / file).write_bytes(b"old")
    command = [sys.executable, "-c", KILLED_BEFORE_RENAME, str(tmp_path / file), code, moment]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-500:]
    assert (tmp_path / file).read_bytes() == b"old"


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="half"), whole(path) as draft:  # noqa: PT012
        assert draft.name.endswith(".nii.gz")
        draft.write_bytes(b"half")
        raise ValueError("half")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.nii.gz"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    for word in ("old", "new"):
        with whole(path) as draft:
            (draft / "inner").mkdir()
            (draft / "inner" / word).write_text(word)
    assert os.listdir(path / "inner") == ["new"]
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_the_file_has_the_rights_that_a_plain_one_would_have(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"new")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
