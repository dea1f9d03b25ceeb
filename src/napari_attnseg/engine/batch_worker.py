"""The side of a batch that runs in the workers of a Dask cluster: one engine per process, kept.

Files travel by path. While the batch goes on, a marker lies in the folder of the masks: a worker
that cannot read it does not share that folder, and one that finds it gone stops.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_attnseg import __version__
from napari_attnseg.engine.batch import Recipe, Row, Task
from napari_attnseg.errors import AttnSegError, EngineError
from napari_attnseg.settings import Tuning

if TYPE_CHECKING:
    from napari_attnseg.engine.batch_make import Maker

LOOK_SECONDS = 1.0
"""Between two looks at the marker."""
SIGHT_SECONDS = 5.0
"""How long a shared folder may take to show a file that another machine made."""
IDLE_SECONDS = 300.0
"""An engine that has had nothing to do for so long is let go."""


class Unfit(EngineError):
    """A worker that cannot work on this batch at all, in one sentence."""


@dataclass(frozen=True)
class Order:
    """A task with all that a worker must know. ``marker`` holds ``token``; ``size``: bytes of the
    image as the one who orders sees it (-1: it is a folder)."""

    recipe: Recipe
    task: Task
    marker: Path
    token: str
    size: int
    version: str = __version__

    def to_json(self) -> str:
        """As text: what is sent are words, never objects to be unpickled."""
        recipe, task = self.recipe, self.task
        own = recipe.own.to_json() if recipe.own is not None else None
        told = asdict(recipe) | {"tuning": recipe.tuning.to_json(), "own": own}
        places = {"image": str(task.image), "mask": str(task.mask), "before": task.before}
        about = {"marker": str(self.marker), "token": self.token, "size": self.size}
        return json.dumps({"version": self.version, "recipe": told, "task": places, **about})

    @classmethod
    def from_json(cls, text: str) -> Order:
        """The order again. Raises :class:`Unfit` for one of another version."""
        data = json.loads(text)
        _check_version(data["version"])
        told, places = data["recipe"], data["task"]
        told["tuning"] = Tuning.from_json(told["tuning"])
        told["own"] = Tuning.from_json(told["own"]) if told["own"] is not None else None
        recipe = Recipe(**told | {name: tuple(told[name]) for name in ("save", "tidy")})
        before = tuple(places["before"]) if places["before"] is not None else None
        task = Task(Path(places["image"]), Path(places["mask"]), before)
        return cls(recipe, task, Path(data["marker"]), data["token"], data["size"])


class _Engine:
    """The one engine of this process; ``lock``: one file at a time, whatever the threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._recipe: Recipe | None = None
        self._maker: Maker | None = None
        self._timer: threading.Timer | None = None

    def maker(self, recipe: Recipe) -> Maker:
        """The model of ``recipe``, loaded when it is another one than before."""
        from napari_attnseg.engine.batch_make import Maker

        self._stop_timer()
        if self._maker is None or self._recipe != recipe:
            self._maker = None  # before the next: two may be too much
            self._maker = Maker(recipe)
            self._recipe = recipe
        return self._maker

    def rest(self) -> None:
        """Nothing to do now."""
        self._stop_timer()
        self._timer = threading.Timer(IDLE_SECONDS, self._forget)
        self._timer.daemon = True
        self._timer.start()

    def _forget(self) -> None:
        with self.lock:
            self._maker = self._recipe = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


ENGINE = _Engine()


def work(order: Order) -> Row:
    """One file of a batch. Raises :class:`Unfit` and ``Stopped``; all else is in the row."""
    _check_version(order.version)
    _check_sight(order)
    with ENGINE.lock:
        try:
            maker = ENGINE.maker(order.recipe)
            row = maker.make(order.task, _watch(order.marker))
        except AttnSegError as error:
            raise Unfit(f"the worker on {socket.gethostname()} cannot begin: {error}") from None
        finally:
            ENGINE.rest()
    if row.status != "ok":
        return row
    return replace(row, device=f"{row.device} on {socket.gethostname()}")


def _check_version(version: str) -> None:
    if version != __version__:
        raise Unfit(unequal(socket.gethostname(), __version__, version))


def unequal(host: str, theirs: str | None, ours: str, what: str = "napari-attnseg") -> str:
    """The sentence about a worker with another version."""
    has = f"has {what} {theirs}" if theirs else f"has no {what}"
    return f"the worker on {host} {has}, but here it is {ours}; install the same version on both"


def _check_sight(order: Order) -> None:
    """Raise :class:`Unfit` unless this machine sees the folder of the masks and the image."""
    until = time.monotonic() + SIGHT_SECONDS
    while not (_reads(order.marker) == order.token and _size(order.task.image) == order.size):
        if time.monotonic() > until:
            unseen = order.marker.parent
            if _reads(order.marker) == order.token:
                unseen = order.task.image
            raise Unfit(
                f"the worker on {socket.gethostname()} does not see {unseen} as it is seen here; "
                "images, masks and model must lie on a file system that all machines share under "
                "the same path"
            )
        time.sleep(0.2)


def _reads(marker: Path) -> str:
    try:
        return marker.read_text()
    except OSError:
        return ""


def _size(image: Path) -> int | None:
    return size_of(image) if image.exists() else None


def size_of(image: Path) -> int:
    """Bytes of a file, -1 for a folder."""
    return -1 if image.is_dir() else image.stat().st_size


def _watch(marker: Path) -> Callable[[int, int], None]:
    """A pause that raises ``Stopped`` when the marker is gone."""
    from napari_attnseg.engine.batch_make import Stopped

    looked = time.monotonic()

    def pause(done: int, count: int) -> None:
        nonlocal looked
        if time.monotonic() - looked < LOOK_SECONDS:
            return
        looked = time.monotonic()
        if not marker.exists():
            raise Stopped("the batch was stopped")

    return pause
