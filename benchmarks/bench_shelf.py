"""Time and peak memory of every attention against the number of positions.

Each measurement has a process of its own: the growth of its peak memory over the inputs is that
attention's alone. All of them run at their defaults on C = 64 channels (a fuser on four maps, a
gate with a context on its own grid, a class-aware one with two classes); those that exist for
volumes only run on 8 slices of a map with the same number of positions.

    python benchmarks/bench_shelf.py            # print the table
    python benchmarks/bench_shelf.py --write    # and put it into benchmarks/RESULTS.md
    python benchmarks/bench_shelf.py --only vit position
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import time
from typing import Any

from alone import forget_peak, status
from results import device, write_section

FORK = multiprocessing.get_context("fork")
CHANNELS = 64
SIDES = (32, 64, 128)
"""Sides of the maps: N = 1024, 4096, 16 384."""
BOUND = 600e6
"""Bytes beside the inputs that the dense family may take at 128 x 128."""
DENSE = ("nonlocal", "position", "vit", "cross", "luong", "joint", "smooth")
"""Where every position sees every other: an N x N matrix would take 1.07 GB a head."""
EXPECTED = {name: 2.0 for name in ("nonlocal", "position", "vit", "cross", "luong", "smooth")} | {
    "axial": 1.5,
    "criss_cross": 1.5,
    "interlaced_sparse": 2.0,
}
"""Exponents of N in the multiply-adds of large maps; all others grow like N."""


def made(name: str, side: int) -> tuple[Any, tuple[Any, ...]]:
    """The module with random numbers where it begins at zero, and what it is called with."""
    import torch

    from napari_attnseg.attention.base import sample_attention
    from napari_attnseg.attention.registry import attention_entry

    torch.manual_seed(0)
    module = sample_attention(name, CHANNELS).eval()
    for p in module.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    volume = 2 not in attention_entry(name).ndim
    size = (8, side // 4, side // 2) if volume else (side, side)
    x = torch.randn(1, CHANNELS, *size)
    extra = {"gate": (torch.randn_like(x),), "class-aware": (torch.randn(1, 2, *size),)}
    if module.role == "fuser":
        maps = [torch.randn(1, CHANNELS, side >> i, side >> i) for i in range(4)]
        return module, (maps,)
    return module, (x, *extra.get(module.role, ()))


def measure(name: str, side: int, mode: str) -> dict[str, Any]:
    """Best seconds and extra bytes in this (fresh) process; ``mode`` forward, backward or row."""
    import torch

    from napari_attnseg.attention.recording import recording

    module, args = made(name, side)
    small = made(name, 8)[1]

    def once(given: tuple[Any, ...]) -> None:
        if mode == "backward":
            out = module.train()(*given)
            out.square().mean().backward()
            module.zero_grad()
            return
        with torch.inference_mode():
            if mode == "row":
                with recording(module, (0.5,) * (given[0].ndim - 2)):
                    module(*given)
            else:
                module(*given)

    once(small)  # threads and kernels exist before anything is measured
    before = forget_peak()
    best, spent, repeats = math.inf, 0.0, 0
    while repeats < 3 and (repeats == 0 or spent < 6):
        start = time.process_time()
        once(args)
        took = time.process_time() - start
        best, spent, repeats = min(best, took), spent + took, repeats + 1
    return {
        "seconds": best,
        "bytes": status("VmHWM") - before,
        "parameters": sum(p.numel() for p in module.parameters()),
        "threads": torch.get_num_threads(),
    }


def in_child(name: str, side: int, mode: str) -> dict[str, Any]:
    """:func:`measure` in a process of its own, which begins with everything imported."""
    queue = FORK.SimpleQueue()
    child = FORK.Process(target=lambda: queue.put(measure(name, side, mode)))
    child.start()
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"{name} at {side}x{side} ({mode}) ended with {child.exitcode}")
    return dict(queue.get())


def row_of(name: str, id_: str) -> tuple[str, bool]:
    """One line of the table, and whether a dense one keeps within its memory."""
    forward = [in_child(name, side, "forward") for side in SIDES]
    backward = in_child(name, SIDES[-1], "backward")
    (_, middle, last) = (f["seconds"] for f in forward)
    growth = math.log(last / middle) / math.log(SIDES[-1] ** 2 / SIDES[-2] ** 2)
    bytes_ = forward[-1]["bytes"]
    kept = name not in DENSE or bytes_ < BOUND
    mark = ("yes" if kept else "no") if name in DENSE else ""
    times = " | ".join(f"{f['seconds'] * 1e3:.1f}" for f in forward)
    memory = " | ".join(f"{f['bytes'] / 1e6:.0f}" for f in forward)
    return (
        f"| {id_} | {name} | {forward[0]['parameters']:,} | {times} | {growth:.2f} | "
        f"{EXPECTED.get(name, 1.0):g} | {memory} | {backward['seconds'] * 1e3:.0f} | "
        f"{backward['bytes'] / 1e6:.0f} | {mark} |"
    ), kept


def macs(name: str, side: int) -> int:
    """Multiply-adds of matrix products and convolutions, from shapes alone."""
    import torch
    from torch.utils._pytree import tree_map
    from torch.utils.flop_counter import FlopCounterMode

    from napari_attnseg.models.macs import UNLISTED

    module, args = made(name, side)
    args = tree_map(lambda t: t.to("meta"), args)
    counter = FlopCounterMode(display=False, custom_mapping=UNLISTED)
    with torch.no_grad(), counter:
        module.to("meta")(*args)
    return int(counter.get_total_flops()) // 2


def count_all(names: list[str]) -> str:
    """The table of multiply-adds, with their growth."""
    lines = [
        "| attention | 32x32 | 64x64 | 128x128 | growth | expected |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        counts = [macs(name, side) for side in SIDES]
        growth = math.log(max(1, counts[2]) / max(1, counts[1])) / math.log(4)
        numbers = " | ".join(f"{c / 1e6:,.2f}" for c in counts)
        lines.append(f"| {name} | {numbers} | {growth:.2f} | {EXPECTED.get(name, 1.0):g} |")
    return "\n".join(lines)


HEAD = (
    "| id | attention | parameters | ms, 32x32 | 64x64 | 128x128 | growth | of large maps | "
    "MB, 32x32 | 64x64 | 128x128 | training, ms, 128x128 | MB | dense, within bound |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Print the table; with ``--write`` keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update benchmarks/RESULTS.md")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these attentions")
    parser.add_argument("--macs", action="store_true", help="count multiply-adds, time nothing")
    given = parser.parse_args()
    from napari_attnseg.attention.base import attention_info, list_attentions

    names = given.only or list_attentions()
    if given.macs:
        text = (
            f"Millions of multiply-adds of every attention at its defaults on {CHANNELS} channels, "
            "counted operation by operation (`python benchmarks/bench_shelf.py --macs --write`): "
            "matrix products and convolutions, blocks of streamed attention added up. Products of "
            "single numbers (gates; the neighbours of sasa and spatial_propagation) are not "
            "counted. growth: exponent of N between 64x64 and 128x128, beside that of large "
            f"maps; below it where the projections still weigh most.\n\n{count_all(names)}"
        )
        print(text)
        if given.write:
            write_section("attention shelf, multiply-adds", text)
        return
    rows, kept = [], True
    for name in names:
        line, fits = row_of(name, attention_info(name)["id"])
        print(line, flush=True)
        rows.append(line)
        kept &= fits
    threads = in_child("se", 8, "forward")["threads"]
    command = " ".join(["python benchmarks/bench_shelf.py", *sys.argv[1:]])
    text = (
        f"Every attention at its defaults on one item of {CHANNELS} channels, float32. "
        f"`{command}` on {device()}, {threads} torch thread(s); seconds of processor time, best of "
        f"up to 3 calls (load of the machine by everything {os.getloadavg()[0]:.1f}: times of a "
        f"shared machine, read them as orders of magnitude); MB: growth of the peak memory of a "
        f"fresh process over its inputs, without gradients, and of one step of training. growth: "
        f"exponent of N between 64x64 and 128x128, beside that of the multiply-adds of large maps. "
        f"Bound of the dense ones, whose N x N matrix would take {(128**4) * 4 / 1e9:.2f} GB a "
        f"head: {BOUND / 1e6:.0f} MB at 128x128 without gradients; "
        f"{'all keep it' if kept else 'not all keep it'}.\n\n{HEAD}\n" + "\n".join(rows)
    )
    if given.write:
        write_section("attention shelf", text)


if __name__ == "__main__":
    main()
