"""Do all systems of the survey learn? Each in a small form, a short while on nuclei, on the CPU.

Images of 64 x 64, last fifth of the names = test, one seed: the table shows that every system
trains (its loss falls, its mask beats the trivial one), not which of them is better.

    python benchmarks/bench_systems.py NUCLEI                 # print the table
    python benchmarks/bench_systems.py NUCLEI --write         # and put it into RESULTS.md
    python benchmarks/bench_systems.py NUCLEI --keep DIR      # figures of each are kept there:
                                                              # given again, they are not run again
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shelf_tasks as tasks
import torch
from results import device, write_section
from torch import Tensor

from napari_attnseg.engine.experiment.plan_compare import START
from napari_attnseg.engine.learner import Learner
from napari_attnseg.settings import Preprocessing, TrainSettings

SEED, STEPS, BATCH = 0, 60, 4
LONGER = {"ca_net": 400, "cara_net": 240, "swin_unet": 240, "smooth_unet": 600, "mobile_unet": 240}
"""Steps of those whose masks are still trivial after :data:`STEPS`."""
STEEPER = {"ca_net": 1e-2}
"""Step sizes other than the common one."""
ENDS = 5
"""Steps over which the loss is averaged at the beginning and at the end."""
PHASES = 2
"""Channels of the two-phase network: two noisy shots of the grey image."""
SYSTEMS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Y01", "attention_unet", {"width": 0.25, "levels": 3}),
    ("Y02", "anu_net", {"width": 0.25, "levels": 3}),
    ("Y03", "ca_net", {"width": 0.5}),
    ("Y04", "sa_net", {"width": 0.25, "levels": 3}),
    ("Y05", "dda_net", {"width": 0.5}),
    ("Y06", "nonlocal_unet", {"width": 0.5}),
    ("Y07", "m3_net", {"width": 0.25, "levels": 3}),
    ("Y08", "cara_net", {"plan": "50", "width": 0.5}),
    ("Y09", "trans_unet", {"width": 0.125, "depth": 2, "heads": 4, "grid": 4}),
    ("Y10", "unet_transformer", {"width": 0.25, "levels": 3}),
    ("Y11", "swin_unet", {"width": 0.5}),
    ("Y12", "swin_unetr", {"width": 0.5}),
    ("Y12", "unetr", {"width": 0.125, "depth": 4}),
    ("Y13", "dense_unet", {"plan": "narrow"}),
    ("Y13", "pam_unet", {"plan": "tiny"}),
    ("Y13", "smooth_unet", {"width": 0.25, "stride": 8}),
    ("Y14", "unet", {"width": 0.25, "levels": 3}),
    ("Y14", "dense_unet", {"plan": "narrow", "attention": "none"}),
    ("Y14", "mobile_unet", {"width": 0.5}),
)
HEAD = (
    "| id | model | options | parameters | steps | loss, first steps | last steps | test Dice | "
    "trains | s |\n|---|---|---|--:|--:|--:|--:|--:|---|--:|"
)


@dataclass(frozen=True)
class Run:
    """What one training gave; ``seconds`` of the processor."""

    parameters: int
    first: float
    last: float
    dice: float
    seconds: float


def dice(said: Tensor, true: Tensor) -> float:
    """Over the pixels of all test images together."""
    return float(2 * (said & true).sum() / (said.sum() + true.sum()))


def learner(model: str, options: dict[str, Any]) -> Learner:
    """A fresh network in its small form with what trains it."""
    channels = PHASES if model == "m3_net" else 3
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    settings = TrainSettings(
        model=model,
        options=options,
        preprocessing=Preprocessing(channels=channels, intensity="unit", mean=zeros, std=ones),
        lr=STEEPER.get(model, START.lr),
        optimizer=START.optimizer,
        weight_decay=START.weight_decay,
        schedule=START.schedule,
        loss=START.loss,
        gamma_lr_factor=tasks.GAMMA_FACTOR,
        seed=SEED,
    )
    return Learner(settings, torch.device("cpu"))


def phases(images: Tensor, seed: int) -> Tensor:
    """Two noisy shots of every image, as the two phases of a scan: (n, 2, H, W)."""
    grey = images.mean(1, keepdim=True).expand(-1, PHASES, -1, -1)
    generator = torch.Generator().manual_seed(seed)
    return grey + tasks.SHOT_NOISE * torch.randn(grey.shape, generator=generator)


def steps_of(model: str) -> int:
    """How long a model is trained."""
    return LONGER.get(model, STEPS)


def learned(parts: Generator[None, None, float]) -> float:
    """The loss of one step."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return float(end.value)


