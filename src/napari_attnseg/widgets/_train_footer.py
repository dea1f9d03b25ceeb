"""The lower edge of the Train dock, which never scrolls away: what happens, Train, Resume."""

from __future__ import annotations

from qtpy.QtWidgets import QFrame, QProgressBar, QVBoxLayout, QWidget

from napari_attnseg.widgets._parts import button, hint, row
from napari_attnseg.widgets.diagnose import ErrorBar

TRAIN_KEYS = "Ctrl+Shift+Return"


class TrainFooter(QWidget):
    """Errors, progress, the last word on the training, and the buttons."""

    def __init__(self) -> None:
        super().__init__()
        self.errors = ErrorBar()
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.status = hint()
        self.run = button("Train", "Start training, or stop it and keep the best model", TRAIN_KEYS)
        self.run.setMinimumHeight(34)
        self.resume = button("Resume", "Go on exactly where the training stopped")
        self.use = button("Use in Segment", "Choose this model in the Segment and Tune docks")
        self.buttons = (self.run, self.resume, self.use)
        line = QFrame()
        line.setFrameShape(QFrame.Shape.HLine)
        line.setFixedHeight(1)
        line.setStyleSheet("background: rgba(128, 128, 128, 90); border: none;")
        box = QVBoxLayout(self)
        box.setContentsMargins(8, 0, 8, 8)
        box.setSpacing(6)
        parts = (line, self.errors, self.status, self.progress, self.use)
        for widget in (*parts, row(self.run, self.resume)):
            box.addWidget(widget)

    def say(self, words: str) -> None:
        """The last word; nothing takes no room."""
        self.status.setText(words)
        self.status.setVisible(bool(words))
