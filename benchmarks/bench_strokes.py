"""How soon a few strokes on one image of nuclei give a useful mask.

    python benchmarks/bench_strokes.py IMAGE MASK [--minutes 5]

Strokes are drawn from the reference: a short line inside twelve nuclei and twelve lines on the
ground, about 2 % of the pixels. Prints Dice over the pixels that nobody painted, epoch by epoch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from napari_attnseg.control.messages import EpochDone, ImageRef
from napari_attnseg.engine.data import LayerSource
from napari_attnseg.engine.train import train
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.settings import RECIPES


def draw_strokes(mask: np.ndarray, count: int = 12, length: int = 9, seed: int = 0) -> np.ndarray:
    """Sparse labels (Y, X): 2 on lines inside the mask, 1 on lines outside, 0 elsewhere.

    A stroke never leaves its class, as a careful hand's does not.
    """
    rng = np.random.default_rng(seed)
    strokes = np.zeros(mask.shape, np.uint8)
    for inside, label in ((mask, 2), (~mask, 1)):
        places = np.argwhere(inside)
        for y, x in places[rng.permutation(len(places))[:count]]:
            reach = slice(max(0, x - length // 2), x + length // 2 + 1)
            for row in (y, min(y + 1, len(mask) - 1)):
                strokes[row, reach][inside[row, reach]] = label
    return strokes


def watch(
    image: np.ndarray, rgb: bool, mask: np.ndarray, seconds: float, epochs: int = 100
) -> Iterator[str]:
    """Train from strokes and say after each epoch how good the rest of the image is."""
    strokes = draw_strokes(mask)
    settings = replace(RECIPES["threshold-matters"], sparse=True, epochs=epochs, patience=0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "image.npy", image[None])
        np.save(place / "labels.npy", strokes[None])
        source = LayerSource(ImageRef("k", str(place / "image.npy"), rgb), place / "labels.npy")
        began, asked = time.perf_counter(), place / "preview.npy"
        stream = train(settings, source, place / "m.safetensors", preview=lambda: (0, asked))
        for event in stream:
            if isinstance(event, EpochDone) and asked.exists():
                guess = np.load(asked, allow_pickle=False) >= 0.5
                free = strokes == 0
                both = np.count_nonzero(guess & mask & free)
                dice = 2 * both / (np.count_nonzero(guess & free) + np.count_nonzero(mask & free))
                spent = time.perf_counter() - began
                yield f"{spent:6.1f} s  epoch {event.epoch:3}  Dice {dice:.4f}"
            if time.perf_counter() - began > seconds:
                break
        stream.close()


def main() -> None:
    """Read IMAGE and MASK from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    volume, mask = read_image(given.image), read_mask(given.mask).view[0] > 0
    print(f"{torch.get_num_threads()} threads, {volume.view.shape[1:3]} pixels")
    for line in watch(volume.view[0], volume.rgb, mask, 60 * given.minutes, given.epochs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
