"""Sentences begin with a capital, names of files with their own letters."""

from __future__ import annotations

import pytest

from napari_attnseg.widgets.diagnose import sentence

pytestmark = pytest.mark.gui


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("memory ran out; what was finished stays", "Memory ran out; what was finished stays"),
        ("scan.nii.gz is damaged", "scan.nii.gz is damaged"),
        ("scan 1.nii.gz is damaged", "scan 1.nii.gz is damaged"),
        ("the mask a.nii.gz is empty", "The mask a.nii.gz is empty"),
        ("got a.png, expected a volume", "Got a.png, expected a volume"),
        ("no space left for a.nii in /x", "No space left for a.nii in /x"),
        ("re-open it", "Re-open it"),
        ("", ""),
    ],
)
def test_sentence(said: str, shown: str) -> None:
    assert sentence(said) == shown
