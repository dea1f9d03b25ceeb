"""Where the journals lie: one folder per window process, swept by nobody but their owner.

``open-<pid>-<start>@<machine>`` belongs to a living process, or to one that ended without closing
it; ``closed-...`` was closed in order and is kept for a while in case a person misses something.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_attnseg.errors import InputError
from napari_attnseg.io.journal import Replayed, happened, replay
from napari_attnseg.living import MARK, beat, is_ours, mark, owned, rest

FOLDER_VARIABLE = "NAPARI_ATTNSEG_JOURNALS"
CLOSED_KEPT = 5
"""Folders of windows that were closed in order."""
_OPEN = re.compile(rf"open-{MARK}(?:[-@]\d+)?")
_HAND = {"paint", "fill", "erase", "polygon", "code", "process", "reset", "travel", "restored"}


def journals_root() -> Path:
    """``$NAPARI_ATTNSEG_JOURNALS``, beside napari's settings when ``NAPARI_CONFIG`` names them, or
    the user's data folder."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    if given := os.environ.get("NAPARI_CONFIG"):
        return Path(given).with_name("napari-attnseg-journals")
    import platformdirs

    return platformdirs.user_data_path("napari-attnseg") / "journals"


def new_folder() -> Path:
    """The folder of this process; its name is one that a later process cannot have.

    Raises ``InputError`` when it cannot be made.
    """
    first = path = journals_root() / f"open-{mark()}"
    for number in range(1, 1000):
        try:
            path.mkdir(parents=True)
        except FileExistsError:  # another window of the same process
            path = first.with_name(f"{first.name}@{number}")
        except OSError as error:
            raise InputError(
                f"cannot make {path} ({error.strerror or error}): what you paint would not come "
                f"back after a crash; set {FOLDER_VARIABLE} to a folder that can be written"
            ) from error
        else:
            beat(path)
            return path
    raise InputError(f"{path.parent} holds a thousand windows of this process; empty it")


@dataclass(frozen=True, eq=False)
class Left:
    """A journal that a window left behind: ``crashed`` when it did not end in order; ``host``: the
    machine that it ran on, if it was another one."""

    path: Path
    crashed: bool
    time: float
    state: Replayed
    host: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """Image, model and live values, see :mod:`viewer.journal_keeper`."""
        return self.state.facts

    @property
    def image(self) -> str:
        """Name of the image."""
        return str(self.facts.get("image", {}).get("name", "image"))

    @property
    def held_tiles(self) -> int:
        """Tiles with pixels held by hand."""
        return sum(1 for (plane, _), data in self.state.pages.items() if plane == 1 and data)

    @property
    def unsaved(self) -> bool:
        """Whether there is something that no export or session file holds."""
        return bool(self.state.pages) and not self.facts.get("saved")

    def words(self) -> str:
        """One line: when, which image and model, and what was done."""
        when = time.strftime("%d %b %H:%M", time.localtime(self.time))
        counts = happened(self.state)
        hand = sum(n for what, n in counts.items() if what in _HAND)
        steps = f"{hand} {'step' if hand == 1 else 'steps'} by hand" if hand else "no hand edits"
        how = "window ended without closing" if self.crashed else "window was closed"
        if self.crashed and self.host:
            how = f"window on {self.host} has not been heard of since"
        return f"{when}, {self.thing()}: {steps}; its {how}"

    def thing(self) -> str:
        """What it is a journal of: ``"scan by tiny"``, or the name of a layer."""
        if painted := self.facts.get("painted"):
            return str(painted["name"])
        model = Path(str(self.facts.get("model", ""))).stem or "no model"
        return f"{self.image} {'refined ' if self.facts.get('refined') else ''}by {model}"


def left_behind(root: Path | None = None, closed: bool = False) -> list[Left]:
    """Journals of windows that are gone, newest first; ``closed``: also those closed in order.

    Files that cannot be read are passed over.
    """
    found = []
    for path in sorted((root or journals_root()).glob("*/*.journal")):
        match = _OPEN.fullmatch(path.parent.name)
        if match and owned(path.parent, match):
            continue  # its window lives
        if not match and not (closed and path.parent.name.startswith("closed-")):
            continue
        with contextlib.suppress(InputError, OSError):
            host = match["host"] if match and not is_ours(match) else ""
            left = Left(path, match is not None, path.stat().st_mtime, replay(path), host)
            if left.unsaved:
                found.append(left)
    return sorted(found, key=lambda left: -left.time)


def kept_file(left: Left) -> Path | None:
    """The ``.npy`` with the pixels of an image that has no file of its own."""
    name = left.facts.get("image", {}).get("kept")
    return left.path.parent / Path(str(name)).name if name else None


def discard(left: Left) -> None:
    """Forget one journal and the pixels that were kept for it.

    That of another machine is only put aside: its window may have slept, and go on.
    """
    if left.host:
        set_aside(left)
        return
    left.path.unlink(missing_ok=True)
    folder = left.path.parent
    if not any(folder.glob("*.journal")):  # several may need the same pixels
        shutil.rmtree(folder, ignore_errors=True)


def set_aside(left: Left) -> None:
    """A person wants none of it: kept among the closed ones for a while."""
    with contextlib.suppress(OSError):
        old = left.path.parent
        folder = old.with_name(f"closed-{old.name}")  # one for all that was left together
        folder.mkdir(exist_ok=True)
        left.path.replace(folder / left.path.name)
        kept = kept_file(left)
        if kept is not None and kept.is_file() and not (folder / kept.name).exists():
            shutil.copyfile(kept, folder / kept.name)  # others may need it still
        os.utime(folder)
        _forget_oldest(folder.parent)
        if not any(old.glob("*.journal")):
            shutil.rmtree(old, ignore_errors=True)


def close_folder(folder: Path) -> None:
    """The window was closed in order: what is unsaved is kept for a while, the rest goes."""
    rest(folder)
    with contextlib.suppress(OSError):
        keep = False
        for path in folder.glob("*.journal"):
            try:
                keep |= _by_hand(replay(path))
            except InputError:  # another version may read what this one cannot
                keep = True
        if keep:
            os.utime(folder)
            folder.replace(folder.with_name(f"closed-{time.time_ns()}"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
        _forget_oldest(folder.parent)


def _forget_oldest(root: Path) -> None:
    for old in sorted(root.glob("closed-*"), key=_time)[:-CLOSED_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another window has taken it
        return 0.0


def _by_hand(state: Replayed) -> bool:
    held = any(plane == 1 and data for (plane, _), data in state.pages.items())
    return held and not state.facts.get("saved")
