"""The manifest is valid, and everything it names can be imported and called as napari does."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.gui


@pytest.fixture
def manifest():
    npe2 = pytest.importorskip("npe2")
    return npe2.PluginManifest.from_distribution("napari-attnseg")


def test_every_python_name_imports(manifest) -> None:
    manifest.validate_imports()


def test_docks_readers_writers_and_samples_are_offered(manifest) -> None:
    contributions = manifest.contributions
    assert [w.display_name for w in contributions.widgets] == ["Segment", "Tune", "Train"]
    assert {p for r in contributions.readers for p in r.filename_patterns} == {"*.nii", "*.nii.gz"}
    assert {e for w in contributions.writers for e in w.filename_extensions} >= {".nii.gz", ".png"}
    assert len(contributions.sample_data) >= 2


@pytest.mark.parametrize("sample", ["nuclei", "phantom", "coins", "tissue"])
def test_samples_open_offline(make_napari_viewer, sample) -> None:
    viewer = make_napari_viewer()
    layers = viewer.open_sample("napari-attnseg", sample)
    assert layers
    assert layers[0].data.size > 0


@pytest.mark.parametrize("dock", ["Segment", "Tune", "Train"])
def test_docks_open_by_name(make_napari_viewer, dock) -> None:
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-attnseg", dock)
    assert widget.minimumSizeHint().width() <= 300
