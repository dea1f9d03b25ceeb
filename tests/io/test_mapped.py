"""Large NIfTI volumes that stay in their file: the same numbers as read, and no memory for them."""

from __future__ import annotations

import gc
import gzip
import os
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.control.messages import AttentionRow, decode, encode
from napari_attnseg.control.scratch import Scratch, save_image
from napari_attnseg.errors import InputError
from napari_attnseg.io import nifti_mapped
from napari_attnseg.io.image import read_image
from napari_attnseg.io.many import ManyVolumes
from napari_attnseg.io.mapped import FileMap, open_place, place_of
from napari_attnseg.io.nifti_mapped import map_nifti
from napari_attnseg.io.volume import Volume

SHAPE = (13, 11, 7)
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti_mapped, "MAPPED_BYTES", 1)


@pytest.fixture
def room(tmp_path: Path) -> Any:
    def give(nbytes: int) -> Path:
        given.append(nbytes)
        folder = tmp_path / f"room{len(given)}"
        folder.mkdir()
        return folder

    given: list[int] = []
    give.given = given  # type: ignore[attr-defined]
    return give


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(
        name: str = "a.nii", dtype: Any = np.int16, axes: tuple[int, ...] = (0, 1, 2), **scl: float
    ) -> Path:
        values = np.random.default_rng(3).integers(0, 99, SHAPE).astype(dtype)
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-2.0, 3.0, -1.5])[:, list(axes)]
        image = nib.Nifti1Image(values, affine, dtype=dtype)
        if scl:
            image.header.set_slope_inter(**scl)
            image.header._structarr["scl_slope"], image.header._structarr["scl_inter"] = (
                scl["slope"],
                scl["inter"],
            )
        plain = tmp_path / "plain.nii"
        image.to_filename(plain)
        if scl:  # nibabel keeps what a person sees; the stored numbers are what matters here
            raw = bytearray(plain.read_bytes())
            raw[112:120] = np.array([scl["slope"], scl["inter"]], "<f4").tobytes()
            plain.write_bytes(raw)
        path = tmp_path / name
        path.write_bytes(
            gzip.compress(plain.read_bytes()) if name.endswith("gz") else plain.read_bytes()
        )
        return path

    return make


def _same(got: Volume, wanted: Volume) -> None:
    assert np.array_equal(np.asarray(got.data), wanted.data)
    assert np.array_equal(np.asarray(got.view), wanted.view)
    assert got.data.dtype == wanted.data.dtype
    assert (got.header, got.note, got.assumed, got.path) == (
        wanted.header,
        wanted.note,
        wanted.assumed,
        wanted.path,
    )
    assert got.geometry is not None
    assert wanted.geometry is not None
    assert np.array_equal(got.geometry.affine, wanted.geometry.affine)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_a_plain_file_is_mapped_where_it_lies(write: Write, room: Any, axes: Any) -> None:
    path = write(axes=axes)
    got = map_nifti(path, room)
    assert got is not None
    _same(got, read_image(path))
    assert not room.given
    assert isinstance(got.view, FileMap)
    place = place_of(got.view)
    assert place is not None
    assert place.path == str(path)
    assert np.array_equal(open_place(place), read_image(path).view)


@pytest.mark.parametrize(
    ("name", "dtype", "scl"),
    [
        ("a.nii.gz", np.int16, {}),
        ("a.nii", ">i2", {}),
        ("a.nii", np.int16, {"slope": 1.0, "inter": -1024.0}),
        ("a.nii.gz", np.uint8, {"slope": 0.5, "inter": 3.0}),
        ("a.nii.gz", np.float32, {}),
        ("a.nii.gz", np.float64, {}),
    ],
)
def test_others_are_unpacked_once(
    write: Write, room: Any, name: str, dtype: Any, scl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti_mapped, "BLOCK", 96)
    path = write(name, dtype, **scl)
    if dtype == ">i2":
        big = nib.Nifti1Image(
            nib.load(path).get_fdata().astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">")
        )
        big.to_filename(path)
    got, wanted = map_nifti(path, room), read_image(path)
    assert got is not None
    _same(got, wanted)
    assert room.given == [wanted.data.nbytes]
    place = place_of(got.view)
    assert place is not None
    assert np.array_equal(open_place(place), wanted.view)
    folder = Path(place.path).parent
    view = got.view
    del got
    gc.collect()
    assert folder.is_dir()
    del view
    gc.collect()
    assert not folder.exists()


