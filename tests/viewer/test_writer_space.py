"""napari's own Save puts labels where the scan lies, whoever made the layer."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.errors import ExportError
from napari_attnseg.io.image import read_mask
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.writer import write_labels

pytestmark = pytest.mark.gui

OBLIQUE = np.array(
    [[-1.9, 0.3, 0, 40], [0.3, 1.9, 0.1, -20], [0, -0.1, 3, 7], [0, 0, 0, 1.0]], float
)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    data = np.arange(7 * 11 * 5, dtype=np.int16).reshape(7, 11, 5)
    nib.save(nib.Nifti1Image(data, OBLIQUE), path)
    return path


def test_new_labels_over_an_oblique_scan(make_napari_viewer, scan: Path, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    (image,) = viewer.open(scan, plugin="napari-attnseg")
    labels = viewer.add_labels(
        np.zeros(image.data.shape, np.uint8), scale=image.scale, translate=image.translate
    )
    bright = np.unravel_index(np.argmax(image.data), image.data.shape)
    labels.data[bright] = 3
    out = tmp_path / "drawn.nii.gz"
    labels.save(str(out), plugin="napari-attnseg")
    saved, source = nib.load(out), nib.load(scan)
    assert np.array_equal(saved.affine, source.affine)
    brightest = np.unravel_index(np.argmax(source.get_fdata()), source.shape)
    assert np.asarray(saved.dataobj)[brightest] == 3


def test_a_layer_with_a_scale_of_its_own(make_napari_viewer, tmp_path: Path) -> None:
    make_napari_viewer()
    data = np.zeros((5, 7, 9), np.uint8)
    data[1, 2, 3] = 1
    out = tmp_path / "own.nii"
    meta = {"scale": (3.0, 2.0, -1.5), "translate": (10.0, -4.0, 6.0), "metadata": {}}
    write_labels(str(out), data, meta)
    saved = nib.load(out)
    (voxel,) = np.argwhere(np.asarray(saved.dataobj))
    x, y, z = nib.affines.apply_affine(saved.affine, voxel)
    # the layer's world is (S, P, L); NIfTI's is (R, A, S)
    assert np.allclose((z, -y, -x), np.array([1, 2, 3]) * meta["scale"] + meta["translate"])


def test_labels_of_another_size_are_not_given_the_scan_s_header(
    make_napari_viewer, scan: Path, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    (image,) = viewer.open(scan, plugin="napari-attnseg")
    with pytest.raises(ExportError, match="resample"):
        write_labels(
            str(tmp_path / "cropped.nii.gz"),
            np.zeros((3, 4, 5), np.uint8),
            {"metadata": dict(image.metadata)},
        )
    assert not list(tmp_path.glob("cropped*"))


def test_napari_s_own_save_carries_class_names_and_colours(make_napari_viewer, tmp_path):
    from napari.utils.colormaps import DirectLabelColormap
    from nibabel import load

    from napari_attnseg.viewer.writer import classes_of

    viewer = make_napari_viewer()
    labels = np.random.default_rng(0).integers(0, 3, (5, 7, 11)).astype(np.uint8)
    colors = {0: "transparent", None: "#888888", 1: "#ff9f1c", 2: "#2ec4b6"}
    layer = viewer.add_labels(
        labels,
        scale=(3, 2, 2),
        colormap=DirectLabelColormap(color_dict=colors),
        features={"index": [0, 1, 2], "class": ["background", "liver", "spleen"]},
    )
    (path,) = viewer.layers.save(
        str(tmp_path / "mask.nii.gz"), selected=True, plugin="napari-attnseg"
    )
    written = load(path)
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.transpose(2, 1, 0))
    said = b"".join(e.content for e in written.header.extensions).decode()
    for word in ("liver", "spleen", "#ff9f1c", "#2ec4b6"):
        assert word in said
    viewer.add_labels(labels, name="plain")
    assert classes_of(viewer.layers["plain"].as_layer_data_tuple()[1], labels) == (None, None)
    assert layer in viewer.layers


@pytest.mark.parametrize("linked", [False, True])
def test_a_mask_never_replaces_its_image(make_napari_viewer, scan, tmp_path, linked) -> None:
    """Drawn over the scan or made by a model; but labels that were opened may be saved again."""
    viewer = make_napari_viewer()
    (image,) = viewer.open(scan, plugin="napari-attnseg")
    before, target = scan.read_bytes(), scan
    if linked:
        target = tmp_path / "link.nii.gz"
        target.symlink_to(scan)
    ids = np.ones(image.data.shape, np.uint8)
    drawn = {"scale": image.scale, "translate": image.translate, "metadata": {}}
    volume = image.metadata[METADATA]["volume"]
    made = {"metadata": {METADATA: {"result_of": image.name, "volume": volume}}}
    for meta in (drawn, made):
        with pytest.raises(ExportError, match="is the image itself"):
            write_labels(str(target), ids, meta)
        assert scan.read_bytes() == before
    write_labels(str(tmp_path / "mask.nii.gz"), ids, made)
    opened = {"metadata": {METADATA: {"volume": read_mask(tmp_path / "mask.nii.gz")}}}
    write_labels(str(tmp_path / "mask.nii.gz"), 2 * ids, opened)
    assert np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj).min() == 2
