"""What a network costs: parameters, multiply-adds, and the time of one forward on this CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from napari_attnseg.engine.experiment.plan import Row, Run
from napari_attnseg.engine.experiment.records import record_path, write_json
from napari_attnseg.models.base import SegmentationModel, create_model
from napari_attnseg.models.macs import count_macs
from napari_attnseg.settings import TrainSettings

REPEATS = 5


def row_costs(row: Row, seed: int, out: Path) -> Iterator[bool]:
    """Measure a row as trained and at full size and keep it in ``out/costs``, unless that is
    there; yields ``False`` as a heartbeat and ``True`` once it is written.

    A peer costs what its coarse model does and, as trained, the time of the run with ``seed``.
    """
    path = out / "costs" / f"{row.key}.json"
    wanted = {"run": _words(row.settings), "full": _words(row.full)}
    if _is_of(path, wanted):
        return
    found: dict[str, Any] = {"of": wanted, "load": round(psutil.getloadavg()[0], 2)}
    alone = row.peer or row.full == row.settings
    parts = {"run": row.settings} if alone else {"run": row.settings, "full": row.full}
    for name, settings in parts.items():
        found[name] = cost_of(settings, settings.preprocessing.size or 128)
        yield False
    if row.peer:
        record = json.loads(record_path(out, Run(row, seed)).read_text())
        found["run"]["ms"] += record["summary"]["ms"]
    write_json(path, found)
    yield True


def cost_of(settings: TrainSettings, size: int) -> dict[str, Any]:
    """``parameters``, ``macs`` of one image (1, C, size, size) and ``ms``, the median of five
    forwards after one to warm up, on the CPU with the threads in force."""
    model = create_model(
        settings.model,
        in_channels=settings.preprocessing.channels,
        classes=settings.classes,
        **settings.options,
    ).eval()
    return {
        "size": size,
        "channels": settings.preprocessing.channels,
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": count_macs(model, size=(size, size)),
        "ms": forward_ms(model, settings.preprocessing.channels, size),
        "threads": torch.get_num_threads(),
    }


@torch.inference_mode()
def forward_ms(model: SegmentationModel, channels: int, size: int) -> float:
    """Milliseconds of one forward of a batch of 1."""
    image = torch.zeros(1, channels, size, size)
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        model(image)
        times.append(1000 * (time.perf_counter() - start))
    return median(times[1:])


def _words(settings: TrainSettings) -> dict[str, Any]:
    """What a cost depends on."""
    return {"model": settings.model, "options": dict(settings.options)} | {
        "size": settings.preprocessing.size,
        "channels": settings.preprocessing.channels,
        "classes": settings.classes,
    }


def _is_of(path: Path, wanted: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text())["of"] == wanted)
    except (OSError, KeyError, TypeError, json.JSONDecodeError):
        return False
