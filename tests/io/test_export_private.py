"""A mask tells nothing of the patient or of the person's computer that its voxels do not tell."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from dicom_series import write_series
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.export import write_mask, write_scalar
from napari_attnseg.io.image import read_image

NAME = "DOE^JANE"
HOME = "/home/jdoe42"
PROVENANCE = {
    "model": f"{HOME}/models/organs.safetensors",
    "notes": [f"read from {Path.home()}/scans/a.nii", r"C:\Users\jdoe42\own.safetensors"],
    "refinement": {"model": f"{HOME}/models/refine.safetensors", "tuning": {"cut": 0.5}},
    "edits": {"voxels": 3, "where": "eNpjYGBgZGBgYAAAAB4ABQ=="},
}
FORMATS = ("m.nii", "m.nii.gz", "m.nrrd", "m.mha", "m.tif", "m.ome.zarr")


def scan(folder: Path, kind: type = nib.Nifti1Image) -> Path:
    """A NIfTI with the patient's name wherever its header takes text."""
    image = kind(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.diag([-1, -1, 2.0, 1]))
    header = image.header
    fields = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
    for field in fields if kind is nib.Nifti1Image else fields[:3]:
        header[field] = NAME.encode()
    for code in (0, 4, 6):  # unknown, AFNI, comment
        header.extensions.append(Nifti1Extension(code, f"{NAME} 1970-01-01".encode()))
    (folder / "jdoe42").mkdir()
    nib.save(image, folder / "jdoe42" / "scan.nii")
    assert NAME.encode() in (folder / "jdoe42" / "scan.nii").read_bytes()
    return folder / "jdoe42" / "scan.nii"


def told(path: Path) -> bytes:
    """All bytes of a file or folder, unpacked where they are packed."""
    parts = []
    for file in [path] if path.is_file() else path.rglob("*"):
        raw = file.read_bytes() if file.is_file() else b""
        parts += [raw, gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else b""]
    return b"".join(parts)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", FORMATS)
def test_no_free_text_of_a_nifti_and_no_path_travels(tmp_path: Path, name: str, kind: type) -> None:
    source = read_image(scan(tmp_path, kind))
    out = tmp_path / name
    ids = (source.view % 3).astype(np.uint8)
    assert write_mask(out, ids, source, {1: "liver"}, PROVENANCE).voxel_to_world_equal
    raw = told(out)
    for word in (NAME, "1970-01-01", HOME, "jdoe42", str(Path.home()) + "/", str(tmp_path)):
        assert word.encode() not in raw, word
    made = comment_of(out)["provenance"]
    assert made["model"] == "organs.safetensors"
    assert made["source"]["file"] == "scan.nii"
    assert made["notes"] == ["read from ~/scans/a.nii", "own.safetensors"]
    assert made["refinement"] == {"model": "refine.safetensors", "tuning": {"cut": 0.5}}
    assert made["edits"] == PROVENANCE["edits"]


def test_a_map_tells_no_more_than_a_mask(tmp_path: Path) -> None:
    source = read_image(scan(tmp_path))
    write_scalar(tmp_path / "p.nii", source.view / 120, source, PROVENANCE)
    for word in (NAME, HOME, "jdoe42"):
        assert word.encode() not in told(tmp_path / "p.nii")


@pytest.mark.parametrize("name", ["m.nii", "m.nrrd", "m.tif", "m.dcm"])
def test_of_dicom_only_dicom_names_the_patient(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "series", PatientName=NAME, PatientID="4711", StudyID="91")
    source = read_image(tmp_path / "series")
    if name == "m.dcm":
        pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    ids = np.zeros(source.shape, np.uint8)
    ids[1:3, 2:5, 3:6] = 1
    write_mask(tmp_path / name, ids, source, {1: "liver"}, {"model": "m"})
    assert (NAME.encode() in told(tmp_path / name)) is (name == "m.dcm")
    if name == "m.dcm":
        import pydicom

        seg = pydicom.dcmread(tmp_path / name)
        first = pydicom.dcmread(tmp_path / "series" / "0.dcm")
        for tag in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert seg[tag].value == first[tag].value, tag


def test_a_packed_mask_names_no_file(tmp_path: Path) -> None:
    """gzip has a field for the name and the time of what is packed."""
    source = read_image(scan(tmp_path))
    write_mask(tmp_path / "m.nii.gz", (source.view % 3).astype(np.uint8), source)
    raw = (tmp_path / "m.nii.gz").read_bytes()
    assert raw[3] & 0x08 == 0
    assert raw[4:8] == bytes(4)
    assert zlib.decompress(raw, 31)[344:347] == b"n+1"
