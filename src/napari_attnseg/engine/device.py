"""Choosing a device, examining it, testing its numbers, and stepping down when memory is out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import psutil
import torch
from torch.nn import functional as F

from napari_attnseg.errors import DeviceError, MemoryEndedError, is_memory_error

T = TypeVar("T")
MIB = 1 << 20
TOLERANCE = 2e-3
"""Largest relative error of the self-test; float32 gives about 1e-6, TensorFloat-32 about 1e-3."""


# --- choosing -----------------------------------------------------------------------------------


def usable_cpus() -> int:
    """CPUs this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def cap_threads(limit: int | None = None) -> int:
    """Let torch use at most ``limit`` threads (default: the CPUs this process may use).

    More threads than CPUs make every call several times slower. Returns the number set.
    """
    wanted = max(1, min(limit or torch.get_num_threads(), usable_cpus()))
    torch.set_num_threads(wanted)
    return wanted


@contextlib.contextmanager
def spare_processor() -> Iterator[None]:
    """Leave one CPU to the window while a volume is segmented behind it (restored after)."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, usable_cpus() - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context for small work on the CPU: no waiting for a second thread.

    On a busy machine two threads meet 30 to 50 ms late, a hundred times longer than a threshold
    change takes in one.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mps() -> bool:
    return torch.backends.mps.is_available()


def choose_device(name: str = "auto") -> torch.device:
    """The device called ``name``: ``"auto"`` (best present), ``"cpu"``, ``"cuda:0"``, ``"mps"``.

    Raises ``DeviceError`` when it is not there, naming those that are.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "mps" if _mps() else "cpu")
    present = [d["name"] for d in list_devices()]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in present:
        raise DeviceError(
            f"got device {name!r}, expected auto or one of {', '.join(present)}; "
            "choose one of these, or run `napari-attnseg info` (in napari: press Diagnose) to see "
            "what is missing"
        )
    return torch.device(wanted)


def _cpu() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    threads = torch.get_num_threads()
    return {
        "name": "cpu",
        "label": f"CPU ({threads} thread{'s' if threads > 1 else ''})",
        "free_bytes": int(memory.available),
        "total_bytes": int(memory.total),
    }


def list_devices() -> list[dict[str, Any]]:
    """What can compute here, best first: ``name``, ``label``, ``free_bytes``, ``total_bytes``."""
    found: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        label = torch.cuda.get_device_name(i)
        found.append(
            {"name": f"cuda:{i}", "label": label, "free_bytes": free, "total_bytes": total}
        )
    if _mps():
        total = int(torch.mps.recommended_max_memory())
        free = max(0, total - int(torch.mps.driver_allocated_memory()))
        found.append(
            {"name": "mps", "label": "Apple GPU", "free_bytes": free, "total_bytes": total}
        )
    return [*found, _cpu()]


# --- self-test ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SelfTest:
    """Whether a device computes what the CPU computes; ``max_error`` is relative to the largest
    value of the answer."""

    ok: bool
    max_error: float
    message: str


def _probes() -> dict[str, Callable[[torch.device], torch.Tensor]]:
    """Small calculations of every kind the models use, from fixed random numbers."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 23, 29, generator=g)
    down = torch.randn(24, 16, 3, 3, generator=g) / 12
    up = torch.randn(16, 8, 2, 2, generator=g) / 4

    def attend(device: torch.device) -> torch.Tensor:
        from napari_attnseg.attention.smooth import SmoothAttention

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = SmoothAttention(16).to(device)
        attended = module.attend(x.to(device))
        return torch.cat([attended.value.flatten(), attended.step.flatten()])

    return {
        "convolution": lambda d: F.conv2d(x.to(d), down.to(d), padding=1),
        "transposed convolution": lambda d: F.conv_transpose2d(x.to(d), up.to(d), stride=2),
        "attention": attend,
    }


def _relative_error(probe: Callable[[torch.device], torch.Tensor], device: torch.device) -> float:
    expected = probe(torch.device("cpu"))
    got = probe(device).cpu()
    error = float((got - expected).abs().max() / expected.abs().max())
    return float("inf") if error != error else error


@torch.no_grad()
def self_test(device: str | torch.device) -> SelfTest:
    """Compute small convolutions and one attention on ``device`` and on the CPU and compare."""
    device = torch.device(device)
    worst, where = 0.0, "all operations"
    for name, probe in _probes().items():
        try:
            with exact_float32():
                error = _relative_error(probe, device)
        except (RuntimeError, NotImplementedError) as problem:
            first = str(problem).strip().splitlines()[0]
            return SelfTest(False, float("inf"), f"{name} failed on {device}: {first}")
        if error > worst:
            worst, where = error, name
    ok = worst <= TOLERANCE
    verdict = "agrees with" if ok else "DISAGREES with"
    return SelfTest(
        ok, worst, f"{device} {verdict} the CPU (largest relative error {worst:.1e}, {where})"
    )


def exact_float32() -> Any:
    """Context in which GPU convolutions use full float32 and are reproducible.

    TensorFloat-32 moves features by 1e-3, enough to flip cells that lie near the threshold.
    """
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


# --- report -------------------------------------------------------------------------------------


def _nvidia_driver() -> str | None:
    """Version of the NVIDIA driver, ``None`` where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.strip().splitlines()
    return lines[0] if lines else None


