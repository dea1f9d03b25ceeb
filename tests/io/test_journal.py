"""The journal: what is read back is what was last said, whatever a crash leaves of the file."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from napari_attnseg.errors import InputError
from napari_attnseg.io import journal as j
from napari_attnseg.io.journal_folder import close_folder
from napari_attnseg.io.runs import pack, unpack

BLOCKS = arrays(
    st.sampled_from([np.uint8, np.uint16]),
    array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=13),
    elements=st.integers(0, 3),
)


@given(BLOCKS)
def test_blocks_come_back_as_they_were(block: np.ndarray) -> None:
    back = unpack(pack(block), block.shape, block.dtype)
    np.testing.assert_array_equal(back, block)
    assert back.dtype == block.dtype
    assert back.flags.writeable


def test_a_block_of_labels_is_small_and_noise_is_not_blown_up() -> None:
    block = np.zeros((256, 256), np.uint8)
    block[40:200, 30:180] = 3
    assert len(pack(block)) == 5 + 5 * (2 * 160 + 1)
    noise = np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8)
    assert len(pack(noise)) == 1 + noise.size


@given(st.binary(max_size=60))
def test_bytes_that_are_no_block_are_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert unpack(data, (5, 7), np.uint16).shape == (5, 7)


EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["paint", "fill", "erase", "answer", "travel", "process"]),
            st.dictionaries(
                st.tuples(
                    st.integers(0, 1),
                    st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1)),
                ),
                BLOCKS.map(pack),
                min_size=1,
                max_size=3,
            ),
        ),
        st.tuples(st.just(""), st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1)),
    ),
    max_size=12,
)


def twin(events: list) -> tuple[dict, dict]:
    facts, pages = {"begin": 1}, {}
    for what, data in events:
        (pages if what else facts).update(data)
    return facts, pages


def write(path: Path, events: list) -> None:
    book = j.Journal(path, {"begin": 1})
    for what, data in events:
        book.tiles(what, data) if what else book.facts(**data)
    book.close()


@given(events=EVENTS, limit=st.sampled_from([150, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_any_sequence_reads_back_as_its_last_word(
    events: list, limit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Oracle: two dictionaries. A small limit compacts again and again."""
    path = tmp_path_factory.mktemp("journal") / "a.journal"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(j, "COMPACT_BYTES", limit)
        write(path, events)
    found = j.replay(path)
    facts, pages = twin(events)
    assert {k: v for k, v in found.facts.items() if k != "done"} == facts
    assert found.pages == pages
    assert not found.torn


def a_few() -> list:
    rng = np.random.default_rng(5)
    events = []
    for k in range(6):
        tiles = {
            (k % 2, (int(rng.integers(3)), 0, int(rng.integers(2)))): pack(
                rng.integers(0, 3, (7, 5), np.uint8)
            )
            for _ in range(2)
        }
        events += [("paint", tiles), ("", {"tuning": k})]
    return events


def test_cut_at_every_byte_it_restores_what_was_whole(tmp_path: Path) -> None:
    path, events = tmp_path / "a.journal", a_few()
    whole, states = j.MAGIC, []
    for what, data in [("", {"begin": 1}), *events]:
        for record in j.records_of_tiles(what, data) if what else [j.record_of_facts(data)]:
            whole += record
        states.append((len(whole), twin(events[: len(states)])))
    write(path, events)
    assert path.read_bytes()[: len(j.MAGIC)] == j.MAGIC
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = j.replay(path)
        ends = [(at, state) for at, state in states if at <= length]
        at, (facts, pages) = ends[-1] if ends else (0, ({}, {}))
        assert found.pages == pages
        assert found.facts == facts
        edge = at if ends else (len(j.MAGIC) if length >= len(j.MAGIC) else 0)
        assert found.valid_bytes == edge
        assert found.torn == (length > edge or length < len(j.MAGIC))


def test_a_turned_bit_ends_the_journal_there(tmp_path: Path) -> None:
    path, events = tmp_path / "a.journal", a_few()
    write(path, events)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    right = j.replay(path)
    for place in rng.integers(len(j.MAGIC), len(whole), 200):
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        found = j.replay(path)
        assert found.torn
        assert found.valid_bytes <= place
        for page, data in found.pages.items():
            assert any(page in d and d[page] == data for w, d in events if w)
        assert len(found.pages) <= len(right.pages)


@pytest.mark.parametrize("content", [b"not ours", j.MAGIC[:-2] + b"9\n", b"\x93NUMPY"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no journal"):
        j.replay(path)
    with pytest.raises(InputError, match="cannot read"):
        j.replay(tmp_path / "missing.journal")


def test_a_long_day_stays_small_and_counts_its_strokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(j, "COMPACT_BYTES", 20_000)
    rng, book = np.random.default_rng(2), j.Journal(tmp_path / "a.journal", {})
    for k in range(300):
        book.tiles("paint", {(1, (0, 0, k % 3)): pack(rng.integers(0, 200, (64, 64), np.uint16))})
        book.wait()
    book.close()
    assert book.path.stat().st_size < 60_000
    found = j.replay(book.path)
    assert j.happened(found) == {"paint": 300}
    assert sorted(found.pages) == [(1, (0, 0, k)) for k in range(3)]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    book = j.Journal(tmp_path / "a.journal", {}, said.append)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, book._file.fileno())
    for _ in range(3):
        book.tiles("paint", {(1, (0, 0, 0)): b"\0ab"})
        book.wait()
    book.close()
    os.close(full)
    assert len(said) == 1
    assert "would not come back" in said[0]


def test_a_journal_that_somebody_removed_is_said_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(j, "COMPACT_BYTES", 2_000)
    said: list[str] = []
    book = j.Journal(tmp_path / "a.journal", {}, said.append)
    book.tiles("paint", {(1, (0, 0, 0)): b"\0ab"})
    assert book.wait()
    book.path.unlink()
    noise = np.random.default_rng(0).integers(0, 200, (64, 64), np.uint16)
    book.tiles("paint", {(1, (0, 0, 1)): pack(noise)})
    waiting = threading.Thread(target=book.wait, daemon=True)
    waiting.start()
    waiting.join(5)
    assert not waiting.is_alive()
    assert not book.wait()
    book.close()
    assert len(said) == 1
    assert "would not come back" in said[0]


def test_a_journal_that_this_version_cannot_read_is_kept_aside(tmp_path: Path) -> None:
    folder = tmp_path / "window"
    folder.mkdir()
    (folder / "a.journal").write_bytes(b"of a later version")
    close_folder(folder)
    (kept,) = tmp_path.glob("closed-*/a.journal")
    assert kept.read_bytes() == b"of a later version"
