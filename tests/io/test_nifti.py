"""NIfTI as it comes: types, scaling, byte order, 4D, colour; and as it should not come."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import image_size, read_image, read_mask
from napari_attnseg.io.many import ManyVolumes

SHAPE = (7, 11, 13)
AFFINE = np.array(
    [[-1.9, 0.31, 0.05, 41], [0.3, 1.9, -0.2, -12.5], [0.04, 0.25, 3.05, -310], [0, 0, 0, 1]]
)


def values(dtype: str, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def save(path: Path, data: np.ndarray, kind: type = nib.Nifti1Image) -> Path:
    nib.save(kind(data, AFFINE), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"]
)
def test_values_and_affine_agree_with_nibabel(tmp_path, name, kind, dtype):
    path = save(tmp_path / name, values(dtype), kind)
    volume = read_image(path)
    theirs = nib.load(path)
    assert volume.data.dtype == np.dtype(dtype)
    assert np.array_equal(volume.data, np.asarray(theirs.dataobj))
    assert np.array_equal(volume.geometry.affine, theirs.affine)
    assert len(volume.header) == (348 if kind is nib.Nifti1Image else 540)
    assert image_size(path) == volume.shape == (13, 11, 7)


def test_big_endian_becomes_native(tmp_path):
    data = values("int16").astype(">i2")
    image = nib.Nifti1Image(data, AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii")
    assert volume.data.dtype.isnative
    assert np.array_equal(volume.data, data)


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"),
    [(1, -1024, np.int32), (2, 0, np.int32), (0.5, 3, np.float32), (0, 7, np.int16)],
)
def test_scaling_keeps_whole_numbers_whole(tmp_path, slope, inter, dtype):
    path = tmp_path / "a.nii"
    image = nib.Nifti1Image(values("int16"), AFFINE)
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = struct.pack("<ff", slope, inter)
    path.write_bytes(raw)
    volume = read_image(path)
    assert volume.data.dtype == dtype
    np.testing.assert_allclose(volume.data, np.asarray(nib.load(path).dataobj), rtol=1e-6)


def test_gzip_is_told_by_content(tmp_path):
    save(tmp_path / "a.nii.gz", values("int16"))
    (tmp_path / "a.nii.gz").rename(tmp_path / "b.nii")
    save(tmp_path / "c.nii", values("int16"))
    (tmp_path / "c.nii").rename(tmp_path / "c.nii.gz")
    for name in ("b.nii", "c.nii.gz"):
        assert np.array_equal(read_image(tmp_path / name).data, values("int16"))


def test_colour_nifti(tmp_path):
    plain = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
    rgb = plain.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    volume = read_image(save(tmp_path / "a.nii", rgb))
    assert volume.rgb
    assert volume.view.shape == (13, 11, 7, 3)
    assert np.array_equal(volume.data, plain)


def test_two_dimensions_and_trailing_ones(tmp_path):
    flat = read_image(save(tmp_path / "a.nii", values("int16", shape=(7, 11))))
    assert flat.data.shape == (7, 11)
    assert flat.shape == (1, 11, 7)
    four = read_image(save(tmp_path / "b.nii", values("int16", shape=(*SHAPE, 1))))
    assert four.data.shape == SHAPE


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_4d_asks_which_volume_and_reads_it(tmp_path, name):
    data = values("int16", shape=(*SHAPE, 4))
    path = save(tmp_path / name, data)
    with pytest.raises(ManyVolumes, match=r"4 volumes; choose one with --volume K \(0 to 3\)") as e:
        read_image(path)
    assert e.value.count == 4
    for k in range(4):
        volume = read_image(path, volume=k)
        assert np.array_equal(volume.data, data[..., k])
        assert volume.note == f"volume {k} of 4"
    with pytest.raises(InputError, match=r"volume 4, but a\.nii.* has 4; expected 0 to 3"):
        read_image(path, volume=4)


def test_volume_of_a_3d_file(tmp_path):
    path = save(tmp_path / "a.nii", values("int16"))
    assert np.array_equal(read_image(path, volume=0).data, values("int16"))
    with pytest.raises(InputError, match="expected 0 to 0"):
        read_image(path, volume=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_counted(tmp_path, bad):
    data = values("float32")
    data[1, 2, 3] = data[4, 5, 6] = bad
    with pytest.raises(InputError, match="has 2 of 1001 values that are not numbers"):
        read_image(save(tmp_path / "a.nii", data))


def test_complex_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="complex64 values; expected real numbers"):
        read_image(save(tmp_path / "a.nii", values("complex64")))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_cut_anywhere_says_so(tmp_path, name):
    path = save(tmp_path / name, values("int16"))
    whole = path.read_bytes()
    for part in (0, 1, 3, 100, 347, 351, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(InputError, match=r"truncated|cut short|empty|damaged"):
            read_image(path)


def test_any_byte_may_be_wrong(tmp_path):
    """Whatever header or stream byte is hit: a volume or one sentence, never another error."""
    rng = np.random.default_rng(0)
    for name in ("a.nii", "a.nii.gz"):
        path = save(tmp_path / name, values("int16"))
        whole = path.read_bytes()
        places = [*range(0, 352, 3)] if name == "a.nii" else rng.integers(0, len(whole), 120)
        said: list[str] = []
        for place in places:
            raw = bytearray(whole)
            raw[place] ^= int(rng.integers(1, 256))
            path.write_bytes(raw)
            try:
                read_image(path)
            except InputError as error:
                said.append(str(error))
        assert len(said) > (0 if name == "a.nii" else 100)  # most header bytes hold remarks
        assert not [text for text in said if "\n" in text]


def test_repairs_of_the_header_are_said_and_not_printed(tmp_path, capfd):
    path = save(tmp_path / "a.nii", values("int16"))
    raw = bytearray(path.read_bytes())
    raw[254:256] = struct.pack("<h", 77)
    path.write_bytes(raw)
    assert read_image(path).note == (
        "repaired in the header: sform_code 77 not valid; setting to 0"
    )
    assert capfd.readouterr() == ("", "")


def test_damaged_gzip_checksum_is_noticed(tmp_path):
    path = save(tmp_path / "a.nii.gz", values("int16"))
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged or cut short"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_absurd_claims_are_refused_before_memory_is_taken(tmp_path, name):
    path = save(tmp_path / "a.nii", values("int16"))
    raw = bytearray(path.read_bytes())
    raw[40:56] = struct.pack("<8h", 3, 32000, 32000, 32000, 1, 1, 1, 1)
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    with pytest.raises(InputError, match=r"claims 59\.6 TB of pixels but has only"):
        read_image(path)


def test_zero_size_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", values("int16"))
    raw = bytearray(path.read_bytes())
    raw[40:56] = struct.pack("<8h", 3, 7, 0, 13, 1, 1, 1, 1)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="no voxels"):
        read_image(path)


def test_broken_affine_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", values("int16"))
    raw = bytearray(path.read_bytes())
    raw[280:328] = bytes(48)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="affine"):
        read_image(path)


def test_pairs_dicom_and_text_are_named(tmp_path):
    nib.save(nib.Nifti1Pair(values("int16"), AFFINE), tmp_path / "a.hdr")
    (tmp_path / "b.nii").write_bytes(bytes(128) + b"DICM" + bytes(400))
    (tmp_path / "c.nii.gz").write_text("<html>404 not found</html>" * 20)
    (tmp_path / "d.txt").write_text("hello")
    for name, word in (
        ("a.hdr", "one half of a .hdr/.img pair"),
        ("b.nii", "DICOM"),
        ("c.nii.gz", "not what its name says"),
        ("d.txt", "not an image"),
        ("e.nii", "does not exist"),
    ):
        with pytest.raises(InputError, match=word):
            read_image(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path / "folder")


def test_masks_are_ids_with_the_same_space(tmp_path):
    for dtype in ("uint8", "int16", "int32", "float32", "float64"):
        data = values(dtype)
        mask = read_mask(save(tmp_path / "a.nii.gz", data))
        assert mask.data.dtype == np.uint8
        assert np.array_equal(mask.data, data)
        assert np.array_equal(mask.geometry.affine, nib.load(tmp_path / "a.nii.gz").affine)


def test_real_scans(shared_data):
    for path in sorted(shared_data.glob("ct_*/*.nii.gz")):
        volume, theirs = read_image(path), nib.load(path)
        assert np.array_equal(volume.geometry.affine, theirs.affine)
        np.testing.assert_allclose(volume.data, np.asarray(theirs.dataobj), rtol=1e-6)
        assert volume.geometry.axcodes == "".join(nib.aff2axcodes(theirs.affine))


@pytest.mark.parametrize(
    ("unit", "said"), [("mm", ""), ("unknown", ""), ("micron", "micrometres"), ("meter", "metres")]
)
def test_a_unit_that_is_no_millimetre_is_said(tmp_path: Path, unit: str, said: str) -> None:
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([250, 250, 500, 1.0]))
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "a.nii")
    note = read_image(tmp_path / "a.nii").note
    assert (
        note == "" if not said else f"lengths in {said}: measured and shown in millimetres" in note
    )
