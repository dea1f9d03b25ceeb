"""What ``bench_volume.py`` stands on: a generated CT volume, memory and processor time of a tree
of processes."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil

SIDE = 512
SEED = 7
MB = 1e6


def write_phantom(path: Path, slices: int) -> None:
    """A CT-like volume (X, Y, Z) int16 in Hounsfield units, written a slice at a time.

    A body of fat and muscle, a spine, a liver, a spleen and two kidneys whose sections come and
    go along the axis, with the noise of a scanner; ``.nii.gz`` packs the same bytes.
    """
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((SIDE, SIDE, slices))
    header.set_sform(np.diag((-0.8, -0.8, 1.5, 1.0)), 1)
    header.set_qform(np.diag((-0.8, -0.8, 1.5, 1.0)), 1)
    header["vox_offset"] = 352
    rng = np.random.default_rng(SEED)
    with open(plain, "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for z in range(slices):
            file.write(section(z / slices, rng).tobytes())
    if plain != path:
        with open(plain, "rb") as source, gzip.open(path, "wb", compresslevel=1) as packed:
            shutil.copyfileobj(source, packed, 1 << 24)
        plain.unlink()


def section(height: float, rng: np.random.Generator) -> np.ndarray:
    """One slice (Y, X) at ``height`` in 0..1 of the body."""
    y, x = np.ogrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]

    def inside(cy: float, cx: float, ry: float, rx: float, at: float, deep: float) -> np.ndarray:
        left = 1 - ((height - at) / deep) ** 2
        if left <= 0:
            return np.zeros((SIDE, SIDE), bool)
        return np.asarray(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= left)

    hu = np.full((SIDE, SIDE), -1000.0, np.float32)
    for shrink, value in ((0.0, -95), (0.06, 50), (0.12, -95)):
        hu[((y / (0.7 - shrink)) ** 2 + (x / (0.9 - shrink)) ** 2) <= 1] = value
    for parts, value in (
        (((0.4, 0.0, 0.14, 0.16, 0.5, 9.0),), 300),
        (((-0.1, -0.4, 0.38, 0.34, 0.55, 0.35),), 60),
        (((0.1, 0.55, 0.22, 0.14, 0.6, 0.25),), 45),
        (((0.3, -0.38, 0.15, 0.12, 0.35, 0.25), (0.3, 0.38, 0.15, 0.12, 0.38, 0.25)), 38),
    ):
        for part in parts:
            hu[inside(*part)] = value
    return (hu + rng.normal(0, 13, hu.shape)).astype(np.int16)


def memory_of(process: psutil.Process) -> dict[str, float]:
    """Bytes of one process: ``rss``, ``pss`` (shared pages by their share), ``anon`` (its own,
    which no file backs)."""
    found = {"rss": 0.0, "pss": 0.0, "anon": 0.0}
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss", "Anonymous"):
                found[{"Rss": "rss", "Pss": "pss", "Anonymous": "anon"}[name]] = (
                    int(rest.split()[0]) * 1024.0
                )
    except (OSError, ValueError):
        pass
    return found


class Watched:
    """A child process that prints JSON lines ``{"mark": ...}``; its memory and its engines' is
    looked at all the while. ``peaks``: phase to the largest sums (and what is in ``engine``)."""

    def __init__(self, script: str, *arguments: Any) -> None:
        self.marks: dict[str, dict[str, Any]] = {}
        self.peaks: dict[str, dict[str, float]] = {}
        self._phase = "start"
        self._process = subprocess.Popen(
            [sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def wait(self, told: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
        """Its marks, when it has ended well; raises ``RuntimeError`` otherwise."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                mark = json.loads(line)
                self._look()
                self.marks[mark["mark"]] = mark
                self._phase = mark["mark"]
                told(line.strip())
        code = self._process.wait()
        self._over.set()
        self._watcher.join()
        if code:
            raise RuntimeError(f"the measured process ended with {code}")
        return self.marks

    def extra(self, phases: tuple[str, ...], kind: str, base: str, who: str = "") -> float:
        """MB by which the peak over ``phases`` is above what was there when ``base`` began."""
        most = max(self.peaks[p].get(who + kind, 0.0) for p in phases if p in self.peaks)
        return (most - self.marks[base]["memory"].get(who + kind, 0.0)) / MB

    def spent(self, begin: str, end: str, who: str) -> float:
        """Processor seconds of ``who`` (``"own"``, ``"engine"``) between two marks."""
        return float(self.marks[end]["spent"][who] - self.marks[begin]["spent"][who])

    def peak(self, phases: tuple[str, ...], kind: str) -> float:
        """MB at the peak over ``phases``."""
        return max(self.peaks[p].get(kind, 0.0) for p in phases if p in self.peaks) / MB

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._look()

    def _look(self) -> None:
        now = tree_memory(self._process.pid)
        kept = self.peaks.setdefault(self._phase, {})
        for kind, value in now.items():
            kept[kind] = max(kept.get(kind, 0.0), value)


def tree_memory(pid: int) -> dict[str, float]:
    """Sums over a process and its children; with ``engine_`` before the name: children alone."""
    sums: dict[str, float] = {}
    try:
        root = psutil.Process(pid)
        children = root.children(recursive=True)
    except psutil.Error:
        return sums
    for process in (root, *children):
        for kind, value in memory_of(process).items():
            sums[kind] = sums.get(kind, 0.0) + value
            if process != root:
                sums["engine_" + kind] = sums.get("engine_" + kind, 0.0) + value
    return sums


def tree_seconds(pid: int) -> dict[str, float]:
    """Processor seconds so far of a process (``own``) and of its children (``engine``)."""
    root = psutil.Process(pid)
    found = {"own": _seconds(root), "engine": 0.0}
    for child in root.children(recursive=True):
        found["engine"] += _seconds(child)
    return found


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def mark(name: str, **values: Any) -> None:
    """Tell the watcher that a phase begins, with memory and time of this tree just now."""
    pid = psutil.Process().pid
    about = {"mark": name, "memory": tree_memory(pid), "spent": tree_seconds(pid)}
    print(json.dumps({**about, **values}))
    sys.stdout.flush()
