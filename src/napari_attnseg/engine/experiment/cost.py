"""What a network costs: parameters, multiply-adds, and the time of one forward on this CPU."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from napari_attnseg.models.base import SegmentationModel, create_model
from napari_attnseg.models.macs import count_macs
from napari_attnseg.settings import TrainSettings

REPEATS = 5


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
