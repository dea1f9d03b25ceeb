"""What went wrong and where it runs: the error bar, the device badge, the Diagnose dialog.

All docks use the same three parts, so that an error looks the same everywhere: one sentence in
the dock itself (toasts are missed), and a report that one click puts on the clipboard.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from qtpy.QtCore import QSize, Qt, QTimer, Signal
from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

COLOURS = {"ok": "#2e7d32", "cpu": "#8a5a00", "bad": "#b3261e", "wait": "#5f6368"}
"""Badge backgrounds; white text on each has a contrast of at least 4.5:1 in both themes."""

FILE_FIRST = re.compile(
    r"(?!(?:the|a|an|got|no|this|that|there|cannot|of|in)\b)[^,;:()]{1,60}?"
    r"\.(?:nii|tiff?|png|jpe?g|bmp|gif|dcm|nrrd|mha|mhd|zarr|csv|json|safetensors)\b",
    re.IGNORECASE,
)
"""A name of a file, spaces in it included, at the beginning of a sentence."""
_BAR = """
#attnsegErrorBar {{ border: 1px solid {edge}; border-left: 4px solid {edge};
  border-radius: 3px; background: rgba({rgb}, 38); }}
#attnsegErrorBar QLabel {{ background: transparent; }}
#attnsegErrorBar QPushButton {{ padding: 3px 8px; }}
"""
_LEVELS = {
    "error": ("#d9483b", "217, 72, 59"),
    "note": ("#c98a00", "201, 138, 0"),
    "info": ("#7b8794", "123, 135, 148"),
}


def versions() -> str:
    """Names and versions that every report begins with."""
    lines = []
    for name in ("napari-attnseg", "napari", "torch", "numpy", "qtpy"):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return "\n".join([*lines, f"Python {platform.python_version()} on {platform.platform()}"])


def copy_text(text: str) -> None:
    """Put text on the clipboard."""
    clipboard = QApplication.clipboard()
    if clipboard is not None:
        clipboard.setText(text)


def _flash(button: QPushButton, words: str) -> None:
    """Say on the button that the click did something."""
    before = button.text()
    button.setText(words)
    button.setEnabled(False)

    def back() -> None:
        button.setText(before)
        button.setEnabled(True)

    timer = QTimer(button)  # a child: dies with the button
    timer.setSingleShot(True)
    timer.timeout.connect(back)
    timer.start(1200)


class ErrorBar(QFrame):
    """One sentence inside the dock that stays until it is closed, with "Copy report".

    Takes no room while there is nothing to say.
    """

    cleared = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("attnsegErrorBar")
        self.report = ""
        self._words = QLabel()
        self._words.setWordWrap(True)
        self._words.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
        self._copy = QPushButton("Copy report")
        self._copy.setToolTip("Copy the sentence, the versions and the technical details")
        self._copy.clicked.connect(self.copy_report)
        self._close = QToolButton()
        self._close.setText("✕")
        self._close.setAutoRaise(True)
        self._close.setToolTip("Hide this message")
        self._close.clicked.connect(self.clear)
        self._lay_out()
        self.hide()

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.setSpacing(4)
        top.addWidget(self._words, 1)
        top.addWidget(self._close, 0, Qt.AlignmentFlag.AlignTop)
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 6, 6, 6)
        box.setSpacing(4)
        box.addLayout(top)
        box.addWidget(self._copy, 0, Qt.AlignmentFlag.AlignRight)

    @property
    def message(self) -> str:
        """The sentence shown, or an empty string."""
        return self._words.text()

    def show_error(self, message: str, report: str = "") -> None:
        """Show an error: ``message`` is one sentence, ``report`` the details for the clipboard."""
        self._show("error", message, report)

    def show_note(self, message: str) -> None:
        """Show something to know that is no error (for example: running on the CPU)."""
        self._show("note", message, "")

    def show_info(self, message: str) -> None:
        """Show what came of something, when that is no problem."""
        self._show("info", message, "")

    def clear(self) -> None:
        """Forget the message and give its room back."""
        if not self.message:
            return
        self._words.setText("")
        self.report = ""
        self.hide()
        self.cleared.emit()

    def copy_report(self) -> None:
        """Put sentence, versions and details on the clipboard."""
        copy_text("\n\n".join(part for part in (self.message, versions(), self.report) if part))
        _flash(self._copy, "Copied")

    def _show(self, level: str, message: str, report: str) -> None:
        edge, rgb = _LEVELS[level]
        self.setStyleSheet(_BAR.format(edge=edge, rgb=rgb))
        self._copy.setVisible(level == "error")
        self._words.setText(sentence(message))
        self.report = report
        self.show()


def sentence(message: str) -> str:
    """``message`` with a capital, unless it begins with a file's name, which keeps its letters."""
    word = message.partition(" ")[0].rstrip(",;:")
    name = not word.replace("-", "").isalpha() or FILE_FIRST.match(message)
    return message if name else message[:1].upper() + message[1:]


