"""The training loop against a bare PyTorch loop with the same model and data, on the CPU.

Both learn the same epochs from the same files, with the same crops, loss, optimiser and model, both
judge the model on the same validation slices after every epoch (the bare loop one by one, the
product up to four at once) and write its weights to the disk.
The bare loop is what one would write by hand: ``model(x)``, ``loss.backward()``, ``step()``. The
product adds events, heartbeats, undoing of broken-off steps, resume state, card and all figures.
Interleaved pairs in one run; the losses of both are checked to agree.

    python benchmarks/bench_training.py             # print the table
    python benchmarks/bench_training.py --write     # and put it into benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import results
import torch
from PIL import Image
from safetensors.torch import save_file

from napari_attnseg.control.messages import EpochDone
from napari_attnseg.engine.augment import Draw, collate, draw_example
from napari_attnseg.engine.data import FolderSource, Slice, split
from napari_attnseg.engine.learner import Learner
from napari_attnseg.engine.optimizers import step_factor
from napari_attnseg.engine.train import train
from napari_attnseg.settings import RECIPES, TrainSettings, with_model

TARGET = 0.05
SIDE, FILES = 192, 40
PAM = RECIPES["pam-unet"]
CASES: dict[str, TrainSettings] = {
    "`threshold-matters`, smooth_unet, half width, crops of 128": replace(
        RECIPES["threshold-matters"], threshold_draw="fixed", patience=0
    ),
    "the same, quarter width, crops of 64": replace(
        RECIPES["threshold-matters"],
        threshold_draw="fixed",
        patience=0,
        crop=64,
        options={"width": 0.25, "stride": 8},
    ),
    "`pam-unet`, mobile_unet, whole images at 128": replace(
        with_model(PAM, "mobile_unet"), regulariser_weight=0.0
    ),
}


@dataclass
class Spent:
    """Seconds on the clock and of the processor, and the epochs' mean losses."""

    wall: float
    processor: float
    losses: list[float]


