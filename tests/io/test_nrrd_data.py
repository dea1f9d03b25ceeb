"""NRRD voxels in every encoding as pynrrd and ITK read them; bombs are not unpacked."""

from __future__ import annotations

import bz2
import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import nrrd
import numpy as np
import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.io import nrrd_data
from napari_attnseg.io.image import read_image

SHAPE = (5, 7, 9)
PEAK = """
import resource, sys
from pathlib import Path
from napari_attnseg.errors import InputError
from napari_attnseg.io.nrrd_file import read_nrrd
read_nrrd(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(read_nrrd(Path(sys.argv[2])).note))
except InputError as error:
    print("refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def values(dtype: str = "<i2") -> np.ndarray:
    return np.random.default_rng(0).permutation(315).reshape(SHAPE, order="F").astype(dtype)


def write(path: Path, body: bytes, encoding: str, more: str = "", kind: str = "int16") -> Path:
    """A file by hand. ``more``: lines of the header."""
    head = f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: 5 7 9\nencoding: {encoding}\n"
    path.write_bytes(f"{head}endian: little\n{more}\n".encode() + body)
    return path


PACKED = {
    "raw": lambda b: b,
    "gzip": gzip.compress,
    "gz": gzip.compress,
    "bzip2": bz2.compress,
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("encoding", [*PACKED, "ascii"])
@pytest.mark.parametrize("dtype", ["uint8", "<i2", ">i2", "<f4", ">f8"])
@pytest.mark.parametrize("detached", [False, True])
def test_every_encoding_reads_as_pynrrd_reads_it(
    tmp_path: Path, encoding: str, dtype: str, detached: bool
) -> None:
    path = tmp_path / ("a.nhdr" if detached else "a.nrrd")
    data = (values(dtype) % 97).astype(dtype)
    nrrd.write(str(path), data, {"encoding": encoding}, detached_header=detached)
    theirs, _ = nrrd.read(str(path))
    found = read_image(path)
    assert found.view.transpose().dtype == theirs.dtype.newbyteorder("=")
    assert np.array_equal(found.view.transpose(), theirs)
    assert np.array_equal(theirs, data)
    assert found.note == ""


@pytest.mark.parametrize("encoding", PACKED)
def test_lines_and_bytes_are_skipped(tmp_path: Path, encoding: str) -> None:
    """Lines before unpacking, bytes after it."""
    body = b"one line\nanother\n" + PACKED[encoding](b"skip me" + values().tobytes(order="F"))
    path = write(tmp_path / "a.nrrd", body, encoding, "line skip: 2\nbyte skip: 7\n")
    assert np.array_equal(read_image(path).view.transpose(), values())


def test_voxels_at_the_end_of_a_raw_file(tmp_path: Path) -> None:
    body = b"whatever stands before" + values().tobytes(order="F")
    path = write(tmp_path / "a.nrrd", body, "raw", "byte skip: -1\n")
    assert np.array_equal(read_image(path).view.transpose(), values())


@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_several_members_are_one_stream(tmp_path: Path, encoding: str) -> None:
    raw, pack = values().tobytes(order="F"), PACKED[encoding]
    path = write(tmp_path / "a.nrrd", pack(raw[:200]) + pack(raw[200:]), encoding)
    assert np.array_equal(read_image(path).view.transpose(), values())


@pytest.mark.parametrize("piece", [1, 7, 100])
@pytest.mark.parametrize("encoding", PACKED)
def test_the_size_of_a_piece_does_not_matter(
    tmp_path: Path, encoding: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nrrd_data, "PIECE", piece)
    path = write(tmp_path / "a.nrrd", PACKED[encoding](values().tobytes(order="F")), encoding)
    assert np.array_equal(read_image(path).view.transpose(), values())


@pytest.mark.parametrize("encoding", PACKED)
def test_what_follows_the_voxels_is_said(tmp_path: Path, encoding: str) -> None:
    body = PACKED[encoding](values().tobytes(order="F") + bytes(9))
    found = read_image(write(tmp_path / "a.nrrd", body, encoding))
    assert np.array_equal(found.view.transpose(), values())
    assert found.note == nrrd_data.BEYOND


@pytest.mark.parametrize("encoding", PACKED)
def test_cut_and_damaged_voxels_are_one_sentence(tmp_path: Path, encoding: str) -> None:
    whole = PACKED[encoding](values().tobytes(order="F"))
    bodies = [whole[:cut] for cut in (0, 1, 11, len(whole) // 2, len(whole) - 1)]
    if encoding != "raw":
        bodies.append(whole[:40] + bytes([whole[40] ^ 0xFF]) + whole[41:])
    for body in bodies:
        with pytest.raises(InputError, match=r"damaged or cut short|truncated"):
            read_image(write(tmp_path / "a.nrrd", body, encoding))


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked as POSIX tells it")
@pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, encoding: str) -> None:
    """315 voxels are claimed; 150 MB lie in 150 kB behind them."""
    if encoding == "gzip":
        engine = zlib.compressobj(9, zlib.DEFLATED, 31)
        parts = [engine.compress(values().tobytes(order="F"))]
        parts += [engine.compress(bytes(1 << 24)) for _ in range(9)]
        body = b"".join([*parts, engine.flush()])
    else:
        body = bz2.compress(values().tobytes(order="F") + bytes(9 << 24))
    bomb = write(tmp_path / "bomb.nrrd", body, encoding)
    fine = write(tmp_path / "fine.nrrd", PACKED[encoding](values().tobytes(order="F")), encoding)
    run = [sys.executable, "-c", PEAK, str(fine), str(bomb)]
    said, more = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert said == str(len(nrrd_data.BEYOND))
    unit = 1024 if sys.platform != "darwin" else 1
    assert int(more) * unit < 48 << 20


@pytest.mark.parametrize("encoding", [*PACKED, "ascii"])
@pytest.mark.parametrize("detached", [False, True])
def test_claims_are_refused_before_anything_is_unpacked(
    tmp_path: Path, encoding: str, detached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """65535^3 voxels in a file of some kB, in one file and in two."""
    monkeypatch.setattr(nrrd_data, "_filled", None)
    body = PACKED.get(encoding, PACKED["raw"])(bytes(100_000))
    more = "data file: a.raw\n" if detached else ""
    path = write(tmp_path / "a.nrrd", b"" if detached else body, encoding, more)
    (tmp_path / "a.raw").write_bytes(body)
    path.write_bytes(path.read_bytes().replace(b"sizes: 5 7 9", b"sizes: 65535 65535 65535"))
    with pytest.raises(InputError, match="claims"):
        read_image(path)


def test_what_is_not_read_says_what_to_do(tmp_path: Path) -> None:
    for more, encoding, words in (
        ("", "hex", "save it as raw"),
        ("data file: LIST\n", "raw", "spreads its voxels"),
        ("data file: a.raw\n", "raw", "is missing"),
        ("byte skip: -1\n", "gzip", "byte skip -1"),
    ):
        with pytest.raises(InputError, match=words):
            read_image(write(tmp_path / "a.nrrd", gzip.compress(bytes(630)), encoding, more))