def advice(driver: str | None, cuda_build: str | None, cuda_works: bool) -> str:
    """What to do so that a GPU is used; empty when nothing is missing."""
    if cuda_works or _mps():
        return ""
    if driver is None:
        return "No NVIDIA driver was found; everything runs on the CPU."
    if cuda_build is None:
        return (
            "This torch was built without CUDA. Fix on Linux: "
            "pip install --force-reinstall torch (on Windows take the command shown at "
            "pytorch.org/get-started for CUDA)."
        )
    return (
        f"torch was built for CUDA {cuda_build} but the driver {driver} does not start it; "
        "update the NVIDIA driver and restart the computer."
    )


def diagnose(device: str = "auto") -> dict[str, Any]:
    """Everything that decides where the engine runs, as plain data (see :func:`report_text`).

    A device that is absent is reported, not raised.
    """
    driver, build = _nvidia_driver(), torch.version.cuda
    report: dict[str, Any] = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda_build": build,
        "driver": driver,
        "threads": torch.get_num_threads(),
        "devices": list_devices(),
        "advice": advice(driver, build, torch.cuda.is_available()),
    }
    try:
        chosen = choose_device(device)
    except DeviceError as error:
        return report | {"device": device, "ok": False, "self_test": str(error), "max_error": None}
    test = self_test(chosen)
    return report | {
        "device": str(chosen),
        "ok": test.ok,
        "self_test": test.message,
        "max_error": test.max_error if test.max_error != float("inf") else None,
    }


def report_text(report: dict[str, Any]) -> str:
    """The report for people and for the clipboard."""
    lines = [
        f"device: {report['device']}",
        f"self-test: {'passed' if report['ok'] else 'FAILED'}: {report['self_test']}",
        f"torch: {report['torch']} (CUDA build: {report['cuda_build'] or 'none'})",
        f"NVIDIA driver: {report['driver'] or 'none'}",
        f"python: {report['python']} on {report['platform']}",
    ]
    for d in report["devices"]:
        free, total = d["free_bytes"] / 2**30, d["total_bytes"] / 2**30
        lines.append(f"  {d['name']}: {d['label']}, {free:.1f} of {total:.1f} GiB free")
    if report["advice"]:
        lines.append(report["advice"])
    return "\n".join(lines)


# --- memory ladder ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rung:
    """One way to compute: where, and how many bytes a block of attention rows may take."""

    device: torch.device
    block_bytes: int | None = None


BLOCKS = (4 * MIB, MIB)
"""Row blocks tried after the normal size: slower, exactly the same numbers."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that memory ran out (GPU, Apple GPU or CPU allocator)."""
    return isinstance(error, torch.OutOfMemoryError) or is_memory_error(error)


def ladder(device: torch.device) -> list[Rung]:
    """Normal, then smaller row blocks (exact), then the CPU with normal and smaller blocks."""
    rungs = [Rung(device), *(Rung(device, block) for block in BLOCKS)]
    if device.type != "cpu":
        cpu = torch.device("cpu")
        rungs += [Rung(cpu), Rung(cpu, BLOCKS[-1])]
    return rungs


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """What glibc offers to give freed memory back; ``None`` with another C library."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return found


def trim_heap() -> bool:
    """Give freed memory of this process back to the system; false where that is not offered.

    What a slice needed for a moment lies between what is kept of slices, so that the C library
    holds on to it: 800 MB instead of 400 after 100 slices of a CT.
    """
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


def release_memory(device: torch.device) -> None:
    """Give cached blocks of a GPU back before the next try."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def with_memory_ladder(
    work: Callable[[Rung], T],
    rungs: list[Rung],
    notes: list[str],
    got: str = "",
    advice: str = "close other programs, or segment a smaller image",
    tile: int = 0,
) -> tuple[T, Rung]:
    """Run ``work`` on the first rung whose memory suffices; say every step down in ``notes``.

    Errors other than lack of memory pass through. Raises ``MemoryEndedError`` when the last rung
    fails as well: ``got`` (the image, in words), what happened, ``advice`` and the ``tile`` that
    may fit.
    """
    for i, rung in enumerate(rungs):
        try:
            return work(rung), rung
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release_memory(rung.device)
        if i + 1 < len(rungs):
            notes.append(_step_down(rung, rungs[i + 1]))
    raise MemoryEndedError(
        f"{f'got {got}, but ' if got else ''}memory ran out on {rungs[-1].device}, even with the "
        f"smallest row blocks; {advice}",
        tile,
    )


def _step_down(now: Rung, then: Rung) -> str:
    if then.device != now.device:
        return f"memory ran out on {now.device}: running on the CPU from here on (same answer)"
    size = (then.block_bytes or 0) // MIB
    return (
        f"memory ran out on {now.device}: attention runs in smaller row blocks "
        f"({size} MiB, same answer)"
    )
