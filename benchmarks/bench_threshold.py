"""Moving the threshold against a full forward pass: full-width smooth_unet, 1024 x 1024, CPU.

All in one run and in turns, so that a busy machine slows both alike: the full forward, the general
path (gate, decoder) and the cell select, each from features and attention to logits. The masks
of the three must be identical at every threshold. The session's own answer (gate to labels in
view order) is timed too.

    python benchmarks/bench_threshold.py            # print the table
    python benchmarks/bench_threshold.py --write    # and put it into benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import results
import torch

from napari_attnseg.engine.session import Session
from napari_attnseg.models import create_model
from napari_attnseg.settings import RULES

SIDE = 1024
TARGETS = {"general path": 4.0, "cell select": 100.0}


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_model(stride: int) -> Any:
    """Random weights; gamma 1 and sharper attention, so that the threshold decides."""
    torch.manual_seed(0)
    model = create_model("smooth_unet", in_channels=3, classes=1, stride=stride).eval()
    with torch.no_grad():
        model.attention.gamma.fill_(1.0)
        model.attention.query.weight.mul_(2)
        model.attention.key.weight.mul_(2)
    return model


def measure(stride: int, repeats: int) -> dict[str, float]:
    """Best seconds of each way; raises ``AssertionError`` when masks differ."""
    model = make_model(stride)
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    cells, full = Session(model, "cpu"), Session(model, "cpu", use_cells=False)
    for session in (cells, full):
        session.set_image(image)
    step = np.asarray(full.predict().step)
    thresholds = np.quantile(step, np.linspace(0.02, 0.98, repeats)).tolist()
    x = full._prepare(0)
    found: dict[str, list[float]] = {
        name: [] for name in ("full forward", "general path", "cell select", "session")
    }
    rule = "authors"
    with torch.no_grad():
        encoded = model.encode(x)
        attended = model.attend(encoded)
        values = full._values(full.tuning.replace(rule=rule))
        variants = cells.pipeline.variants(0, values)
        for t in thresholds:
            given = {"threshold": t, "rule": rule}

            def general(g: dict[str, Any] = given) -> torch.Tensor:
                return model.decode(model.gate(encoded, attended, **g), encoded.size)

            found["full forward"].append(timed(lambda g=given: model(x, **g)))
            found["general path"].append(timed(general))
            chosen = {"threshold": t}
            found["cell select"].append(timed(partial(cells.pipeline._select, variants, chosen)))
            cells.pipeline.light.clear()
            tuning = cells.tuning.replace(threshold=t, rule=rule)
            found["session"].append(timed(lambda tuning=tuning: cells.predict(0, tuning)))
    check_masks(model, x, cells, full, thresholds[:: max(1, repeats // 3)])
    return {name: min(times) for name, times in found.items()} | {
        f"{name} median": statistics.median(times) for name, times in found.items()
    }


def check_masks(
    model: Any, x: torch.Tensor, cells: Session, full: Session, thresholds: list[float]
) -> None:
    """Forward, general path and cell select give one and the same mask under every rule."""
    for rule in RULES:
        for t in thresholds:
            tuning = cells.tuning.replace(threshold=t, rule=rule)
            a, b = cells.predict(0, tuning), full.predict(0, tuning)
            with torch.no_grad():
                logits = model(x, threshold=t, rule=rule)[0].numpy()
            assert np.array_equal(a.logits, b.logits), (rule, t)
            assert np.array_equal(a.logits, logits), (rule, t)
            assert np.array_equal(a.labels, b.labels), (rule, t)


def table(stride: int, seconds: dict[str, float]) -> list[str]:
    """Markdown rows for one stride."""
    rows = []
    for name in ("full forward", "general path", "cell select", "session"):
        ratio = seconds["full forward"] / seconds[name]
        target = TARGETS.get(name) if stride == 32 else None
        verdict = f">= {target:.0f}x: {'met' if ratio >= target else 'MISSED'}" if target else ""
        label = "session answer (gate to labels)" if name == "session" else name
        rows.append(
            f"| {stride} | {label} | {1000 * seconds[name]:.2f} | "
            f"{1000 * seconds[f'{name} median']:.2f} | {ratio:.0f}x | {verdict} |"
        )
    return rows


def report(repeats: int, strides: list[int]) -> str:
    """The section of RESULTS.md."""
    lines = [
        f"Threshold change, {SIDE} x {SIDE} image, full-width `smooth_unet`, from features and "
        f"attention to logits, against a full forward in the same run; best and median of "
        f"{repeats} thresholds; masks and logits identical under every rule (checked). "
        f"{results.device()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"load average {os.getloadavg()[0]:.1f} when it began. "
        "Command: `python benchmarks/bench_threshold.py --write`.",
        "",
        "| stride | what | best ms | median ms | forward / this | target |",
        "|---:|---|---:|---:|---:|---|",
    ]
    for stride in strides:
        lines += table(stride, measure(stride, repeats))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--strides", type=int, nargs="+", default=[32])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = report(options.repeats, options.strides)
    print(text)
    if options.write:
        results.write_section("threshold", text)


if __name__ == "__main__":
    main()
