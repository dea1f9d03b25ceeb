"""What a bake-off is run on, with whom, and for how long: the first page of its dock."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import create_worker

from napari_attnseg.control.bakeoff import BakeOff
from napari_attnseg.control.bakeoff_runner import finished_runs, keys_of
from napari_attnseg.errors import InputError, plain_sentence
from napari_attnseg.io.layout import Layout
from napari_attnseg.io.layouts import find_layout
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._bakeoff_contestants import ContestantPanel
from napari_attnseg.widgets._parts import Field, Section, button, hint, narrow, row
from napari_attnseg.widgets._train_items import Still
from napari_attnseg.widgets._train_model import folded

Box = TypeVar("Box", bound=QAbstractSpinBox)
EMPTY = (
    "Choose the folder of a data set: images/ and masks/ inside, or an archive as it unpacks "
    "(Kvasir-SEG, DRIVE, ISIC-2017, ...). A fifth of the images is kept for the test."
)
DELAY_MS = 300
SHORT_OF = {"levels": 4, "batch": 8, "limit": 0}
"""Values that the name of the folder does not mention."""
SAME = ("size", "epochs", "batch", "width", "levels", "limit")
"""What all trainings in a folder have in common."""


class SetupPanel(QWidget):
    """Data, contestants and budget. ``changed``: anything of it is new."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.layout_found: Layout | None = None
        self.opened: BakeOff | None = None
        self._number = 0
        self._still = Still(self)
        self.contestants = ContestantPanel()
        self._make_data()
        self._make_budget()
        self.root = QLineEdit()
        self.root.setToolTip("Every data set and budget has a folder of its own inside")
        self.browse_root = button("Choose...", "Where tables, pictures and networks are kept")
        self.where, self.forecast = hint(), hint()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(DELAY_MS)
        self._lay_out()
        self._recall()
        self._listen()
        self.look()

    # --- what is chosen -----------------------------------------------------------------------

    @property
    def values(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "data": self.data.text().strip(),
            "labels": str(self.labels.currentData() or ""),
            "contestants": list(self.contestants.value),
            "root": self.root.text().strip(),
            **{name: box.value() for name, box in self.budget.items()},
        }

    @property
    def folder(self) -> Path:
        """Where the results of this data set and budget lie, whoever takes part."""
        values = self.values
        if self.opened is not None and _same_budget(self.opened, values):
            return Path(self.opened.out)
        data = Path(values["data"])
        name = f"{data.name}-{values['size']}px-{values['epochs']}epochs-w{values['width']:.3g}"
        for what, usual in SHORT_OF.items():
            name += f"-{what}{values[what]}" if values[what] != usual else ""
        name += f"-{values['labels']}" if values["labels"] else ""
        mark = hashlib.sha256(str(data).encode()).hexdigest()[:4]  # two may have the same name
        return Path(values["root"]).expanduser() / f"{name}-{mark}".replace("=", "")

    def wish(self, device: str = "auto") -> BakeOff:
        """What is asked for; raises ``InputError`` with what is missing."""
        values = self.values
        if not values["data"]:
            raise InputError("no data set is chosen; choose a folder with images/ and masks/")
        if not values["contestants"]:
            raise InputError("no attention is chosen; tick one or more mechanisms to compare")
        if not values["root"]:
            raise InputError("no folder for the results is chosen; choose one below the budget")
        names = ("size", "epochs", "batch", "width", "levels", "limit", "data", "labels")
        return BakeOff(
            contestants=tuple(values["contestants"]),
            out=str(self.folder),
            seeds=self.seeds,
            device=device,
            **{name: values[name] for name in names},
        )

    @property
    def runs(self) -> tuple[int, int]:
        """Trainings that are asked for, and how many of them are kept from before."""
        values = self.values
        keys = keys_of(tuple(values["contestants"]))
        return len(keys) * len(self.seeds), finished_runs(self.folder, keys, self.seeds)

    @property
    def seeds(self) -> tuple[int, ...]:
        """So many seeds from 0 on, or those of the results that were opened."""
        count, opened = self.budget["seeds"].value(), self.opened
        if opened and len(opened.seeds) == count and _same_budget(opened, self.values):
            return opened.seeds
        return tuple(range(int(count)))

    def open(self, wish: BakeOff) -> None:
        """Show a bake-off that lies in a folder of its own; another budget leaves that folder."""
        self.opened = wish
        for name, box in self.budget.items():
            with QSignalBlocker(box):
                value = wish.seeds if name == "seeds" else getattr(wish, name)
                box.setValue(len(value) if name == "seeds" else value)
        with QSignalBlocker(self.labels), QSignalBlocker(self.data):
            self.labels.clear()
            self.labels.addItem(wish.labels or "as they are", wish.labels)
            self.data.setText(wish.data)
        self.contestants.set_levels(wish.levels)
        self.contestants.show_contestants(wish.contestants)
        self._on_data()

    def keep(self) -> None:
        """Remember everything for the next time."""
        remember("bakeoff", self.values)

    # --- making -------------------------------------------------------------------------------

    def _make_data(self) -> None:
        self.data = QLineEdit()
        self.data.setPlaceholderText("folder of a data set")
        self.data.setClearButtonEnabled(True)
        self.browse = button("Choose...", "A folder with images/ and masks/, or an archive's")
        self.summary = hint(EMPTY)
        self.labels = narrow(QComboBox())
        self.labels.setToolTip("How the ids in the masks become classes")
        self.labels_field = Field("Reading of the masks", self.labels)
        self.labels_field.hide()

    def _make_budget(self) -> None:
        self.budget: dict[str, QSpinBox | QDoubleSpinBox] = {
            "size": _whole(16, 1024, 128, "Every image is resized to this square", " px", 16),
            "epochs": _whole(1, 10000, 30, "Passes over the training images, of every training"),
            "seeds": _whole(1, 20, 3, "Trainings of every contestant; with one nothing can be said "
                            "about chance"),
            "width": _real(0.05, 2, 0.25, "Width of the network; 1 has 64 channels at the top"),
            "limit": _whole(0, 100000, 0, "Images at most, a fifth of them for the test", "", 10,
                            "all"),
            "levels": _whole(1, 6, 4, "Times the network halves the image"),
            "batch": _whole(1, 256, 8, "Images per step"),
        }  # fmt: skip

    def _lay_out(self) -> None:
        captions = {"size": "Working size", "limit": "Images at most"}
        main, more = _form(), _form()
        for name, box in self.budget.items():
            form = main if name in ("size", "epochs", "seeds", "width") else more
            form.addRow(captions.get(name, name.capitalize()), box)
            box.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            box.installEventFilter(self._still)
        self.more = folded("More")
        self.more.setDuration(0)
        self.more.content().layout().setContentsMargins(0, 0, 0, 0)
        self.more.addWidget(_holder(more))
        box_layout = QVBoxLayout(self)
        box_layout.setContentsMargins(8, 8, 8, 8)
        box_layout.setSpacing(6)
        data = Field("Data set", row(self.data, self.browse), "What all contestants are trained on")
        root = Field("Results in", row(self.root, self.browse_root), "A folder for all bake-offs")
        for part in (
            data,
            self.summary,
            self.labels_field,
            Section("Contestants", self.contestants),
            Section("Budget of every training", _holder(main), self.more),
            root,
            self.where,
            self.forecast,
        ):
            box_layout.addWidget(part)
        box_layout.addStretch(1)

    def _recall(self) -> None:
        kept = recall("bakeoff", {})
        kept = kept if isinstance(kept, dict) else {}
        self.data.setText(str(kept.get("data", "")))
        self.root.setText(str(kept.get("root") or Path.home() / "attnseg_bakeoffs"))
        self._wanted_labels = str(kept.get("labels", ""))
        for name, box in self.budget.items():
            if isinstance(kept.get(name), int | float):
                box.setValue(kept[name])  # type: ignore[arg-type]
        given = kept.get("contestants", [])
        self.contestants.show_contestants(str(c) for c in given if isinstance(given, list))
        self.contestants.set_levels(int(self.budget["levels"].value()))

    def _listen(self) -> None:
        self.browse.clicked.connect(lambda: self._browse(self.data, "Folder of a data set"))
        self.browse_root.clicked.connect(lambda: self._browse(self.root, "Folder for results"))
        self.data.textChanged.connect(lambda _: self._on_data())
        self.root.textChanged.connect(lambda _: self._tell())
        self.labels.currentIndexChanged.connect(lambda _: self._tell())
        self.contestants.changed.connect(self._tell)
        for box in self.budget.values():
            box.valueChanged.connect(lambda _: self._tell())
        self.budget["levels"].valueChanged.connect(lambda n: self.contestants.set_levels(int(n)))
        self._soon.timeout.connect(self.look)

    # --- data ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the data set in a thread; the newest look wins."""
        folder = self.data.text().strip()
        self._number += 1
        number = self._number
        if not folder:
            self._take(number, None)
            return
        self.summary.setText("Looking at the files ...")
        worker = create_worker(
            find_layout,
            folder,
            _start_thread=False,
            _connect={
                "returned": lambda found: self._take(number, found),
                "errored": lambda error: self._give_up(number, error),
            },
        )
        worker.start()

    def _on_data(self) -> None:
        self.layout_found = None
        self._number += 1
        self.labels_field.hide()
        self.summary.setText(EMPTY)
        self._soon.start()
        self._tell()

    def _wants(self, number: int) -> bool:
        """Whether this look is the newest one, and the dock still there to hear of it."""
        return number == self._number and isalive(self)

    def _take(self, number: int, found: Layout | None) -> None:
        if not self._wants(number):
            return
        self.layout_found = found
        if found is not None:
            self._show_layout(found)
        self._tell()

    def _give_up(self, number: int, error: BaseException) -> None:
        if self._wants(number):
            self.summary.setText(f"<b>✗</b> {plain_sentence(error) or repr(error)}")
            self._tell()

    def _show_layout(self, found: Layout) -> None:
        lines = [f"<b>✓ {found.title}</b>: {len(found.train)} training and {len(found.test)} test "
                 f"images ({found.split})", *found.notes]  # fmt: skip
        self.summary.setText("<br>".join(lines))
        chosen = self.labels.currentData() or self._wanted_labels
        with QSignalBlocker(self.labels):
            self.labels.clear()
            for i, rule in enumerate(found.variants):
                self.labels.addItem(rule.text, rule.name if i else "")
            self.labels.setCurrentIndex(max(0, self.labels.findData(chosen)))
        self.labels_field.setVisible(len(found.variants) > 1)

    def _browse(self, line: QLineEdit, title: str) -> None:
        start = line.text() or str(recall("folder", str(Path.home())))
        folder = QFileDialog.getExistingDirectory(self, title, start)
        if folder:
            line.setText(folder)

    # --- forecast -----------------------------------------------------------------------------

    def _tell(self) -> None:
        self.refresh()
        self.changed.emit()

    def refresh(self) -> None:
        """Say again what is ahead."""
        values = self.values
        ready = bool(values["data"] and values["contestants"])
        self.where.setVisible(ready)
        mine = self.opened is not None and self.folder == Path(self.opened.out)
        self.where.setText(
            f"not there, but in {self.folder}" if mine else f"in its folder {self.folder.name}"
        )
        self.where.setToolTip(str(self.folder))
        self.forecast.setVisible(ready)
        total, kept = self.runs
        networks, seeds, epochs = total // values["seeds"], values["seeds"], values["epochs"]
        words = f"<b>{networks} networks x {seeds} seed{'s' * (seeds != 1)} = {total} trainings</b>"
        words += f" of {epochs} epoch{'s' * (epochs != 1)}"
        if self.layout_found is not None:
            part = self.layout_found.limited(values["limit"])
            words += f" over {len(part.train)} images (a fifth of them judges)"
        words += "."
        if kept:
            are = "is" if kept == 1 else "are"
            words += f" {kept} of them {are} kept from before: {total - kept} to go."
        if seeds == 1:
            words += " One seed says nothing about chance; choose 3 or more."
        self.forecast.setText(words)


