"""Scratch: whole files, a cap, and no litter of the dead."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from napari_attnseg.control import scratch as module
from napari_attnseg.control.scratch import PREFIX, Scratch, pixel_key, save_image, sweep
from napari_attnseg.errors import InputError


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "root")


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "f4", "f8", "bool"])
def test_saved_arrays_read_back(scratch: Scratch, dtype: str) -> None:
    array = (np.arange(2 * 3 * 5).reshape(2, 3, 5) % 7).astype(dtype)
    back = np.load(scratch.save(array, "a"), allow_pickle=False)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_views_in_any_order_are_saved_right(scratch: Scratch) -> None:
    array = np.arange(7 * 11 * 13, dtype=np.int16).reshape(7, 11, 13).transpose(2, 0, 1)[:, ::-1]
    np.testing.assert_array_equal(np.load(scratch.save(array, "v")), array)


class Lazy:
    """An array that only gives slices, as dask does."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, z: int) -> np.ndarray:
        return self.array[z]


def test_lazy_arrays_are_saved_slice_by_slice(scratch: Scratch) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5))
    ref = save_image(scratch, Lazy(array))
    np.testing.assert_array_equal(np.load(ref.path), array)


def test_equal_pixels_are_one_file_and_other_pixels_another(scratch: Scratch) -> None:
    array = np.zeros((2, 3, 4), np.uint8)
    first = save_image(scratch, array)
    stamp = Path(first.path).stat().st_mtime_ns
    again = save_image(scratch, array.copy())
    assert again == first
    assert Path(again.path).stat().st_mtime_ns == stamp
    array[1, 2, 3] = 1
    assert save_image(scratch, array).key != first.key


def test_keys_tell_shapes_and_types_apart() -> None:
    zeros = np.zeros(24, np.uint8)
    keys = {
        pixel_key(zeros.reshape(2, 3, 4)),
        pixel_key(zeros.reshape(4, 3, 2)),
        pixel_key(zeros.reshape(2, 3, 4).view(np.int8)),
    }
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("array", "rgb"),
    [
        (np.zeros((3, 4)), False),
        (np.zeros((0, 4, 4)), False),
        (np.zeros((2, 3, 4)), True),
        (np.zeros((2, 3, 4), complex), False),
        (np.array([[["a"]]]), False),
    ],
)
def test_what_is_no_image_is_refused(scratch: Scratch, array: np.ndarray, rgb: bool) -> None:
    with pytest.raises(InputError, match=r"got .*expected .*"):
        save_image(scratch, array, rgb)
    assert not list(scratch.path.iterdir())


def test_the_cap_is_kept(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, cap_bytes=5000)
    scratch.save(np.zeros((1, 50, 60), np.uint8), "a")
    with pytest.raises(InputError, match="scratch space"):
        scratch.save(np.zeros((1, 50, 60), np.uint8), "b")
    assert scratch.used_bytes <= 5000
    scratch.drop(scratch.path / "a.npy")
    scratch.save(np.zeros((1, 50, 60), np.uint8), "b")


def test_a_full_disk_leaves_nothing(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        scratch.save(np.zeros((1, 2, 2)), "a")
    assert not list(scratch.path.iterdir())


def test_replacing_never_shows_a_mixture(scratch: Scratch) -> None:
    path = scratch.save(np.zeros((2, 3, 4), np.uint8), "labels")
    seen = np.load(path, mmap_mode="r")
    scratch.save(np.ones((2, 3, 4), np.uint8), "labels")
    assert not seen.any()
    assert np.load(path).all()


def test_drop_refuses_what_lies_elsewhere(scratch: Scratch, tmp_path: Path) -> None:
    other = tmp_path / "mine.txt"
    other.write_text("mine")
    with pytest.raises(ValueError, match="not in this scratch"):
        scratch.drop(other)
    assert other.exists()


def test_close_removes_all(scratch: Scratch) -> None:
    scratch.folder("run")
    scratch.close()
    assert not scratch.path.exists()


def test_the_dead_are_swept_and_the_living_kept(tmp_path: Path) -> None:
    code = (
        "from napari_attnseg.control.scratch import Scratch\n"
        f"s = Scratch({str(tmp_path)!r}); s.folder('run'); print(s.path)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    dead = Path(out.stdout.strip())
    assert dead.is_dir()
    reborn = (
        tmp_path / f"{PREFIX}-{os.getpid()}-12345-abc"
    )  # our number, but another process long ago
    reborn.mkdir()
    foreign = tmp_path / "2026-11-21"
    foreign.mkdir()
    living = Scratch(tmp_path)
    assert not dead.exists()
    assert not reborn.exists()
    assert foreign.exists()
    assert sweep(tmp_path) == []
    assert living.path.is_dir()


def test_a_file_is_dropped_when_the_last_who_needs_it_lets_go(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    one, two = (scratch.save(np.full((2, 3, 5), k), f"image-{k}") for k in (1, 2))
    scratch.hold("a", str(one))
    scratch.hold("b", str(one))
    scratch.hold("a", str(two))
    assert one.is_file()
    scratch.hold("b", "")
    assert not one.is_file()
    scratch.hold("a", str(two))
    scratch.hold("nobody", "")
    assert two.is_file()
    scratch.close()


def test_a_clock_that_is_set_makes_nobody_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = psutil.Process.create_time
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        start = int(psutil.Process(other.pid).create_time() * 100)
        beside = tmp_path / f"{PREFIX}-{other.pid}-{start}-abc"
        long_dead = tmp_path / f"{PREFIX}-{other.pid}-{start - 10**7}-abc"
        beside.mkdir()
        long_dead.mkdir()
        first = Scratch(tmp_path)
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: told(self) + 5)
        second = Scratch(tmp_path)
        assert first.path.is_dir(), "another window of this very process"
        assert beside.is_dir()
        assert not long_dead.exists()
        other.communicate(b"\n")
    third = Scratch(tmp_path)
    assert not beside.exists(), "now it is gone"
    assert first.path.is_dir()
    assert second.path.is_dir()
    assert third.path.is_dir()


def test_files_that_go_while_they_are_counted_count_nothing(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = scratch.stages / "tier-1-1"
    tier.mkdir(parents=True)
    for k in range(3):
        (tier / f"{k}.raw").write_bytes(bytes(1000))
    (scratch.path / "rest.npy").write_bytes(bytes(100))
    assert scratch.used_bytes == 3100
    told = os.stat

    def stat(path: Any, *more: Any, **how: Any) -> os.stat_result:
        if str(path).endswith("1.raw"):
            with contextlib.suppress(OSError):
                os.unlink(path)  # the engine was quicker
        return told(path, *more, **how)

    monkeypatch.setattr(os, "stat", stat)
    assert scratch.used_bytes == 2100
    assert scratch.stage_bytes() > 0
