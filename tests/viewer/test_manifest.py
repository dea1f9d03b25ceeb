"""An invalid manifest makes a plugin vanish without a word: so it is checked."""

from __future__ import annotations

import importlib
import inspect

import npe2
import pytest

pytestmark = pytest.mark.gui


@pytest.fixture(scope="module")
def manifest() -> npe2.PluginManifest:
    return npe2.PluginManifest.from_distribution("napari-attnseg")


def test_every_command_can_be_imported(manifest: npe2.PluginManifest) -> None:
    manifest.validate_imports()


def test_docks_take_the_viewer_by_the_name_that_napari_injects(
    manifest: npe2.PluginManifest,
) -> None:
    assert [w.display_name for w in manifest.contributions.widgets] == [
        "Segment",
        "Tune",
        "Refine",
        "Train",
        "Measure",
        "Compare layers (CKA)",
        "Bake-off",
    ]
    wanted = {w.command for w in manifest.contributions.widgets}
    for command in (c for c in manifest.contributions.commands if c.id in wanted):
        module, _, name = command.python_name.partition(":")
        dock = getattr(importlib.import_module(module), name)
        assert "napari_viewer" in inspect.signature(dock).parameters


def test_samples_reader_and_writer_are_offered(manifest: npe2.PluginManifest) -> None:
    assert {s.key for s in manifest.contributions.sample_data} == {
        "nuclei",
        "phantom",
        "coins",
        "tissue",
    }
    sessions, reader = manifest.contributions.readers
    assert sessions.filename_patterns == ["*.attnseg"]
    assert {"*.nii", "*.nii.gz", "*.dcm", "*.nrrd", "*.mha"} <= set(reader.filename_patterns)
    assert reader.accepts_directories
    writer, session_writer = manifest.contributions.writers
    assert session_writer.filename_extensions == [".attnseg"]
    assert ".nii.gz" in writer.filename_extensions
