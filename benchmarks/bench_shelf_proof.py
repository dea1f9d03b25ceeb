"""Does every attention of the shelf do something? Two small proofs for each, on the CPU.

(a) After a short training on nuclei at 64 x 64 it is taken out: how much do the logits of the test
images change? (b) Far: the class of a square is decided by a marker beyond the sight of the plain
network. What carries information across the image must solve it, what does not cannot. Tasks,
places and networks stand in ``shelf_tasks.py``.

    python benchmarks/bench_shelf_proof.py NUCLEI             # print the table
    python benchmarks/bench_shelf_proof.py NUCLEI --write     # and put it into RESULTS.md
    python benchmarks/bench_shelf_proof.py NUCLEI --only se vit --models DIR

NUCLEI is a data set's folder (``images`` and ``labels``), last fifth of the names = test; without
it, or where it does not exist, only (b) is run. ``--models`` keeps the networks of (a), from which
``shelf_pictures.py`` draws, and all figures: given again, what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shelf_tasks as tasks
import torch
from results import device, write_section
from safetensors.torch import save_model
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, attention_class, attention_info
from napari_attnseg.engine.learner import Learner

SEEDS = (0, 1, 2)
"""Of the plain U-Net; every attention is trained once, with the first."""
MEASURABLE = 0.01
"""Mean change of the logits, in standard deviations of the logits."""
SOLVED = 0.95
PAIRS, PART, STATISTICS, NEAR = "pairs", "points", "whole map", "no"
ACROSS = {
    **dict.fromkeys(("se", "eca", "sk", "gsop", "gather_excite", "cbam", "bam"), STATISTICS),
    **dict.fromkeys(("channel", "dynamic_conv", "odconv", "scale", "frequency"), STATISTICS),
    **dict.fromkeys(("psa", "position", "nonlocal", "vit", "cross", "luong"), PAIRS),
    **dict.fromkeys(("joint", "smooth", "axial", "criss_cross", "interlaced_sparse"), PAIRS),
    "temporal": PAIRS,
    **dict.fromkeys(("ann", "ema", "iau", "ocr"), PART),
    **dict.fromkeys(("coordinate", "pointwise", "attention_gate", "branch", "sasa"), NEAR),
    **dict.fromkeys(("swin", "hard", "reverse", "spatial_propagation"), NEAR),
}
"""How information gets across the whole image: between pairs of positions, by way of a few points
(bases, regions, parts, a pyramid), as statistics of the whole map, or not at all."""
SCORES = {
    "sk": ("squeeze",),
    "branch": ("score",),
    "dynamic_conv": ("mlp",),
    "odconv": ("squeeze",),
    "sasa": ("query",),
    "scale": ("mlp",),
}
"""Of those that cannot be left out: the layers whose answers make the weights."""
OFF = -40.0
"""A score whose sigmoid is 0."""


@dataclass(frozen=True)
class Nuclei:
    """(a) of one network."""

    dice: float
    change: float
    dice_without: float


@dataclass(frozen=True)
class Far:
    """(b) of one network: gradient at the marker, accuracy, steps, sight without marker."""

    gradient: float
    accuracy: float
    steps: int
    sight: tuple[int, int]


class Keeper:
    """Figures, kept in ``folder`` if there is one; ``spent``: seconds of the processor in all."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.spent = folder, 0.0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, key: str, run: Callable[..., Any], *args: Any) -> Any:
        """What ``run(*args)`` gives, or what was kept of it."""
        path = None if self.folder is None else self.folder / f"{key}.json"
        if path is not None and path.is_file():
            told = json.loads(path.read_text())
        else:
            start = time.process_time()
            found = run(*args)
            told = {"found": found, "seconds": time.process_time() - start}
            print(f"    {key}: {told['seconds']:.0f} s of the processor", flush=True)
            if path is not None:
                path.write_text(json.dumps(told))
        self.spent += told["seconds"]
        return told["found"]


# --- (a) ------------------------------------------------------------------------------------------


@contextmanager
def same_for_all(model: nn.Module, name: str) -> Iterator[None]:
    """The attention's scores replaced by their mean over all images and positions: what stands in
    place of a layer then has the same weights for everything. Scale attention's are replaced by
    those of weights of 0, where it joins the maps plainly."""
    handles, instead = [], _off if name == "scale" else _mean
    for module in _own(model, name):
        for part in SCORES[name]:
            handles.append(getattr(module, part).register_forward_hook(instead))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _own(model: nn.Module, name: str) -> list[AttentionModule]:
    """The modules of this attention in the network."""
    kind = attention_class(name)
    return [module for module in model.modules() if isinstance(module, kind)]


