"""OME-Zarr: space by hand, nothing read at opening, metadata of both versions, odd stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_attnseg.errors import InputError
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import image_size, read_image, read_mask
from napari_attnseg.io.many import ManyVolumes
from zarr_images import SHAPE, axes_of, ranks, write


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_values_and_places(tmp_path: Path, version: str) -> None:
    data = ranks()
    path = write(tmp_path / "a.ome.zarr", data, shift=(10.0, -4.0, 2.0), version=version)
    volume = read_image(path)
    assert volume.lazy
    np.testing.assert_array_equal(np.asarray(volume.view), data)
    np.testing.assert_array_equal(np.asarray(volume.levels[0]), data[:, ::2, ::2])
    assert volume.spacing_mm == (3.0, 0.5, 0.25)
    assert volume.display_scale == (3.0, 0.5, 0.25)
    np.testing.assert_allclose(volume.display_translate, (10, -4, 2), atol=1e-12)
    # voxel z=2, y=3, x=5 lies at z 16, y -2.5, x 3.25: superior 16, posterior -2.5, left 3.25
    np.testing.assert_allclose(volume.geometry.affine @ (5, 3, 2, 1), (-3.25, 2.5, 16, 1))
    assert "names no directions of the body" in volume.assumed
    assert image_size(path) == SHAPE


@pytest.mark.parametrize(
    ("unit", "mm", "said"),
    [("micrometer", 1e-3, ""), ("nanometer", 1e-6, ""), ("angstrom", 1e-7, ""), (None, 1e-3, "no")],
)
def test_units_and_the_shared_scale(tmp_path: Path, unit: str | None, mm: float, said: str) -> None:
    path = write(tmp_path / "a.zarr", ranks(), unit=unit, shift=(1, 2, 3), outer=(2, 10, 10))
    volume = read_image(path)
    np.testing.assert_allclose(volume.spacing_mm, np.array([6, 5, 2.5]) * mm)
    np.testing.assert_allclose(volume.display_translate, np.array([2, 20, 30]) * mm, rtol=1e-9)
    assert ("no unit of length" in volume.assumed) == bool(said)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_places_are_those_of_both_levels_of_transformations(tmp_path: Path, version: str) -> None:
    """World = outer scale * (scale * voxel + translation) + outer translation, voxel by voxel."""
    path = write(
        tmp_path / "a.zarr", ranks(), unit="micrometer", shift=(5.0, 6.0, 7.0), version=version
    )
    head = path / (".zattrs" if version == "0.4" else "zarr.json")
    told = json.loads(head.read_text())
    (image,) = (told if version == "0.4" else told["attributes"]["ome"])["multiscales"]
    image["coordinateTransformations"] = [
        {"type": "scale", "scale": [2.0, 10.0, 20.0]},
        {"type": "translation", "translation": [1.0, -2.0, 3.0]},
    ]
    head.write_text(json.dumps(told))
    volume = read_image(path)
    inner = image["datasets"][0]["coordinateTransformations"][0]["scale"]
    for zyx in ((0, 0, 0), (2, 3, 5)):
        z, y, x = (
            (outer * (step * at + shift) + offset) * 1e-3
            for at, step, shift, outer, offset in zip(
                zyx, inner, (5, 6, 7), (2, 10, 20), (1, -2, 3), strict=True
            )
        )
        ras = volume.geometry.affine @ (*zyx[::-1], 1)
        np.testing.assert_allclose(ras[:3], (-x, -y, z), rtol=1e-12)
    ids = (np.asarray(volume.view) % 5).astype(np.uint8)
    write_mask(tmp_path / "m.ome.zarr", ids, volume)
    again = read_image(tmp_path / "m.ome.zarr")
    assert np.array_equal(again.geometry.affine, volume.geometry.affine)
    assert np.array_equal(np.asarray(again.view), ids)


def test_opening_reads_no_pixels_and_planes_read_each_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big.zarr"
    write(path, np.zeros((1, 1, 1), np.int16), levels=1, chunks=(1, 1, 1))
    meta = json.loads((path / "0" / "zarr.json").read_text())
    meta["shape"] = [600, 512, 512]
    meta["chunk_grid"]["configuration"]["chunk_shape"] = [64, 128, 128]
    (path / "0" / "zarr.json").write_text(json.dumps(meta))
    asked: list[Any] = []
    real = zarr.Array.__getitem__

    def counting(self: Any, index: Any) -> Any:
        asked.append(index)
        return real(self, index)

    monkeypatch.setattr(zarr.Array, "__getitem__", counting)
    volume = read_image(path)
    assert volume.shape == (600, 512, 512)
    assert asked == []
    for z in range(130):
        assert np.asarray(volume.view[z]).shape == (512, 512)
    assert len(asked) == 3  # planes 0 to 63, 64 to 127, 128 to 191


def test_time_and_channel_are_chosen(tmp_path: Path) -> None:
    data = ranks((2, 3, *SHAPE))
    channels = [{"label": "DAPI"}, {"label": "actin"}]
    path = write(
        tmp_path / "a.zarr", data, "tczyx", (1, 1, 3, 0.5, 0.25), omero={"channels": channels}
    )
    with pytest.raises(ManyVolumes, match="4: time 1, actin") as many:
        read_image(path)
    assert many.value.count == 6
    assert many.value.names[2] == "time 0, channel 2"
    volume = read_image(path, 4)
    np.testing.assert_array_equal(np.asarray(volume.view), data[1, 1])
    assert volume.part == 4
    assert volume.note == "time 1, actin"
    assert image_size(path) == SHAPE
    with pytest.raises(InputError, match="expected 0 to 5"):
        read_image(path, 6)


def test_colour_and_flat_images(tmp_path: Path) -> None:
    data = ranks((3, 11, 13)).astype(np.uint8)
    primary = [{"color": c} for c in ("FF0000", "00ff00", "0000FF")]
    path = write(tmp_path / "a.zarr", data, "cyx", (1, 0.5, 0.25), omero={"channels": primary})
    volume = read_image(path)
    assert volume.rgb
    assert volume.pixel_mm == (1.0, 0.5, 0.25)
    np.testing.assert_array_equal(np.asarray(volume.data), data.transpose(1, 2, 0))
    flat = read_image(write(tmp_path / "b.zarr", ranks((1, 11, 13)), levels=2))
    assert flat.data.shape == (11, 13)
    assert flat.levels[0].shape == (1, 6, 7)


def test_axes_in_another_order_and_stores_without_words(tmp_path: Path) -> None:
    data = ranks()
    path = write(tmp_path / "a.zarr", data, "xzy", (0.25, 3.0, 0.5))
    volume = read_image(path)
    np.testing.assert_array_equal(np.asarray(volume.view), data.transpose(1, 2, 0))
    assert volume.spacing_mm == (3.0, 0.5, 0.25)
    zarr.save(str(tmp_path / "plain.zarr"), data)
    plain = read_image(tmp_path / "plain.zarr")
    np.testing.assert_array_equal(np.asarray(plain.view), data)
    assert plain.spacing_mm == ()
    no_space = read_image(write(tmp_path / "c.zarr", data, scale=None))
    assert no_space.spacing_mm == ()
    assert no_space.geometry is None


def test_a_prediction_from_a_lazy_image_is_that_of_its_pixels(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from napari_attnseg.engine.session import Session

    data = ranks((3, 33, 41))
    path = write(tmp_path / "a.zarr", data, levels=1)
    session = Session(tiny_checkpoint, device="cpu")
    session.set_image(read_image(path))
    lazy = [p.probability for _, p in session.run()]
    session.set_image(data, spacing_mm=(3.0, 0.5, 0.25))
    for z, prediction in session.run():
        np.testing.assert_array_equal(prediction.probability, lazy[z])


def test_broken_stores_are_said_in_one_sentence(tmp_path: Path) -> None:
    good = write(tmp_path / "good.zarr", ranks())
    attrs = json.loads((good / "zarr.json").read_text())

    def with_ome(name: str, ome: dict[str, Any]) -> Path:
        path = write(tmp_path / name, ranks())
        (path / "zarr.json").write_text(json.dumps({**attrs, "attributes": {"ome": ome}}))
        return path

    ome = attrs["attributes"]["ome"]
    first = ome["multiscales"][0]
    no_path = {"multiscales": [{**first, "datasets": [{"path": "7"}]}]}
    turned = [{"type": "rotation", "rotation": [1]}]
    for path, word in (
        (with_ome("a.zarr", {"plate": {"wells": [{"path": "A/1"}]}}), r"a plate.*a\.zarr/A/1/0"),
        (with_ome("b.zarr", no_path), "level 7 that is missing"),
        (with_ome("c.zarr", {"multiscales": [{"axes": first["axes"]}]}), "damaged"),
        (with_ome("d.zarr", {"multiscales": [{**first, "axes": axes_of("zya")}]}), "an axis 'a'"),
        (
            with_ome("e.zarr", {"multiscales": [{**first, "coordinateTransformations": turned}]}),
            "rotation",
        ),
        (with_ome("f.zarr", {}), "without OME metadata"),
    ):
        with pytest.raises(InputError, match=word):
            read_image(path)
    (good / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"good\.zarr"):
        read_image(good)


def test_slicing_reads_what_numpy_reads(tmp_path: Path) -> None:
    """Single voxels, numbers, steps and turned axes, as dask puts them into its questions."""
    data = ranks((7, 11, 13))
    lazy = read_image(write(tmp_path / "a.zarr", data, levels=1)).view
    rng = np.random.default_rng(0)
    cases: list[Any] = [(2, 3, 4), (slice(None), 10, -1), (slice(6, 0, -2),), (slice(3, 3),)]
    for _ in range(20):
        cut = [sorted(rng.integers(0, n + 1, 2)) for n in data.shape]
        step = rng.choice([-3, -1, 1, 2], 3)
        turned = [
            slice(b, a, s) if s < 0 else slice(a, b, s) for (a, b), s in zip(cut, step, strict=True)
        ]
        cases.append(tuple(turned))
    for case in cases:
        np.testing.assert_array_equal(np.asarray(lazy[case]), data[case])
    one = ranks((1, 1, 1)) + 7
    again = read_image(write(tmp_path / "one.zarr", one, levels=1))
    np.testing.assert_array_equal(np.asarray(again.data).ravel(), [7])
    np.testing.assert_array_equal(read_mask(tmp_path / "one.zarr").view, one)


def test_a_mask_that_no_memory_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    head = {"zarr_format": 2, "shape": [4096, 1 << 20, 1 << 20], "dtype": "<u2", "order": "C"}
    head |= {"chunks": head["shape"], "compressor": None, "filters": None, "fill_value": 0}
    (tmp_path / "m.zarr").mkdir()
    (tmp_path / "m.zarr" / ".zarray").write_text(json.dumps(head))
    with pytest.raises(InputError, match=r"m\.zarr needs 8192\.0 TB of memory"):
        read_mask(tmp_path / "m.zarr")
