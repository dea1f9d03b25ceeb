"""Layers of napari's own reader: read, shown, predicted, exported and read again in one place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from napari_attnseg.engine.session import Session
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.volume import Volume
from napari_attnseg.viewer.layers import layer_source, layer_volume, transform_of
from napari_attnseg.viewer.writer import export_layer

pytestmark = pytest.mark.gui
SHAPE = (3, 40, 48)
MICRONS = (2.0, 0.5, 0.25)
KINDS = {
    "imagej.tif": {
        "imagej": True,
        "resolution": (1 / MICRONS[2], 1 / MICRONS[1]),
        "metadata": {"axes": "ZYX", "spacing": MICRONS[0], "unit": "um"},
    },
    "ome.ome.tif": {
        "metadata": {
            "axes": "ZYX",
            **{f"PhysicalSize{a}": s for a, s in zip("ZYX", MICRONS, strict=True)},
        }
    },
    "plain.tif": {"metadata": None, "photometric": "minisblack"},
}


def stack() -> np.ndarray:
    rng = np.random.default_rng(2)
    z, y, x = np.indices(SHAPE)
    bright = ((y - 18) ** 2 + (x - 25) ** 2 < 120) * 90
    return (bright + 20 * z + rng.integers(0, 40, SHAPE)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [False, True], ids=["as opened", "scaled by hand"])
def test_a_tiff_of_the_builtin_reader(
    make_napari_viewer, tiny_checkpoint, tmp_path: Path, kind: str, own: bool
) -> None:
    path = tmp_path / kind
    tifffile.imwrite(path, stack(), **KINDS[kind])
    viewer = make_napari_viewer()
    (image,) = viewer.open(path, plugin="napari")
    if own:
        image.scale, image.units = (3.0, 2.0, 1.0), ("um",) * 3
    ids = predicted(Session(tiny_checkpoint, "cpu"), image)
    note = {"attnseg": {"result_of": image.name}}
    labels = viewer.add_labels(ids, metadata=note, **transform_of(image))
    for zyx in ((0, 3, 5), (2, 39, 1), (1, 20, 47)):
        world = image.data_to_world(zyx)
        viewer.dims.set_point(0, world[0])
        assert labels.get_value(world, world=True) == ids[zyx]
        assert image.get_value(world, world=True) == stack()[zyx]
    mask = tmp_path / "mask.nii.gz"
    done = export_layer(mask, labels, viewer)
    again = nib.load(mask)
    sizes = {"plain.tif": (3.0, 2.0, 1.0) if own else None}.get(kind, MICRONS)
    assert np.array_equal(np.asarray(again.dataobj).transpose(2, 1, 0), ids)
    wanted = (1.0, 1.0, 1.0) if sizes is None else tuple(s / 1000 for s in sizes)
    np.testing.assert_allclose(again.header.get_zooms()[::-1], wanted, rtol=1e-6)
    assert "space assumed" in done.message
    export_layer(tmp_path / "mask.tif", labels, viewer)
    back = read_mask(tmp_path / "mask.tif")
    assert np.array_equal(back.view, ids)
    told = () if sizes is None else wanted
    np.testing.assert_allclose(back.spacing_mm, told, rtol=1e-6)


def predicted(session: Session, image) -> np.ndarray:
    """Slices of the layer as the engine is given them, cut at the middle of their values."""
    source = layer_source(image)
    session.set_image(Volume.from_array(source.array))
    chance = np.stack([np.array(session.predict(z).probability) for z in range(len(source.array))])
    return (chance > np.median(chance)).astype(np.uint8)


def test_the_file_behind_a_layer_says_its_size(make_napari_viewer, tmp_path: Path) -> None:
    """napari's reader leaves the size of ImageJ and OME files out; the file knows it."""
    path = tmp_path / "imagej.tif"
    tifffile.imwrite(path, stack(), **KINDS["imagej.tif"])
    viewer = make_napari_viewer()
    (image,) = viewer.open(path, plugin="napari")
    found = layer_volume(image)
    assert found is not None
    np.testing.assert_allclose(found.spacing_mm, np.array(MICRONS) / 1000)
    np.testing.assert_allclose(found.spacing_mm, read_image(path).spacing_mm)