def _mean(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    axes = [axis for axis in range(output.ndim) if axis != 1]
    return output.mean(axes, keepdim=True).expand_as(output)


def _off(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return torch.full_like(output, OFF)


def dice(logits: Tensor, targets: Tensor) -> float:
    """Over the pixels of all test images together."""
    said, true = logits[:, 0] > 0, targets > 0
    return float(2 * (said & true).sum() / (said.sum() + true.sum()))


def without(learning: Learner, name: str, images: Tensor) -> Tensor:
    """Logits with the attention taken out."""
    if name in SCORES:
        with same_for_all(learning.model, name):
            return learning.logits_of(images, {})  # all at once: the mean is over all
    levels = [t.name for t in learning.model.tunables if t.name.startswith("level_")]
    return learning.logits_of(images, dict.fromkeys(levels, 0.0))


def prove_nuclei(
    name: str, data: tuple[tasks.Batch, tasks.Batch], models: Path | None
) -> dict[str, Any]:
    """Train, test, take out, test: the fields of :class:`Nuclei`."""
    stacked = name == tasks.STACKED
    train, test = data
    images, targets = tasks.shots(test, 1) if stacked else test
    learning = tasks.learn_nuclei(name, train, SEEDS[0], stacked)
    if models is not None:
        save_model(learning.model, str(models / f"{name}.safetensors"))
    now, then = learning.logits_of(images, {}), without(learning, name, images)
    change = float((now - then).abs().mean() / now.std())
    return asdict(Nuclei(dice(now, targets), change, dice(then, targets)))


def plain_dice(data: tuple[tasks.Batch, tasks.Batch], seed: int, stacked: bool = False) -> float:
    """Of the plain U-Net."""
    train, test = data
    images, targets = tasks.shots(test, 1) if stacked else test
    learning = tasks.learn_nuclei("", train, seed, stacked)
    return dice(learning.logits_of(images, {}), targets)


# --- (b) ------------------------------------------------------------------------------------------


def prove_far(name: str, seed: int = 0, task: str = "") -> dict[str, Any]:
    """Look at gradients, train, test on 256 further scenes: the fields of :class:`Far`."""
    gradient, rows, columns = tasks.sight(name, task)
    learning, steps = tasks.learn_far(name, seed, task)
    scenes = tasks.scenes_of(task or name)(256, 77)
    return asdict(Far(gradient, tasks.solved(learning, scenes), steps, (rows, columns)))


def as_declared(name: str, found: Far) -> bool:
    """Whether gradients reach the marker where they should and only there, and it is solved."""
    if ACROSS[name] == NEAR:
        return found.gradient == 0 and found.accuracy < SOLVED
    return found.gradient > 0 and found.accuracy >= SOLVED


# --- the table ------------------------------------------------------------------------------------

HEAD = (
    "| id | attention | placed (a) | Dice | taken out: logits change, sd | Dice then | across "
    "the image | gradient at the marker | far squares right | steps | as it must be |\n"
    "|---|---|---|--:|--:|--:|---|--:|--:|--:|---|"
)


def line(name: str, a: Nuclei | None, b: Far) -> str:
    """One row."""
    about = attention_info(name)
    shown = ("", "", "") if a is None else (a.dice, a.change, a.dice_without)
    figures = " | ".join(f"{v:.3f}" if v != "" else "" for v in shown)
    place = tasks.placed(name, coarse=True).replace("temporal_of_stacks", name)
    note = " (own tasks)" if name == tasks.STACKED else ""
    good = as_declared(name, b) and (a is None or a.change >= MEASURABLE)
    steps = str(b.steps) if b.accuracy >= SOLVED else f"{b.steps} (all)"
    gradient = "0" if b.gradient == 0 else f"{b.gradient:.1g}"
    return (
        f"| {about['id']} | {name}{note} | `{place}` | {figures} | {ACROSS[name]} | {gradient} | "
        f"{b.accuracy:.3f} | {steps} | {'yes' if good else '**no**'} |"
    )


def plain_words(data: tuple[tasks.Batch, tasks.Batch] | None, keep: Keeper) -> str:
    """What the plain U-Net does, over the seeds."""
    text = "" if data is None else plain_nuclei(data, keep)
    runs = [Far(**keep(f"plain_far_{seed}", prove_far, "", seed)) for seed in SEEDS]
    stacks = Far(**keep("plain_far_stacks", prove_far, "", 0, tasks.STACKED))
    right = ", ".join(f"{run.accuracy:.3f}" for run in runs)
    assert all(run.gradient == 0 for run in (*runs, stacks)), "the marker must be out of sight"
    rows, columns = runs[0].sight
    return text + (
        f"Plain U-Net on the far squares: {right} right with seeds "
        f"{', '.join(map(str, SEEDS))} (chance is 0.5), {stacks.accuracy:.3f} in stacks; its "
        f"gradients reach {rows} rows and {columns} columns beyond the square and are exactly 0 "
        "at the marker, which is at least 12 rows and 28 columns away."
    )


def plain_nuclei(data: tuple[tasks.Batch, tasks.Batch], keep: Keeper) -> str:
    """Its Dice, and what to make of it."""
    found = [keep(f"plain_nuclei_{seed}", plain_dice, data, seed) for seed in SEEDS]
    shot = keep("plain_stacks", plain_dice, data, SEEDS[0], True)
    words = ", ".join(f"{d:.3f}" for d in found)
    return (
        f"Plain U-Net on the nuclei: Dice {words} with seeds {', '.join(map(str, SEEDS))}, "
        f"mean {np.mean(found):.3f}, from lowest to highest {max(found) - min(found):.3f}. "
        f"**Every attention was trained once, for {tasks.STEPS} steps of {tasks.BATCH} images; "
        "differences of Dice up to about this spread say nothing, and larger ones say nothing "
        "about longer trainings or other data.** "
        f"On the noisy shots of A32 the plain U-Net has {shot:.3f} (one seed).\n\n"
    )


def introduction(threads: int, seconds: float, command: str) -> str:
    """What was done, in words."""
    return (
        f"`{command}` on {device()}, {threads} torch thread(s), {seconds / 60:.0f} min of the "
        "processor in all.\n\n"
        "(a) `placed_unet` of quarter width that halves twice, on nuclei images at "
        f"{tasks.SIDE}x{tasks.SIDE} (last fifth of the names: test), the attention at the natural "
        "place of its role without the finest grid (a gamma that begins at 0 takes steps "
        f"{tasks.GAMMA_FACTOR:g} times as long, as in the project's recipes). Taken "
        "out: its level at 0; for what stands in "
        "place of a layer (sk, branch, dynamic_conv, odconv, sasa) its scores are replaced by "
        "their mean over all images and positions, so that the weights are the same for "
        "everything; the weights of scale are set to 0, where it joins the maps plainly. "
        f"The change is mean |difference| over the standard deviation of the logits; "
        f"at least {MEASURABLE} is asked for. It tells that the network uses the attention, not "
        "that it is better for it. Channel affinity (A13) stays just below: the weight of its "
        "branch begins at 0 and has hardly grown in so few steps.\n\n"
        f"(b) {tasks.FAR[0]}x{tasks.FAR[1]} pixels, a U-Net that halves once, natural place, at "
        f"most {tasks.FAR_STEPS} steps of {tasks.FAR_BATCH} scenes; the class of a square is that "
        "of a marker in the opposite corner. *across the image* says how the mechanism carries "
        "information over any distance: between pairs of positions, by a few points that all "
        "positions share, by statistics of the whole map, or not at all (coordinate: only along "
        "its own row and column; swin, sasa, spatial_propagation, branch: some steps; the rest: "
        "through a position's own features). The former must have a gradient at the marker and at "
        f"least {SOLVED} of 256 fresh squares right, the latter a gradient of exactly 0. A32 works "
        "along slices: on four noisy shots of one image in (a), and in (b) with the marker in "
        "another slice."
    )


def measure(names: list[str], data: Any, keep: Keeper) -> list[str]:
    """All rows, printed as they come."""
    rows = []
    for name in names:
        a = None
        if data is not None:
            a = Nuclei(**keep(f"{name}_nuclei", prove_nuclei, name, data, keep.folder))
        b = Far(**keep(f"{name}_far", prove_far, name))
        rows.append(line(name, a, b))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Print the table; with ``--write`` keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nuclei", nargs="?", type=Path, help="folder of images and labels")
    parser.add_argument("--write", action="store_true", help="update benchmarks/RESULTS.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these attentions")
    parser.add_argument("--models", type=Path, help="keep the networks of (a) and figures here")
    given = parser.parse_args()
    there = given.nuclei is not None and given.nuclei.is_dir()
    if not there:
        print("no folder of nuclei: (a) is left out")
    data, keep = tasks.nuclei(given.nuclei) if there else None, Keeper(given.models)
    plain = plain_words(data, keep)
    print(plain, flush=True)
    rows = measure(given.only or by_number(), data, keep)
    parts = ["python benchmarks/bench_shelf_proof.py", "NUCLEI" if there else ""]
    parts += ["--only", *given.only] if given.only else []
    command = " ".join(filter(None, [*parts, "--write"]))
    text = introduction(torch.get_num_threads(), keep.spent, command)
    if given.write:
        table = "\n".join([HEAD, *rows])
        write_section("what every attention does", "\n\n".join([text, plain, table]))


def by_number() -> list[str]:
    """All of them, in the order of the catalogue."""
    return sorted(ACROSS, key=lambda name: attention_info(name)["id"])


if __name__ == "__main__":
    main()
