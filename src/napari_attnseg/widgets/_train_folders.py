"""Training data in folders: choose two, see what pairs before anything is trained."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QLineEdit,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import create_worker

from napari_attnseg.errors import InputError, plain_sentence
from napari_attnseg.io.preflight import Preflight, preflight_folders
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._parts import Field, button, hint, row

LISTED = 500
"""Rows of the pairing list; a longer one names only how many more there are."""
EMPTY = (
    "Choose a folder of images and a folder of masks. They pair by file name: a.jpg with a.png, "
    "a_mask.tif or a_seg.nii.gz. Masks: 0 is background."
)
CHECK_DELAY_MS = 350


class FolderPanel(QWidget):
    """Two folders and their pairing. ``checked`` carries the :class:`Preflight` when it is new."""

    checked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.found: Preflight | None = None
        self.images, images = self._folder("images", "Folder of training images (2D or NIfTI)")
        self.masks, masks = self._folder("masks", "Folder of masks, one for every image")
        self.summary = hint(EMPTY)
        self.pairs = QTreeWidget()
        self._style_list()
        self._number = 0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(CHECK_DELAY_MS)
        self._timer.timeout.connect(self.check)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 6, 0, 0)
        box.setSpacing(6)
        for widget in (images, masks, self.summary, self.pairs):
            box.addWidget(widget)

    def _folder(self, what: str, tip: str) -> tuple[QLineEdit, QWidget]:
        line = QLineEdit()
        line.setPlaceholderText(f"folder of {what}")
        line.setClearButtonEnabled(True)
        line.textChanged.connect(self._changed)
        browse = button("Choose...", tip)
        browse.clicked.connect(lambda: self._browse(line, what))
        return line, Field(f"Folder of {what}", row(line, browse), tip)

    def _style_list(self) -> None:
        self.pairs.setColumnCount(2)
        self.pairs.setHeaderLabels(["image", "mask"])
        self.pairs.setRootIsDecorated(False)
        self.pairs.setUniformRowHeights(True)
        self.pairs.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.pairs.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.pairs.setFixedHeight(132)
        header = self.pairs.header()
        if header is not None:
            header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.pairs.hide()

    @property
    def folders(self) -> tuple[str, str]:
        """What is typed or chosen."""
        return self.images.text().strip(), self.masks.text().strip()

    @property
    def ready(self) -> bool:
        """Whether the pairing was looked at and nothing stands against training."""
        return self.found is not None and self.found.ok

    def data(self) -> dict[str, str]:
        """Both folders; raises ``InputError`` with what stands against them."""
        images, masks = self.folders
        if not (images and masks):
            raise InputError("two folders are needed; choose one of images and one of masks")
        if self.found is not None and not self.found.ok:
            raise InputError(self.found.problems[0])
        return {"images": images, "masks": masks}

    def set_folders(self, images: str | Path, masks: str | Path) -> None:
        """Choose both at once."""
        self.images.setText(str(images))
        self.masks.setText(str(masks))

    def check(self) -> None:
        """Look at the folders in a thread; the newest look wins."""
        images, masks = self.folders
        if not (images and masks):
            return
        self._number += 1
        number = self._number
        self.summary.setText("Looking at the files ...")
        worker = create_worker(
            preflight_folders,
            images,
            masks,
            _start_thread=False,
            _connect={
                "returned": lambda found: self._take(number, found),
                "errored": lambda error: self._give_up(number, error),
            },
        )
        worker.start()

    def _changed(self) -> None:
        self.found = None
        self._number += 1
        self.pairs.hide()
        self.summary.setText(EMPTY)
        self.checked.emit(None)
        if all(self.folders):
            self._timer.start()

    def _browse(self, line: QLineEdit, what: str) -> None:
        start = line.text() or str(recall(f"train_{what}", recall("folder", str(Path.home()))))
        folder = QFileDialog.getExistingDirectory(self, f"Folder of {what}", start)
        if folder:
            remember(f"train_{what}", folder)
            line.setText(folder)

    def _take(self, number: int, found: Preflight) -> None:
        if number != self._number:
            return
        self.found = found
        self.summary.setText(describe(found))
        self._fill(found)
        self.checked.emit(found)

    def _give_up(self, number: int, error: BaseException) -> None:
        if number == self._number:
            self.summary.setText(f"<b>✗</b> {plain_sentence(error) or repr(error)}")

    def _fill(self, found: Preflight) -> None:
        self.pairs.clear()
        if found.pairing is None:
            self.pairs.hide()
            return
        # what does not pair comes first: it is what one must see before training
        loose = [(p.name, "no mask") for p in found.pairing.unpaired_images]
        loose += [("no image", p.name) for p in found.pairing.unpaired_masks]
        paired = [(a.name, b.name) for a, b in found.pairing.pairs]
        for i, names in enumerate((*loose, *paired)[:LISTED]):
            item = QTreeWidgetItem(list(names))
            for column, name in enumerate(names):
                item.setToolTip(column, name)
            if i < len(loose):
                item.setText(0, f"⚠ {names[0]}")
            self.pairs.addTopLevelItem(item)
        more = len(loose) + len(paired) - LISTED
        if more > 0:
            self.pairs.addTopLevelItem(QTreeWidgetItem([f"... and {more} more", ""]))
        self.pairs.show()


def describe(found: Preflight) -> str:
    """The look at the folders in words (rich text)."""
    lines = [f"<b>✗</b> {text}" for text in found.problems[:4]]
    if len(found.problems) > 4:
        lines.append(f"... and {len(found.problems) - 4} more problems")
    if found.pairing is not None:
        left, right = found.pairing.unpaired_images, found.pairing.unpaired_masks
        mark = "✓ " if found.ok else ""
        words = f"<b>{mark}{found.pairs} pairs</b>"
        if left or right:
            words += f"; left out: {len(left)} images without a mask, {len(right)} masks without"
            words += " an image (first in the list)"
        lines.append(words)
        if found.sizes:
            lines.append(f"Sizes: {found.sizes_text()}")
        if found.intensity is not None:
            kind = "colour" if found.channels == 3 else "grey"
            lines.append(f"Intensity: {found.intensity.text()}, {kind}")
        if found.ids:
            lines.append(f"Labels: {found.balance()} (looked at {found.checked} pairs)")
    lines += [f"⚠ {note}" for note in found.notes[:4]]
    return "<br>".join(lines)
