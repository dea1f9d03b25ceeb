"""DICOM-SEG read back: ours on its source's grid, other makers' on their image's."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from dicom_series import COLUMNS, ROWS, SLICES, positions, turned, values, write_series
from napari_attnseg.errors import ExportError, InputError
from napari_attnseg.io.dicom_seg import comment_of, names_in
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import image_size, mask_of, read_image, read_mask
from napari_attnseg.io.measure_files import measure_file
from napari_attnseg.io.pairs import check_pair_sizes, pair_folders
from napari_attnseg.io.preflight import preflight_folders
from napari_attnseg.io.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
hd = pytest.importorskip("highdicom", reason="highdicom (extra: dicom) is absent")
CLASSES = {0: "background", 1: "liver", 4: "odd spot"}
TURN = turned("x", 21) @ turned("z", -33)
TILTED = (0.3, 0, 2.5)


def series(folder: Path, step=None, **more) -> Volume:
    step = TURN[:, 2] * 2.5 if step is None else step
    write_series(folder, places=positions(step=step), turn=TURN, **more)
    return read_image(folder)


def labels_of(source: Volume) -> np.ndarray:
    """Nothing on the first and the third slice, and not the same in any two corners."""
    labels = np.random.default_rng(1).choice([0, 0, 1, 4], source.shape).astype(np.uint8)
    labels[[0, 2]] = 0
    return labels


def foreign(
    path: Path, folder: Path, masks: list[np.ndarray], kind: str, segments: int = 0
) -> Path:
    """By highdicom alone, as another program writes it: segments (slices, rows, columns)."""
    from pydicom.sr.codedict import codes

    files = sorted(folder.iterdir())
    tissue = codes.SCT.Tissue
    described = [
        hd.seg.SegmentDescription(n, f"part {n}", tissue, tissue, "MANUAL")
        for n in range(1, (segments or len(masks)) + 1)
    ]
    pixels = np.stack(masks, -1) if len(masks) > 1 else masks[0]
    hd.seg.Segmentation(
        [pydicom.dcmread(f) for f in files],
        pixels,
        kind,
        described,
        "1.2.3",
        1,
        "1.2.3.4",
        1,
        "others",
        "theirs",
        "1",
        "0",
    ).save_as(path)
    return path


@pytest.mark.parametrize("step", [None, TILTED], ids=["oblique", "tilted"])
def test_ours_comes_back_on_the_grid_of_its_source_in_every_bit(tmp_path: Path, step) -> None:
    source = series(tmp_path / "s", step)
    labels = labels_of(source)
    write_mask(tmp_path / "m.dcm", labels, source, CLASSES)
    mask = read_mask(tmp_path / "m.dcm")
    np.testing.assert_array_equal(mask.view, labels)
    np.testing.assert_array_equal(mask.geometry.affine, source.geometry.affine)
    assert mask.geometry.same_space(source.geometry)
    assert mask.data.dtype == np.uint8
    assert image_size(tmp_path / "m.dcm") == source.shape
    assert read_image(tmp_path / "m.dcm").labels
    assert names_in(tmp_path / "m.dcm") == {1: "liver", 4: "odd spot"}
    np.testing.assert_array_equal(mask_of(tmp_path / "m.dcm", source), labels)
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "m.dcm", tmp_path / "alone")
    np.testing.assert_array_equal(read_mask(tmp_path / "alone").view, labels)


def test_without_our_private_words_frames_say_where_they_lie(tmp_path: Path) -> None:
    """Tools that take names out of files take private elements out too."""
    source = series(tmp_path / "s")
    labels = labels_of(source)
    write_mask(tmp_path / "m.dcm", labels, source, CLASSES)
    file = pydicom.dcmread(tmp_path / "m.dcm")
    file.remove_private_tags()
    file.save_as(tmp_path / "m.dcm")
    mask = read_mask(tmp_path / "m.dcm")
    assert mask.shape == (4, ROWS, COLUMNS)  # the first slice is empty: nobody tells of it
    expected = np.where(labels == 4, 2, labels)  # numbers of the segments
    np.testing.assert_array_equal(mask.view, expected[1:])
    first = source.geometry.affine @ (0, 0, 1, 1)
    np.testing.assert_allclose(mask.geometry.affine[:3, 3], first[:3], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.dcm", source), expected)
    assert comment_of(tmp_path / "m.dcm") == {"classes": {"1": "liver", "2": "odd spot"}}
    found = measure_file(tmp_path / "m.dcm", tmp_path / "s", tmp_path / "m.dcm").rows()
    assert [r["voxels"] for r in found] == [(expected == i).sum() for i in (1, 2)]
    assert found[0]["mean"] == pytest.approx(source.view[expected == 1].mean())
    assert found[0]["dice"] == 1


def test_other_makers_overlap_fractions_and_label_maps(tmp_path: Path) -> None:
    source = series(tmp_path / "s")
    rng = np.random.default_rng(2)
    one, two = (rng.random((SLICES, ROWS, COLUMNS)) < 0.4 for _ in range(2))
    stored = [pydicom.dcmread(f).pixel_array for f in sorted((tmp_path / "s").iterdir())]
    np.testing.assert_array_equal(np.stack(stored) - 1024.0, source.data.transpose(2, 1, 0))
    drawn = np.where(two, 2, one).astype(np.uint8)
    path = foreign(tmp_path / "b.dcm", tmp_path / "s", [one, two], "BINARY")
    np.testing.assert_array_equal(mask_of(path, source), drawn)
    assert f"{(one & two).sum():,} pixels are in several segments" in read_mask(path).note
    path = foreign(tmp_path / "l.dcm", tmp_path / "s", [drawn], "LABELMAP", segments=2)
    assert pydicom.dcmread(path).SegmentationType == "LABELMAP"
    np.testing.assert_array_equal(mask_of(path, source), drawn)
    assert read_mask(path).note == ""
    soft = rng.random((SLICES, ROWS, COLUMNS)).astype(np.float32)
    path = foreign(tmp_path / "f.dcm", tmp_path / "s", [soft], "FRACTIONAL")
    found = mask_of(path, source)
    clear = np.abs(soft - 0.5) > 0.01
    np.testing.assert_array_equal((found > 0)[clear], (soft > 0.5)[clear])
    assert "fractions cut at 0.5" in read_mask(path).note


def test_a_grid_that_runs_the_other_way_is_turned_exactly(tmp_path: Path) -> None:
    """The same places, stored with rows, columns and slices against those of the image."""
    source = series(tmp_path / "s")
    labels = labels_of(source)
    back = np.stack([-TURN[:, 0], -TURN[:, 1], TURN[:, 2]], 1)
    corner = np.array(positions(step=TURN[:, 2] * 2.5))
    corner += TURN[:, 0] * 0.75 * (COLUMNS - 1) + TURN[:, 1] * 1.5 * (ROWS - 1)
    write_series(tmp_path / "t", values(), corner, back)
    other = read_image(tmp_path / "t")
    in_file = source.to_file_order(labels)[::-1, ::-1]
    write_mask(tmp_path / "m.dcm", in_file.transpose(other.geometry.order), other, CLASSES)
    np.testing.assert_array_equal(mask_of(tmp_path / "m.dcm", source), labels)


def test_another_grid_and_marks_outside_are_one_sentence(tmp_path: Path) -> None:
    source = series(tmp_path / "s")
    labels = labels_of(source)
    write_mask(tmp_path / "m.dcm", labels, source, CLASSES)
    moved = positions(step=TURN[:, 2] * 2.5) + TURN[:, 0] * 0.3
    write_series(tmp_path / "moved", values(), moved, TURN)
    with pytest.raises(InputError, match="lies on another grid than its image"):
        mask_of(tmp_path / "m.dcm", read_image(tmp_path / "moved"))
    write_series(tmp_path / "less", values()[:3], positions(step=TURN[:, 2] * 2.5)[:3], TURN)
    outside = int((labels[3:] > 0).sum())
    assert source.geometry.display_scale[0] > 0
    with pytest.raises(InputError, match=f"marks {outside} voxels outside of its image"):
        mask_of(tmp_path / "m.dcm", read_image(tmp_path / "less"))


def test_damage_is_one_sentence(tmp_path: Path) -> None:
    source = series(tmp_path / "s")
    write_mask(tmp_path / "m.dcm", labels_of(source), source, CLASSES)
    whole = (tmp_path / "m.dcm").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        raw = bytearray(whole)
        for at in rng.integers(132, len(raw), 3):
            raw[at] ^= int(rng.integers(1, 256))
        (tmp_path / "d.dcm").write_bytes(raw[: int(rng.integers(200, len(raw) + 1))])
        with contextlib.suppress(InputError):
            assert read_mask(tmp_path / "d.dcm").data.ndim == 3
    file = pydicom.dcmread(tmp_path / "m.dcm")
    file.NumberOfFrames = 4_000_000
    file.save_as(tmp_path / "d.dcm")
    with pytest.raises(InputError, match="truncated or its header is damaged"):
        read_mask(tmp_path / "d.dcm")


def test_series_and_segmentations_pair_by_name(tmp_path: Path) -> None:
    source = series(tmp_path / "images" / "anna.1")
    (tmp_path / "masks").mkdir()
    write_mask(tmp_path / "masks" / "anna.1_seg.dcm", labels_of(source), source, CLASSES)
    (pair,) = pair_folders(tmp_path / "images", tmp_path / "masks").pairs
    assert [p.name for p in pair] == ["anna.1", "anna.1_seg.dcm"]
    assert check_pair_sizes([pair]) == ()
    assert preflight_folders(tmp_path / "images", tmp_path / "masks").problems == ()


def test_compressed_single_bits_are_refused_and_not_taken_for_pixels(tmp_path: Path) -> None:
    source = series(tmp_path / "s")
    write_mask(tmp_path / "m.dcm", labels_of(source), source, CLASSES)
    file = pydicom.dcmread(tmp_path / "m.dcm")
    size = -(-ROWS * COLUMNS // 8)
    bits = [file.PixelData[i : i + size].ljust(size, b"\0") for i in range(file.NumberOfFrames)]
    file.PixelData = encapsulate(bits)
    file["PixelData"].is_undefined_length = True
    file.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"  # RLE
    file.save_as(tmp_path / "m.dcm")
    with pytest.raises(InputError, match=r"compressed single bits.*uncompressed"):
        read_mask(tmp_path / "m.dcm")


def test_a_mask_does_not_take_the_place_of_a_slice_of_its_image(tmp_path: Path) -> None:
    source = series(tmp_path / "s")
    slices = {path: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    for path in slices:
        with pytest.raises(ExportError, match="is a slice of the image"):
            write_mask(path, labels_of(source), source, CLASSES)
    assert {path: path.read_bytes() for path in (tmp_path / "s").iterdir()} == slices
