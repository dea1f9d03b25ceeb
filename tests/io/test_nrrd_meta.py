"""NRRD and MetaImage: written by SimpleITK (another library), and by hand where it cannot."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import image_size, read_image, read_mask
from napari_attnseg.io.many import ManyVolumes
from nifti_spaces import ALL_48, affine_of

sitk = pytest.importorskip("SimpleITK", reason="the second library (SimpleITK) is absent")
SHAPE = (5, 7, 9)
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def itk_image(turn: np.ndarray, dtype: str = "int16", seed: int = 0) -> Any:
    values = np.random.default_rng(seed).permutation(5 * 7 * 9).reshape(SHAPE).astype(dtype)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.7, 1.9, 3.1))
    image.SetOrigin((-31.25, 17.5, 402.0))
    image.SetDirection(turn.ravel().tolist())
    return image


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(ALL_48),
    st.tuples(*[st.floats(-40, 40)] * 3),
    st.sampled_from(SUFFIXES),
    st.booleans(),
    st.sampled_from(("uint8", "int16", "uint16", "int32", "float32", "float64")),
)
def test_world_places_are_those_of_itk(
    tmp_path, orientation, degrees, suffix, packed, dtype
) -> None:
    turn = affine_of(*orientation, (1, 1, 1), degrees)[:3, :3]
    image = itk_image(turn, dtype)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path), useCompression=packed)
    volume = read_image(path)
    assert volume.data.dtype == np.dtype(dtype)
    seen = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.data, sitk.GetArrayViewFromImage(seen).T)
    for at in ((0, 0, 0), (8, 6, 4), (3, 1, 2)):
        x, y, z = seen.TransformIndexToPhysicalPoint(at)
        ras = volume.geometry.affine @ (*at, 1)
        np.testing.assert_allclose(ras[:3], (-x, -y, z), atol=1e-9)
    assert image_size(path) == volume.shape


@pytest.mark.parametrize(
    ("space", "signs", "assumed"),
    [
        ("right-anterior-superior", (1, 1, 1), ""),
        ("RAS", (1, 1, 1), ""),
        ("left-posterior-superior", (-1, -1, 1), ""),
        ("LPS", (-1, -1, 1), ""),
        ("left-anterior-superior", (-1, 1, 1), ""),
        ("scanner-xyz", (-1, -1, 1), "scanner-xyz"),
    ],
)
def test_the_words_for_space_in_nrrd(tmp_path: Path, space: str, signs: Any, assumed: str) -> None:
    data = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    text = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nencoding: gzip\nendian: little\n"
        f"space: {space}\nspace directions: (0,2,0) (0.5,0,0.25) (0,0,-3)\n"
        "space origin: (10,20,30)\n\n"
    )
    path = tmp_path / "a.nrrd"
    path.write_bytes(text.encode() + gzip.compress(data.tobytes()))
    volume = read_image(path)
    np.testing.assert_array_equal(volume.data, data.T)
    ras = volume.geometry.affine @ (3, 2, 1, 1)
    by_hand = np.array([10 + 2 * 0.5, 20 + 3 * 2, 30 + 2 * 0.25 - 3]) * signs
    np.testing.assert_array_equal(ras[:3], by_hand)
    assert assumed in volume.assumed
    assert bool(assumed) == bool(volume.assumed)


def test_volumes_of_a_4d_nrrd_and_spacings_without_directions(tmp_path: Path) -> None:
    data = np.arange(48, dtype="<u2").reshape(2, 3, 4, 2)  # the axis of volumes is the fastest
    text = (
        "NRRD0004\ntype: ushort\ndimension: 4\nsizes: 2 4 3 2\nencoding: raw\nendian: little\n"
        "space: LPS\nkinds: list space space space\n"
        "space directions: none (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    path = tmp_path / "a.nrrd"
    path.write_bytes(text.encode() + data.tobytes())
    with pytest.raises(ManyVolumes, match="holds 2 volumes"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, 1).view, data[..., 1])
    plain = (
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 3 2\nencoding: raw\n"
        'spacings: 0.5 0.25 3\nunits: "um" "um" "um"\n\n'
    )
    path.write_bytes(plain.encode() + bytes(range(24)))
    volume = read_image(path)
    assert volume.geometry is None
    np.testing.assert_allclose(volume.spacing_mm, (0.003, 0.00025, 0.0005))
    np.testing.assert_array_equal(volume.view, np.arange(24).reshape(2, 3, 4))


def test_colour_flat_and_4d_meta_images_and_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    colour = rng.integers(0, 255, (5, 7, 3), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colour, isVector=True), str(tmp_path / "c.mha"))
    volume = read_image(tmp_path / "c.mha")
    assert volume.rgb
    np.testing.assert_array_equal(volume.data, colour)
    four = sitk.JoinSeries([itk_image(np.eye(3), seed=s) for s in range(3)])
    sitk.WriteImage(four, str(tmp_path / "f.mha"))
    with pytest.raises(ManyVolumes, match="4D with 3 volumes"):
        read_image(tmp_path / "f.mha")
    second = read_image(tmp_path / "f.mha", 2)
    expected = sitk.GetArrayFromImage(itk_image(np.eye(3), seed=2))
    np.testing.assert_array_equal(second.data, expected.T)
    ids = itk_image(np.eye(3), "uint16")
    sitk.WriteImage(ids, str(tmp_path / "m.nrrd"))
    np.testing.assert_array_equal(
        read_mask(tmp_path / "m.nrrd").data, sitk.GetArrayFromImage(ids).T
    )


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_one_sentence(tmp_path: Path, suffix: str, packed: bool) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(np.eye(3)), str(path), useCompression=packed)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"truncated|cut short"):
        read_image(path)
    path.write_bytes(whole.replace(b"9 7 5", b"65535 65535 65535"))
    with pytest.raises(InputError, match="claims"):
        read_image(path)
    rng = np.random.default_rng(0)
    for _ in range(60):
        raw = bytearray(whole)
        raw[int(rng.integers(0, 300))] = int(rng.integers(0, 256))
        path.write_bytes(raw)
        with contextlib.suppress(InputError):  # anything else is a crash
            read_image(path)


@pytest.mark.parametrize("header", [-1, 0, 10])
def test_voxels_begin_where_itk_lets_them_begin(tmp_path: Path, header: int) -> None:
    """A HeaderSize of -1 says that they are the end of the file."""
    sitk.WriteImage(itk_image(np.eye(3)), str(tmp_path / "a.mhd"))
    raw, head = tmp_path / "a.raw", tmp_path / "a.mhd"
    raw.write_bytes(b"H" * (10 if header else 0) + raw.read_bytes())
    line = f"HeaderSize = {header}\nElementDataFile"
    head.write_text(head.read_text().replace("ElementDataFile", line))
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(head)))
    np.testing.assert_array_equal(read_image(head).data, seen.T)
    head.write_text(head.read_text().replace(line, "HeaderSize = -7\nElementDataFile"))
    with pytest.raises(InputError, match="HeaderSize -7"):
        read_image(head)
