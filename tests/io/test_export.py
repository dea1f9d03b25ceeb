"""Exports lie where the scan lies, are proven by reading, and leave nothing behind on failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from napari_attnseg.errors import ExportError
from napari_attnseg.geometry import Geometry
from napari_attnseg.io import export_nifti
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.export import write_mask, write_scalar
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.volume import Volume

RNG = np.random.default_rng(0)
SHAPE = (7, 11, 13)
SPACING = (0.7, 1.9, 3.1)


def oriented(order: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0) -> np.ndarray:
    affine = np.zeros((4, 4))
    for a in range(3):
        affine[order[a], a] = signs[a] * SPACING[a]
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ affine[:3, :3]
    affine[:, 3] = (-31.25, 17.53, 402.1, 1)
    return affine


def scan(path: Path, affine: np.ndarray, qform: int = 1, sform: int = 1, **header: object) -> Path:
    image = nib.Nifti1Image(RNG.integers(-1000, 900, SHAPE).astype(np.int16), affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def labels_like(volume: Volume, top: int = 4) -> np.ndarray:
    return RNG.integers(0, top, volume.shape).astype(np.uint8)


@pytest.mark.parametrize("tilt", [0.0, 11.0])
@pytest.mark.parametrize(
    ("order", "signs"),
    [(o, s) for o in permutations(range(3)) for s in product((1, -1), repeat=3)],
)
def test_every_orientation_keeps_its_affine_in_every_bit(tmp_path, order, signs, tilt):
    source = read_image(scan(tmp_path / "a.nii", oriented(order, signs, tilt)))
    labels = labels_like(source)
    done = write_mask(tmp_path / "m.nii", labels, source)
    assert done.voxel_to_world_equal
    assert "same place in the world" in done.message
    again, theirs = nib.load(tmp_path / "m.nii"), nib.load(tmp_path / "a.nii")
    assert np.array_equal(again.affine, theirs.affine)
    # a voxel of class 3 on the screen is that voxel on the disk
    z, y, x = np.argwhere(labels == 3)[0]
    ijk = np.empty(3, int)
    ijk[list(source.geometry.order)] = z, y, x
    assert again.get_fdata()[tuple(ijk)] == 3
    assert np.array_equal(read_mask(tmp_path / "m.nii").view, labels)


@pytest.mark.parametrize("qform", [0, 1, 2])
@pytest.mark.parametrize("sform", [0, 1, 2, 4])
@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz"])
def test_codes_and_both_matrices_are_the_sources(tmp_path, qform, sform, name):
    path = scan(tmp_path / "a.nii.gz", oriented((2, 0, 1), (1, -1, 1), 9), qform, sform)
    source = read_image(path)
    assert write_mask(tmp_path / name, labels_like(source), source).voxel_to_world_equal
    old, new = nib.load(path), nib.load(tmp_path / name)
    assert np.array_equal(new.affine, old.affine)
    for key in (
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
        "srow_x",
        "srow_y",
        "srow_z",
        "pixdim",
    ):
        assert np.array_equal(new.header[key], old.header[key]), key


def test_qform_and_sform_that_disagree_stay_so(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.set_sform(oriented((0, 1, 2), (1, 1, 1)), 2)
    image.set_qform(oriented((0, 1, 2), (-1, -1, 1), 20), 1)
    nib.save(image, tmp_path / "a.nii")
    source = read_image(tmp_path / "a.nii")
    write_mask(tmp_path / "m.nii.gz", labels_like(source), source)
    again = nib.load(tmp_path / "m.nii.gz")
    assert np.array_equal(again.get_qform(), nib.load(tmp_path / "a.nii").get_qform())
    assert np.array_equal(again.get_sform(), nib.load(tmp_path / "a.nii").get_sform())


def test_header_is_the_sources_but_for_what_a_mask_is_not(tmp_path):
    path = scan(
        tmp_path / "a.nii",
        oriented((0, 1, 2), (1, 1, 1)),
        scl_slope=2,
        scl_inter=-9,
        cal_max=400,
        xyzt_units=10,
        db_name=b"thorax",
        descrip=b"scanner",
    )
    source = read_image(path)
    labels = labels_like(source)
    write_mask(
        tmp_path / "m.nii.gz",
        labels,
        source,
        {1: "liver"},
        {"model": "x", "cut": 0.5},
        {1: "#dd8a50"},
    )
    image = nib.load(tmp_path / "m.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.header.get_slope_inter() in ((1.0, 0.0), (None, None))
    assert image.header["xyzt_units"] == 10
    assert image.header["db_name"] == b""  # free text of the source: may name a patient
    assert image.header["cal_max"] == 0
    assert image.header.get_intent()[0] == "label"
    inside = json.loads(image.header.extensions[0].get_content())
    told = inside.pop("provenance")
    assert inside == {"classes": {"1": "liver"}, "colors": {"1": "#dd8a50"}}
    assert (told["model"], told["cut"], told["source"]["file"]) == ("x", 0.5, "a.nii")


def test_big_endian_nifti2_and_4d_sources(tmp_path):
    affine = oriented((1, 0, 2), (1, 1, -1), 5)
    data = RNG.integers(0, 99, (*SHAPE, 3)).astype(np.int16)
    big = nib.Nifti1Image(data.astype(">i2"), affine, nib.Nifti1Header(endianness=">"))
    two = nib.Nifti2Image(data, affine)
    for image, name in ((big, "big.nii"), (two, "two.nii")):
        nib.save(image, tmp_path / name)
        source = read_image(tmp_path / name, volume=2)
        labels = labels_like(source)
        assert write_mask(tmp_path / "m.nii.gz", labels, source).voxel_to_world_equal
        again = nib.load(tmp_path / "m.nii.gz")
        assert again.shape == SHAPE
        assert np.array_equal(again.affine, nib.load(tmp_path / name).affine)
        assert np.array_equal(read_mask(tmp_path / "m.nii.gz").view, labels)


def test_two_dimensional_and_colour_nifti_sources(tmp_path):
    flat = nib.Nifti1Image(RNG.integers(0, 9, (7, 11)).astype(np.int16), np.diag([-2, -3, 5, 1.0]))
    nib.save(flat, tmp_path / "flat.nii")
    rgb = RNG.integers(0, 255, (*SHAPE, 3), np.uint8).view([(c, "u1") for c in "RGB"])[..., 0]
    nib.save(nib.Nifti1Image(rgb, oriented((2, 1, 0), (1, 1, 1))), tmp_path / "rgb.nii")
    for name, shape in (("flat.nii", (7, 11)), ("rgb.nii", SHAPE)):
        source = read_image(tmp_path / name)
        labels = labels_like(source)
        assert write_mask(tmp_path / "m.nii.gz", labels, source).shape == shape
        again = nib.load(tmp_path / "m.nii.gz")
        assert again.shape == shape
        assert again.get_data_dtype() == np.uint8
        assert np.array_equal(again.affine, nib.load(tmp_path / name).affine)


def test_space_without_a_header(tmp_path):
    """A layer of another plugin brings an affine only; NIfTI-1 stores it in float32."""
    exact = np.diag([-1.5, 2.0, 3.0, 1.0])
    for affine, equal in ((exact, True), (oriented((0, 1, 2), (1, 1, 1), 7), False)):
        source = Volume(np.zeros(SHAPE), Geometry(affine, SHAPE, 0, 1))
        done = write_mask(tmp_path / "m.nii", labels_like(source), source)
        assert done.voxel_to_world_equal is equal
        again = nib.load(tmp_path / "m.nii")
        assert np.array_equal(again.affine, affine.astype(np.float32).astype(float))
        assert int(again.header["sform_code"]) == 1


def test_nifti_of_a_picture_stands_as_on_the_screen(tmp_path):
    labels = RNG.integers(0, 3, (1, 11, 13)).astype(np.uint8)
    write_mask(tmp_path / "m.nii", labels, Volume.from_array(np.zeros((11, 13))))
    again = read_mask(tmp_path / "m.nii")
    assert again.geometry.flips == (False, False, False)
    assert np.array_equal(again.view, labels)


def test_an_axis_too_long_for_nifti1(tmp_path):
    labels = RNG.integers(0, 3, (1, 2, 40_000)).astype(np.uint8)
    write_mask(tmp_path / "m.nii.gz", labels)
    assert isinstance(nib.load(tmp_path / "m.nii.gz"), nib.Nifti2Image)
    assert np.array_equal(read_mask(tmp_path / "m.nii.gz").view, labels)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.nii.gz"])
def test_many_ids_need_two_bytes(tmp_path, name):
    ids = RNG.integers(0, 60000, (1, 11, 13)).astype(np.int32)
    done = write_mask(tmp_path / name, ids)
    mask = read_mask(tmp_path / name)
    assert mask.data.dtype == np.uint16
    assert np.array_equal(mask.view, ids)
    assert sum(done.counts.values()) == ids.size


def test_png_holds_plain_ids_and_names(tmp_path):
    labels = RNG.integers(0, 3, (1, 11, 13)).astype(np.uint8)
    done = write_mask(tmp_path / "m.png", labels, classes={0: "background", 1: "cell", 2: "wall"})
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.array(image), labels[0])
        assert json.loads(image.info["napari-attnseg"])["classes"]["2"] == "wall"
    assert f"cell {(labels == 1).sum()}" in done.message
    assert done.counts == {i: int((labels == i).sum()) for i in range(3)}
    with pytest.raises(ExportError, match="got 7 slices for a PNG"):
        write_mask(tmp_path / "n.png", np.zeros(SHAPE, np.uint8))


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({"resolution": (300, 150), "resolutionunit": "INCH"}, (300, 150, 2)),
        ({"resolution": (2000, 4000), "resolutionunit": "CENTIMETER"}, (2000, 4000, 3)),
        ({"imagej": True, "resolution": (2, 4), "metadata": {"unit": "um"}}, (2e4, 4e4, 3)),
    ],
)
def test_tiff_keeps_the_resolution(tmp_path, options, tags):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((11, 13), np.uint8), **options)
    source = read_image(tmp_path / "a.tif")
    write_mask(tmp_path / "m.tif", np.ones((1, 11, 13), np.uint8), source, {1: "cell"})
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        page = file.pages[0]
        x, y = page.tags["XResolution"].value, page.tags["YResolution"].value
        assert (x[0] / x[1], y[0] / y[1]) == pytest.approx(tags[:2])
        assert page.tags["ResolutionUnit"].value == tags[2]
        assert file.shaped_metadata[0]["classes"] == {"1": "cell"}
    again = read_image(tmp_path / "m.tif")
    assert again.spacing_mm == pytest.approx(source.spacing_mm)


@pytest.mark.parametrize("spacing", [(5.0, 0.7, 0.9), (0.3, 1 / 3, 2.0), (1e-4, 2e-4, 3e-4)])
@pytest.mark.parametrize("top", [3, 700])
def test_other_readers_find_the_distance_of_slices_in_a_tiff(tmp_path, spacing, top):
    """In tifffile's reading of ImageJ's description: numbers per unit, as ImageJ has them."""
    labels = np.random.default_rng(0).integers(0, top + 1, SHAPE).astype(np.uint16)
    source = Volume(labels, pixel_mm=spacing)
    write_mask(tmp_path / "m.tif", labels, source, {1: "Zellen, groß"}, {"model": "ü"})
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        told, tags = file.imagej_metadata, file.pages[0].tags
        assert file.series[0].axes == "ZYX"
        (y, per_y), (x, per_x) = (tags[f"{a}Resolution"].value for a in "YX")
    assert (told["spacing"], told["unit"], told["slices"]) == (spacing[0], "mm", SHAPE[0])
    assert (per_y / y, per_x / x) == pytest.approx(spacing[1:], rel=1e-6)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "m.tif")), labels)
    assert read_image(tmp_path / "m.tif").spacing_mm == pytest.approx(spacing, rel=1e-6)
    assert np.array_equal(read_mask(tmp_path / "m.tif").view, labels)
    assert comment_of(tmp_path / "m.tif")["classes"] == {"1": "Zellen, groß"}
    assert comment_of(tmp_path / "m.tif")["provenance"]["model"] == "ü"
    values = labels.astype(np.float32) / 7
    write_scalar(tmp_path / "p.tif", values, source)
    assert np.array_equal(tifffile.imread(tmp_path / "p.tif"), values)
    assert read_image(tmp_path / "p.tif").spacing_mm == pytest.approx(spacing, rel=1e-6)


def test_a_wrong_distance_of_slices_is_found(tmp_path, monkeypatch):
    from napari_attnseg.io import export_raster

    labels, real = np.ones(SHAPE, np.uint8), tifffile.imwrite

    def wrong(path, data, metadata, **options):
        real(path, data, metadata={**metadata, "spacing": 2.0}, **options)

    monkeypatch.setattr(export_raster.tifffile, "imwrite", wrong)
    with pytest.raises(ExportError, match="voxel sizes do not read back"):
        write_mask(tmp_path / "m.tif", labels, Volume(labels, pixel_mm=(5.0, 0.7, 0.7)))
    assert not (tmp_path / "m.tif").exists()


def test_tiff_stack(tmp_path):
    labels = RNG.integers(0, 3, SHAPE).astype(np.uint8)
    assert write_mask(tmp_path / "m.tif", labels).shape == SHAPE
    assert np.array_equal(read_mask(tmp_path / "m.tif").view, labels)


def test_maps_are_written_as_float(tmp_path):
    source = read_image(scan(tmp_path / "a.nii", oriented((0, 2, 1), (1, 1, -1), 4)))
    values = RNG.random(source.shape).astype(np.float32)
    assert write_scalar(tmp_path / "p.nii.gz", values, source).voxel_to_world_equal
    assert np.array_equal(read_image(tmp_path / "p.nii.gz").view, values)
    write_scalar(tmp_path / "p.tif", values)
    assert np.array_equal(read_image(tmp_path / "p.tif").view, values)
    with pytest.raises(ExportError, match="PNG holds no float"):
        write_scalar(tmp_path / "p.png", values[:1])


def test_equal_masks_give_equal_files(tmp_path):
    labels = RNG.integers(0, 3, (1, 11, 13)).astype(np.uint8)
    for suffix in (".nii.gz", ".png", ".tif"):
        for name in ("a", "b"):
            write_mask(tmp_path / f"{name}{suffix}", labels, provenance={"seed": 1})
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.zeros((5, 6), np.uint8), r"axes \(Z, Y, X\)"),
        (np.zeros((1, 5, 6), np.float32), "type float32"),
        (np.full((1, 5, 6), -1), "ids from -1"),
        (np.full((1, 5, 6), 70000), "expected 0 to 65535"),
        (np.zeros((0, 5, 6), np.uint8), "shape"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, labels, word):
    with pytest.raises(ExportError, match=word):
        write_mask(tmp_path / "m.png", labels)
    assert not list(tmp_path.iterdir())


def test_foreign_names_places_and_sizes(tmp_path):
    labels = np.zeros((1, 5, 6), np.uint8)
    with pytest.raises(ExportError, match="expected a name ending in"):
        write_mask(tmp_path / "m.jpg", labels)
    with pytest.raises(ExportError, match="No such file"):
        write_mask(tmp_path / "absent" / "m.png", labels)
    with pytest.raises(ExportError, match="but the image is"):
        write_mask(tmp_path / "m.png", labels, Volume.from_array(np.zeros((6, 5))))
    (tmp_path / "m.png").mkdir()
    with pytest.raises(ExportError, match="nothing was changed"):
        write_mask(tmp_path / "m.png", labels)
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]


NOISE = RNG.integers(0, 255, (1, 300, 300)).astype(np.uint8)


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz", "m.tif", "m.png"])
def test_no_space_leaves_the_older_file_untouched(tmp_path, name):
    """The file size limit is set for real: the system itself refuses to write on."""
    path = tmp_path / name
    write_mask(path, NOISE[:, :9, :9])
    before = path.read_bytes()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ExportError, match=r"no space left for m\..* nothing was written"):
            write_mask(path, NOISE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KB, where the machine lets us mount one."""
    mount = shutil.which("mount")
    target = tmp_path / "disk"
    target.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(target)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield target
    subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz", "m.tif", "m.png"])