def train(model: str, options: dict[str, Any], data: tuple[tasks.Batch, tasks.Batch]) -> Run:
    """The short training, and the Dice of the test images."""
    (images, targets), (seen, true) = data
    if model == "m3_net":
        images, seen = phases(images, 1), phases(seen, 2)
    begin = time.process_time()
    learning, losses = learner(model, options), []
    batches, count = tasks.nuclei_batches((images, targets), False, SEED), steps_of(model)
    for step, (x, t) in enumerate(itertools.islice(batches, count)):
        losses.append(learned(learning.learn(x, t, step / count, [SEED, 4, step])))
    values = learning.values(learning.settings.threshold)
    logits = torch.cat([learning.logits_of(part, values) for part in seen.split(8)])
    return Run(
        sum(p.numel() for p in learning.model.parameters()),
        float(np.mean(losses[:ENDS])),
        float(np.mean(losses[-ENDS:])),
        dice(logits[:, 0] > 0, true > 0),
        time.process_time() - begin,
    )


def kept(folder: Path | None, key: str, work: Any) -> Run:
    """What was kept of ``key``, or what ``work()`` gives."""
    path = None if folder is None else folder / f"{key}.json"
    if path is not None and path.is_file():
        return Run(**json.loads(path.read_text()))
    found: Run = work()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(found)))
    return found


def line(number: str, model: str, options: dict[str, Any], run: Run, trivial: float) -> str:
    """One row."""
    said = " ".join(f"{k}={v}" for k, v in options.items())
    good = run.last < run.first and run.dice > trivial
    return (
        f"| {number} | {model} | `{said}` | {run.parameters:,} | {steps_of(model)} | "
        f"{run.first:.3f} | {run.last:.3f} | {run.dice:.3f} | {'yes' if good else '**no**'} | "
        f"{run.seconds:.0f} |"
    )


def introduction(trivial: float, seconds: float) -> str:
    """What was done, in words."""
    steep = " and ".join(f"{name} at {lr:g}" for name, lr in STEEPER.items())
    return (
        f"`python benchmarks/bench_systems.py NUCLEI --write` on {device()}, "
        f"{torch.get_num_threads()} torch thread(s), {seconds / 60:.1f} min of the processor in "
        f"all.\n\nEvery system of the survey in a small form, random weights, {STEPS} steps (more "
        f"where the mask is still trivial by then) of {BATCH} nuclei images at "
        f"{tasks.SIDE}x{tasks.SIDE} (last fifth of the names: test), AdamW at {START.lr:g} in one "
        f"cycle ({steep}), one seed ({SEED}). **The table shows that each of them trains: the loss "
        "falls and the mask beats the trivial one. After so few steps, of small forms, with one "
        "seed, it says nothing about which is better.** "
        f"The trivial mask (all foreground) has Dice {trivial:.3f}. Loss: mean of {ENDS} steps. "
        "M3-Net takes two phases: two noisy shots of the same image. A U-Net with CSPN or DySPN "
        "(Y13) is trained on top of a trained one: see *refine*."
    )


def main() -> None:
    """Print the table; with ``--write`` keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nuclei", type=Path, help="folder of images and labels")
    parser.add_argument("--write", action="store_true", help="update benchmarks/RESULTS.md")
    parser.add_argument("--keep", type=Path, help="keep the figures of each system here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = tasks.nuclei(given.nuclei)
    true = data[1][1] > 0
    trivial = dice(torch.ones_like(true), true)
    rows, spent = [HEAD], 0.0
    for number, model, options in SYSTEMS:
        key = "_".join([number, model, *map(str, options.values()), str(steps_of(model))])
        run = kept(given.keep, key, lambda m=model, o=options: train(m, o, data))
        spent += run.seconds
        rows.append(line(number, model, options, run, trivial))
        print(rows[-1], flush=True)
    if given.write:
        write_section(
            "systems on nuclei", "\n\n".join([introduction(trivial, spent), "\n".join(rows)])
        )


if __name__ == "__main__":
    main()
