"""Labels inside the store of their image: listed, read by zarr alone, the image untouched."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_attnseg.errors import ExportError
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.io.volume import Volume
from zarr_images import SHAPE, ranks, write

CLASSES = {0: "background", 3: "spleen"}


def labels_of(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 3], SHAPE).astype(np.uint8)


def digest(store: Path) -> str:
    """Of every file of the image, names and bytes, and nothing below its labels."""
    whole = hashlib.sha256()
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        name = path.relative_to(store).as_posix()
        if not name.startswith("labels/"):
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def listing(store: Path, version: str) -> list[str]:
    attrs = zarr.open_group(str(store / "labels"), mode="r").attrs
    return list((attrs["ome"] if version == "0.5" else attrs)["labels"])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_go_into_the_store_and_are_listed(tmp_path: Path, version: str) -> None:
    store = write(tmp_path / "a.zarr", ranks(), shift=(10, -4, 2), version=version)
    before, source = digest(store), read_image(store)
    write_mask(store / "labels" / "organs", labels_of(), source, CLASSES, {"model": "net"})
    write_mask(store / "labels" / "other", labels_of(4), source, CLASSES)
    write_mask(store / "labels" / "organs", labels_of(5), source, CLASSES, {"model": "new"})
    assert digest(store) == before
    assert listing(store, version) == ["organs", "other"]
    root = zarr.open_group(str(store), mode="r")
    np.testing.assert_array_equal(root["labels/organs/0"][:], labels_of(5))
    np.testing.assert_array_equal(root["labels/other/0"][:], labels_of(4))
    attrs = root["labels/organs"].attrs
    ome = attrs["ome"] if version == "0.5" else attrs
    assert ome["image-label"]["source"] == {"image": "../../"}
    again = read_mask(store / "labels" / "organs")
    np.testing.assert_array_equal(again.view, labels_of(5))
    np.testing.assert_array_equal(again.geometry.affine, source.geometry.affine)
    assert comment_of(store / "labels" / "organs")["provenance"]["model"] == "new"
    np.testing.assert_array_equal(np.asarray(read_image(store).data), np.asarray(source.data))
    assert {p.name for p in (store / "labels").iterdir()} - {".zgroup", ".zattrs", "zarr.json"} == {
        "organs",
        "other",
    }


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_others_listed_stays(tmp_path: Path, version: str) -> None:
    store = write(tmp_path / "a.zarr", ranks(), version=version)
    group = zarr.open_group(
        str(store / "labels"), mode="w", zarr_format=3 if version == "0.5" else 2
    )
    theirs = {"labels": ["theirs"], "note": "kept"}
    group.attrs.update({"ome": {"version": "0.5", **theirs}} if version == "0.5" else theirs)
    write_mask(store / "labels" / "ours", labels_of(), read_image(store))
    assert listing(store, version) == ["theirs", "ours"]
    attrs = zarr.open_group(str(store / "labels"), mode="r").attrs
    assert (attrs["ome"] if version == "0.5" else attrs)["note"] == "kept"


def test_a_failure_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch) -> None:
    store = write(tmp_path / "a.zarr", ranks())
    source, target = read_image(store), store / "labels" / "organs"
    real = os.replace

    def failing(a, b) -> None:
        if os.fspath(b) == os.fspath(target):
            raise OSError(28, "No space left on device")
        real(a, b)

    before = digest(store)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(ExportError, match="no space left"):
            write_mask(target, labels_of(), source)
    assert digest(store) == before
    assert not (store / "labels").exists()
    for other in (
        None,
        Volume.from_array(ranks()),
        read_image(write(tmp_path / "b.zarr", ranks())),
    ):
        with pytest.raises(ExportError, match=r"a\.zarr is not the image"):
            write_mask(target, labels_of(), other)
    assert not (store / "labels").exists()
    (tmp_path / "labels").mkdir()
    with pytest.raises(ExportError, match="expected a name ending in"):
        write_mask(tmp_path / "labels" / "organs", labels_of(), source)