def _same_budget(opened: BakeOff, values: dict[str, Any]) -> bool:
    """Whether these values still go on with results that were opened: contestants and seeds may
    be others, and the data may lie elsewhere."""
    return all(getattr(opened, name) == values[name] for name in (*SAME, "labels"))


def _whole(
    low: int, high: int, value: int, tip: str, unit: str = "", step: int = 1, special: str = ""
) -> QSpinBox:
    box = QSpinBox()
    box.setRange(low, high)
    box.setSingleStep(step)
    box.setValue(value)
    box.setSuffix(unit)
    box.setSpecialValueText(special)
    return _finished(box, tip)


def _real(low: float, high: float, value: float, tip: str) -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setDecimals(3)
    box.setRange(low, high)
    box.setSingleStep(0.05)
    box.setValue(value)
    return _finished(box, tip)


def _finished(box: Box, tip: str) -> Box:
    box.setToolTip(tip)
    box.setMinimumWidth(80)
    box.setKeyboardTracking(False)
    return box


def _form() -> QFormLayout:
    form = QFormLayout()
    form.setContentsMargins(0, 0, 0, 0)
    form.setVerticalSpacing(4)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return form


def _holder(form: QFormLayout) -> QWidget:
    panel = QWidget()
    panel.setLayout(form)
    return panel
