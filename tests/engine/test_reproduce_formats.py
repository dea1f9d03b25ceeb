"""Masks of every format of volumes made again: OME-Zarr, NRRD, MetaImage, DICOM-SEG, DICOM."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_series import head, positions, turned, write_series
from napari_attnseg.engine.reproduce import reproduce
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image
from napari_attnseg.io.provenance import edits
from zarr_images import write

SHAPE = (3, 33, 41)
TURN = turned("x", 21) @ turned("z", -33)
NAMES = {0: "background", 1: "nuclei"}


def pixels(seed: int = 0) -> np.ndarray:
    """Smooth, so that the model marks something and leaves something."""
    noise = np.random.default_rng(seed).random((3, 9, 11)).repeat(4, 1).repeat(4, 2)
    return (noise[:, :33, :41] * 4000).astype(np.uint16)


def made(image: Path, mask: Path, model: Path, volume: Any = None, moved: Any = None) -> np.ndarray:
    """Segment and write as the command line does; ``moved``: slices and values moved since."""
    session, source = Session(str(model)), read_image(image, volume)
    session.set_image(source)
    tuning = session.tuning.replace(threshold=0.05)
    ids = np.stack([answer.labels for _, answer in session.run(tuning=tuning)])
    told = session.provenance(tuning)
    if moved is not None:
        slices, values = moved
        for z, answer in session.run(slices, tuning.replace(**values)):
            assert (ids[z] != answer.labels).any()
            ids[z] = answer.labels
        told["tuning_since"] = values
    write_mask(mask, ids, source, NAMES, told)
    assert 0 < ids.mean() < 1
    shutil.copy(model, mask.parent)
    return ids


def dicom(folder: Path, seed: int = 0, **tags: Any) -> Path:
    step = TURN[:, 2] * 2.5
    write_series(folder, pixels(seed), positions(3, step), TURN, **tags)
    return folder


@pytest.mark.parametrize("name", ["m.nrrd", "m.mha", "m.ome.zarr", "m.nii.gz"])
def test_masks_of_an_ome_zarr(tmp_path: Path, tiny_checkpoint: Path, name: str) -> None:
    write(tmp_path / "scan.zarr", pixels(), shift=(10, -4, 2), levels=1)
    made(tmp_path / "scan.zarr", tmp_path / name, tiny_checkpoint)
    found = reproduce(tmp_path / name)
    assert found.equal
    assert (found.voxels, found.image) == (pixels().size, "scan.zarr")


@pytest.mark.parametrize("name", ["m.dcm", "m.nrrd", "m.mha", "m.nii.gz"])
def test_masks_of_an_oblique_series(tmp_path: Path, tiny_checkpoint: Path, name: str) -> None:
    if name == "m.dcm":
        pytest.importorskip("highdicom", reason="highdicom (extra: dicom) is absent")
    made(dicom(tmp_path / "p.1"), tmp_path / name, tiny_checkpoint)
    assert reproduce(tmp_path / name).equal
    if name == "m.dcm":  # also when it was put among the slices
        shutil.copy(tmp_path / name, tmp_path / "p.1")
        shutil.copy(tiny_checkpoint, tmp_path / "p.1")
        assert reproduce(tmp_path / "p.1" / name).equal


def test_a_changed_voxel_is_found_in_each(tmp_path: Path, tiny_checkpoint: Path) -> None:
    pytest.importorskip("highdicom", reason="highdicom (extra: dicom) is absent")
    ids = made(dicom(tmp_path / "p"), tmp_path / "m.nii.gz", tiny_checkpoint)
    told = comment_of(tmp_path / "m.nii.gz")["provenance"]
    ids[2, 7, 30] ^= 1
    for name in ("m.dcm", "m.nrrd", "m.mha"):
        write_mask(tmp_path / name, ids, read_image(tmp_path / "p"), NAMES, told)
        found = reproduce(tmp_path / name)
        assert (found.equal, found.different, found.slices) == (False, 1, (2,))


def test_the_right_series_and_echo_of_a_folder_is_taken(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    folder = tmp_path / "p"
    dicom(folder, 0, series="1.2.1", names=list("abc"))
    dicom(folder, 1, series="1.2.2", names=list("def"), EchoTime="10")
    dicom(folder, 2, series="1.2.2", names=list("ghi"), EchoTime="30")
    for volume, uid in ((0, "1.2.1"), (1, "1.2.2"), (2, "1.2.2")):
        made(folder, tmp_path / "m.nii.gz", tiny_checkpoint, volume)
        told = comment_of(tmp_path / "m.nii.gz")["provenance"]["source"]
        assert (told["series"], told["volume"], told["file"]) == (uid, None, "p")
        assert reproduce(tmp_path / "m.nii.gz").equal
    for name in "defghi":
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"does not hold the series 1\.2\.2 .* --image"):
        reproduce(tmp_path / "m.nii.gz")
    assert head("1.2", pixels()[0], 1).SeriesInstanceUID == "1.2"


def test_slices_seen_after_a_value_moved_are_made_with_it(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    write(tmp_path / "scan.zarr", pixels(), levels=1)
    mask, values = tmp_path / "m.nrrd", {"cut": 0.45}
    ids = made(tmp_path / "scan.zarr", mask, tiny_checkpoint, moved=((0, 2), values))
    found = reproduce(mask)
    assert found.equal
    assert found.notes[-1] == (
        "values were moved after the run: 2 slices (first 0) made with cut 0.45"
    )
    told, source = comment_of(mask)["provenance"], read_image(tmp_path / "scan.zarr")
    held = np.zeros(ids.shape, bool)
    held[2, 3:9, 4:8] = True
    ids[held] ^= 1
    write_mask(mask, ids, source, NAMES, told | {"edits": edits(enumerate(held), held[0].size)})
    assert reproduce(mask).edited_different == 24
    assert reproduce(mask).equal
    ids[0, 0, 0] ^= 1
    write_mask(mask, ids, source, NAMES, told | {"edits": edits(enumerate(held), held[0].size)})
    assert not reproduce(mask).equal
    assert reproduce(mask).slices == (0,)
