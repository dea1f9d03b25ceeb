"""Files that are there whole or not at all: written beside their place, then renamed.

A draft's name says which process writes it. What a killed one left behind goes when the next file
is written into that folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from napari_attnseg.living import MARK, mark, owned

PREFIX = ".attnseg-"
DRAFT = re.compile(rf"\.attnseg-{MARK}@(?:was-(?P<of>.+)|.+)$")
"""A draft, or (``of``) a folder that has stepped aside for its successor."""
STALE_SECONDS = 3600.0
"""Drafts of other machines, and those whose name tells no process, that nobody has written to for
so long belong to a program that was killed."""


@contextlib.contextmanager
def whole(path: Path, suffix: str = "") -> Iterator[Path]:
    """A new file in the folder of ``path`` to be written; it takes the place of ``path`` when the
    block ends well.

    Its bytes are brought to the disk before. Whatever is raised, and whenever the program is
    killed, an older file stays as it was. A link stays a link: what it leads to is replaced.
    ``OSError`` is raised as it comes. The new file ends in ``suffix`` (as ``path`` does, unless
    given: libraries choose by it); one that ends in ``.zarr`` is a folder.
    """
    path = through(path)
    sweep(path.parent)
    suffix = suffix or ".nii" * path.name.lower().endswith(".nii.gz") + path.suffix
    draft = path.parent / f"{draft_prefix()}{secrets.token_hex(6)}{suffix}"
    try:  # its name is known before it is there: a Ctrl+C in between leaves nothing
        _begin(draft)
        yield draft
        to_disk(draft)
        move(draft, path)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """``data`` as the file ``path``, whole or not at all; raises ``OSError``."""
    with whole(path) as draft:
        draft.write_bytes(data)


def to_disk(path: Path) -> None:
    """Bring the bytes of a file, or of all files of a folder, to the disk."""
    for inner in path.rglob("*") if path.is_dir() else (path,):
        if inner.is_file():
            with inner.open("rb+") as file:
                os.fsync(file.fileno())


def move(draft: Path, path: Path) -> None:
    """To its place. Of two folders the old one steps aside first: it is back if that fails."""
    if not draft.is_dir() or not path.is_dir():
        os.replace(draft, path)
        return
    aside = path.with_name(f"{PREFIX}{mark()}@was-{path.name}")
    os.replace(path, aside)
    try:
        os.replace(draft, path)
    except OSError:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    with contextlib.suppress(OSError):  # not possible on Windows, not vital anywhere
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def through(path: Path) -> Path:
    """The place that a link leads to, which need not exist; any other path as it is. Raises
    ``OSError`` for links in a circle."""
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def sweep(folder: Path) -> None:
    """Remove the drafts of killed programs from ``folder``; what had stepped aside for one of them
    comes back if nothing is in its place. Whatever cannot be removed stays."""
    with contextlib.suppress(OSError):
        left = [entry for entry in os.scandir(folder) if entry.name.startswith(PREFIX)]
        for path in (folder / entry.name for entry in left):
            with contextlib.suppress(OSError):
                _clear(path)


def _clear(path: Path) -> None:
    found = DRAFT.match(path.name)
    if found is None:
        inside = list(path.iterdir()) if path.is_dir() else []
        written = max(p.stat().st_mtime for p in (path, *inside))
        if time.time() - written < STALE_SECONDS:
            return
    elif owned(path, found, STALE_SECONDS):
        return
    elif found["of"] and not os.path.lexists(path.with_name(found["of"])):
        os.replace(path, path.with_name(found["of"]))
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def drop_own(folder: Path) -> None:
    """Remove the drafts of this very process from ``folder``: for a program that is being ended,
    whose Ctrl+C may have fallen between two lines that no ``finally`` holds."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = DRAFT.match(path.name) if path.name.startswith(draft_prefix()) else None
            if found and not found["of"] and path.is_file():
                path.unlink(missing_ok=True)


def draft_prefix() -> str:
    """How the name of a draft of this process begins: while it lives, :func:`sweep` leaves it."""
    return f"{PREFIX}{mark()}@"


def _begin(draft: Path) -> None:
    if draft.suffix == ".zarr":
        draft.mkdir()
    else:
        draft.touch(exist_ok=False)
