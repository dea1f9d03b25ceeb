"""What lies beside a batch's masks: somebody's work stays, and no file of ours is the image."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from batches import make, pictures, recipe
from PIL import Image

import zarr_images
from dicom_series import write_series
from napari_attnseg.cli._inputs import targets
from napari_attnseg.engine.batch import Task
from napari_attnseg.engine.batch_extras import BESIDE, taken
from napari_attnseg.engine.batch_kept import digest_of
from napari_attnseg.engine.batch_make import Maker
from napari_attnseg.errors import InputError
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.export import write_mask

ALL = ("preview", "probability", "objects")
FILES = ("cell00_preview.png", "cell00_probability.tif", "cell00_objects.tif")


@pytest.fixture(scope="module")
def maker(tiny_checkpoint: Path) -> Maker:
    return Maker(recipe(tiny_checkpoint))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (image,) = pictures(tmp_path, 1)
    return Task(image, tmp_path / "cell00_mask.png")


@pytest.mark.parametrize("name", FILES)
def test_a_strange_file_in_the_place_of_an_extra_stays(maker: Maker, task: Task, name: str) -> None:
    strange = task.mask.with_name(name)
    Image.fromarray(np.full((5, 7), 9, np.uint8)).save(strange)
    before = strange.read_bytes()
    row = make(maker, task, save=ALL)
    assert row.status == "refused"
    assert f"{name} is there already and was not written beside cell00_mask.png" in row.error
    assert strange.read_bytes() == before
    assert not task.mask.exists(), "nothing else was written"
    assert make(maker, task).status == "ok", "without extras it is in nobody's way"
    assert strange.read_bytes() == before
    assert make(maker, task, save=ALL, overwrite=True).status == "ok"
    assert strange.read_bytes() != before


def test_our_own_extras_are_made_anew(maker: Maker, task: Task) -> None:
    assert make(maker, task, save=ALL).status == "ok"
    first = {name: task.mask.with_name(name).read_bytes() for name in FILES}
    for name in FILES:
        assert comment_of(task.mask.with_name(name))["provenance"][BESIDE] == "cell00_mask.png"
    middle = float(np.median(_probability(task)))
    moved = maker.recipe.tuning.replace(cut=middle)
    assert make(maker, task, tuning=moved, save=ALL).status == "ok"
    assert task.mask.with_name("cell00_preview.png").read_bytes() != first["cell00_preview.png"]
    task.mask.unlink()  # killed before the mask, which is written last
    assert make(maker, task, tuning=moved, save=ALL).status == "ok"


def _probability(task: Task) -> np.ndarray:
    import tifffile

    return np.asarray(tifffile.imread(task.mask.with_name("cell00_probability.tif")))


def test_extras_of_another_mask_are_not_ours(maker: Maker, task: Task) -> None:
    assert make(maker, task, save=ALL).status == "ok"
    other = task.mask.with_name("cell01_mask.png")
    for name in FILES:
        shutil.copy(task.mask.with_name(name), task.mask.with_name(name.replace("00", "01")))
    assert taken(other, ("preview",)) == task.mask.with_name("cell01_preview.png")
    assert taken(task.mask, ALL) is None


def test_steps_of_somebody_else_stay(task: Task) -> None:
    folder = task.mask.with_name("cell00_steps")
    folder.mkdir()
    (folder / "step_notes.png").write_text("mine")
    assert taken(task.mask, ("steps",)) is None, "that is no step"
    write_mask(folder / "step_03.png", np.ones((1, 5, 7), np.uint8), provenance={"model": "x"})
    assert taken(task.mask, ("steps",)) == folder / "step_03.png"
    ours = {BESIDE: task.mask.name}
    write_mask(folder / "step_03.png", np.ones((1, 5, 7), np.uint8), provenance=ours)
    assert taken(task.mask, ("steps",)) is None


def test_masks_inside_a_dicom_folder_change_no_digest(maker: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    names = [p.name for p in write_series(folder)]
    before = digest_of(folder)
    task = Task(folder, folder / "masks" / "ct_mask.nii.gz")
    task.mask.parent.mkdir()
    assert make(maker, task, save=("probability",)).status == "ok"
    (folder / "notes.txt").write_text("seen on Monday")
    assert digest_of(folder) == before
    assert make(maker, task, save=("probability",)).status == "kept"
    by_hand = hashlib.sha256()
    for name in sorted(names):
        one = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        by_hand.update(f"{name}\0{one}\n".encode())
    assert before == by_hand.hexdigest()
    changed = bytearray((folder / names[2]).read_bytes())
    changed[-1] ^= 1
    (folder / names[2]).write_bytes(changed)
    assert digest_of(folder) != before


def test_labels_inside_a_zarr_change_no_digest(tmp_path: Path) -> None:
    image = zarr_images.write(tmp_path / "a.zarr", zarr_images.ranks())
    before = digest_of(image)
    zarr_images.write(image / "labels" / "mine", zarr_images.ranks())
    assert digest_of(image) == before
    (image / "labels_of_mine").mkdir()
    (image / "labels_of_mine" / "c").write_bytes(b"pixels")
    assert digest_of(image) != before


@pytest.mark.parametrize(
    ("inputs", "extras", "words"),
    [
        (("a.png", "a_mask.png"), (), "a.png would be written to .*a_mask.png, which is one of"),
        (("a.png", "a_probability.tif"), ("probability",), "a_probability.tif, which is one of"),
        (("a.png", "a.nii.gz"), ("preview",), "would both be written to a_preview.png"),
    ],
)
def test_no_output_takes_the_place_of_an_input_or_of_another(
    tmp_path: Path, inputs: tuple[str, ...], extras: tuple[str, ...], words: str
) -> None:
    files = [tmp_path / name for name in inputs]
    for file in files:
        file.write_bytes(b"")
    roundabout = tmp_path / "x" / ".."
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=words):
        targets(files, roundabout, extras)
    assert len(targets(files, tmp_path / "x", extras[:0])) == 2