def test_one_of_several_volumes(tmp_path: Path, room: Any) -> None:
    data = np.arange(5 * 4 * 3 * 3, dtype=np.int16).reshape(5, 4, 3, 3)
    path = tmp_path / "4d.nii"
    nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    with pytest.raises(ManyVolumes):
        map_nifti(path, room)
    got = map_nifti(path, room, 2)
    assert got is not None
    _same(got, read_image(path, 2))
    assert np.array_equal(got.data, data[..., 2])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_numbers_that_are_none_and_files_that_are_cut(write: Write, room: Any, name: str) -> None:
    path = write(name, np.float32)
    whole = path.read_bytes()
    plain = bytearray(gzip.decompress(whole) if name.endswith("gz") else whole)
    plain[400:404] = np.array([np.nan], "<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(plain)) if name.endswith("gz") else plain)
    with pytest.raises(InputError, match="not numbers") as one:
        map_nifti(path, room)
    with pytest.raises(InputError) as other:
        read_image(path)
    assert str(one.value) == str(other.value)
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"truncated|cut short|damaged"):
        map_nifti(path, room)
    assert not [p for p in path.parent.glob("room*") if p.exists()], "nothing is left behind"


def test_small_ones_colours_and_other_files_are_read(
    write: Write, room: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.zeros((4, 3, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.Nifti1Image(rgb, np.eye(4)).to_filename(tmp_path / "rgb.nii")
    assert map_nifti(tmp_path / "rgb.nii", room) is None
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert map_nifti(tmp_path / "a.png", room) is None
    monkeypatch.setattr(nifti_mapped, "MAPPED_BYTES", 13 * 11 * 7 * 2 + 1)
    assert map_nifti(write(), room) is None


def test_a_file_that_is_written_anew_is_an_error_and_no_crash(write: Write, room: Any) -> None:
    path = write()
    got = map_nifti(path, room)
    assert got is not None
    kept = got.view[3]
    before = kept.copy()
    os.truncate(path, 400)
    with pytest.raises(InputError, match="open it again"):
        got.view[3]
    assert np.array_equal(kept, before), "what is on screen is a copy"
    assert place_of(got.view) is None


def test_a_file_that_is_replaced_is_not_handed_on(write: Write, room: Any, tmp_path: Path) -> None:
    path = write()
    got = map_nifti(path, room)
    assert got is not None
    wanted = read_image(path).view
    other = tmp_path / "other.nii"
    nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)).to_filename(other)
    os.replace(other, path)
    assert np.array_equal(got.view[:], wanted), "the old one is still there for who maps it"
    assert place_of(got.view) is None
    scratch = Scratch(tmp_path / "scratch")
    ref = save_image(scratch, got.view)
    assert np.array_equal(ref.open(), wanted)
    assert not ref.dtype
    scratch.close()


def test_handing_over_copies_nothing(write: Write, room: Any, tmp_path: Path) -> None:
    path = write("a.nii.gz")
    got = map_nifti(path, room)
    assert got is not None
    scratch = Scratch(tmp_path / "scratch")
    ref = save_image(scratch, got.view, False, got.flips, got.spacing_mm)
    assert not scratch.used_bytes
    assert ref == save_image(scratch, got.view, False, got.flips, got.spacing_mm)
    sent = decode(encode(AttentionRow(3, image=ref)))
    assert isinstance(sent, AttentionRow)
    assert sent.image == ref
    assert np.array_equal(sent.image.open(), read_image(path).view)
    os.utime(ref.path, ns=(1, 1))
    with pytest.raises(ValueError, match="changed"):
        sent.image.open()
    assert save_image(scratch, got.view).key != ref.key
    scratch.close()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux tells it")
@pytest.mark.parametrize("packed", [False, True])
def test_a_large_one_takes_no_memory(tmp_path: Path, room: Any, packed: bool) -> None:
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    data = np.broadcast_to(np.int16(7), (400, 400, 300))  # 96 MB
    nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    gc.collect()
    before = _anonymous()
    got = map_nifti(path, room)
    assert got is not None
    assert int(got.view[150].sum()) == 400 * 400 * 7
    assert _anonymous() - before < 40 << 20


def _anonymous() -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("RssAnon:") + 1]) << 10
