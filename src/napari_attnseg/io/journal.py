"""An append-only file of what happens to one labels layer, whole up to its last byte.

Layout: ``MAGIC``, then records. A record is its length and a CRC-32 (little-endian uint32 each),
one byte that says what it is, and its payload; the CRC covers the last two. What does not fit, or
whose sum is wrong, ends the journal: a program that was killed in the middle of a write loses the
record that it was writing and nothing else.

A payload is either facts (a JSON object whose keys replace earlier ones) or tiles: zlib of a line
of JSON (``what`` happened, and which tiles follow) and the packed tiles, see :mod:`io.runs`. Tiles
replace earlier ones at the same place, so reading a journal is taking the last of each. Nothing
is ever unpickled.

A thread writes. Records are in the hands of the system as soon as they are written, so that a
killed program loses at most the stroke that was being painted; every ``SYNC_SECONDS`` they are
brought to the disk, so that a power cut loses at most what was done in that time.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_attnseg.errors import InputError

MAGIC = b"napari-attnseg journal 1\n"
SYNC_SECONDS = 1.0
"""What a power cut can cost."""
COMPACT_BYTES = 64 << 20
"""A journal beyond this size is written anew with the last of each tile only."""
RECORD_BYTES = 256 << 20
"""No record is larger when unpacked; larger steps are several records."""
PAGES_OF_A_RECORD = 512
_HEAD = struct.Struct("<IIB")
_FACTS, _TILES = 1, 2

Page = tuple[int, tuple[int, int, int]]
"""A tile: its plane (0 what the model says, 1 what is held by hand), slice, row and column."""


@dataclass
class Replayed:
    """What a journal says in the end. ``done`` counts what happened, ``valid_bytes`` is where the
    first record that cannot be used begins, ``torn`` whether there is one."""

    facts: dict[str, Any] = field(default_factory=dict)
    pages: dict[Page, bytes] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    valid_bytes: int = 0
    torn: bool = False


def replay(path: Path | str) -> Replayed:
    """Read a journal up to the last record that is whole.

    Raises ``InputError`` when the file cannot be read or is no journal.
    """
    path, found = Path(path), Replayed()
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
            if begin != MAGIC:
                if not MAGIC.startswith(begin):
                    raise InputError(
                        f"{path.name} is no journal of this version; expected one of ours"
                    )
                found.torn = True
                return found
            found.valid_bytes = len(MAGIC)
            for kind, payload in _records(file, size):
                if not _take(found, kind, payload):
                    break
                found.valid_bytes = file.tell()
            found.torn = found.valid_bytes < size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return found


def _records(file: Any, size: int) -> Iterator[tuple[int, bytes]]:
    while True:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return
        length, check, kind = _HEAD.unpack(head)
        if length > size - file.tell():
            return
        payload = file.read(length)
        if len(payload) < length or zlib.crc32(bytes([kind]) + payload) != check:
            return
        yield kind, payload


def _take(found: Replayed, kind: int, payload: bytes) -> bool:
    """Add one record; false when it makes no sense."""
    try:
        if kind == _FACTS:
            facts = json.loads(payload)
            found.facts.update(facts)
            return True
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(payload, RECORD_BYTES)
        if kind != _TILES or not unpacker.eof:
            return False
        line, _, rest = plain.partition(b"\n")
        head = json.loads(line)
        pages, place = {}, 0
        for plane, z, i, j, length in head["pages"]:
            pages[(int(plane), (int(z), int(i), int(j)))] = rest[place : place + length]
            place += length
        if place != len(rest):
            return False
    except (ValueError, KeyError, TypeError, zlib.error):
        return False
    found.pages.update(pages)
    found.done[str(head["what"])] += 1
    return True


def record_of_facts(facts: Mapping[str, Any]) -> bytes:
    """The bytes of a record of plain facts."""
    return _framed(_FACTS, json.dumps(dict(facts)).encode())


def records_of_tiles(what: str, pages: Mapping[Page, bytes]) -> Iterable[bytes]:
    """The bytes of the records of changed tiles: one, unless they are very many."""
    items = list(pages.items())
    for begin in range(0, len(items), PAGES_OF_A_RECORD):
        part = items[begin : begin + PAGES_OF_A_RECORD]
        names = [[plane, *key, len(data)] for (plane, key), data in part]
        line = json.dumps({"what": what, "pages": names}).encode()
        plain = b"".join([line, b"\n", *(data for _, data in part)])
        yield _framed(_TILES, zlib.compress(plain, 1))


def _framed(kind: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(bytes([kind]) + payload), kind) + payload


class Journal:
    """Writes one journal in a thread; every call returns at once.

    ``failed`` is called once, in that thread, with a sentence when the disk refuses; from then on
    nothing is kept. ``facts`` are plain data. Raises ``InputError`` when the file cannot be made.
    """

    def __init__(
        self,
        path: Path,
        facts: Mapping[str, Any],
        failed: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self._failed = failed or (lambda sentence: None)
        self._change = threading.Condition()
        self._waiting: list[tuple[str, dict[Any, Any]]] = []
        self._busy = self._closing = self._broken = False
        self._synced = time.monotonic()
        self._dirty = False
        self._limit = COMPACT_BYTES
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)
            self._file.write(MAGIC + record_of_facts(facts))
        except OSError as error:
            raise InputError(_refused(path, error)) from error
        self._size = self._file.tell()
        self._thread = threading.Thread(target=self._work, name="attnseg-journal", daemon=True)
        self._thread.start()

    def facts(self, **facts: Any) -> None:
        """Keep plain facts; each replaces what was said of it before."""
        self._put("", facts)

    def tiles(self, what: str, pages: Mapping[Page, bytes]) -> None:
        """Keep changed tiles as one step; of answers that wait the newest of each tile is kept."""
        self._put(what, dict(pages))

    def wait(self) -> bool:
        """Until all is written and on the disk; whether it is there."""
        with self._change:
            while (self._waiting or self._busy) and not self._broken:
                self._change.wait(0.05)
        with contextlib.suppress(OSError, ValueError):
            os.fsync(self._file.fileno())
            return not self._broken and self.path.is_file()
        return False

    def close(self) -> None:
        """Write what waits and let the file go; it stays where it is."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._file.close()

    # --- inside ---------------------------------------------------------------------------------

    def _put(self, what: str, data: dict[Any, Any]) -> None:
        with self._change:
            if self._broken or self._closing:
                return
            if self._waiting and self._waiting[-1][0] == what and what in ("", "answer"):
                self._waiting[-1][1].update(data)
            else:
                self._waiting.append((what, data))
            self._change.notify_all()

    def _work(self) -> None:
        while True:
            with self._change:
                self._busy = False
                self._change.notify_all()
                while not self._waiting and not self._closing and not self._overdue():
                    self._change.wait(self._rest())
                todo, self._waiting = self._waiting, []
                self._busy = True
                ending = self._closing and not todo
            try:
                self._write(todo, ending)
            except Exception as error:  # whatever it is: nobody may wait for this thread forever
                with self._change:
                    self._broken, self._waiting, self._busy = True, [], False
                    self._change.notify_all()
                self._failed(_refused(self.path, error))
                return
            if ending:
                return

    def _rest(self) -> float | None:
        """Seconds until the next sync is due; nothing to bring to the disk: as long as it takes."""
        if not self._dirty:
            return None
        return max(0.001, self._synced + SYNC_SECONDS - time.monotonic())

    def _overdue(self) -> bool:
        return self._dirty and time.monotonic() >= self._synced + SYNC_SECONDS

    def _write(self, todo: list[tuple[str, dict[Any, Any]]], ending: bool) -> None:
        for what, data in todo:
            for record in records_of_tiles(what, data) if what else (record_of_facts(data),):
                self._append(record)
        if self._dirty and (ending or self._overdue()):
            os.fsync(self._file.fileno())
            self._dirty, self._synced = False, time.monotonic()
        if self._size > self._limit:
            self._compact()

    def _append(self, record: bytes) -> None:
        view = memoryview(record)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(record)
        if not self._dirty:
            self._dirty, self._synced = True, time.monotonic()

    def _compact(self) -> None:
        """Write the journal anew with the last of each tile; the old one stays until then."""
        now, draft = replay(self.path), self.path.with_suffix(".part")
        with draft.open("wb") as file:
            file.write(MAGIC + record_of_facts(now.facts | {"done": _counts(now)}))
            for record in records_of_tiles("snapshot", now.pages):
                file.write(record)
            file.flush()
            os.fsync(file.fileno())
        self._file.close()  # an open file cannot be replaced everywhere
        os.replace(draft, self.path)
        self._file = self.path.open("ab", buffering=0)
        self._size = self.path.stat().st_size
        self._limit = max(COMPACT_BYTES, 2 * self._size)


def _counts(now: Replayed) -> dict[str, int]:
    """What happened up to here: a snapshot forgets the single records."""
    before = Counter({str(k): int(v) for k, v in now.facts.get("done", {}).items()})
    return dict(before + Counter({k: v for k, v in now.done.items() if k != "snapshot"}))


def happened(now: Replayed) -> dict[str, int]:
    """How often each kind of thing happened, over all compactions."""
    return _counts(now)


def _refused(path: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or error
    return (
        f"the journal {path} cannot be written ({why}): what you paint now "
        "would not come back after a crash; export it soon, or free some space and start napari "
        "again"
    )
