"""CSPN and DySPN as shifted windows, against the form that unfolds every neighbourhood.

Both forms run in turns within one run, each measurement in a process of its own: the growth of
its peak memory over the inputs is that form's alone.

    python benchmarks/bench_refine.py            # print the table
    python benchmarks/bench_refine.py --write    # and put it into benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from alone import Measured, best_of, in_child, load_words, timed
from results import device, write_section

CASES = (("cspn", 1024, 3, 10.0, 6.0), ("dyspn", 1024, 1, 6.0, 8.0))
"""(refinement, side, classes, times faster, part of the memory); speed of the product's default,
memory of the tiled form."""
FORMS = {"default": "auto", "whole": None, "tiled": 256}
"""``tile`` of :meth:`Refinement.refine`; the default form chooses by its budget of bytes."""
ALONE = ("cspn", 2048, 3, 300e6)


def unfolded(refinement: Any, h0: Any, affinity: Any, attention: Any) -> Any:
    """The definition with an unfolded copy of every neighbourhood in every iteration."""
    import torch
    from torch.nn import functional as F

    kernel = refinement.kernel
    k2, reach = kernel * kernel, kernel // 2
    raster = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    order = [raster.index(o) for o in refinement.offsets]
    b, k, h, w = h0.shape
    a = torch.zeros(b, k2, h, w)
    a[:, order] = affinity
    a *= F.unfold(torch.ones(1, 1, h, w), kernel, padding=reach).view(1, k2, h, w)
    ring_of = [max(abs(i), abs(j)) for i, j in raster]
    size, x = a.abs(), h0
    for t in range(refinement.iterations):
        near = F.unfold(x, kernel, padding=reach).view(b, k, k2, h, w)
        if attention is None:
            kappa = a / (size.sum(1, keepdim=True) + refinement.eps)
            x = (kappa[:, None] * near).sum(2) + (1 - kappa.sum(1, keepdim=True)) * h0
            continue
        pi = attention[:, t]
        weights = pi[:, ring_of]
        whole = (weights * size).sum(1, keepdim=True) + pi[:, :1] + refinement.eps
        signed = (weights * a).sum(1, keepdim=True) + pi[:, :1]
        moved = ((weights * a)[:, None] * near).sum(2) + pi[:, :1] * x
        x = (moved + (whole - signed) * h0) / whole
    return x


def measure(form: str, name: str, side: int, classes: int, repeats: int) -> Measured:
    """One form in this (fresh) process."""
    import torch

    from napari_attnseg.refinement import create_refinement

    torch.manual_seed(0)
    refinement = create_refinement(name)
    h0 = torch.randn(1, classes, side, side)
    affinity = torch.randn(1, refinement.channels, side, side)
    attention = None
    if refinement.needs_attention:
        attention = torch.rand(1, refinement.iterations, 4, side, side)

    def run(part: slice) -> Any:
        at = None if attention is None else attention[..., part, part]
        given = (h0[..., part, part], affinity[..., part, part], at)
        if form == "unfolded":
            return unfolded(refinement, *given)
        return refinement.refine(*given, tile=FORMS[form])

    def sums(out: Any) -> list[float]:
        return [float(out.double().abs().sum()), float(out[..., ::7, ::5].double().sum())]

    with torch.inference_mode():
        run(slice(0, 24))  # threads and kernels exist before anything is measured
        return timed(lambda: run(slice(None)), sums, repeats)


def compare(case: tuple[str, int, int, float, float], rounds: int, repeats: int) -> list[str]:
    """Rows of the table: four forms in turns."""
    name, side, classes, speed, part = case
    found: dict[str, list[Measured]] = {form: [] for form in ("unfolded", *FORMS)}
    for _ in range(rounds):
        for form, kept in found.items():
            kept.append(in_child(__file__, form, name, side, classes, repeats))
    reference = found["unfolded"][0]["sums"]
    for form in FORMS:
        for one, other in zip(found[form][0]["sums"], reference, strict=True):
            assert abs(one - other) <= 1e-4 * abs(reference[0]), (form, one, other)
    slow, busy, large = best_of(found["unfolded"])
    head = f"| {name} {side}x{side}, {classes} class(es) "
    rows = [head + f"| unfolded | {slow * 1e3:.0f} ms | {large / 1e6:.0f} MB | | |"]
    for form in FORMS:
        seconds, cpu, extra = best_of(found[form])
        worked = busy / cpu
        text = f"{slow / seconds:.1f}x (>= {speed:.0f}x), {worked:.1f}x in processor time"
        memory = f"1/{large / extra:.1f} (<= 1/{part:.0f})"
        rows.append(
            head + f"| {form} | {seconds * 1e3:.0f} ms | {extra / 1e6:.0f} MB | {text} | {memory} |"
        )
    return rows


def alone(rounds: int, repeats: int) -> str:
    """The default form where the unfolded one is too large."""
    name, side, classes, limit = ALONE
    found = [in_child(__file__, "default", name, side, classes, repeats) for _ in range(rounds)]
    seconds, _, extra = best_of(found)
    return (
        f"| {name} {side}x{side}, {classes} class(es) | default | {seconds * 1e3:.0f} ms | "
        f"{extra / 1e6:.0f} MB (< {limit / 1e6:.0f} MB) | | |"
    )


HEAD = """| what, 6 iterations | form | time | extra memory | faster (target) | memory (target) |
|---|---|---|---|---|---|"""


def main() -> None:
    """Print the table; with ``--write`` keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update benchmarks/RESULTS.md")
    parser.add_argument("--rounds", type=int, default=3, help="processes per form and size")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls per process")
    parser.add_argument("--child", nargs=5, metavar=("FORM", "NAME", "SIDE", "K", "REPEATS"))
    given = parser.parse_args()
    if given.child:
        form, name, *numbers = given.child
        print(json.dumps(measure(form, name, *map(int, numbers))))
        return
    load = os.getloadavg()[0]
    rows = [row for case in CASES for row in compare(case, given.rounds, given.repeats)]
    rows.append(alone(given.rounds, given.repeats))
    command = " ".join(["python benchmarks/bench_refine.py", *sys.argv[1:]])
    text = (
        f"`{command}` on {device()}; float32, batch 1, no gradients; best of "
        f"{given.rounds * given.repeats} calls, all forms in turns. {load_words(load)}.\n\n{HEAD}\n"
        + "\n".join(rows)
    )
    print(text)
    if given.write:
        write_section("refine", text)


if __name__ == "__main__":
    main()
