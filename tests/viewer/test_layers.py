"""Layers stand where the volume stands, and maps where their cells lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_attnseg.errors import ExportError, InputError
from napari_attnseg.io.volume import Volume
from napari_attnseg.viewer import samples
from napari_attnseg.viewer.layers import (
    contrast_limits,
    layer_name,
    layer_source,
    layer_volume,
    map_transform,
    transform_of,
)
from napari_attnseg.viewer.reader import get_reader, read_layers
from napari_attnseg.viewer.writer import export, export_layer, write_labels

pytestmark = pytest.mark.gui


@pytest.fixture
def las(tmp_path: Path) -> Path:
    """7 x 11 x 13 voxels (I, J, K), 1.5 x 2 x 3 mm, first axis towards the left, second back."""
    data = np.arange(7 * 11 * 13, dtype=np.int16).reshape(7, 11, 13) - 600
    affine = np.array([[-1.5, 0, 0, 40], [0, -2, 0, 30], [0, 0, 3, -20], [0, 0, 0, 1]], float)
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    path = tmp_path / "scan.v1.nii.gz"
    nib.save(image, path)
    return path


def test_a_volume_is_a_transposed_view_with_signed_scale(las: Path) -> None:
    ((data, settings, kind),) = get_reader(str(las))(str(las))
    layer = Image(data, **settings)
    assert kind == "image"
    assert data.shape == (13, 11, 7)
    assert layer.name == "scan.v1"
    assert data[4, 3, 2] == nib.load(las).dataobj[2, 3, 4]
    np.testing.assert_allclose(layer.scale, (3, 2, 1.5))  # S+, P+, L+: nothing runs backwards
    ras = nib.load(las).affine @ [2, 3, 4, 1]
    np.testing.assert_allclose(layer.data_to_world((4, 3, 2)), (ras[2], -ras[1], -ras[0]))


def test_a_volume_that_runs_backwards_keeps_its_pixels_and_says_flips(tmp_path: Path) -> None:
    path = tmp_path / "ras.nii"
    nib.save(nib.Nifti1Image(np.zeros((7, 11, 13), np.float32), np.diag([1, 2, 3, 1.0])), path)
    ((data, settings, _),) = read_layers(str(path))
    source = layer_source(Image(data, **settings))
    assert (np.asarray(settings["scale"]) < 0).tolist() == [False, True, True]
    assert source.flips == (False, True, True)
    assert source.spacing == (3, 2, 1)


def test_a_4d_file_asks_which_volume(tmp_path: Path) -> None:
    path = tmp_path / "many.nii"
    data = np.stack([np.full((5, 6, 7), i, np.int16) for i in range(3)], -1)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(InputError, match="3 volumes"):
        read_layers(str(path))
    ((got, settings, _),) = read_layers(str(path), lambda p, many: many.count - 1)
    assert np.unique(got).tolist() == [2]
    assert settings["name"] == "many [2]"
    assert read_layers(str(path), lambda p, many: None) == [(None,)]


def test_only_nifti_is_claimed() -> None:
    assert get_reader("a.nii.gz") is not None
    assert get_reader(["a.nii", "b.nii.gz"]) is not None
    assert get_reader(["a.nii", "b.png"]) is None
    assert get_reader("a.gz") is None


@pytest.mark.parametrize("foreign", ["plain", "dask", "multiscale"])
def test_foreign_layers(foreign: str) -> None:
    data: Any = np.arange(5 * 7 * 9, dtype=np.uint8).reshape(5, 7, 9)
    pixels = data
    if foreign == "dask":
        import dask.array as da

        data = da.from_array(data, chunks=(1, 7, 9))
    elif foreign == "multiscale":
        data = [data, data[:, ::2, ::2]]
    source = layer_source(Image(data, scale=(2, 1, 0.5), multiscale=foreign == "multiscale"))
    np.testing.assert_array_equal(source.array, pixels)
    assert source.spacing == (2, 1, 0.5)
    assert source.flips == (False, False, False)
    assert source.volume is None


def test_a_scale_nobody_set_is_not_a_pixel_size() -> None:
    assert layer_source(Image(np.zeros((7, 9)))).spacing == ()
    assert layer_source(Image(np.zeros((7, 9)), scale=(0.5, 0.5))).spacing == (1.0, 0.5, 0.5)


def test_rgb_and_four_axes() -> None:
    source = layer_source(Image(np.zeros((7, 9, 4), np.uint8), rgb=True))
    assert source.rgb
    assert source.array.shape == (1, 7, 9, 3)
    with pytest.raises(InputError, match="4 axes"):
        layer_source(Image(np.zeros((2, 3, 7, 9))))


def test_a_map_cell_lies_over_its_pixels_under_any_transform() -> None:
    """Oracle: pixel ``offset + scale * cell`` of the image and the cell have one world place."""
    image = Image(
        np.zeros((5, 40, 33)), scale=(3, -2, 0.5), translate=(7, 8, 9), rotate=20, shear=[0.1, 0, 0]
    )
    cells = Image(np.zeros((5, 5, 5)), **map_transform(image, (8, 7.5), (3.5, -1.0)))
    for cell in [(0, 0, 0), (4, 2, 3), (1, 4, 4)]:
        pixel = (cell[0], 3.5 + 8 * cell[1], -1.0 + 7.5 * cell[2])
        np.testing.assert_allclose(cells.data_to_world(cell), image.data_to_world(pixel))


def test_contrast_shows_something() -> None:
    ct = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 30)).astype(np.int16)
    assert contrast_limits(ct) == (-160, 240)
    assert contrast_limits(np.full((4, 5), np.nan)) == (0, 1)
    low, high = contrast_limits(np.full((4, 5), 7.0))
    assert low < high


@pytest.mark.parametrize(
    ("path", "name"), [("/a/b.nii.gz", "b"), ("c.x.png", "c.x"), (None, "image"), ("d", "d")]
)
def test_layer_names(path: str | None, name: str) -> None:
    assert layer_name(path) == name


def test_the_napari_writer_keeps_the_affine(las: Path, tmp_path: Path) -> None:
    ((data, settings, _),) = read_layers(str(las))
    image = Image(data, **settings)
    ids = (np.arange(data.size).reshape(data.shape) % 3).astype(np.uint8)
    labels = Labels(ids, metadata=image.metadata, **transform_of(image))
    out = tmp_path / "mask.nii.gz"
    assert write_labels(str(out), labels.data, {"metadata": labels.metadata}) == [str(out)]
    written, scan = nib.load(out), nib.load(las)
    np.testing.assert_array_equal(written.affine, scan.affine)
    assert int(written.header["sform_code"]) == 2
    np.testing.assert_array_equal(np.asarray(written.dataobj), ids.transpose(2, 1, 0))


def test_export_finds_the_image_of_a_result(las: Path, tmp_path: Path) -> None:
    from napari.components import ViewerModel

    viewer = ViewerModel()
    ((data, settings, _),) = read_layers(str(las))
    viewer.add_layer(Image(data, **settings))
    labels = Labels(np.ones(data.shape, np.uint8), metadata={"attnseg": {"result_of": "scan.v1"}})
    viewer.add_layer(labels)
    done = export_layer(tmp_path / "m.nii", labels, viewer)
    assert done.voxel_to_world_equal
    np.testing.assert_array_equal(nib.load(done.path).affine, nib.load(las).affine)


def test_export_of_four_axes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="4 axes"):
        export(tmp_path / "m.tif", np.zeros((2, 2, 3, 3), np.uint8), None)


def test_the_file_behind_a_layer_of_another_reader(las: Path) -> None:
    image = Image(np.asarray(nib.load(las).dataobj).transpose(2, 1, 0))
    assert layer_volume(image) is None
    from napari.layers._source import layer_source as provenance

    with provenance(path=str(las)):
        image = Image(np.asarray(nib.load(las).dataobj).transpose(2, 1, 0))
    volume = layer_volume(image)
    assert isinstance(volume, Volume)
    assert volume.shape == (13, 11, 7)


@pytest.mark.parametrize("make", [samples.nuclei, samples.coins, samples.tissue])
def test_samples(make: Any) -> None:
    for data, settings, kind in make():
        layer = {"image": Image, "labels": Labels}[kind](data, **settings)
        assert layer.data.max() > 0
    assert samples.draw_nuclei()[1].mean() == pytest.approx(0.15, abs=0.08)


def test_the_phantom_and_its_truth_share_one_place() -> None:
    try:
        (image, place, _), (truth, other, _) = samples.ct_phantom()
    except InputError:
        pytest.skip("the phantom was not made yet")
    assert image.shape == truth.shape
    assert place["scale"] == other["scale"]
    assert place["translate"] == other["translate"]
