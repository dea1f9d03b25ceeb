"""What the docks remember between sessions: last folder, model and device. A small JSON file."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from napari_attnseg.atomic import write_whole


def preferences_file() -> Path:
    """Beside napari's own settings when ``NAPARI_CONFIG`` names them, else the user's config."""
    if given := os.environ.get("NAPARI_CONFIG"):
        return Path(given).with_name("napari-attnseg.json")
    import platformdirs

    return platformdirs.user_config_path("napari-attnseg") / "settings.json"


def _read() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(preferences_file().read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}
    return {}


def recall(name: str, default: Any = None) -> Any:
    """The remembered value called ``name``, or ``default``."""
    return _read().get(name, default)


def remember(name: str, value: Any) -> None:
    """Keep a plain value; a disk that refuses is no problem."""
    data = _read() | {name: value}
    path = preferences_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(data, indent=1).encode())
