"""One JSON per finished run, written whole or not at all, and kept for the next start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_attnseg import atomic
from napari_attnseg.engine.experiment.plan import Run
from napari_attnseg.errors import ExportError, InputError
from napari_attnseg.io.layout import Layout
from napari_attnseg.settings import TrainSettings

Record = dict[str, Any]
IDENTITY = ("settings", "data")
"""Parts of a record that must agree with the plan for the run to count as done."""


def data_words(layout: Layout) -> dict[str, Any]:
    """The data of a run as plain values: names and counts, no paths."""
    return {
        "title": layout.title,
        "layout": layout.name,
        "labels": layout.labels.text,
        "split": layout.split,
        "train": len(layout.train),
        "test": len(layout.test),
        "notes": list(layout.notes),
    }


def record_path(out: Path, run: Run) -> Path:
    """Where the record of a run lies."""
    return out / "runs" / f"{run.key}.json"


def kept(out: Path, run: Run, layout: Layout) -> Record | None:
    """The record of a finished run, or ``None``.

    Raises ``InputError`` when the file was made with other settings or data: two experiments
    must not share a folder.
    """
    path = record_path(out, run)
    try:
        record: Record = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    wanted = _plain({"settings": run.settings.to_json(), "data": data_words(layout)})
    try:  # a field that is newer than the record has its default there
        record["settings"] = _plain(TrainSettings.from_json(record["settings"]).to_json())
    except (KeyError, TypeError, ValueError):
        return None
    for part in IDENTITY:
        if record.get(part) != wanted[part]:
            raise InputError(
                f"{path} was made with other {part} ({_difference(record.get(part), wanted[part])})"
                "; give another --out, or delete that folder to start anew"
            )
    return record


def _plain(data: Any) -> Any:
    return json.loads(json.dumps(data))


def _difference(had: Any, wanted: Any, where: str = "") -> str:
    """The first value that differs, in words."""
    if isinstance(had, dict) and isinstance(wanted, dict):
        for name in wanted:
            if had.get(name) != wanted[name]:
                return _difference(had.get(name), wanted[name], f"{where}{name} ")
    return f"{where}{had!r}, now {wanted!r}"


def write_whole(path: Path, payload: str | bytes) -> None:
    """A file that readers see as it was or as it is now; raises ``ExportError``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_whole(path, payload.encode() if isinstance(payload, str) else payload)
    except OSError as error:
        raise ExportError(
            f"cannot write {path} ({error.strerror or error}); choose another --out or free space"
        ) from error


def write_json(path: Path, data: Any) -> None:
    """Plain data as JSON, whole or not at all."""
    write_whole(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