def test_full_disk(small_disk, name):
    with pytest.raises(ExportError, match=r"no space left for m\."):
        write_mask(small_disk / name, NOISE)
    assert not list(small_disk.iterdir())


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="Permission denied"):
        write_mask(tmp_path / "m.png", NOISE)


@pytest.mark.parametrize("place", [10, 300, 40000])
def test_a_disk_that_lies_is_found_out(tmp_path, monkeypatch, place):
    """A byte that turns over between writing and reading: nothing is put in place."""
    true_write = export_nifti._write

    def lying(path: Path, *rest: object) -> None:
        true_write(path, *rest)
        raw = bytearray(path.read_bytes())
        raw[place] ^= 0x41
        path.write_bytes(raw)

    monkeypatch.setattr(export_nifti, "_write", lying)
    affine = Volume(np.zeros((300, 300, 1)), Geometry(np.diag([-1.0, -1, 1, 1]), (300, 300, 1)))
    if place == 10:  # an unused header field: voxels and space are still right
        assert write_mask(tmp_path / "m.nii", NOISE, affine).voxel_to_world_equal
        return
    with pytest.raises(ExportError, match=r"read back"):
        write_mask(tmp_path / "m.nii", NOISE, affine)
    assert not list(tmp_path.iterdir())


def test_killed_in_the_middle_leaves_the_older_file(tmp_path):
    path = tmp_path / "m.nii"
    write_mask(path, NOISE[:, :9, :9])
    before = path.read_bytes()
    code = (
        "import os, sys, signal, numpy as np\n"
        "from napari_attnseg.io import export, export_nifti\n"
        "real = export.to_disk\n"
        "export.to_disk = lambda p: (real(p), os.kill(os.getpid(), signal.SIGKILL))\n"
        "export.write_mask(sys.argv[1], np.ones((1, 300, 300), np.uint8))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode < 0
    assert path.read_bytes() == before


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_mask(tmp_path / "m.png", NOISE)
    finally:
        os.umask(old)
    assert (tmp_path / "m.png").stat().st_mode & 0o777 == 0o640


def test_real_scans_keep_their_place(shared_data, tmp_path):
    for path in sorted(shared_data.glob("ct_*/*ct*.nii.gz")):
        source = read_image(path)
        labels = (source.view > 0).astype(np.uint8)
        assert write_mask(tmp_path / "m.nii.gz", labels, source).voxel_to_world_equal
        again = nib.load(tmp_path / "m.nii.gz")
        assert np.array_equal(again.affine, nib.load(path).affine)
        assert np.array_equal(np.asarray(again.dataobj), source.data > 0)
