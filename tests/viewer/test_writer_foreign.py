"""A mask never replaces the file of its image, whichever reader opened that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_attnseg.errors import ExportError
from napari_attnseg.viewer.layers import METADATA, layer_volume
from napari_attnseg.viewer.writer import export, export_layer, write_labels

pytestmark = pytest.mark.gui
PIXELS = np.random.default_rng(0).integers(0, 250, (7, 11, 13)).astype(np.uint8)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_napari_s_own_reader(make_napari_viewer, tmp_path: Path, scaled, changed) -> None:
    """Also where the file no longer tells the layer's space: scaled or changed by hand."""
    path = tmp_path / "Scan 1.tif"
    tifffile.imwrite(path, PIXELS, photometric="minisblack")
    viewer = make_napari_viewer()
    (image,) = viewer.open(path, plugin="napari")
    assert METADATA not in image.metadata
    if scaled:
        image.scale = (3, 0.7, 0.7)
    if changed:
        image.data = image.data + 1
    before, ids = path.read_bytes(), (PIXELS > 120).astype(np.uint8)
    meta = {METADATA: {"result_of": image.name}}
    labels = viewer.add_labels(ids, metadata=meta, scale=image.scale)
    link = tmp_path / "link.tif"
    link.symlink_to(path)
    for target in (path, link):
        with pytest.raises(ExportError, match="is the image itself"):
            export(target, ids, layer_volume(image), shown=image)
        with pytest.raises(ExportError, match="is the image itself"):
            export_layer(target, labels, viewer)
        with pytest.raises(ExportError, match="is the image itself"):
            write_labels(str(target), ids, {"metadata": meta})
    assert path.read_bytes() == before
    export(tmp_path / "mask.tif", ids, layer_volume(image), shown=image)
    assert np.array_equal(tifffile.imread(tmp_path / "mask.tif"), ids)
