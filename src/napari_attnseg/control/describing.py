"""The engine's description of itself, kept on disk so that docks open without waiting for torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import napari_attnseg
from napari_attnseg.own_files import fingerprint

GROUPS = ("napari_attnseg.attentions", "napari_attnseg.models")


def cache_file() -> Path:
    """One file per version of this package, set of installed extensions and own files."""
    import platformdirs

    extensions = sorted(f"{g}:{p.name}={p.value}" for g in GROUPS for p in entry_points(group=g))
    text = json.dumps([napari_attnseg.__version__, extensions, fingerprint()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("napari-attnseg") / f"describe-{digest}.json"


def read_description() -> dict[str, Any] | None:
    """The last description, or ``None``."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(cache_file().read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else None
    return None


def write_description(data: dict[str, Any]) -> None:
    """Keep a description; a disk that refuses is no problem."""
    with contextlib.suppress(OSError, TypeError, ValueError):
        path = cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(data), encoding="utf-8")
        os.replace(part, path)
