"""The error bar, the badge and the Diagnose dialog, as a person meets them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from qtpy.QtWidgets import QApplication

from napari_attnseg.widgets.diagnose import DeviceBadge, DiagnoseDialog, ErrorBar, fix_command

pytestmark = pytest.mark.gui

REPORT: dict[str, Any] = {
    "device": "cpu",
    "ok": True,
    "self_test": "cpu agrees with the CPU",
    "advice": "This torch was built without CUDA. Fix on Linux: "
    "pip install --force-reinstall torch (on Windows take another command).",
}


def clipboard() -> str:
    board = QApplication.clipboard()
    assert board is not None
    return board.text()


def test_an_error_is_one_sentence_with_a_report_to_copy(qtbot: Any) -> None:
    bar = ErrorBar()
    qtbot.addWidget(bar)
    assert bar.isHidden()
    bar.show_error("mask is 4x4 but the image is 5x5", "Traceback: here")
    assert not bar.isHidden()
    assert bar.message == "Mask is 4x4 but the image is 5x5"
    bar._copy.click()
    text = clipboard()
    assert text.startswith("Mask is 4x4")
    assert "napari-attnseg" in text
    assert text.endswith("Traceback: here")
    with qtbot.waitSignal(bar.cleared):
        bar._close.click()
    assert bar.isHidden()
    assert bar.message == ""


def test_a_note_offers_no_report(qtbot: Any) -> None:
    bar = ErrorBar()
    qtbot.addWidget(bar)
    bar.show_note("running on the CPU")
    assert not bar.isHidden()
    assert bar._copy.isHidden()


@pytest.mark.parametrize(
    ("change", "level"),
    [({}, "cpu"), ({"device": "cuda:0"}, "ok"), ({"ok": False, "device": "mps"}, "bad")],
)
def test_badge_shows_the_self_test(qtbot: Any, change: dict[str, Any], level: str) -> None:
    badge = DeviceBadge()
    qtbot.addWidget(badge)
    badge.set_report(REPORT | change)
    assert badge.level == level
    assert (REPORT | change)["device"].upper() in badge.text().upper()


def test_a_failed_self_test_is_not_painted_over_by_the_next_run(qtbot: Any) -> None:
    badge = DeviceBadge()
    qtbot.addWidget(badge)
    badge.set_report(REPORT | {"ok": False, "device": "cuda:0"})
    badge.set_device("cuda:0")
    assert badge.level == "bad"


def test_dialog_asks_shows_and_copies(qtbot: Any) -> None:
    asked: list[int] = []
    dialog = DiagnoseDialog(lambda: asked.append(1))
    qtbot.addWidget(dialog)
    assert not dialog.copy.isEnabled()
    dialog.refresh()
    assert asked == [1]
    dialog.show_report(REPORT, "torch: 2 (CUDA build: none)")
    assert dialog.copy.isEnabled()
    dialog.copy.click()
    assert "CUDA build: none" in clipboard()
    dialog.copy_fix.click()
    assert clipboard() == f'"{sys.executable}" -m pip install --force-reinstall torch'


def test_no_command_where_nothing_is_missing() -> None:
    assert fix_command({"advice": ""}) == ""
