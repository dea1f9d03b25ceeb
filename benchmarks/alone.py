"""One form of a computation, measured in a process of its own, so that its peak is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Measured = dict[str, Any]
"""``seconds``, ``cpu`` (best), ``bytes`` over the inputs, ``sums`` of the answer, ``threads``."""


def status(name: str) -> int:
    """A size of /proc/self/status in bytes: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}; this benchmark needs Linux")


def forget_peak() -> int:
    """Begin a new peak (imports have had one of their own) and return what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def timed(run: Callable[[], Any], sums: Callable[[Any], list[float]], repeats: int) -> Measured:
    """Measure ``run`` in this (fresh) process; ``sums`` make a checksum of its answer."""
    import torch

    best = cpu = float("inf")
    before = forget_peak()
    for _ in range(repeats):
        start, worked = time.perf_counter(), time.process_time()
        answer = run()
        best = min(best, time.perf_counter() - start)
        cpu = min(cpu, time.process_time() - worked)
    extra = status("VmHWM") - before
    threads = torch.get_num_threads()
    return {"seconds": best, "cpu": cpu, "bytes": extra, "sums": sums(answer), "threads": threads}


def in_child(script: str, *arguments: Any) -> Measured:
    """What ``script --child ARGUMENTS`` prints as JSON in its last line."""
    out = subprocess.run(
        [sys.executable, script, "--child", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(json.loads(out.splitlines()[-1]))


def best_of(results: list[Measured]) -> tuple[float, float, float]:
    """Smallest seconds by the clock and of processor time, largest extra bytes."""
    seconds, cpu = (min(r[name] for r in results) for name in ("seconds", "cpu"))
    return seconds, cpu, max(r["bytes"] for r in results)


def agree(a: Measured, b: Measured) -> None:
    """Both forms computed the same thing."""
    for one, other in zip(a["sums"], b["sums"], strict=True):
        assert abs(one - other) <= 1e-5 * abs(other), (a["sums"], b["sums"])


def load_words(before: float) -> str:
    """How busy the machine was, ``before`` being its load at the start."""
    busy = max(before, os.getloadavg()[0])
    much = busy > 2 * (os.cpu_count() or 1)
    return f"Load of the machine by everything: {busy:.1f}" + (
        " (busy: times by the clock mean little)" if much else ""
    )
