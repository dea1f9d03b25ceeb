"""A batch as lines of text: what came of every file, how far it is, and the table."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_attnseg.atomic import drop_own, sweep
from napari_attnseg.cli._common import ensure_folder, say
from napari_attnseg.errors import AttnSegError

if TYPE_CHECKING:
    from napari_attnseg.cards import Card
    from napari_attnseg.engine.batch import Recipe, Row, Task
    from napari_attnseg.engine.batch_table import Table

Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Let the workers of this Dask cluster do it: tcp://host:8786, tls://host:8786 or a "
        "scheduler file. Images, masks and model must lie where all machines see them.",
    ),
]


class Report:
    """Says what came of each of ``count`` files, and keeps the ``table`` (``None``: there is
    none). ``top``: the highest class id."""

    def __init__(self, out: Path, count: int, top: int, table: Table | None) -> None:
        self.out, self.count, self.top, self.table = out, count, top, table
        self.found: Counter[str] = Counter()
        self.untabled = ""
        self._began = self._last = time.monotonic()
        self._working = 0.0

    @property
    def bad(self) -> bool:
        """Whether something asked for is not there."""
        return bool(self.found["failed"] + self.found["refused"]) or bool(self.untabled)

    def add(self, row: Row) -> None:
        """The next file is done with."""
        now = time.monotonic()
        if row.status == "ok" and self.found["ok"]:  # the first one waits for the model, too
            self._working += now - self._last
        self._last = now
        self.found[row.status] += 1
        name = Path(row.file).name
        for note in row.notes:
            say(f"note: {name}: {note}")
        if row.trace:
            say(row.trace.rstrip())
        say(self._line(row, name) + self._progress())
        for line in row.said:
            say(line)
        self._tabled(lambda table: table.add(row))

    def end(self) -> None:
        """The table is whole, and the sum of it all is said."""
        self._tabled(lambda table: table.write())
        kept, good = self.found["kept"], self.found["kept"] + self.found["ok"]
        parts = [f"{good} of {self.count} masks written and verified in {self.out}"]
        if kept:
            parts[0] += f" ({kept} of them before)"
        parts += [f"{self.found[k]} {k}" for k in ("failed", "refused") if self.found[k]]
        left = self.count - self.found.total()
        if left:
            parts.append(f"{left} not begun or not finished")
        parts.append(duration(time.monotonic() - self._began))
        if self.table is not None:
            stale = " is NOT up to date: it could not be written" if self.untabled else ""
            parts.append(f"table: {self.table.path}{stale}")
        say(", ".join(parts))

    def _tabled(self, work: Callable[[Table], None]) -> None:
        """A table that cannot be written costs no mask, and is said once."""
        if self.table is None:
            return
        try:
            work(self.table)
            self.untabled = ""
        except AttnSegError as error:
            if not self.untabled:
                say(f"error: {error}")
            self.untabled = str(error)

    def _line(self, row: Row, name: str) -> str:
        mask = self.out / row.mask
        if row.status == "ok":
            verdict = row.message or "read again after the one who made it was lost"
            return f"{name} -> {mask} ({verdict}; ids 0 to {self.top})"
        if row.status == "kept":
            return f"{name}: kept, {row.mask} is finished with the same model, values and image"
        return f"{'error' if row.status == 'failed' else 'refused'}: {row.file}: {row.error}"

    def _progress(self) -> str:
        done = self.found.total()
        if self.count == 1 or done == self.count:
            return ""
        worked = self.found["ok"] - 1
        left = self.count - done
        rest = f", about {duration(self._working / worked * left)} left" if worked > 0 else ""
        return f" [{done} of {self.count}{rest}]"


def duration(seconds: float) -> str:
    """``75`` as ``"1 min 15 s"``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@contextmanager
def ended_like_a_key() -> Iterator[None]:
    """Being told to end (as a queue does when the time is over) is taken like Ctrl+C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_batch(
    recipe: Recipe,
    card: Card,
    places: Mapping[Path, Path],
    out: Path,
    many: bool,
    scheduler: str | None = None,
) -> Report:
    """Work through ``places`` (image to mask), here or on a cluster. ``many``: keep a table;
    one that is there is kept in any case.

    Stopped by the keyboard, the report is ended and ``typer.Exit(130)`` raised. Nothing is made
    in ``out`` for a recipe that cannot be followed, or a scheduler that does not answer.
    """
    from napari_attnseg.engine.batch import tasks_of
    from napari_attnseg.engine.batch_table import Table, is_table

    begin = _begun_here(recipe) if scheduler is None else _begun_there(recipe, scheduler)
    with begin as rows_of:
        ensure_folder(out)
        sweep(out)
        names = card.class_names
        tabled = many or is_table(out)  # of an earlier batch: its lines are to stay true
        table = Table(out, names, [m.name for m in places.values()]) if tabled else None
        report = Report(out, len(places), len(names) - 1, table)
        whole = {image.absolute(): mask.absolute() for image, mask in places.items()}
        try:
            with ended_like_a_key(), closing(rows_of(tasks_of(whole), out)) as rows:
                for row in rows:
                    report.add(row)
        except KeyboardInterrupt:
            say("stopped; what was finished is kept, the same command goes on from there")
            drop_own(out)
            report.end()
            raise typer.Exit(130) from None
        except AttnSegError:
            report.end()
            raise
    return report


RowsOf = Callable[["Sequence[Task]", Path], Generator["Row", None, None]]


@contextmanager
def _begun_here(recipe: Recipe) -> Iterator[RowsOf]:
    from napari_attnseg.engine.batch_make import Maker

    maker = Maker(recipe)

    def rows(tasks: Sequence[Task], out: Path) -> Generator[Row, None, None]:
        for task in tasks:
            yield maker.make(task)

    yield rows


@contextmanager
def _begun_there(recipe: Recipe, scheduler: str) -> Iterator[RowsOf]:
    from napari_attnseg.engine.batch_cluster import Cluster

    cluster = Cluster(scheduler, say)
    try:
        yield lambda tasks, out: cluster.rows(recipe, tasks, out)
    finally:
        cluster.close()
