"""A batch on a real Dask cluster of two processes, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from batches import pictures, recipe, scan
from PIL import Image

from napari_attnseg.engine.batch import tasks_of
from napari_attnseg.engine.batch_cluster import Cluster
from napari_attnseg.engine.batch_make import Maker
from napari_attnseg.engine.batch_worker import Unfit
from napari_attnseg.errors import InputError

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.slow


class Watched(distributed.WorkerPlugin):
    """Follows the real work of a worker in a file: a line when a file is begun, a line when its
    mask has its name. ``slow``: seconds before each. ``dies``: a mask after whose writing the
    worker dies, once, before it can say that it was done."""

    name = "watched"

    def __init__(self, log: Path, slow: float = 0.0, dies: str = "") -> None:
        self.log, self.slow, self.dies = log, slow, dies

    def setup(self, worker: Any) -> None:
        from napari_attnseg.engine import batch_make

        log, slow, dies = self.log, self.slow, self.dies
        segmented = vars(batch_make).setdefault("_real_segmented", batch_make.Maker._segmented)
        write = vars(batch_make).setdefault("_real_write", batch_make.write_mask)

        def note(word: str, name: str) -> None:
            with log.open("a") as file:
                file.write(f"{word} {name} {os.getpid()}\n")

        def begun(self: Any, source: Any, *more: Any) -> Any:
            note("begun", source.path.name)
            time.sleep(slow)
            return segmented(self, source, *more)

        def written(path: Path, *more: Any, **named: Any) -> Any:
            found = write(path, *more, **named)
            note("done", path.name)
            if path.name == dies and log.read_text().count(f"done {dies}") == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        batch_make.Maker._segmented = begun
        batch_make.write_mask = written


def entries(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def names(log: Path, word: str) -> Counter[str]:
    return Counter(name for kind, name, _ in entries(log) if kind == word)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of one thread each."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as made:
        yield made


def watch(cluster: Any, *about: Any) -> None:
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        client.register_plugin(Watched(*about), name=f"watched-{time.monotonic()}")


def ids(mask: Path) -> np.ndarray:
    return np.asarray(nib.load(mask).dataobj if ".nii" in mask.name else Image.open(mask))


def run_on(cluster: Any, *about: Any) -> list[Any]:
    there = Cluster(cluster.scheduler_address)
    try:
        return list(there.rows(*about))
    finally:
        there.close()


def test_sample_the_cluster_makes_the_same_masks(cluster, tiny_checkpoint, tmp_path) -> None:
    images = [*pictures(tmp_path / "in", 5), scan(tmp_path / "in" / "scan.nii.gz")]
    broken = tmp_path / "in" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    here, there = tmp_path / "here", tmp_path / "there"
    for out in (here, there):
        out.mkdir()
    places = {
        path: f"{path.name.split('.')[0]}_mask{'.nii.gz' if 'scan' in path.name else '.png'}"
        for path in (*images[:3], broken, *images[3:])
    }
    maker = Maker(recipe(tiny_checkpoint))
    for path, name in places.items():
        maker.make(tasks_of({path: here / name})[0])
    tasks = tasks_of({path: there / name for path, name in places.items()})
    rows = run_on(cluster, recipe(tiny_checkpoint), tasks, there)
    assert {row.mask: row.status for row in rows} == {
        name: "failed" if path == broken else "ok" for path, name in places.items()
    }
    assert all(" on " in row.device for row in rows if row.status == "ok")
    for path, name in places.items():
        if path != broken:
            assert np.array_equal(ids(there / name), ids(here / name))
    assert not list(there.glob(".attnseg*")), "neither marker nor drafts stay"
    anew = tasks_of({task.image: task.mask for task in tasks})
    again = run_on(cluster, recipe(tiny_checkpoint), anew, there)
    assert Counter(row.status for row in again) == {"kept": 6, "failed": 1}


def test_a_killed_worker_costs_no_file_and_none_is_done_twice(
    cluster, tiny_checkpoint, tmp_path
) -> None:
    images, log, out = pictures(tmp_path / "in", 16), tmp_path / "log", tmp_path / "out"
    out.mkdir()
    watch(cluster, log, 0.3)
    there, rows, victim = Cluster(cluster.scheduler_address), [], 0
    tasks = tasks_of({path: out / f"{path.stem}_mask.png" for path in images})
    try:
        for row in there.rows(recipe(tiny_checkpoint), tasks, out):
            rows.append(row)
            if len(rows) == 5:
                victim = in_the_middle(log)
                os.kill(victim, signal.SIGKILL)
    finally:
        there.close()
    assert Counter(row.mask for row in rows) == Counter(task.mask.name for task in tasks)
    assert {row.status for row in rows} == {"ok"}
    assert names(log, "done") == Counter(task.mask.name for task in tasks), "each once"
    lost = {name for kind, name, pid in entries(log) if kind == "begun" and int(pid) == victim}
    begun = names(log, "begun")
    assert sum(begun.values()) == 17, "the one that the victim was at was begun again, no other"
    assert {name for name, count in begun.items() if count > 1} < lost
    maker = Maker(recipe(tiny_checkpoint))
    for task in tasks:
        maker.make(tasks_of({task.image: tmp_path / task.mask.name})[0])
        assert np.array_equal(ids(tmp_path / task.mask.name), ids(task.mask))


def in_the_middle(log: Path) -> int:
    """The process that has just begun a file that it is not done with."""
    while True:
        last = entries(log)[-1]
        if last[0] == "begun":
            return int(last[2])
        time.sleep(0.01)


def test_killed_between_the_mask_and_the_word_about_it(cluster, tiny_checkpoint, tmp_path) -> None:
    images, log, out = pictures(tmp_path / "in", 6), tmp_path / "log", tmp_path / "out"
    out.mkdir()
    for overwrite in (False, True):
        log.unlink(missing_ok=True)
        watch(cluster, log, 0.0, "cell02_mask.png")
        tasks = tasks_of({path: out / f"{path.stem}_mask.png" for path in images})
        rows = run_on(cluster, recipe(tiny_checkpoint, overwrite=overwrite), tasks, out)
        assert Counter((row.mask, row.status) for row in rows) == Counter(
            (task.mask.name, "ok") for task in tasks
        )
        assert names(log, "begun") == Counter(path.name for path in images), "none anew"
        assert names(log, "done") == Counter(task.mask.name for task in tasks)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("0.0.9", r"has napari-attnseg 0\.0\.9, but here it is .*; install the same version"),
        ("", "cannot load napari-attnseg .*install it there"),
    ],
)
def test_sample_a_worker_with_another_version_or_none(
    tiny_checkpoint, tmp_path, version: str, says: str
) -> None:
    """A real worker that finds another package under our name (``""``: one that lacks nearly
    everything, which only the work itself can tell)."""
    images, out = pictures(tmp_path / "in", 2), tmp_path / "out"
    package = tmp_path / "other" / "napari_attnseg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    if version:
        told = package.with_name(f"napari_attnseg-{version}.dist-info")
        told.mkdir()
        (told / "METADATA").write_text(f"Name: napari-attnseg\nVersion: {version}\n")
    out.mkdir()
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address=":0"
    ) as made:
        words = ["-m", "distributed.cli.dask_worker", made.scheduler_address, "--no-nanny"]
        other = subprocess.Popen(
            [sys.executable, *words, "--nthreads", "1", "--local-directory", str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(package.parent)},
            stderr=subprocess.DEVNULL,
        )
        try:
            with distributed.Client(made, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=60)
            tasks = tasks_of({path: out / f"{path.stem}_mask.png" for path in images})
            with pytest.raises(Unfit, match=says):
                run_on(made, recipe(tiny_checkpoint), tasks, out)
            assert other.poll() is None, "the worker lives on"
        finally:
            other.terminate()
            other.wait()


def test_sample_a_lost_scheduler_is_one_sentence(tiny_checkpoint, tmp_path) -> None:
    images, out = pictures(tmp_path / "in", 8), tmp_path / "out"
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    scheduler = subprocess.Popen(
        [sys.executable, *words, "--no-dashboard"], stderr=subprocess.DEVNULL
    )
    said: list[str] = []
    try:
        listening(port)
        there = Cluster(address, said.append)
        tasks = tasks_of({path: out / f"{path.stem}_mask.png" for path in images})
        threading.Timer(3, scheduler.kill).start()
        with pytest.raises(InputError, match="is gone; what was finished is kept"):
            list(there.rows(recipe(tiny_checkpoint), tasks, out))
        there.close()
        assert said == [f"waiting for workers at {address}"], "said once"
        assert list(out.iterdir()) == []
    finally:
        scheduler.kill()
        scheduler.wait()


def listening(port: int) -> None:
    """Wait until somebody takes calls at ``port``."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
