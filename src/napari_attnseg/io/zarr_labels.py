"""Labels inside the OME-Zarr of their image: ``image.zarr/labels/NAME``, listed where readers look.

The group is written beside its place under a hidden name and renamed, then the list of labels is
replaced as a whole. Nothing of the image is opened for writing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from napari_attnseg.atomic import write_whole
from napari_attnseg.errors import ExportError
from napari_attnseg.io.ome_zarr import is_zarr
from napari_attnseg.io.volume import Volume

FOLDER = "labels"


def store_of(path: Path) -> Path | None:
    """The image whose labels ``path`` would be among; ``None`` for any other place."""
    inside = path.parent.name == FOLDER and is_zarr(path.parent.parent)
    return path.parent.parent if inside else None


@contextlib.contextmanager
def listed(path: Path, source: Volume | None) -> Iterator[None]:
    """Make the group of labels if there is none, and list ``path`` in it when the block ends well.

    Raises ``ExportError`` when the store is not the image that the mask was made from.
    """
    group, store = path.parent, path.parent.parent
    own = None if source is None or source.path is None else source.path.resolve()
    if own != store.resolve():
        raise ExportError(
            f"{store.name} is not the image that the mask was made from; export it beside that "
            "image, or into its own labels folder"
        )
    new = not group.exists()
    head = group / ("zarr.json" if (store / "zarr.json").is_file() else ".zattrs")
    names = _names(head)
    if new:
        group.mkdir()
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # somebody else has written there meanwhile
                group.rmdir()
        raise
    if path.name not in names:
        _write_list(head, [*names, path.name])


def _names(head: Path) -> list[str]:
    told = _attributes(_read(head)).get(FOLDER, [])
    if not isinstance(told, list):
        raise ExportError(f"the list of labels in {head.parent} is damaged; export elsewhere")
    return [str(name) for name in told]


def _read(head: Path) -> dict[str, Any]:
    if not head.is_file():
        return {}
    try:
        return dict(json.loads(head.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ExportError(
            f"{head} is damaged ({error}); export elsewhere, or repair the store"
        ) from error


def _attributes(told: dict[str, Any]) -> dict[str, Any]:
    """Where the list stands: of 0.5 under ``ome``, of zarr 2 right in the attributes."""
    if "zarr_format" not in told:
        return told
    return dict(told.get("attributes", {}).get("ome", {}))


def _write_list(head: Path, names: list[str]) -> None:
    told = _read(head)
    if head.name == "zarr.json":
        told = {"zarr_format": 3, "node_type": "group", "attributes": {}, **told}
        ome = told["attributes"].get("ome", {})
        told["attributes"]["ome"] = {"version": "0.5", **ome, FOLDER: names}
    else:
        told[FOLDER] = names
        mark = head.with_name(".zgroup")
        if not mark.exists():
            write_whole(mark, json.dumps({"zarr_format": 2}).encode())
    write_whole(head, json.dumps(told, indent=1).encode())
