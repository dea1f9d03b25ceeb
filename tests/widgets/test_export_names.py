"""Under which name the export dialog's answer is written."""

from __future__ import annotations

import pytest

from napari_attnseg.viewer.writer import NIFTI, NRRD, SEG, TIFF
from napari_attnseg.widgets._export import named

pytestmark = pytest.mark.gui
KINDS = ";;".join((NIFTI, SEG, NRRD, TIFF))


@pytest.mark.parametrize(
    ("path", "chosen", "expected"),
    [
        ("/a/mask.nii.gz", NIFTI, "/a/mask.nii.gz"),
        ("/a/seg.dcm", NIFTI, "/a/seg.dcm"),  # typed; the list of formats was left alone
        ("/a/SEG.DCM", NIFTI, "/a/SEG.DCM"),
        ("/a/mask.nii.gz", NRRD, "/a/mask.nrrd"),  # the suggested name, another format chosen
        ("/a/seg.dcm", SEG, "/a/seg.dcm"),
        ("/a/mask", NIFTI, "/a/mask.nii.gz"),
        ("/a/v1.2", TIFF, "/a/v1.2.tif"),
    ],
)
def test_a_typed_ending_counts_unless_another_format_was_chosen(
    path: str, chosen: str, expected: str
) -> None:
    assert named(path, chosen, KINDS) == expected
