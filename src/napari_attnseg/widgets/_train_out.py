"""Where a trained model goes: its name, its folder, and which stopped training can go on."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QVBoxLayout, QWidget

from napari_attnseg.errors import InputError
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._parts import Field, button, hint, row
from napari_attnseg.widgets._train_words import default_folder, free_path


class OutputPanel(QWidget):
    """Name and folder of the checkpoint; an existing file is never overwritten."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.name = QLineEdit(str(recall("train_name", "my_model")))
        self.name.setPlaceholderText("name of the model")
        self.browse = button("Folder...", "Where trained models are kept")
        self.browse.clicked.connect(self._choose)
        self.name.textChanged.connect(lambda _: self._renamed())
        self.where = hint()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(4)
        tip = "File name of the checkpoint; an existing one is kept and the new one numbered"
        box.addWidget(Field("Save model as", row(self.name, self.browse), tip))
        box.addWidget(self.where)
        self.show_path()

    @property
    def folder(self) -> Path:
        """Where trained models go."""
        return Path(str(recall("train_folder", default_folder())))

    @property
    def path(self) -> Path:
        """The file that a training started now would write."""
        return free_path(self.folder, self.name.text())

    def prepare(self) -> Path:
        """:attr:`path` with its folder made; ``InputError`` when that is impossible."""
        out = self.path
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder {out.parent} ({error.strerror}); choose another one"
            ) from error
        remember("train_name", self.name.text().strip())
        return out

    def stopped(self, last: Path | None) -> Path | None:
        """The checkpoint whose training can go on: the ``last`` one, or the one of this name."""
        named = free_path(self.folder, self.name.text(), tries=0)
        for out in (last, named):
            if out is not None and Path(f"{out}.state.safetensors").is_file():
                return out
        return None

    def to_resume(self, last: Path | None) -> Path:
        """As :meth:`stopped`; raises ``InputError`` when there is none."""
        out = self.stopped(last)
        if out is None:
            raise InputError("there is no stopped training of this name; press Train to start one")
        return out

    def show_path(self, path: Path | None = None) -> None:
        """Say where the model goes."""
        path = path or self.path
        self.where.setText(f"{path.name} in {path.parent.name}")
        self.where.setToolTip(str(path))

    def _renamed(self) -> None:
        self.show_path()
        self.changed.emit()

    def _choose(self) -> None:
        title = "Folder for trained models"
        folder = QFileDialog.getExistingDirectory(self, title, str(self.folder))
        if folder:
            remember("train_folder", folder)
            self._renamed()
