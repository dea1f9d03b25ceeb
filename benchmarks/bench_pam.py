"""PAM-UNet: parameters, multiply-adds and time of one forward, against Attention U-Net.

All models take turns within one run, so that a busy machine slows them alike.

    python benchmarks/bench_pam.py            # print the tables
    python benchmarks/bench_pam.py --write    # and put them into benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

from results import device, write_section

SIZE = (128, 128)
FASTER = 4.0
"""The target: Attention U-Net's time over PAM-UNet's."""
PARAMETERS, WITHOUT, WITH = 31_568_498, 719.9, 1317.1
"""Of the paper's figure with two classes; million multiply-adds at 128 x 128."""
ROWS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("Attention U-Net", "attention_unet", {}, "35.35"),
    ("Mobile-UNet", "mobile_unet", {}, "0.85"),
    ("PAM-UNet, figure, without attention", "pam_unet", {"gate": "none"}, "0.72"),
    ("PAM-UNet, figure, self", "pam_unet", {"gate": "self"}, "0.98"),
    ("PAM-UNet, figure, cross", "pam_unet", {"gate": "cross"}, "1.24"),
    ("PAM-UNet, figure, additive", "pam_unet", {"gate": "additive"}, "1.17"),
    ("PAM-UNet, figure, PLA (default)", "pam_unet", {}, "1.32"),
    ("PAM-UNet, light, PLA", "pam_unet", {"plan": "light"}, ""),
    ("PAM-UNet, tiny, PLA", "pam_unet", {"plan": "tiny"}, ""),
)
"""Words, model, options, the paper's figure."""
DEFAULT = "PAM-UNet, figure, PLA (default)"
BARE = "PAM-UNet, figure, without attention"
RIVAL = "Attention U-Net"


def build() -> dict[str, Any]:
    """Every row's model in evaluation mode, three colours and two classes."""
    from napari_attnseg.models import create_model

    return {
        words: create_model(name, in_channels=3, classes=2, **options).eval()
        for words, name, options, _ in ROWS
    }


Times = dict[str, list[tuple[float, float]]]
"""Seconds of every forward by the clock and of processor time."""


def times(models: dict[str, Any], rounds: int) -> Times:
    """The models in turns; the first round is not counted."""
    import torch

    torch.manual_seed(0)
    image = torch.randn(1, 3, *SIZE)
    found: Times = {words: [] for words in models}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for words, model in models.items():
                start, worked = time.perf_counter(), time.process_time()
                model(image)
                taken = time.perf_counter() - start, time.process_time() - worked
                found[words].append(taken)
    return {words: seconds[1:] for words, seconds in found.items()}


def sizes(models: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Parameters and million multiply-adds."""
    from napari_attnseg.models.macs import count_macs

    return {
        words: (sum(p.numel() for p in model.parameters()), count_macs(model, SIZE) / 1e6)
        for words, model in models.items()
    }


def best(seconds: Times, words: str) -> tuple[float, float]:
    """The shortest by the clock, and of processor time."""
    clock, worked = zip(*seconds[words], strict=True)
    return min(clock), min(worked)


def table(size: dict[str, tuple[int, float]], seconds: Times) -> str:
    """One row per model."""
    lines = [
        "| model | parameters | MMACs | paper's GFLOPS | best ms | median ms | faster than "
        "Attention U-Net | in processor time |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rival = best(seconds, RIVAL)
    for words, _, _, paper in ROWS:
        (parameters, macs), own = size[words], best(seconds, words)
        middle = statistics.median(clock for clock, _ in seconds[words])
        lines.append(
            f"| {words} | {parameters:,} | {macs:,.1f} | {paper} | {own[0] * 1e3:.1f} | "
            f"{middle * 1e3:.1f} | {rival[0] / own[0]:.1f}x | {rival[1] / own[1]:.1f}x |"
        )
    return "\n".join(lines)


def verdicts(size: dict[str, tuple[int, float]], seconds: Times) -> str:
    """The targets and whether they are met."""
    (parameters, attended), (_, bare) = size[DEFAULT], size[BARE]
    rival, own = best(seconds, RIVAL), best(seconds, DEFAULT)
    clock, worked = rival[0] / own[0], rival[1] / own[1]
    rows = (
        (f"{PARAMETERS:,} parameters", f"{parameters:,}", parameters == PARAMETERS),
        (f"{WITHOUT} MMACs without attention, within 1 %", f"{bare:.1f}", near(bare, WITHOUT)),
        (f"{WITH} MMACs with it, within 1 %", f"{attended:.1f}", near(attended, WITH)),
        (
            f"forward {FASTER:.0f} times as fast as Attention U-Net",
            f"{clock:.1f}x by the clock, {worked:.1f}x in processor time",
            clock >= FASTER,
        ),
    )
    lines = ["| target | measured | met |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {t} | {m} | {'yes' if ok else 'NO'} |" for t, m, ok in rows)])


def near(value: float, target: float) -> bool:
    """Within 1 %."""
    return abs(value - target) <= 0.01 * target


def main() -> None:
    """Print the tables; with ``--write`` keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update benchmarks/RESULTS.md")
    parser.add_argument("--rounds", type=int, default=15, help="timed forwards per model")
    given = parser.parse_args()
    import torch

    load = os.getloadavg()[0]
    models = build()
    size, seconds = sizes(models), times(models, given.rounds)
    busy = max(load, os.getloadavg()[0])
    command = " ".join(["python benchmarks/bench_pam.py", *sys.argv[1:]])
    text = (
        f"`{command}` on {device()}, torch {torch.__version__}, {torch.get_num_threads()} torch "
        f"thread(s); float32, one image of {SIZE[0]} x {SIZE[1]} with three colours, two classes, "
        f"{given.rounds} forwards of each model in turns. Load of the machine by everything: "
        f"{busy:.1f}"
        + (" (busy: times by the clock mean little)" if busy > 2 * (os.cpu_count() or 1) else "")
        + ". The paper's figures are as printed (tables I and II); only those of the mobile "
        f"networks can be MACs at this size.\n\n{table(size, seconds)}\n\n{verdicts(size, seconds)}"
    )
    print(text)
    if given.write:
        write_section("PAM-UNet", text)


if __name__ == "__main__":
    main()
