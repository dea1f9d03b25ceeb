"""Files that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path, suffix: str = "") -> Iterator[Path]:
    """A new file in the folder of ``path`` to be written; it takes the place of ``path`` when the
    block ends well.

    Its bytes are brought to the disk before. Whatever is raised, and whenever the program is
    killed, an older file stays as it was. ``OSError`` is raised as it comes. The new file ends in
    ``suffix`` (as ``path`` does, unless given: libraries choose by it); one that ends in ``.zarr``
    is a folder.
    """
    draft = _draft(path, suffix or ".nii" * path.name.lower().endswith(".nii.gz") + path.suffix)
    try:
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
    aside = draft.with_name(f"{draft.name}-old")
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


def _draft(path: Path, suffix: str) -> Path:
    if suffix.endswith(".zarr"):
        draft = Path(tempfile.mkdtemp(prefix=".attnseg-", suffix=suffix, dir=path.parent))
        draft.chmod(0o777 & ~_umask())
        return draft
    handle, name = tempfile.mkstemp(prefix=".attnseg-", suffix=suffix, dir=path.parent)
    os.close(handle)
    draft = Path(name)
    draft.chmod(0o666 & ~_umask())
    return draft


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