class DeviceBadge(QPushButton):
    """Where the engine computes, and whether its numbers were checked; stays visible.

    A click emits ``clicked``: docks open the Diagnose dialog.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("attnsegBadge")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.level = "wait"
        self.set_state(
            "wait", "Device not tested", "Runs a self-test at its first use. Click for details."
        )

    def set_state(self, level: str, text: str, tooltip: str = "") -> None:
        """``level`` is a key of ``COLOURS``: ok, cpu, bad or wait."""
        self.level = level
        self.setText(text)
        self.setToolTip(tooltip or "Click to see drivers, devices and the self-test")
        self.setStyleSheet(
            f"#attnsegBadge {{ background: {COLOURS[level]}; color: white; border: none;"
            " border-radius: 8px; padding: 2px 9px; font-size: 11px; }"
        )

    def set_report(self, report: Mapping[str, Any]) -> None:
        """Show the outcome of a self-test (``Diagnosed.report``)."""
        device = str(report.get("device", "cpu"))
        if not report.get("ok", False):
            self.set_state("bad", f"✗ {device}: self-test failed", str(report.get("self_test", "")))
        elif device == "cpu":
            tip = str(report.get("advice") or "") + "\nSelf-test: " + str(report.get("self_test"))
            self.set_state("cpu", "✓ Running on CPU", tip.strip())
        else:
            self.set_state("ok", f"✓ {device}: self-test passed", str(report.get("self_test", "")))

    def set_device(self, device: str, fell_back: bool = False) -> None:
        """Show where long work runs now, as told by ``Started.device``."""
        if fell_back or device == "cpu":
            why = "Memory ran out on the GPU." if fell_back else ""
            self.set_state("cpu", "Running on CPU", why)
        elif self.level != "bad":
            self.set_state("ok", f"Running on {device}")


def fix_command(report: Mapping[str, Any]) -> str:
    """The command of the report's advice, for the Python that runs napari; or an empty string."""
    given = str(report.get("fix") or "")
    if given:
        return given
    found = re.search(r"pip install(?: [\w\-=.]+)*\w", str(report.get("advice") or ""))
    return f'"{sys.executable}" -m {found.group(0)}' if found else ""


class DiagnoseDialog(QDialog):
    """Driver, torch build, devices, free memory, self-test, and the command that would help.

    ``ask`` is called when the dialog opens and by "Test again"; the answer comes back through
    :meth:`show_report` (or :meth:`show_failure`).
    """

    def __init__(self, ask: Callable[[], Any] | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Diagnose - attention segmentation")
        self._ask = ask
        self._verdict = QLabel()
        self._verdict.setWordWrap(True)
        self._verdict.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        self.fix = QLineEdit()
        self.fix.setReadOnly(True)
        self.fix.setToolTip("Run this in a terminal, then restart napari")
        self._fix_row = QWidget()
        self._buttons()
        self._lay_out()
        self.wait()

    def sizeHint(self) -> QSize:
        """Wide enough for the longest usual line."""
        return QSize(620, 400)

    def _buttons(self) -> None:
        self.copy = QPushButton("Copy report")
        self.copy.clicked.connect(self.copy_report)
        self.again = QPushButton("Test again")
        self.again.setVisible(self._ask is not None)
        self.again.clicked.connect(self.refresh)
        self.copy_fix = QPushButton("Copy")
        self.copy_fix.clicked.connect(self.copy_command)
        self.close_button = QPushButton("Close")
        self.close_button.clicked.connect(self.accept)

    def _lay_out(self) -> None:
        row = QHBoxLayout(self._fix_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Fix:"))
        row.addWidget(self.fix, 1)
        row.addWidget(self.copy_fix)
        foot = QHBoxLayout()
        foot.addWidget(self.copy)
        foot.addWidget(self.again)
        foot.addStretch(1)
        foot.addWidget(self.close_button)
        box = QVBoxLayout(self)
        box.addWidget(self._verdict)
        box.addWidget(self.text, 1)
        box.addWidget(self._fix_row)
        box.addLayout(foot)

    def refresh(self) -> None:
        """Ask again."""
        self.wait()
        if self._ask is not None:
            self._ask()

    def wait(self) -> None:
        """Say that the engine is being asked."""
        self._verdict.setText("Asking the engine; its first start takes a few seconds ...")
        self.text.setPlainText(versions())
        self._fix_row.hide()
        self.copy.setEnabled(False)
        self.again.setEnabled(False)

    def show_report(self, report: Mapping[str, Any], text: str) -> None:
        """Show ``Diagnosed.report`` and ``Diagnosed.text``."""
        ok = bool(report.get("ok", False))
        device = report.get("device", "?")
        sign = "✓" if ok else "✗"
        words = "computes the same numbers as the CPU" if device != "cpu" else "works"
        verdict = f"{device} {words}" if ok else f"{device} cannot be trusted or used"
        colour = COLOURS["ok" if ok else "bad"]
        advice = str(report.get("advice") or "")
        self._verdict.setText(
            f'<b><span style="background:{colour};color:white">&nbsp;{sign}&nbsp;</span> '
            f"{verdict}.</b> {advice}"
        )
        self.text.setPlainText(f"{text}\n\n{versions()}")
        command = fix_command(report)
        self.fix.setText(command)
        self._fix_row.setVisible(bool(command))
        self._enable()

    def show_failure(self, message: str, report: str = "") -> None:
        """The engine could not even answer."""
        self._verdict.setText(f"<b>✗ {message}</b>")
        self.text.setPlainText("\n\n".join(p for p in (message, versions(), report) if p))
        self._enable()

    def copy_report(self) -> None:
        """Put the whole report on the clipboard."""
        copy_text(self.text.toPlainText())
        _flash(self.copy, "Copied")

    def copy_command(self) -> None:
        """Put the command of the advice on the clipboard."""
        copy_text(self.fix.text())
        _flash(self.copy_fix, "Copied")

    def _enable(self) -> None:
        self.copy.setEnabled(True)
        self.again.setEnabled(True)
