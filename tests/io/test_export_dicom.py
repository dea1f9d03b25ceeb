"""DICOM-SEG of oblique, tilted and holed series: read with highdicom and SimpleITK's places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_series import (
    COLUMNS,
    ROWS,
    SLICES,
    positions,
    turned,
    values,
    write_enhanced,
    write_series,
)
from napari_attnseg.errors import ExportError
from napari_attnseg.io import export_dicom_seg
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image
from napari_attnseg.io.volume import Volume

hd = pytest.importorskip("highdicom", reason="highdicom (extra: dicom) is absent")
CLASSES = {0: "background", 1: "liver", 4: "odd spot"}
COLORS = {1: "#ff8000"}
MADE = {"model": "net.safetensors", "model_digest": "ab12", "hand_edited_pixels": 3}
TURN = turned("x", 21) @ turned("z", -33)


def told_of(comment: dict) -> dict:
    """What was given of the provenance; dates and versions are added to it."""
    return {key: comment["provenance"][key] for key in MADE}


def labels_of(source: Volume) -> np.ndarray:
    return np.random.default_rng(1).choice([0, 0, 1, 4], source.shape).astype(np.uint8)


def ids_by_highdicom(path: Path, files: list[Path]) -> np.ndarray:
    """(len(files), rows, columns) as highdicom finds them for the given source files."""
    seg = hd.seg.segread(path)
    uids = [pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in files]
    one = seg.get_pixels_by_source_instance(
        uids, assert_missing_frames_are_empty=True, combine_segments=False
    )
    return one[..., 0] + 4 * one[..., 1]


@pytest.mark.parametrize("tilted", [False, True])
def test_every_segment_refers_to_its_slice(tmp_path: Path, tilted: bool) -> None:
    step = (0.3, 0, 2.5) if tilted else TURN[:, 2] * 2.5
    files = write_series(tmp_path / "s", places=positions(step=step), turn=TURN)
    source = read_image(tmp_path / "s")
    labels = labels_of(source)
    done = write_mask(tmp_path / "m.dcm", labels, source, CLASSES, MADE, COLORS)
    assert "2 segments" in done.message
    assert done.counts[4] == (labels == 4).sum()
    in_file_order = source.to_file_order(labels)
    found = ids_by_highdicom(tmp_path / "m.dcm", files)
    for at, ids in zip(files, found, strict=True):
        k = [f for f, _ in source.slices].index(at)
        np.testing.assert_array_equal(ids.T, in_file_order[:, :, k])
    file = pydicom.dcmread(tmp_path / "m.dcm")
    assert [str(s.SegmentLabel) for s in file.SegmentSequence] == ["liver", "odd spot"]
    liver, spot = file.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    assert spot.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert liver.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert told_of(export_dicom_seg.comment_of(tmp_path / "m.dcm")) == MADE
    assert export_dicom_seg.comment_of(files[0]) == {}


def test_enhanced_ct_and_missing_slices(tmp_path: Path) -> None:
    order = [2, 0, 4, 1, 3]
    places = positions(step=TURN[:, 2] * 2.5)
    path = write_enhanced(tmp_path / "e.dcm", values()[order], places[order], TURN)
    source = read_image(path)
    labels = labels_of(source)
    write_mask(tmp_path / "m.dcm", labels, source, CLASSES)
    seg = hd.seg.segread(tmp_path / "m.dcm")
    pixels = seg.get_pixels_by_source_frame(
        seg.get_source_image_uids()[0][2],
        list(range(1, SLICES + 1)),
        combine_segments=False,
        assert_missing_frames_are_empty=True,
    )
    found = pixels[..., 0] + 4 * pixels[..., 1]
    np.testing.assert_array_equal(
        found[np.argsort(order)].transpose(2, 1, 0), source.to_file_order(labels)
    )
    keep = [0, 1, 2, 4, 5]
    write_series(tmp_path / "h", values((6, ROWS, COLUMNS))[keep], positions(6)[keep])
    holed = read_image(tmp_path / "h")
    labels = labels_of(holed)
    with pytest.raises(ExportError, match="slice 3 is missing in the series but the mask marks"):
        write_mask(tmp_path / "x.dcm", labels, holed, CLASSES)
    labels[3] = 0
    assert write_mask(tmp_path / "x.dcm", labels, holed, CLASSES).counts[1]


def test_what_cannot_become_a_seg_is_said(tmp_path: Path) -> None:
    labels = np.ones((2, 3, 4), np.uint8)
    with pytest.raises(ExportError, match=r"this mask has none; export \.nii\.gz"):
        write_mask(tmp_path / "m.dcm", labels)
    files = write_series(tmp_path / "s")
    source = read_image(tmp_path / "s")
    many = np.zeros(source.shape, np.uint16)
    many.ravel()[:300] = np.arange(300)
    with pytest.raises(ExportError, match="299 ids"):
        write_mask(tmp_path / "m.dcm", many, source)
    files[2].unlink()
    with pytest.raises(ExportError, match=r"2\.dcm of the series cannot be read any more"):
        write_mask(tmp_path / "m.dcm", labels_of(source), source)
    assert not list(tmp_path.glob("*.dcm"))


def test_a_frame_in_another_place_is_found(tmp_path: Path, monkeypatch) -> None:
    write_series(tmp_path / "s")
    source = read_image(tmp_path / "s")
    real = export_dicom_seg._made

    def moved(*given):
        file = real(*given)
        group = file.PerFrameFunctionalGroupsSequence[1]
        group.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
        return file

    monkeypatch.setattr(export_dicom_seg, "_made", moved)
    with pytest.raises(ExportError, match="mm away from their slices"):
        write_mask(tmp_path / "m.dcm", labels_of(source), source, CLASSES)
    assert not list(tmp_path.glob("*m.dcm"))
