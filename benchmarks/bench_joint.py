"""Joint Attention's self-attention by association against the form with the N x N matrix.

Both forms run in turns within one run, so that a busy machine slows both alike. Every measurement
has a process of its own: the growth of its peak memory over the inputs is that form's alone.

    python benchmarks/bench_joint.py            # print the tables
    python benchmarks/bench_joint.py --write    # and put them into benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from alone import Measured, agree, best_of, in_child, load_words, timed
from results import device, write_section

FORMS = ("association", "n-by-n")
COMPARED = ((64, 64), (128, 64), (128, 96))
"""(side of the map, channels C); theta, phi and g have C/2 channels."""
ALONE = ((512, 96), (1024, 24))
"""Too large for the other form: its matrix would take 256 GiB and more."""
TARGETED = 64
"""Channels for which there are targets."""
SPEED, MEMORY, EQUAL = 10.0, 50.0, 1e-5
"""Targets: times faster and part of the memory at 128 x 128; largest difference at 64 x 64."""


def textbook(attention: Any, x: Any) -> Any:
    """Equation 5 as it stands: the matrix A = theta phi^T / N, then A g, then W_z."""
    h, w = x.shape[-2:]
    theta = attention.theta(x).flatten(2).transpose(1, 2)
    phi = attention.phi(x).flatten(2)
    g = attention.g(x).flatten(2).transpose(1, 2)
    a = (theta @ phi).div_(h * w)
    return attention.w_z((a @ g).transpose(1, 2).reshape(x.shape[0], -1, h, w))


def made(channels: int, side: int) -> tuple[Any, Any]:
    """The module with a W_z that is not zero, and an input."""
    import torch

    from napari_attnseg.attention.dot_product import NonLocal

    torch.manual_seed(0)
    attention = NonLocal(channels)
    torch.nn.init.normal_(attention.w_z.weight, std=channels**-0.5)
    return attention, torch.randn(1, channels, side, side)


def measure(form: str, side: int, channels: int, repeats: int) -> Measured:
    """One form in this (fresh) process."""
    import torch

    attention, x = made(channels, side)
    run = attention if form == "association" else lambda x: textbook(attention, x)

    def sums(y: Any) -> list[float]:
        return [float(y.double().abs().sum()), float(y.double().square().sum())]

    with torch.inference_mode():
        run(x[..., :8, :8])  # threads and kernels exist before anything is measured
        return timed(lambda: run(x), sums, repeats)


def difference(side: int, channels: int) -> float:
    """Largest difference between the forms over all values."""
    import torch

    attention, x = made(channels, side)
    with torch.inference_mode():
        return float((attention(x) - textbook(attention, x)).abs().max())


def compare(side: int, channels: int, rounds: int, repeats: int) -> str:
    """One row of the table: both forms in turns."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(in_child(__file__, "n-by-n", side, channels, repeats))
        ours.append(in_child(__file__, "association", side, channels, repeats))
        agree(ours[-1], theirs[-1])
    (s, cpu, m), (st, cput, mt) = best_of(ours), best_of(theirs)
    gap = difference(side, channels)
    fast = side < 128 or (st / s >= SPEED and mt / m >= MEMORY)
    met = "" if channels != TARGETED else "yes" if gap <= EQUAL and fast else "no"
    return (
        f"| {side}x{side} | {channels} | {gap:.1e} | {st * 1e3:.1f} ms | {s * 1e3:.1f} ms | "
        f"{st / s:.1f}x | {cput / cpu:.1f}x | {mt / 1e6:.1f} MB | {m / 1e6:.1f} MB | "
        f"1/{mt / m:.0f} | {met} |"
    )


def alone(side: int, channels: int, rounds: int, repeats: int) -> str:
    """One row of the table: association where the other form is too large."""
    s, _, m = best_of(
        [in_child(__file__, "association", side, channels, repeats) for _ in range(rounds)]
    )
    return (
        f"| {side}x{side} | {channels} | | not run | {s * 1e3:.0f} ms | | | not run | "
        f"{m / 1e6:.0f} MB | | |"
    )


HEAD = """| map | C | largest difference | N x N form | association | faster | in processor time | \
extra memory, N x N form | association's | part | met |
|---|---|---|---|---|---|---|---|---|---|---|"""


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
    threads = in_child(__file__, "association", 8, 8, 1)["threads"]
    command = " ".join(["python benchmarks/bench_joint.py", *sys.argv[1:]])
    text = (
        f"The self-attention of Joint Attention, `W_z (theta phi^T g / N)`, as the module computes "
        f"it and with its N x N matrix. `{command}` on {device()}, {threads} torch thread(s); "
        f"float32, batch 1, the four 1x1 convolutions included, no gradients; best of "
        f"{given.rounds * given.repeats} calls, both forms in turns. {load_words(load)}. "
        f"Targets at C = {TARGETED}: differences <= {EQUAL:g}; at 128x128 >= {SPEED:.0f}x "
        f"faster and <= 1/{MEMORY:.0f} of the memory.\n\n{HEAD}\n" + "\n".join(rows)
    )
    print(text)
    if given.write:
        write_section("joint attention", text)


if __name__ == "__main__":
    main()
