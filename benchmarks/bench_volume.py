"""A whole CT: memory of window and engine, time, the first slice, and MONAI's sliding window.

A generated volume of 512 x 512 x N (int16, uncompressed ``.nii`` or ``.nii.gz``) is opened in a
napari window, segmented, and its threshold is moved afterwards; then the same network runs over
the same file under ``monai.inferers.SliceInferer`` (its sliding window over slices), as a script
of a few lines would use it. ``predict/...`` measures the command line. Every form has a process of
its own.

    xvfb-run -a python benchmarks/bench_volume.py --write           # all, about half an hour
    xvfb-run -a python benchmarks/bench_volume.py tiny:600 predict/tiny:600:gz --write
    xvfb-run -a python benchmarks/bench_volume.py tiny:40 tiny:80 --no-monai

With ``--write`` the rows that were measured take their places among those that stand in
RESULTS.md already, so the table can be made in pieces.

Memory is the sum over the window's process and its engine at its largest, from opening the file
until the threshold was moved: ``anon`` is memory of their own, ``pss`` adds their share of mapped
files (which the system takes back when it needs room). The first visible slice is there when the
canvas has been drawn with it. Processor time is what the processes used, whatever else the
machine was doing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from results import device, section, write_section
from volume_children import CHILDREN, SHIPPED, TINY, full_size_model, tiny_model
from volume_parts import SIDE, Watched, write_phantom

TITLE = "volume"
TABLE = (
    *(f"{TINY}:{n}" for n in (100, 300, 600)),
    f"{TINY}:600:gz",
    *(f"{SHIPPED}:{n}" for n in (100, 300, 600)),
    *(f"predict/{TINY}:{n}" for n in (100, 300, 600)),
    f"predict/{TINY}:600:gz",
)
"""Rows of the whole table."""
ALL = ("opened", "idle", "run", "move")


@dataclass(frozen=True)
class Wish:
    """A row: ``[predict/]MODEL:SLICES[:gz]``."""

    model: str
    slices: int
    packed: bool
    predict: bool

    @classmethod
    def of(cls, word: str) -> Wish:
        """Raises ``ValueError`` for other words."""
        predict, _, rest = word.rpartition("/") if word.startswith("predict/") else ("", "", word)
        model, slices, *more = rest.split(":")
        if more not in ([], ["gz"]):
            raise ValueError(f"got {word}, expected [predict/]MODEL:SLICES[:gz]")
        return cls(model, int(slices), bool(more), bool(predict))

    @property
    def suffix(self) -> str:
        """Of the file."""
        return ".nii.gz" if self.packed else ".nii"

    @property
    def names(self) -> list[str]:
        """The first two cells of the row, by which it is known."""
        model = f"predict, {self.model}" if self.predict else self.model
        return [model, f"{SIDE}x{SIDE}x{self.slices} {self.suffix}"]


def window_row(path: Path, model: str, monai: bool) -> list[str]:
    """The cells behind the names."""
    load = os.getloadavg()[0]
    ours = Watched(__file__, "--child", "window", path, model)
    marks = ours.wait()
    anon, pss = (ours.extra(ALL, k, "idle") for k in ("anon", "pss"))
    opened, run = marks["opened"]["seconds"], marks["move"]["seconds"]
    spent = ours.spent("run", "move", "engine")
    opening = ours.spent("idle", "opened", "own")
    cells = [
        f"{anon:.0f} / {pss:.0f} MB",
        f"{ours.extra(ALL, 'anon', 'idle', 'engine_'):.0f} MB",
        f"{opened:.1f} s ({opening:.1f} s)",
        f"{marks['move']['first']:.2f} s",
        f"{run:.0f} s",
        f"{spent:.1f} + {ours.spent('run', 'move', 'own'):.1f} s",
        f"{marks['end']['seconds']:.0f} s ({ours.spent('move', 'end', 'engine'):.1f} s)",
    ]
    if not monai:
        return [*cells, "", "", "", "", f"{load:.1f}"]
    theirs = Watched(__file__, "--child", "monai", path, model)
    seconds = theirs.wait()["end"]["seconds"]
    most, used = theirs.extra(("run",), "anon", "idle"), theirs.spent("run", "end", "own")
    cells += [
        f"{most:.0f} MB",
        f"{seconds:.0f} s",
        f"{used:.1f} s",
        f"1/{most / anon:.1f}, {seconds / (opened + run):.2f}x, {used / (opening + spent):.2f}x",
    ]
    return [*cells, f"{load:.1f}"]


def predict_row(path: Path, model: str) -> list[str]:
    """The cells behind the names."""
    load = os.getloadavg()[0]
    ours = Watched(__file__, "--child", "predict", path, model)
    seconds = ours.wait()["end"]["seconds"]
    anon, pss = (ours.peak(("run",), k) for k in ("anon", "pss"))
    spent = ours.spent("run", "end", "own")
    return [f"{anon:.0f} / {pss:.0f} MB", f"{seconds:.0f} s", f"{spent:.1f} s", f"{load:.1f}"]


WINDOW = (
    "model",
    "volume",
    "extra at the peak: anon / pss (target <= 1500)",
    "of it the engine's, anon",
    "opened in (processor time)",
    "first visible slice (target <= 1 s)",
    "run",
    "processor time of it: engine + window",
    "moved threshold (of processors)",
    "MONAI: extra, anon",
    "MONAI: load and run",
    "MONAI: processor time",
    "memory (target < 1/2 at 600), speed, speed in processor time of opening and engine (target "
    ">= 1x)",
    "load before",
)
PREDICT = (
    "command",
    "volume",
    "whole process at the peak: anon / pss (target <= 1500)",
    "time",
    "processor time",
    "load before",
)
ABOUT = (
    "Each row by `xvfb-run -a python benchmarks/bench_volume.py ROW --write`, ROW being as "
    "`{row}`, on {device}; float32, OMP_NUM_THREADS={threads} in every process, of which a run "
    "leaves one to the window where there are several. `tiny`: a `smooth_unet` of an eighth of the "
    "width with random weights; the CT model without the 3 mm of its card, so that both forms see "
    "every pixel. Extra: above the window and its engine with torch imported and "
    "nothing open; largest from opening until the threshold was moved. First visible slice: from "
    "the press of Run, with the model loaded, until the canvas was drawn with it. MONAI: "
    "`SliceInferer` with the same network in a process of its own, above that with the model "
    "loaded; its time counts loading the file, and so does ours in the last but one column. "
    "`predict`: from an empty Python to the verified mask, all its memory. Load: of the machine by "
    "everything, before the row."
)


def measured(word: str, folder: Path, monai: bool) -> list[str]:
    """The whole row."""
    wish = Wish.of(word)
    path = folder / f"ct{wish.slices}{wish.suffix}"
    write_phantom(path, wish.slices)
    model = (tiny_model if wish.model == TINY else full_size_model)(folder)
    try:
        cells = predict_row(path, model) if wish.predict else window_row(path, model, monai)
        return [*wish.names, *cells]
    finally:
        path.unlink()


def table(head: tuple[str, ...], rows: list[list[str]], about: str) -> str:
    """Those of ``rows``, and of those that stand in ``about``, that have this head."""
    order = [Wish.of(word).names for word in TABLE]
    old = [[cell.strip() for cell in line.split("|")[1:-1]] for line in about.splitlines()]
    if list(head) not in old:
        old = []
    known = {tuple(cells[:2]): cells for cells in (*old, *rows) if len(cells) == len(head)}
    ranked = sorted((c for c in known.values() if c[:2] in order), key=lambda c: order.index(c[:2]))
    ranked += [c for c in rows if len(c) == len(head) and c[:2] not in order]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in ranked)])


def main() -> None:
    """Measure, print, and with ``--write`` record after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"of {' '.join(TABLE)} (default: all)")
    parser.add_argument("--no-monai", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.child:
        CHILDREN[wish.child[0]](*wish.child[1:])
        return
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    text = ABOUT.format(row=TABLE[2], device=device(), threads=threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for word in wish.rows or TABLE:
            rows.append(measured(word, Path(folder), not wish.no_monai))
            old = section(TITLE) if wish.write else ""
            tables = [table(head, rows, old) for head in (WINDOW, PREDICT)]
            print("\n\n".join(tables), flush=True)
            if wish.write:
                write_section(TITLE, "\n\n".join([text, *tables]))


if __name__ == "__main__":
    main()
