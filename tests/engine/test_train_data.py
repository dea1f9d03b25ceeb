"""Sources of labelled slices: folders, layers, strokes, splits, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_attnseg.control.messages import ImageRef
from napari_attnseg.engine.data import FolderSource, LayerSource, Slice, split, to_target
from napari_attnseg.engine.losses import IGNORE
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Preprocessing, TrainSettings

PLAIN = TrainSettings(preprocessing=Preprocessing(intensity="unit"))
STROKES = replace(PLAIN, sparse=True)
ORGANS = replace(PLAIN, class_names=("background", "liver", "spleen"))


def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    return images, masks


def put(folder: Path, name: str, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(folder / name)


def scanned(source: FolderSource | LayerSource, settings: TrainSettings) -> None:
    for _ in source.scan(settings):
        pass


def layers(tmp_path: Path, image: np.ndarray, labels: np.ndarray, **more: object) -> LayerSource:
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "labels.npy", labels)
    ref = ImageRef("k", str(tmp_path / "image.npy"), **more)  # type: ignore[arg-type]
    return LayerSource(ref, tmp_path / "labels.npy", sparse=False)


def test_strokes_become_targets_one_lower_and_the_unlabelled_is_ignored() -> None:
    ids = np.array([[0, 1, 2, 0]], np.uint8)
    assert to_target(ids, STROKES, "m").tolist() == [[IGNORE, 0, 1, IGNORE]]


def test_instance_ids_are_one_class_when_there_is_one() -> None:
    ids = np.array([[0, 1, 700]], np.uint16)
    assert to_target(ids, PLAIN, "m").tolist() == [[0, 1, 1]]


@pytest.mark.parametrize(("settings", "largest"), [(ORGANS, 2), (STROKES, 2)])
def test_an_id_without_a_class_is_named(settings: TrainSettings, largest: int) -> None:
    with pytest.raises(InputError, match=rf"got label 7 in m\.png, expected at most {largest}"):
        to_target(np.array([[0, 7]], np.uint8), settings, "m.png")


def test_a_folder_pair_gives_network_units_and_lists_what_does_not_pair(tmp_path: Path) -> None:
    images, masks = folders(tmp_path)
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    put(images, "a.png", pixels)
    put(images, "lonely.png", pixels)
    put(masks, "a_mask.png", (pixels > 100).astype(np.uint8) * 255)
    source = FolderSource(images, masks)
    scanned(source, PLAIN)
    assert source.slices == (Slice(0, 0),)
    assert source.notes == ["lonely.png has no partner and is left out"]
    example = source.example(Slice(0, 0))
    assert np.allclose(example.image[0].numpy(), pixels / 255, atol=1e-6)
    assert np.array_equal(example.target, pixels > 100)
    assert not source.oriented
    assert str(tmp_path) not in json.dumps(source.describe())


def test_a_scan_is_learnt_from_upright_whatever_way_its_file_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 250, (7, 11, 5)).astype(np.int16)
    ids = (data > 120).astype(np.uint8)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    seen = []
    for name, turn in (("ras", (1, 1, 1)), ("lpi", (-1, -1, -1))):
        images, masks = folders(tmp_path / name) if (tmp_path / name).mkdir() is None else ("", "")
        directed = affine @ np.diag([*turn, 1.0])
        back = np.array(turn) < 0
        directed[:3, 3] = np.where(back, (np.array(data.shape) - 1) * np.diag(affine)[:3], 0)
        steps = tuple(slice(None, None, t) for t in turn)
        # the mask is stored the other way round than its image: it must be turned to fit
        nib.save(nib.Nifti1Image(data[steps], directed), Path(images) / "s.nii.gz")
        nib.save(nib.Nifti1Image(ids, affine), Path(masks) / "s.nii.gz")
        source = FolderSource(images, masks)
        scanned(source, PLAIN)
        assert source.oriented
        assert len(source.slices) == 5
        examples = [source.example(s) for s in source.slices]
        stack = np.stack([e.image[0].numpy() for e in examples])
        targets = np.stack([e.target for e in examples])
        assert np.array_equal(targets, np.round(stack * 32767) > 120)
        order = slice(None, None, -1) if source.pair(0).flips[0] else slice(None)
        seen.append(stack[order])
    assert np.allclose(seen[0], seen[1])


def test_no_masks_at_all(tmp_path: Path) -> None:
    images, masks = folders(tmp_path)
    put(images, "a.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(InputError, match="got no masks"):
        scanned(FolderSource(images, masks), PLAIN)
    put(masks, "b.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(InputError, match="1 images and 1 masks pair by name"):
        scanned(FolderSource(images, masks), PLAIN)


def test_image_and_mask_of_different_size(tmp_path: Path) -> None:
    images, masks = folders(tmp_path)
    put(images, "a.png", np.zeros((5, 7), np.uint8))
    put(masks, "a.png", np.ones((7, 5), np.uint8))
    with pytest.raises(InputError, match=r"a\.png of \(1, 5, 7\).*\(1, 7, 5\)"):
        scanned(FolderSource(images, masks), PLAIN)


@pytest.mark.parametrize(("value", "only"), [(0, "background"), (255, "foreground")])
def test_masks_of_one_class_only(tmp_path: Path, value: int, only: str) -> None:
    images, masks = folders(tmp_path)
    put(images, "a.png", np.zeros((5, 7), np.uint8))
    put(masks, "a.png", np.full((5, 7), value, np.uint8))
    with pytest.raises(InputError, match=rf"one class only \({only}\)"):
        scanned(FolderSource(images, masks), PLAIN)


def test_strokes_of_one_class_only_name_the_other(tmp_path: Path) -> None:
    labels = np.zeros((1, 9, 9), np.uint8)
    labels[0, 2, 2:5] = 2
    source = layers(tmp_path, np.zeros((1, 9, 9), np.uint8), labels)
    with pytest.raises(InputError, match="label background as well"):
        scanned(source, STROKES)


def test_nothing_painted(tmp_path: Path) -> None:
    empty = np.zeros((1, 9, 9), np.uint8)
    with pytest.raises(InputError, match="no labelled pixels"):
        scanned(layers(tmp_path, empty, empty), STROKES)


def test_slices_without_labels_are_left_out_and_flips_are_undone(tmp_path: Path) -> None:
    image = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    labels = np.zeros((4, 6, 5), np.uint8)
    labels[2, 0, 1] = 1
    source = layers(tmp_path, image, labels, flips=(True, True, False))
    scanned(source, PLAIN)
    assert source.slices == (Slice(0, 2),)
    example = source.example(Slice(0, 2))
    assert example.target[5, 1] == 1
    assert example.target.sum() == 1
    assert np.allclose(example.image[0].numpy() * 255, image[2, ::-1])


def test_newer_strokes_are_read_and_useless_ones_are_not(tmp_path: Path) -> None:
    labels = np.zeros((3, 9, 9), np.uint8)
    labels[0, 2, 2:5] = 1
    labels[0, 4, 2:5] = 2
    source = layers(tmp_path, np.zeros((3, 9, 9), np.uint8), labels)
    scanned(source, STROKES)
    assert not source.refresh()
    labels[1, 3, 3] = 2
    np.save(tmp_path / "fresh.npy", labels)
    (tmp_path / "fresh.npy").replace(tmp_path / "labels.npy")
    assert source.refresh()
    assert source.slices == (Slice(0, 0), Slice(0, 1))
    np.save(tmp_path / "fresh.npy", np.zeros_like(labels))
    (tmp_path / "fresh.npy").replace(tmp_path / "labels.npy")
    assert not source.refresh()
    assert source.slices == (Slice(0, 0), Slice(0, 1))
    (tmp_path / "labels.npy").write_bytes(b"half a file")
    assert not source.refresh()
    assert source.example(Slice(0, 1)).target[3, 3] == 1


def test_labels_of_another_image(tmp_path: Path) -> None:
    source = layers(tmp_path, np.zeros((1, 9, 8), np.uint8), np.ones((1, 9, 9), np.uint8))
    with pytest.raises(InputError, match=r"labels of \(1, 9, 9\)"):
        scanned(source, PLAIN)


def test_split_keeps_pairs_whole_and_depends_on_the_seed_alone() -> None:
    slices = tuple(Slice(p, z) for p in range(10) for z in range(3))
    training, validation, text = split(slices, 0.2, seed=4)
    assert len({s.pair for s in validation}) == 2
    assert not {s.pair for s in validation} & {s.pair for s in training}
    assert sorted(training + validation) == list(slices)
    assert split(slices, 0.2, seed=4)[1] == validation
    assert "seed 4" in text


def test_split_of_one_volume_keeps_a_run_of_neighbours_back() -> None:
    slices = tuple(Slice(0, z) for z in range(40))
    training, validation, _ = split(slices, 0.25, seed=1)
    z = [s.z for s in validation]
    assert z == list(range(z[0], z[0] + 10))
    assert len(training) == 30


def test_the_run_kept_back_has_something_to_find() -> None:
    slices = tuple(Slice(0, z) for z in range(40))
    marked = frozenset(slices[30:])
    for seed in range(9):
        training, validation, _ = split(slices, 0.2, seed, marked)
        assert len(validation) == 2
        assert set(validation) < marked
        assert len(training) == 38


def test_a_single_slice_validates_on_itself_and_says_so() -> None:
    training, validation, text = split((Slice(0, 0),), 0.2, seed=0)
    assert training == validation
    assert "training pixels" in text


def test_voxel_sizes_of_the_training_images_are_kept() -> None:
    from napari_attnseg.engine.data import spacing_range

    assert spacing_range([(3.0, 0.7, 0.8), (1.0, 0.9, 0.6)]) == [[1.0, 0.7, 0.6], [3.0, 0.9, 0.8]]
    assert spacing_range([(3.0, 0.7, 0.8), ()]) is None
    assert spacing_range([]) is None
