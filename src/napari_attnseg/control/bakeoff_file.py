"""The folder of a bake-off, read back: what was asked for, so that a dock can show it or go on."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any, NoReturn

from napari_attnseg.control.bakeoff import BakeOff
from napari_attnseg.errors import InputError

TABLE = "compare.json"
"""What every bake-off writes into its folder, from its first finished training on."""
USUAL: dict[str, Any] = {"size": 128, "epochs": 30, "batch": 8, "width": 0.25, "levels": 4}
"""What the command line takes where nothing is said."""


class _Words(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"its command cannot be read ({message})")


def read_wish(folder: str | Path) -> BakeOff:
    """The bake-off whose results lie in ``folder``, made by a dock or by the command line.

    The data set's folder is looked for where the command says, relative to where it was run. Raises
    ``InputError`` where there is no bake-off, or one with values that the docks do not have.
    """
    folder = Path(folder).expanduser().absolute()
    try:
        told = json.loads((folder / TABLE).read_text(encoding="utf-8"))
        words = shlex.split(str(told["command"]))
        contestants = tuple(str(line["label"]) for line in told["tables"][0]["rows"][1:])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"got {folder}, which holds no results of a bake-off ({TABLE}); choose the folder that "
            "was given to compare as --out, or one inside the folder named under Results in"
        ) from error
    given = _parsed(folder, words)
    budget = {name: getattr(given, name) or usual for name, usual in USUAL.items()}
    return BakeOff(
        contestants=contestants,
        out=str(folder),
        data=str(_found(folder, given.out, given.data)),
        labels=given.labels,
        limit=given.limit,
        seeds=tuple(int(s) for s in given.seeds.split(",")),
        **budget,
    )


def _parsed(folder: Path, words: list[str]) -> argparse.Namespace:
    if words[1:2] != ["compare"]:
        raise InputError(f"got {folder}, made by {shlex.join(words[:2])}, expected a bake-off")
    parser = _Words(add_help=False, allow_abbrev=False)
    parser.add_argument("contestants", nargs="*")
    for name in ("data", "out", "labels"):
        parser.add_argument(f"--{name}", default="")
    for name in ("size", "epochs", "batch", "limit"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--width", type=float, default=0.0)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--device")
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_intermixed_args(words[2:])
    levels = [o.partition("=")[2] for o in given.option if o.startswith("levels=")]
    others = [f"--set {s}" for s in given.set]
    others += [f"--option {o}" for o in given.option if not o.startswith("levels=")]
    if others:
        raise InputError(
            f"the bake-off in {folder} was made with {', '.join(others)}, which has no field here; "
            "its tables and pictures lie in that folder, and the command line goes on with it"
        )
    given.levels = int(levels[-1]) if levels else 0
    return given


def _found(folder: Path, out: str, data: str) -> Path:
    """The data set, which a relative path names from where the command was run."""
    path = Path(data).expanduser()
    steps = len(Path(out).parts)
    if path.is_absolute() or Path(out).is_absolute() or steps > len(folder.parents):
        return path
    here = folder.parents[steps - 1] if steps else folder
    return (here / path).resolve()
