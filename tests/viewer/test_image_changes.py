"""What is said of an image whose file is not what it was when the work was left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer

from napari_attnseg.io.journal_folder import Left, discard, left_behind
from napari_attnseg.viewer.hub import Hub
from napari_attnseg.viewer.image_changes import changes, known_of, stamp_of
from napari_attnseg.viewer.journal_restore import restore
from napari_attnseg.viewer.layers import volume_to_layer_data
from napari_attnseg.viewer.unpacking import read_for_window

pytestmark = pytest.mark.gui
SHAPE = (13, 11, 3)
HERE = np.diag([1.5, 1.5, 2.0, 1.0])


@pytest.fixture
def hub(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Hub]]:
    monkeypatch.setenv("NAPARI_ATTNSEG_JOURNALS", str(tmp_path / "journals"))
    monkeypatch.setenv("NAPARI_ATTNSEG_SCRATCH", str(tmp_path / "scratch"))
    made: list[tuple[Hub, ViewerModel]] = []

    def make() -> Hub:
        viewer = ViewerModel()
        made.append((Hub(viewer), viewer))
        made[-1][0].set_model(str(tiny_checkpoint))
        return made[-1][0]

    yield make
    for one, _ in made:
        one.close()


def write(path: Path, value: int, affine: Any = HERE, shape: tuple[int, ...] = SHAPE) -> Path:
    """A scan of the same size whatever is in it."""
    pixels = np.zeros(shape, np.int16)
    pixels[2, 3, 1] = value
    nib.save(nib.Nifti1Image(pixels, affine), path)
    return path


def left(hub: Hub, path: Path, handed: bool) -> Left:
    """What a window that was killed leaves of one stroke on the image of ``path``; ``handed``:
    the engine had the image, so its pixels were counted."""
    made: Any = Layer.create(*volume_to_layer_data(read_for_window(path)))
    hub.set_source(hub.viewer.add_layer(made))
    results = hub.prepare() if handed else hub.results_for((3, 11, 13))
    results.ensure_labels().paint((1, 5, 5), 1)
    assert hub.keeper.attach(results) is not None
    assert hub.keeper.kept(results)
    root = Path(os.environ["NAPARI_ATTNSEG_JOURNALS"])
    (mine,) = root.glob("open-*")
    shutil.copytree(mine, root / "open-4194305-1")
    (found,) = left_behind()
    return found


def said(hub: Callable[[], Hub], found: Left, path: Path | None = None) -> str:
    words = restore(hub(), found, path)
    discard(found)
    return words.partition("scan.")[2].strip()


@pytest.mark.parametrize("handed", [True, False])
def test_nothing_is_said_of_a_file_that_is_the_same(
    hub: Callable[[], Hub], tmp_path: Path, handed: bool
) -> None:
    found = left(hub(), write(tmp_path / "scan.nii", 1), handed)
    assert bool(found.facts["image"]["digest"]) is handed
    assert said(hub, found) == ""


def test_other_pixels_of_the_same_size_and_time_are_noticed(
    hub: Callable[[], Hub], tmp_path: Path
) -> None:
    path = write(tmp_path / "scan.nii", 1)
    state = path.stat()
    found = left(hub(), path, True)
    write(path, 2)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert stamp_of(path) == found.facts["image"]["stamp"]
    assert said(hub, found) == (
        "The pixels of scan have changed since: look whether its labels still fit."
    )


def test_equal_pixels_written_again_are_no_change(hub: Callable[[], Hub], tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii", 1)
    found = left(hub(), path, True)
    os.utime(path, (1e9, 1e9))
    assert said(hub, found) == ""


def test_without_a_digest_time_and_size_are_told(hub: Callable[[], Hub], tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii", 1)
    os.utime(path, (1.6e9, 1.6e9))
    found = left(hub(), path, False)
    write(path, 2)
    words = said(hub, found)
    assert words.startswith("scan.nii was written again since (1.2 KB of 13 Sep")
    assert words.endswith(": look whether the labels still lie on it.")


def test_voxels_that_lie_elsewhere_now_are_told_and_the_labels_follow(
    hub: Callable[[], Hub], tmp_path: Path
) -> None:
    path = write(tmp_path / "scan.nii", 1)
    found = left(hub(), path, True)
    moved = np.diag([2.0, 1.5, 2.5, 1.0])
    moved[0, 3] = 7
    write(path, 1, moved)
    new = hub()
    words = restore(new, found)
    assert "The voxels of scan lie elsewhere now (1.5 x 1.5 x 2 mm from (0, 0, 0), now" in words
    assert "pixels of" not in words
    fresh: Any = Layer.create(*volume_to_layer_data(read_for_window(path)))
    assert new.results is not None
    assert new.results.labels is not None
    for layer in (new.source, new.results.labels):
        np.testing.assert_allclose(layer.scale, fresh.scale)
        np.testing.assert_allclose(layer.translate, fresh.translate)


def test_the_new_place_of_an_image_is_looked_at(hub: Callable[[], Hub], tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii", 1)
    found = left(hub(), path, True)
    path.unlink()
    other = write(tmp_path / "other.nii", 5)
    assert said(hub, found, other).startswith("The pixels of scan have changed since (1.2 KB")


def test_a_folder_is_counted(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.dcm").write_bytes(b"x" * (k + 1))
    before = stamp_of(tmp_path)
    assert (before["bytes"], before["files"]) == (6, 3)
    (tmp_path / "1.dcm").write_bytes(b"yy")
    os.utime(tmp_path / "1.dcm", (4e9, 4e9))
    assert stamp_of(tmp_path) != before
    layer: Any = Layer.create(np.zeros((3, 4)), {"name": "series"}, "image")
    facts = {"name": "series", "stamp": before, "affine": None}
    words = changes(facts, layer, tmp_path)
    assert "6 B in 3 files" in words
    assert stamp_of(tmp_path / "missing") == {}


def test_the_time_of_a_mapped_file_is_that_of_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced between opening and the first stroke: the new file is not what is shown."""
    monkeypatch.setattr("napari_attnseg.io.nifti_mapped.MAPPED_BYTES", 0)
    path = write(tmp_path / "scan.nii", 1)
    layer: Any = Layer.create(*volume_to_layer_data(read_for_window(path)))
    opened = known_of(layer, path)["stamp"]
    assert opened == stamp_of(path)
    write(tmp_path / "new.nii", 2)
    os.utime(tmp_path / "new.nii", (1e9, 1e9))
    (tmp_path / "new.nii").replace(path)
    assert known_of(layer, path)["stamp"] == opened
    assert stamp_of(path) != opened
