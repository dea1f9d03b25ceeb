"""A batch on an existing Dask cluster: tasks go out a few at a time, rows come back as they end.

A file is done once: its mask appears whole under its name or not at all, and whoever gets the
file of a worker that died first looks whether that one was done with it (see ``Task.before``).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_attnseg import __version__
from napari_attnseg.engine.batch import Recipe, Row, Task
from napari_attnseg.engine.batch_worker import Order, Unfit, size_of, unequal
from napari_attnseg.errors import AttnSegError, InputError

CONNECT_SECONDS = 10
AHEAD = 2
"""Tasks per worker that are under way: one at work, one that need not be waited for."""
LOOK_SECONDS = 2.0
TOUCH_SECONDS = 60.0
"""How often the marker is made younger: one that is old belongs to a program that was killed."""
MISSING = (
    "got --scheduler, which needs dask.distributed; install it with "
    "pip install 'napari-attnseg[cluster]'"
)


class Cluster:
    """The cluster behind a scheduler: ``"tcp://host:8786"``, ``"tls://host:8786"`` or the file
    that ``dask scheduler --scheduler-file`` wrote. TLS is as Dask's own configuration says.

    ``say`` takes a line for the person. Raises ``InputError`` when dask.distributed is missing
    or nobody answers, and ``Unfit`` when a worker has other versions.
    """

    def __init__(self, scheduler: str, say: Callable[[str], None] = lambda line: None) -> None:
        self.scheduler, self._say = scheduler, say
        self._client = _connected(scheduler)
        try:
            self._check_versions()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster; it goes on without us."""
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)

    def rows(self, recipe: Recipe, tasks: Sequence[Task], out: Path) -> Generator[Row, None, None]:
        """What came of every task, as they end. Closing the iterator stops the batch: files that
        a worker is at are left within a slice, those it finished are kept.

        Raises ``Unfit`` for a worker that cannot work on it, ``InputError`` when the scheduler is
        lost.
        """
        recipe = _everywhere(recipe)
        tasks = [replace(t, image=t.image.absolute(), mask=t.mask.absolute()) for t in tasks]
        token = uuid.uuid4().hex
        marker = out.absolute() / f".attnseg-run-{token}"
        marker.write_text(token)
        flying: dict[Any, Task] = {}
        try:
            yield from self._rows(recipe, deque(tasks), marker, flying)
        finally:
            marker.unlink(missing_ok=True)
            with contextlib.suppress(Exception):
                self._client.cancel(list(flying), force=True)

    # -- inside ----------------------------------------------------------------------------------

    def _rows(
        self, recipe: Recipe, waiting: deque[Task], marker: Path, flying: dict[Any, Task]
    ) -> Generator[Row, None, None]:
        touched, alone = time.monotonic(), False
        while waiting or flying:
            workers = self._workers()
            if not workers and not alone:
                self._say(f"waiting for workers at {self.scheduler}")
            alone = not workers
            while waiting and len(flying) < AHEAD * max(1, workers):
                task = waiting.popleft()
                future = self._submit(recipe, task, marker)
                if isinstance(future, Row):
                    yield future
                else:
                    flying[future] = task
            for future in self._finished(flying):
                yield _row_of(future, flying.pop(future))
            if time.monotonic() - touched > TOUCH_SECONDS:
                os.utime(marker)
                touched = time.monotonic()

    def _workers(self) -> int:
        try:
            return len(self._client.nthreads())
        except Exception as error:
            raise _lost(self.scheduler) from error

    def _submit(self, recipe: Recipe, task: Task, marker: Path) -> Any:
        try:
            size = size_of(task.image)
        except OSError as error:
            why = f"cannot read {task.image}: {error.strerror}; copy it there again"
            return Row(str(task.image), task.mask.name, "failed", error=why)
        order = Order(recipe, task, marker, marker.name.rpartition("-")[2], size)
        return self._client.submit(
            _there(),
            order.to_json(),
            key=f"attnseg-{task.mask.name}-{uuid.uuid4().hex}",
            pure=False,
        )

    def _finished(self, flying: dict[Any, Task]) -> list[Any]:
        from concurrent.futures import CancelledError

        from distributed import wait

        if not flying:
            return []
        with self._client.as_current():
            try:
                wait(list(flying), timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED")
            except TimeoutError:
                pass
            except CancelledError as error:  # all of them, when the scheduler has gone
                raise _lost(self.scheduler) from error
        if self._client.status not in ("running", "connecting"):
            raise _lost(self.scheduler)
        return [f for f in flying if f.status not in ("pending", "lost")]

    def _check_versions(self) -> None:
        found = self._client.get_versions(packages=["napari_attnseg"])
        python = ".".join(map(str, sys.version_info[:2]))
        for address, worker in found["workers"].items():
            packages = worker["packages"]
            theirs = str(packages.get("python", "")).split(".")
            pairs = (
                ("napari-attnseg", packages.get("napari_attnseg"), __version__),
                ("Python", ".".join(theirs[:2]), python),
                ("distributed", packages.get("distributed"), _distributed()),
            )
            for what, other, ours in pairs:
                if other != ours:
                    raise Unfit(unequal(address, other, ours, what))


def _connected(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise InputError(MISSING) from None
    _check_certificates(scheduler)
    file = Path(scheduler)
    where = {"scheduler_file": scheduler} if file.is_file() else {"address": scheduler}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions are ours to speak of
            return Client(
                **where,
                timeout=CONNECT_SECONDS,
                name="napari-attnseg",
                set_as_default=False,
            )
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise InputError(_no_answer(scheduler, error)) from error


def _check_certificates(scheduler: str) -> None:
    """Dask itself would fail half-way, and take its time to clean up."""
    from distributed.security import Security

    try:
        there = Security().get_connection_args("client").get("ssl_context") is not None
        why = "names no certificates for a client"
    except (OSError, ValueError, TypeError) as error:
        there, why = False, f"names certificates that cannot be read ({error})"
    if scheduler.startswith("tls://") and not there:
        raise InputError(
            f"got {scheduler}, but Dask's configuration {why}; set distributed.comm.tls there "
            "(ca-file, client.cert and client.key), as scheduler and workers have it"
        )


def _no_answer(scheduler: str, error: Exception) -> str:
    words = str(error).strip().splitlines()
    why = f" ({words[0].rstrip('.')})" if words and not isinstance(error, TimeoutError) else ""
    return (
        f"no Dask scheduler answers at {scheduler}{why}; expected the address that the scheduler "
        "printed when it was started, as tcp://host:8786, or its scheduler file"
    )


def _lost(scheduler: str) -> InputError:
    return InputError(
        f"the scheduler at {scheduler} is gone; what was finished is kept, give the same command "
        "again when there is one"
    )


def _there() -> Callable[[str], Row]:
    """What workers are given to do. It is sent by value: one that lacks this package says so,
    where a reference to ``work`` would end its whole process."""

    def attnseg_file(order: str) -> Row:
        from napari_attnseg.engine.batch_worker import Order, work

        return work(Order.from_json(order))

    return attnseg_file


def _everywhere(recipe: Recipe) -> Recipe:
    """Checkpoint files by their whole path; shipped ones by name, as every machine has its own."""

    def whole(model: str) -> str:
        path = Path(model).expanduser()
        return str(path.absolute()) if path.is_file() else model

    refine = None if recipe.refine is None else whole(recipe.refine)
    return replace(recipe, model=whole(recipe.model), refine=refine)


def _row_of(future: Any, task: Task) -> Row:
    """What came back. Raises for what concerns more than this file."""
    if future.status == "finished":
        row: Row = future.result()
        return row
    if future.status == "cancelled":
        raise InputError("the cluster cancelled the batch; what was finished is kept")
    error = future.exception()
    if isinstance(error, AttnSegError):
        raise error
    why = _killed(error)
    if why is None:
        why = f"the worker could not do it ({type(error).__name__}: {error})"
        if isinstance(error, ModuleNotFoundError | ImportError):
            raise Unfit(
                f"a worker cannot load napari-attnseg ({error}); install it there"
            ) from None
    return Row(str(task.image), task.mask.name, "failed", error=why)


def _killed(error: Any) -> str | None:
    from distributed import KilledWorker

    if not isinstance(error, KilledWorker):
        return None
    return (
        "every worker that was given it died, likely of want of memory; start workers with more "
        "memory, or cut the image by --tile"
    )


def _distributed() -> str:
    import distributed

    return str(distributed.__version__)
