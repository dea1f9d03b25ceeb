"""The session file as a file: what is written comes back, what cannot be used is one sentence."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from napari_attnseg.errors import ExportError, InputError
from napari_attnseg.io.session_file import pages_array, read_session, write_session

PAGES = {(0, (3, 0, 1)): b"\0abc", (1, (2, 1, 0)): b"", (1, (0, 0, 0)): b"\1xy"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    index, blob = pages_array(PAGES)
    arrays = {
        "a": np.arange(7 * 11, dtype=np.int16).reshape(7, 11),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "pages": blob,
    }
    write_session(tmp_path / "s.attnseg", {"index": index, "images": []}, arrays)
    return tmp_path / "s.attnseg"


def test_arrays_and_tiles_come_back(file: Path) -> None:
    session = read_session(file)
    np.testing.assert_array_equal(session.array("a"), np.arange(77).reshape(7, 11))
    assert session.array("a").dtype == np.int16
    np.testing.assert_array_equal(session.array("f"), np.arange(6.0).reshape(2, 3))
    assert session.pages("pages", session.data["index"]) == PAGES
    with zipfile.ZipFile(file) as archive:  # any tool can look into it
        assert json.loads(archive.read("session.json"))["version"] == 1
        np.load(io.BytesIO(archive.read("a.npy")), allow_pickle=False)


def rewritten(file: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(file) as archive:
        members = {n: archive.read(n) for n in archive.namelist()} | {name: content}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return file


def test_a_newer_version_is_refused_with_its_number(file: Path) -> None:
    data = json.loads(zipfile.ZipFile(file).read("session.json")) | {"version": 7}
    rewritten(file, "session.json", json.dumps(data).encode())
    with pytest.raises(InputError, match=r"version is 7.*update"):
        read_session(file)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"{", b'{"format": "other"}', b"\xff"])
def test_a_foreign_index_is_refused(file: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="no session"):
        read_session(rewritten(file, "session.json", content))


def test_an_array_that_claims_too_much_is_not_allocated(file: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<u2", "fortran_order": False, "shape": (65535, 65535, 65535)}
    )
    session = read_session(rewritten(file, "a.npy", head.getvalue() + b"\0" * 99))
    with pytest.raises(InputError, match="does not agree"):
        session.array("a")


def test_objects_are_never_unpickled(file: Path) -> None:
    held = io.BytesIO()
    np.save(held, np.array([{"a": 1}], object), allow_pickle=True)
    session = read_session(rewritten(file, "a.npy", held.getvalue()))
    with pytest.raises(InputError, match="damaged"):
        session.array("a")


def test_every_cut_is_an_error_in_words(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_session(file).array("a")


def test_turned_bytes_are_an_error_or_the_same(file: Path) -> None:
    whole, rng = file.read_bytes(), np.random.default_rng(3)
    expected = read_session(file).array("a")
    for place in rng.integers(0, len(whole), 300):
        broken = bytearray(whole)
        broken[place] ^= 0x40
        file.write_bytes(broken)
        try:
            np.testing.assert_array_equal(read_session(file).array("a"), expected)
        except InputError:
            continue


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="choose another folder"):
        write_session(tmp_path / "missing" / "s.attnseg", {}, {})
    with pytest.raises(InputError, match="cannot read"):
        read_session(tmp_path / "missing.attnseg")
