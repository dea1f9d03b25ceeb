"""A person's own attention modules that lie in plain Python files, without a package around them.

The environment variable ``NAPARI_ATTNSEG_ATTENTIONS`` names files and folders, separated as in
``PATH``; of a folder every ``*.py`` counts. The files are run when attentions are listed, in the
process that computes, so name only files whose author you trust.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "NAPARI_ATTNSEG_ATTENTIONS"


def own_files() -> list[Path]:
    """The named files, in order; missing ones too, so that somebody can say so."""
    found: list[Path] = []
    for word in os.environ.get(VARIABLE, "").split(os.pathsep):
        if word:
            path = Path(word).expanduser()
            found += sorted(path.glob("*.py")) if path.is_dir() else [path]
    return found


def fingerprint() -> list[str]:
    """A line per file that changes when the file does."""
    return [f"{p}:{p.stat().st_mtime_ns if p.is_file() else 'missing'}" for p in own_files()]