def make_files(folder: Path) -> None:
    """Noisy discs and their masks as PNG files."""
    y, x = np.mgrid[:SIDE, :SIDE]
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for k in range(FILES):
        mask = np.zeros((SIDE, SIDE), bool)
        for _ in range(12):
            cy, cx = rng.integers(0, SIDE, 2)
            mask |= (y - cy) ** 2 + (x - cx) ** 2 < rng.integers(30, 250)
        image = (60 + 120 * mask + rng.normal(0, 12, mask.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{k:02}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{k:02}.png")


def the_product(settings: TrainSettings, folder: Path) -> Spent:
    """``train`` from beginning to end."""
    source = FolderSource(folder / "images", folder / "masks")
    wall, processor = time.perf_counter(), time.process_time()
    events = list(train(settings, source, folder / "product.safetensors", device="cpu"))
    spent = time.perf_counter() - wall, time.process_time() - processor
    return Spent(*spent, [e.loss for e in events if isinstance(e, EpochDone)])


def by_hand(settings: TrainSettings, folder: Path) -> Spent:
    """The same training in a bare loop."""
    source = FolderSource(folder / "images", folder / "masks")
    wall, processor = time.perf_counter(), time.process_time()
    for _ in source.scan(settings):
        pass
    training, validation, _ = split(
        source.slices, settings.validation, settings.seed, source.marked
    )
    learner = Learner(settings, torch.device("cpu"))  # for equal weights and optimiser alone
    model, optimizer, loss_of = learner.model, learner.optimizer, learner.loss
    draw = Draw(settings.crop, settings.augment, source.oriented, settings.augmentation)
    losses, best = [], -1.0
    for epoch in range(settings.epochs):
        model.train()
        total, order = 0.0, _order(settings, training, epoch)
        steps = len(order) // settings.batch
        for step in range(steps):
            items = []
            for place in range(step * settings.batch, (step + 1) * settings.batch):
                rng = np.random.default_rng([settings.seed, 3, epoch, place])
                items.append(draw_example(source.example(order[place]), draw, rng))
            images, targets = collate(items)
            progress = (epoch + step / steps) / settings.epochs
            for group in optimizer.param_groups:
                factor = step_factor(settings.schedule, progress)
                group["lr"] = settings.lr * factor * group["factor"]
            loss = loss_of(model(images), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / steps)
        dice = _dice(model, source, validation)
        if dice > best:
            best = dice
            save_file(model.state_dict(), folder / "bare.safetensors")
    spent = time.perf_counter() - wall, time.process_time() - processor
    return Spent(*spent, losses)


def _order(settings: TrainSettings, slices: tuple[Slice, ...], epoch: int) -> list[Slice]:
    rng = np.random.default_rng([settings.seed, 2, epoch])
    wanted = max(len(slices), 64) if settings.crop else len(slices)
    order: list[Slice] = []
    while len(order) < wanted:
        order += [slices[i] for i in rng.permutation(len(slices))]
    return order[:wanted]


@torch.no_grad()
def _dice(model: torch.nn.Module, source: FolderSource, slices: tuple[Slice, ...]) -> float:
    model.eval()
    both = total = 0
    for slice_ in slices:
        example = source.example(slice_)
        logits = model(example.image[None])
        logits = torch.nn.functional.interpolate(logits, example.target.shape, mode="bilinear")
        found, true = logits[0, 0] >= 0, torch.from_numpy(example.target) > 0
        both += int((found & true).sum())
        total += int(found.sum() + true.sum())
    return 2 * both / max(total, 1)


def compare(settings: TrainSettings, pairs: int) -> list[tuple[Spent, Spent]]:
    """Pairs (product, bare), the order within a pair alternating; a warm-up pair is dropped."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name))
        for k in range(pairs + 1):
            runs = [the_product, by_hand] if k % 2 else [by_hand, the_product]
            done = {run: run(settings, Path(name)) for run in runs}
            mine, bare = done[the_product], done[by_hand]
            np.testing.assert_allclose(mine.losses, bare.losses, rtol=1e-3)
            found.append((mine, bare))
    return found[1:]


def row(title: str, pairs: list[tuple[Spent, Spent]]) -> str:
    wall = [mine.wall / bare.wall - 1 for mine, bare in pairs]
    processor = [mine.processor / bare.processor - 1 for mine, bare in pairs]
    middle = statistics.median(processor)
    verdict = "met" if middle <= TARGET else "MISSED"
    seconds = statistics.median(bare.processor for _, bare in pairs)
    return (
        f"| {title} | {seconds:.2f} s | {middle:+.1%} ({min(processor):+.1%} to "
        f"{max(processor):+.1%}) | {statistics.median(wall):+.1%} ({min(wall):+.1%} to "
        f"{max(wall):+.1%}) | <= {TARGET:.0%}: {verdict} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    lines = [
        "| what | bare loop | more processor time | more time on the clock | target |",
        "|---|---:|---:|---:|---|",
    ]
    for title, settings in CASES.items():
        pairs = compare(replace(settings, epochs=options.epochs), options.pairs)
        lines.append(row(title, pairs))
        print(lines[-1], flush=True)
    text = (
        f"{options.epochs} epochs of {FILES} files of {SIDE}x{SIDE} with validation, reading of "
        "the files and writing of the model, through `train` against a bare PyTorch loop with the "
        "same model, crops, loss and optimiser (which judges slices one by one): median (range) of "
        f"{options.pairs} interleaved pairs. The losses of both agree (checked). The verdict is "
        "by processor time, which other work on the machine moves less than the clock. "
        f"{results.device()}, torch {torch.__version__}, {options.threads} thread, load average "
        f"{load:.1f} when it began. Command: `python benchmarks/bench_training.py --write`.\n\n"
        + "\n".join(lines)
    )
    print(text)
    if options.write:
        results.write_section("training loop", text)


if __name__ == "__main__":
    main()
