"""Masks as OME-Zarr, NRRD and MHA: read by other libraries, in the place of their image."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr

from napari_attnseg.errors import ExportError
from napari_attnseg.io import export_meta, export_nrrd, export_ome_zarr
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.volume import Volume
from nifti_spaces import affine_of
from zarr_images import ranks, write

SHAPE = (7, 11, 13)
CLASSES = {0: "background", 1: "liver", 3: "spleen"}
COLORS = {1: "#ff8000", 3: "#00ff40"}
MADE = {"program": "test", "tuning": {"threshold": 0.25}}
OBLIQUE = affine_of((2, 0, 1), (1, -1, -1), degrees=(13, -22, 31), shear=(0.1, 0, 0))
STRAIGHT = affine_of((1, 0, 2), (-1, 1, -1))


def told_of(comment: dict) -> dict:
    """What was given of the provenance; dates and versions are added to it."""
    return {key: comment["provenance"][key] for key in MADE}


def labels_of(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(3).choice([0, 1, 3], shape).astype(np.uint8)


def scan(tmp_path: Path, affine: np.ndarray) -> Volume:
    data = np.random.default_rng(0).integers(-900, 900, (13, 7, 11), np.int16)
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "scan.nii")
    return read_image(tmp_path / "scan.nii")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("affine", [OBLIQUE, STRAIGHT], ids=["sheared", "straight"])
def test_itk_sees_every_voxel_where_nibabel_saw_it(tmp_path, suffix, affine) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the second library (SimpleITK) is absent")
    source = scan(tmp_path, affine)
    labels = labels_of(source.shape)
    path = tmp_path / f"mask{suffix}"
    done = write_mask(path, labels, source, CLASSES, MADE, COLORS)
    assert "same place in the world" in done.message
    in_file_order = source.to_file_order(labels)
    seen = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(seen).T, in_file_order)
    nifti = nib.load(tmp_path / "scan.nii").affine
    for at in ((0, 0, 0), (12, 6, 10), (3, 5, 2)):
        x, y, z = seen.TransformIndexToPhysicalPoint(at)
        np.testing.assert_allclose((nifti @ (*at, 1))[:3], (-x, -y, z), atol=2e-5)
    again = read_mask(path)
    np.testing.assert_allclose(again.geometry.affine, source.geometry.affine, rtol=0, atol=1e-9)
    told = (export_nrrd if suffix == ".nrrd" else export_meta).comment_of(path)
    assert told_of(told) == MADE
    assert told["classes"]["3"] == "spleen"


def test_a_long_comment_in_mha_says_what_it_leaves_out(tmp_path: Path) -> None:
    where = {"edits": {"voxels": 5, "where": "x" * 40_000}, "model": "net"}
    done = write_mask(tmp_path / "a.mha", labels_of(), None, CLASSES, where, COLORS)
    assert "the places of hand edits do not fit into .mha" in done.message
    told = export_meta.comment_of(tmp_path / "a.mha")
    assert told["provenance"]["edits"] == {"voxels": 5, "where": None}
    assert told["provenance"]["model"] == "net"
    notes = {"model": "net", "notes": ["x" * 40_000]}
    done = write_mask(tmp_path / "b.mha", labels_of(), None, CLASSES, notes, COLORS)
    assert "equal: 13 x 11 x 7" in done.message
    assert ", how it was made does not fit into .mha" in done.message
    told = export_meta.comment_of(tmp_path / "b.mha")
    assert told["classes"]["3"] == "spleen"
    assert "provenance" not in told
    many = {k: "x" * 400 for k in range(200)}
    done = write_mask(tmp_path / "c.mha", labels_of(), None, many, {"model": "net"})
    assert "class names and how it was made do not fit" in done.message
    assert export_meta.comment_of(tmp_path / "c.mha") == {}
    assert "not fit" not in write_mask(tmp_path / "d.mha", labels_of(), None, CLASSES).message


def test_slicer_finds_names_and_colours_in_nrrd(tmp_path: Path) -> None:
    import nrrd

    write_mask(tmp_path / "a.seg.nrrd", labels_of(), None, CLASSES, MADE, COLORS)
    header = nrrd.read_header(str(tmp_path / "a.seg.nrrd"))
    assert header["Segment1_Name"] == "spleen"
    assert header["Segment1_LabelValue"] == "3"
    assert header["Segment0_Color"] == "1 0.501961 0"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_of_an_ome_zarr_lie_on_it(tmp_path: Path, version: str) -> None:
    path = write(tmp_path / "a.zarr", ranks(), shift=(10, -4, 2), version=version)
    source, labels = read_image(path), labels_of()
    done = write_mask(tmp_path / "m.ome.zarr", labels, source, CLASSES, MADE, COLORS)
    assert done.counts[3] == (labels == 3).sum()
    group = zarr.open_group(str(tmp_path / "m.ome.zarr"), mode="r")
    ome = group.attrs["ome"] if version == "0.5" else group.attrs
    (image,) = ome["multiscales"]
    scale, shift = image["datasets"][0]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [3.0, 0.5, 0.25]}
    assert shift == {"type": "translation", "translation": [10, -4, 2]}
    assert {a["unit"] for a in image["axes"]} == {"millimeter"}
    np.testing.assert_array_equal(group["0"][:], labels)
    assert {"label-value": 3, "class": "spleen"} in ome["image-label"]["properties"]
    assert {"label-value": 1, "rgba": [255, 128, 0, 255]} in ome["image-label"]["colors"]
    again = read_mask(tmp_path / "m.ome.zarr")
    np.testing.assert_array_equal(again.view, labels)
    np.testing.assert_array_equal(again.geometry.affine, source.geometry.affine)
    assert told_of(export_ome_zarr.comment_of(tmp_path / "m.ome.zarr")) == MADE


def test_a_straight_scan_becomes_an_ome_zarr_in_its_place(tmp_path: Path) -> None:
    source = scan(tmp_path, STRAIGHT)
    labels = labels_of(source.shape)
    write_mask(tmp_path / "m.zarr", labels, source)
    again = read_mask(tmp_path / "m.zarr")
    nifti = nib.load(tmp_path / "scan.nii").affine
    in_file_order = source.to_file_order(labels)
    voxels = np.argwhere(in_file_order == 3)
    places = {tuple(np.round(nifti @ (*v, 1), 3)[:3]) for v in voxels}
    found = np.argwhere(again.data == 3)
    assert places == {tuple(np.round(again.geometry.affine @ (*v, 1), 3)[:3]) for v in found}
    oblique = scan(tmp_path, OBLIQUE)
    with pytest.raises(ExportError, match=r"turned by .* degrees.*\.nii\.gz"):
        write_mask(tmp_path / "o.zarr", labels_of(oblique.shape), oblique)
    assert not list(tmp_path.glob("*o.zarr*"))


def test_large_flat_labels_get_levels_and_old_ones_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.zarr"
    write_mask(path, labels_of((1, 5, 4)))
    large = labels_of((1, 2100, 16))
    write_mask(path, large)
    group = zarr.open_group(str(path), mode="r")
    assert [group[str(k)].shape for k in range(3)] == [(2100, 16), (1050, 8), (525, 4)]
    np.testing.assert_array_equal(group["2"][:], large[0, ::4, ::4])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.zarr"]
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="is no zarr"):
        write_mask(tmp_path / "folder.zarr", large)
    assert (tmp_path / "folder.zarr" / "thesis.txt").read_text() == "years of work"


def test_a_failure_leaves_the_older_labels(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.zarr"
    write_mask(path, labels_of())
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    real = os.replace

    def failing(a, b) -> None:
        if os.fspath(b) == os.fspath(path) and ".attnseg-" in str(a) and "@was-" not in str(a):
            raise OSError(28, "No space left on device")
        real(a, b)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ExportError, match="no space left"):
        write_mask(path, labels_of()[::-1])
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]


def test_what_was_damaged_on_its_way_is_found(tmp_path: Path, monkeypatch) -> None:
    real = export_ome_zarr._write

    def damaging(path: Path, place, attributes) -> None:
        moved = json.loads(json.dumps(attributes))
        steps = moved["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        steps[0]["scale"][0] *= 2
        real(path, place, moved)

    monkeypatch.setattr(export_ome_zarr, "_write", damaging)
    with pytest.raises(ExportError, match="places do not read back"):
        write_mask(tmp_path / "m.zarr", labels_of())
    assert not list(tmp_path.iterdir())


def test_labels_do_not_take_the_place_of_an_ome_zarr_image(tmp_path: Path) -> None:
    write(tmp_path / "image.zarr", ranks())
    source = read_image(tmp_path / "image.zarr", 0)
    before = {p: p.read_bytes() for p in (tmp_path / "image.zarr").rglob("*") if p.is_file()}
    for given in (source, None):
        with pytest.raises(ExportError, match=r"image\.zarr is an image.*another name"):
            write_mask(tmp_path / "image.zarr", labels_of(source.shape), given)
    after = {p: p.read_bytes() for p in (tmp_path / "image.zarr").rglob("*") if p.is_file()}
    assert before == after
    for again in range(2):  # labels are replaced, whoever wrote them
        write_mask(tmp_path / "m.zarr", labels_of(source.shape), source)
        group = zarr.open_group(str(tmp_path / "m.zarr"), mode="r+")
        if not again:
            del group.attrs[export_ome_zarr.KEY]


def test_a_class_name_in_any_script_goes_into_nrrd(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the second library (SimpleITK) is absent")
    names = {1: "Wei\u00dfe  M\u00e4rz\n:= x", 3: "\u7d30\u80de"}
    write_mask(tmp_path / "m.nrrd", labels_of(), None, names, MADE)
    assert comment_of(tmp_path / "m.nrrd")["classes"] == {str(i): n for i, n in names.items()}
    seen = sitk.ReadImage(str(tmp_path / "m.nrrd"))
    told = [seen.GetMetaData(f"Segment{i}_Name") for i in (0, 1)]
    assert told == ["Wei?e Marz := x", "??"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(seen), labels_of())


def test_words_of_another_program_are_no_tables_of_ours(tmp_path: Path) -> None:
    image = nib.Nifti1Image(labels_of().T.copy(), np.eye(4))
    told = {"classes": ["liver"], "provenance": [1, 2], "colors": "red", "theirs": 3}
    text = json.dumps(told).encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, text))
    nib.save(image, tmp_path / "m.nii")
    assert comment_of(tmp_path / "m.nii") == {"theirs": 3}
