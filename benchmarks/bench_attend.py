"""Smooth Attention's heavy half, streamed, against the textbook form of equations 4 to 8.

Both forms run in turns within one run, so that a busy machine slows both alike. Every measurement
has a process of its own: the growth of its peak memory over the inputs is that form's alone.

    python benchmarks/bench_attend.py            # print the table
    python benchmarks/bench_attend.py --write    # and put it into benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from alone import Measured, agree, best_of, in_child, load_words, timed
from results import device, write_section

KEY_CHANNELS = 64
COMPARED = ((96, 512), (96, 64))
ALONE = ((128, 512), (128, 64))
"""(side of the map, channels); the textbook form needs over 4 GB for the second pair."""
SPEED = {512: 4.0, 64: 7.0}
MEMORY = 12.0
ALONE_BYTES = 200e6


def textbook(attention: Any, x: Any) -> Any:
    """value and step with A in memory, line by line as the equations stand."""
    import torch

    h, w = x.shape[-2:]
    q = attention.query(x).flatten(2).transpose(1, 2)
    k = attention.key(x).flatten(2)
    v = attention.value(x).flatten(2).transpose(1, 2)
    scores = q @ k * attention.scale
    a = torch.softmax(scores, -1)
    value = (a @ v).transpose(1, 2).reshape(x.shape)
    rows = a.view(-1, h, w, h * w)
    step = torch.zeros(x.shape[0], h, w)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            here = (slice(max(0, -dy), h - max(0, dy)), slice(max(0, -dx), w - max(0, dx)))
            there = (slice(max(0, dy), h + min(0, dy)), slice(max(0, dx), w + min(0, dx)))
            distance = (rows[:, *here] - rows[:, *there]).abs().amax(-1)
            step[:, *here] = torch.maximum(step[:, *here], distance)
    return value, step


def measure(form: str, side: int, channels: int, repeats: int) -> Measured:
    """One form in this (fresh) process."""
    import torch

    from napari_attnseg.attention.smooth import SmoothAttention

    torch.manual_seed(0)
    attention = SmoothAttention(channels, KEY_CHANNELS)
    x = torch.randn(1, channels, side, side)

    def streamed(x: Any) -> Any:
        attended = attention.attend(x)
        return attended.value, attended.step

    def sums(answer: Any) -> list[float]:
        value, step = answer
        return [float(value.double().abs().sum()), float(step.double().sum())]

    run = streamed if form == "streamed" else lambda x: textbook(attention, x)
    with torch.inference_mode():
        run(x[..., :8, :8])  # threads and kernels exist before anything is measured
        return timed(lambda: run(x), sums, repeats)


def compare(side: int, channels: int, rounds: int, repeats: int) -> str:
    """One row of the table: both forms in turns."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(in_child(__file__, "textbook", side, channels, repeats))
        ours.append(in_child(__file__, "streamed", side, channels, repeats))
        agree(ours[-1], theirs[-1])
    (s, cpu, m), (st, cput, mt) = best_of(ours), best_of(theirs)
    ok = st / s >= SPEED[channels] and mt / m >= MEMORY
    return (
        f"| {side}x{side} | {channels} | {st:.2f} s | {s:.3f} s | {st / s:.1f}x "
        f"(>= {SPEED[channels]:.0f}x) | {cput / cpu:.1f}x | {mt / 1e6:.0f} MB | {m / 1e6:.0f} MB | "
        f"1/{mt / m:.1f} (<= 1/12) | {'yes' if ok else 'no'} |"
    )


def alone(side: int, channels: int, rounds: int, repeats: int) -> str:
    """One row of the table: the streamed form where the textbook form is too large."""
    s, _, m = best_of(
        [in_child(__file__, "streamed", side, channels, repeats) for _ in range(rounds)]
    )
    ok = m < ALONE_BYTES
    return (
        f"| {side}x{side} | {channels} | not run | {s:.3f} s | | | not run | {m / 1e6:.0f} MB "
        f"(< 200 MB) | | {'yes' if ok else 'no'} |"
    )


HEAD = """| map | C | textbook | streamed | faster (target) | in processor time | \
textbook's extra memory | streamed's | part (target) | met |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Print the table; with ``--write`` keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="update benchmarks/RESULTS.md")
    parser.add_argument("--rounds", type=int, default=3, help="processes per form and size")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls per process")
    parser.add_argument("--child", nargs=4, metavar=("FORM", "SIDE", "C", "REPEATS"))
    given = parser.parse_args()
    if given.child:
        form, *numbers = given.child
        print(json.dumps(measure(form, *map(int, numbers))))
        return
    load = os.getloadavg()[0]
    rows = [compare(*case, given.rounds, given.repeats) for case in COMPARED]
    rows += [alone(*case, given.rounds, given.repeats) for case in ALONE]
    threads = in_child(__file__, "streamed", 8, 8, 1)["threads"]
    command = " ".join(["python benchmarks/bench_attend.py", *sys.argv[1:]])
    text = (
        f"`{command}` on {device()}, {threads} torch thread(s); float32, "
        f"key_channels {KEY_CHANNELS}, batch 1, convolutions included, no gradients; best of "
        f"{given.rounds * given.repeats} calls, both forms in turns. {load_words(load)}"
        f".\n\n{HEAD}\n" + "\n".join(rows)
    )
    print(text)
    if given.write:
        write_section("attend", text)


if __name__ == "__main__":
    main()
