"""Files that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(path: Path, check: Callable[[Path], Any] | None = None) -> Iterator[Path]:
    """A new file in the folder of ``path`` to be written; it takes the place of ``path`` when the
    block ends well.

    Its bytes are brought to the disk before, and ``check`` may look at them and raise. Whatever is
    raised, and whenever the program is killed, an older file stays as it was. ``OSError`` is
    raised as it comes. The new file keeps the suffix of ``path`` (libraries choose by it).
    """
    handle, name = tempfile.mkstemp(prefix=".attnseg-", suffix=_suffix(path), dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        draft.chmod(0o666 & ~_umask())
        yield draft
        to_disk(draft)
        if check is not None:
            check(draft)
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """``data`` as the file ``path``, whole or not at all; raises ``OSError``."""
    with whole(path) as draft:
        draft.write_bytes(data)


def to_disk(path: Path) -> None:
    """Bring a file's bytes to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    with contextlib.suppress(OSError):  # not possible on Windows, not vital anywhere
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
