"""A batch on one machine: what is kept, made anew or never replaced, and the table."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from batches import SPACING, lines, make, pictures, recipe, scan, told
from PIL import Image

from napari_attnseg.engine import batch_make, batch_worker
from napari_attnseg.engine.batch import Recipe, Task, tasks_of
from napari_attnseg.engine.batch_make import Maker, Stopped
from napari_attnseg.engine.batch_table import Table
from napari_attnseg.engine.batch_worker import Order, Unfit, work
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tuning


@pytest.fixture(scope="module")
def maker(tiny_checkpoint: Path) -> Maker:
    return Maker(recipe(tiny_checkpoint))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (image,) = pictures(tmp_path, 1)
    return Task(image, tmp_path / "cell00_mask.png")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def redrawn(mask: Path, **metadata: Any) -> None:
    """Somebody fills a corner of the mask in another program, which keeps what is said inside."""
    from PIL import PngImagePlugin

    with Image.open(mask) as file:
        text, ids = dict(file.text), np.array(file)
    ids[:3, :3] = 1 - ids[:3, :3].min()
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    Image.fromarray(ids).save(mask, pnginfo=info)


def test_a_finished_mask_is_kept(maker: Maker, task: Task) -> None:
    first = make(maker, task)
    assert (first.status, first.verified) == ("ok", True)
    before = task.mask.stat()
    again = make(maker, task)
    assert again.status == "kept"
    assert again.seconds is None
    assert again.counts == first.counts
    assert sum(first.counts.values()) == pixels(task.image).size
    assert first.counts[1] == int((pixels(task.mask) == 1).sum())
    assert task.mask.stat() == before
    assert make(maker, task, overwrite=True).status == "ok"


def test_other_values_another_image_or_a_wish_make_it_anew(maker: Maker, task: Task) -> None:
    assert make(maker, task).status == "ok"
    moved = maker.recipe.tuning.replace(threshold=0.9)
    assert make(maker, task, tuning=moved).status == "ok"
    assert told(task.mask)["tuning"]["threshold"] == 0.9
    assert make(maker, task, tuning=moved).status == "kept"
    assert make(maker, task, tuning=moved, save=("preview",)).status == "ok", "preview is wished"
    assert make(maker, task, tuning=moved, save=("preview",)).status == "kept"
    assert make(maker, task, tuning=moved).status == "kept", "more than wished is no harm"
    task.mask.with_name("cell00_preview.png").unlink()
    assert make(maker, task, tuning=moved, save=("preview",)).status == "ok"
    pictures(task.image.parent, 1, 5)  # another image under the same name, of the same size
    shutil.copyfile(task.image.parent / "cell05.png", task.image)
    assert make(maker, task, tuning=moved, save=("preview",)).status == "ok"


def test_an_older_extra_does_not_count_for_a_newer_mask(maker: Maker, task: Task) -> None:
    make(maker, task, save=("preview",))
    moved = maker.recipe.tuning.replace(cut=0.45)
    make(maker, task, tuning=moved)
    assert task.mask.with_name("cell00_preview.png").exists(), "of the first mask"
    assert make(maker, task, tuning=moved, save=("preview",)).status == "ok"


def test_a_cut_or_empty_mask_never_counts(maker: Maker, task: Task) -> None:
    make(maker, task)
    whole = task.mask.read_bytes()
    for part in (whole[: len(whole) // 2], b""):
        task.mask.write_bytes(part)
        assert make(maker, task).status == "ok"
        assert pixels(task.mask).shape == pixels(task.image).shape


@pytest.mark.parametrize("how", ["redrawn", "foreign", "exported"])
def test_work_by_hand_is_never_replaced_unasked(maker: Maker, task: Task, how: str) -> None:
    make(maker, task)
    if how == "redrawn":
        redrawn(task.mask)
    elif how == "foreign":
        Image.fromarray(pixels(task.mask)).save(task.mask)
    else:  # by the Export button, which says nothing of a batch
        from napari_attnseg.io.export import write_mask

        write_mask(task.mask, pixels(task.mask)[None], provenance={"model_digest": "x"})
    before = task.mask.read_bytes()
    row = make(maker, task, tuning=maker.recipe.tuning.replace(cut=0.4))
    assert row.status == "refused"
    assert "may hold work by hand; add --overwrite" in row.error
    assert not row.good
    assert task.mask.read_bytes() == before
    assert make(maker, task, overwrite=True).status == "ok"
    assert task.mask.read_bytes() != before


def test_a_mask_that_appeared_meanwhile_is_not_made_twice(maker: Maker, task: Task) -> None:
    """Whoever made it died before he could say so; his file is given to another."""
    for overwrite in (False, True):
        before = tasks_of({task.image: task.mask})[0]
        make(maker, task, overwrite=True)
        made = task.mask.stat()
        maker.recipe = replace(maker.recipe, overwrite=overwrite)
        row = maker.make(before)
        maker.recipe = replace(maker.recipe, overwrite=False)
        assert (row.status, row.seconds) == ("ok", None)
        assert task.mask.stat() == made


def test_a_stop_in_the_middle_leaves_nothing_behind(maker: Maker, tmp_path: Path) -> None:
    path, mask = scan(tmp_path / "scan.nii.gz"), tmp_path / "o" / "scan_mask.nii.gz"
    mask.parent.mkdir()

    def pause(done: int, count: int) -> None:
        assert count == 5
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        maker.make(Task(path, mask), pause)
    assert list(mask.parent.iterdir()) == []
    assert maker.make(Task(path, mask)).status == "ok"


def test_the_image_is_let_go(maker: Maker, task: Task) -> None:
    make(maker, task)
    with pytest.raises(InputError, match="no image is set"):
        maker.session.predict(0)


def test_a_large_volume_leaves_no_unpacked_file(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = maker.make(Task(scan(tmp_path / "a.nii.gz"), tmp_path / "a_mask.nii.gz"))
    monkeypatch.setattr("napari_attnseg.io.nifti_mapped.MAPPED_BYTES", 0)
    monkeypatch.setattr(batch_make, "IN_MEMORY", 0)
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(rooms))
    maker.recipe = replace(maker.recipe, save=("probability",))
    out = tmp_path / "o"
    out.mkdir()
    row = maker.make(Task(tmp_path / "a.nii.gz", out / "a_mask.nii.gz"))
    maker.recipe = replace(maker.recipe, save=())
    assert row.counts == whole.counts
    assert list(rooms.iterdir()) == []
    assert {p.name for p in out.iterdir()} == {"a_mask.nii.gz", "a_probability.nii.gz"}
    values = np.asarray(nib.load(out / "a_probability.nii.gz").dataobj)
    ids = np.asarray(nib.load(out / "a_mask.nii.gz").dataobj)
    assert np.array_equal(ids, (values >= maker.recipe.tuning.cut).astype(np.uint8))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_no_room_for_a_large_answer_is_a_sentence(
    maker: Maker, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(batch_make, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    row = make(maker, task)
    assert row.status == "failed"
    assert "No space left on device); free some space, or choose another --out" in row.error
    assert not task.mask.exists()
    monkeypatch.undo()
    assert make(maker, task).status == "ok"


def test_an_error_of_the_program_is_told_and_the_others_go_on(
    maker: Maker, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(batch_make, "write_mask", lambda *a, **k: 1 / 0)
        row = make(maker, task)
    assert row.status == "failed"
    assert "an error of the program itself (ZeroDivisionError" in row.error
    assert "Traceback" in row.trace
    assert make(maker, task).status == "ok"


def test_another_model_under_the_same_name_is_noticed(tiny_checkpoint: Path) -> None:
    from napari_attnseg.errors import CheckpointError

    with pytest.raises(CheckpointError, match="another model here than the one"):
        Maker(replace(recipe(tiny_checkpoint), digest="0" * 64))


def test_the_table_by_hand(maker: Maker, tmp_path: Path) -> None:
    (image,) = pictures(tmp_path, 1)
    path, broken = scan(tmp_path / "scan.nii.gz"), tmp_path / "x.png"
    broken.write_bytes(b"no image, and\na comma")
    make(maker, Task(path, tmp_path / "a_mask.nii.gz"), save=("probability",))
    middle = float(np.median(nib.load(tmp_path / "a_probability.nii.gz").get_fdata()))
    moved = maker.recipe.tuning.replace(cut=middle)  # half of the voxels belong to the class
    names = ["scan_mask.nii.gz", "cell00_mask.png", "x_mask.png"]
    table = Table(tmp_path, ("background", "nuclei"), names)
    for source, name in zip((broken, image, path), reversed(names), strict=True):
        table.add(make(maker, Task(source, tmp_path / name), tuning=moved))
        assert name in lines(tmp_path), "whole on the disk after every file"
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == [
        *("file", "mask", "status", "seconds", "voxels_nuclei", "volume_ml_nuclei"),
        *("verified", "device", "notes", "error"),
    ]
    assert [row[1] for row in rows[1:]] == names, "in the order of the files given"
    volume, picture, failed = rows[1:]
    ids = np.asarray(nib.load(tmp_path / "scan_mask.nii.gz").dataobj)
    voxels = int((ids == 1).sum())
    assert 0 < voxels < ids.size
    assert int(volume[4]) == voxels
    a, b, c = SPACING
    assert float(volume[5]) == pytest.approx(voxels * a * b * c / 1000, rel=1e-6)
    assert volume[2] == "ok"
    assert float(volume[3]) > 0
    assert volume[6:8] == ["yes", "cpu"]
    assert picture[5] == "", "a picture has no volume"
    assert failed[2:8] == ["failed", "", "", "", "no", "cpu"]
    assert "not what its name says" in failed[9]


def test_lines_of_other_files_stay_and_kept_ones_keep_their_time(
    maker: Maker, tmp_path: Path
) -> None:
    images = pictures(tmp_path, 2)
    tasks = [Task(p, tmp_path / f"{p.stem}_mask.png") for p in images]
    first = Table(tmp_path, ("background", "nuclei"), [tasks[0].mask.name])
    first.add(maker.make(tasks[0]))
    seconds = lines(tmp_path)["cell00_mask.png"]["seconds"]
    assert float(seconds) > 0
    second = Table(tmp_path, ("background", "cells"), [t.mask.name for t in reversed(tasks)])
    second.add(maker.make(tasks[1]))
    assert list(lines(tmp_path)) == ["cell01_mask.png", "cell00_mask.png"]
    assert lines(tmp_path)["cell00_mask.png"]["voxels_nuclei"] != ""
    assert lines(tmp_path)["cell00_mask.png"]["voxels_cells"] == ""
    second.add(make(maker, tasks[0]))
    line = lines(tmp_path)["cell00_mask.png"]
    assert (line["status"], line["seconds"]) == ("kept", seconds)


def test_a_strange_table_is_not_written_over(tmp_path: Path) -> None:
    strange = tmp_path / "predictions.csv"
    strange.write_text("patient,diagnosis\n1,ill\n")
    with pytest.raises(InputError, match="no table of a batch"):
        Table(tmp_path, ("background", "nuclei"), [])
    assert strange.read_text() == "patient,diagnosis\n1,ill\n"


def test_importing_plain_batches_costs_no_torch() -> None:
    code = (
        "import sys, napari_attnseg.engine.batch_worker, napari_attnseg.engine.batch_cluster; "
        "assert not {'torch', 'distributed'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("unseen", ["marker", "token", "image", "size"])
def test_a_worker_that_sees_another_disk_says_so(
    maker: Maker, task: Task, monkeypatch: pytest.MonkeyPatch, unseen: str
) -> None:
    monkeypatch.setattr(batch_worker, "SIGHT_SECONDS", 0)
    marker = task.mask.parent / ".attnseg-run-1"
    order = Order(maker.recipe, task, marker, "1", task.image.stat().st_size)
    if unseen != "marker":
        marker.write_text("2" if unseen == "token" else "1")
    if unseen == "image":
        task.image.unlink()
    if unseen == "size":
        order = replace(order, size=order.size + 1)
    folder = unseen in ("marker", "token")
    with pytest.raises(Unfit, match=f"does not see {marker.parent if folder else task.image} as"):
        work(order)
    assert not task.mask.exists()


def test_a_worker_keeps_its_engine_and_leaves_when_the_marker_is_gone(
    maker: Maker, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = task.mask.parent / ".attnseg-run-1"
    marker.write_text("1")
    recipe_ = replace(maker.recipe, overwrite=True)
    order = Order(recipe_, task, marker, "1", task.image.stat().st_size)
    try:
        assert work(order).status == "ok"
        engine = batch_worker.ENGINE._maker
        assert engine is not None
        assert work(replace(order, task=tasks_of({task.image: task.mask})[0])).status == "ok"
        assert batch_worker.ENGINE._maker is engine, "loaded once"
        monkeypatch.setattr(batch_worker, "LOOK_SECONDS", 0)
        path = scan(tmp_path / "scan.nii.gz")
        real, seen = engine._answers, []

        def answers(*more: Any) -> Any:
            for z, answer in real(*more):
                seen.append(z)
                marker.unlink(missing_ok=True)
                yield z, answer

        monkeypatch.setattr(engine, "_answers", answers)
        long = Task(path, tmp_path / "scan_mask.nii.gz")
        with pytest.raises(Stopped):
            work(replace(order, task=long, size=path.stat().st_size))
        assert len(seen) < 5, "within a slice"
        assert not long.mask.exists()
    finally:
        batch_worker.ENGINE._stop_timer()
        batch_worker.ENGINE._forget()
    assert batch_worker.ENGINE._maker is None


def test_a_worker_with_another_version_is_unfit(maker: Maker, task: Task) -> None:
    order = Order(maker.recipe, task, task.mask, "1", 1, version="0.0.1")
    with pytest.raises(Unfit, match=r"but here it is 0\.0\.1; install the same version"):
        work(order)


def test_an_order_is_sent_as_words(tmp_path: Path) -> None:
    tuning = Tuning.of(cut=0.1 + 0.2, threshold=1e-17, rule="authors")
    asked = Recipe(
        "m", tuning, "d", refine="r", refine_digest="e", own=Tuning.of(gamma=-2.5), tile=64,
        axis="all", volume=3, save=("objects",), strict=True, overwrite=True, tidy=("a", "b"),
    )  # fmt: skip
    for recipe_, before in ((asked, (7, 11)), (Recipe("m", tuning), None)):
        task = Task(tmp_path / "a b.nii", tmp_path / "ä_mask.nii", before)
        order = Order(recipe_, task, tmp_path / "marker", "token", -1)
        assert Order.from_json(order.to_json()) == order
    with pytest.raises(Unfit, match=r"but here it is 0\.0\.1; install the same version"):
        Order.from_json(replace(order, version="0.0.1").to_json())
