"""The upper part of the Segment dock: which image, which model, on which device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QLabel,
    QPushButton,
    QStyle,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_attnseg.cards import Card, read_card, resolve_checkpoint
from napari_attnseg.control.describing import read_description
from napari_attnseg.errors import AttnSegError, plain_sentence
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.viewer.space import space_words
from napari_attnseg.widgets import opening
from napari_attnseg.widgets._axes import AxisChoice, is_3d
from napari_attnseg.widgets._badge import EngineBadge
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._openings import openings_for, takes_long
from napari_attnseg.widgets._parts import Field, LayerCombo, button, hint, narrow, row

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

NO_IMAGE = "no image yet"
EMPTY = "Open an image or drop one on the window. Or just press Run: it opens a sample."


OPEN_TIP = (
    "Open an image or a volume with this plugin's reader: NIfTI, any slice of a DICOM series, "
    "NRRD, MHA, TIFF, PNG, JPEG"
)


def _folder_button() -> QToolButton:
    """Beside Open...: a file dialog cannot choose folders."""
    made = QToolButton()
    made.setIcon(made.style().standardIcon(QStyle.StandardPixmap.SP_DirIcon))
    made.setToolTip("Open a folder: DICOM slices or an OME-Zarr")
    made.setAccessibleName("Open a folder")
    return made


class ChoosePanel(QWidget):
    """Image, model and device; writes every choice into the hub and follows it.

    ``complain``: called with a sentence when a choice cannot be used.
    """

    def __init__(self, hub: Hub, complain: Callable[[str], None]) -> None:
        super().__init__()
        self.hub, self._complain = hub, complain
        self.image = LayerCombo(hub.viewer, ("image",), empty=NO_IMAGE)
        self.empty = hint(EMPTY)
        self.space = hint()
        self.open = button("Open...", OPEN_TIP)
        self.open_folder = _folder_button()
        self.model = narrow(QComboBox())
        self.load = button("File...", "Load a checkpoint (.safetensors) of your own")
        self.about = hint()
        self.axes = AxisChoice(hub)
        self.device = narrow(QComboBox())
        self.badge = EngineBadge(hub)
        self.diagnose = button("Diagnose", "Driver, torch build, device, memory and a self-test")
        self.consent = self._consent()
        self._titles = titles_of(read_description())
        self._lay_out()
        self._listen()
        self._on_source(hub.source)
        hub.set_source(self.image.layer)
        self._fill_models()
        self._fill_devices([])

    def _lay_out(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(7)
        box.addWidget(
            Field(
                "Image",
                row(self.image, self.open, self.open_folder),
                "The image layer that is segmented",
            )
        )
        box.addWidget(self.empty)
        box.addWidget(self.space)
        box.addWidget(self.consent)
        box.addWidget(Field("Model", row(self.model, self.load), "A shipped model or a file"))
        box.addWidget(self.about)
        box.addWidget(self.axes)
        box.addWidget(Field("Device", row(self.device, self.diagnose), "Where the model runs"))
        box.addWidget(self.badge, 0, Qt.AlignmentFlag.AlignLeft)

    def _listen(self) -> None:
        hub = self.hub
        self.image.layer_changed.connect(hub.set_source)
        self.open.clicked.connect(lambda: self._open(opening.choose_file))
        self.open_folder.clicked.connect(lambda: self._open(opening.choose_folder))
        self.model.activated.connect(lambda i: self._choose_model(self.model.itemData(i)))
        self.load.clicked.connect(self._load)
        self.device.activated.connect(lambda i: hub.set_device(self.device.itemData(i)))
        self.diagnose.clicked.connect(self.badge.diagnose)
        connect_alive(self, hub.source_changed, self._on_source)
        connect_alive(self, hub.models_changed, lambda _: self._fill_models())
        connect_alive(self, hub.model_changed, lambda _: self._fill_models())
        connect_alive(self, hub.live.described, self._on_described)

    def _on_source(self, layer: Any) -> None:
        self.image.choose(layer)
        self.empty.setVisible(layer is None)
        words = space_words(layer) if layer is not None else ""
        self.space.setText(f"Space: {words}." if words else "")
        self.space.setVisible(bool(words))

    # --- image ----------------------------------------------------------------------------------

    def _open(self, choose: Callable[[QWidget], str]) -> None:
        path = choose(self)
        if path:
            self.open_path(path)

    def open_path(self, path: str) -> None:
        """Open a file or a folder and choose its image; a large one comes in behind the window."""
        if takes_long(Path(path)):
            ask = partial(opening.ask_volume, parent=self)
            openings_for(self.hub.viewer).open(Path(path), ask, self.hub.set_source)
            return
        with self._complaining():
            layers = opening.open_file(self.hub.viewer, path, self)
            if layers:
                self.hub.set_source(layers[0])

    def _consent(self) -> QWidget:
        """The offer to take dropped NIfTI files, one row; gone for good once answered."""
        words = QLabel("Take dropped NIfTI files?")
        words.setToolTip(
            "Dropped .nii and .nii.gz go to napari's own reader, which cannot open .nii.gz. "
            "Open... always uses this plugin's reader."
        )
        yes = button("Yes", "From now on dropped .nii and .nii.gz files come to this reader")
        no = QToolButton()
        no.setText("\u2715")
        no.setAutoRaise(True)
        no.setToolTip("Keep napari's setting and do not ask again")
        panel = row(words, yes, no)
        yes.clicked.connect(opening.make_default_reader)
        for answer in (yes, no):
            answer.clicked.connect(lambda: remember("reader_asked", True))
            answer.clicked.connect(panel.hide)
        panel.setVisible(not recall("reader_asked", False) and not opening.is_default_reader())
        self.accept_reader: QPushButton = yes
        self.refuse_reader: QToolButton = no
        return panel

    # --- model ----------------------------------------------------------------------------------

    def _choose_model(self, name: str) -> None:
        with self._complaining():
            self.hub.set_model(name)
        self._fill_models()

    def _load(self) -> None:
        with self._complaining():
            path = opening.checked_model_file(self)
            if path:
                self.hub.set_model(path)
        self._fill_models()

    def _fill_models(self) -> None:
        fill_checkpoints(self.model, self.hub.models, self.hub.checkpoint)
        self._tell()
        self.model.setToolTip(self.hub.card.text if self.hub.card else "")

    def _tell(self) -> None:
        """The line under the model."""
        self.about.setText(about(self.hub.card, self._titles))
        self.about.setVisible(bool(self.about.text()))

    def _on_described(self, data: dict[str, Any]) -> None:
        self._fill_devices(data.get("devices", []))
        self._titles = titles_of(data)
        self._tell()

    # --- device ---------------------------------------------------------------------------------

    def _fill_devices(self, devices: list[dict[str, Any]]) -> None:
        with QSignalBlocker(self.device):
            self.device.clear()
            self.device.addItem("Automatic", "auto")
            for device in devices:
                self.device.addItem(device_label(device), device["name"])
            if self.device.findData(self.hub.device) < 0:
                self.device.addItem(self.hub.device, self.hub.device)
            self.device.setCurrentIndex(self.device.findData(self.hub.device))

    def _complaining(self) -> contextlib.AbstractContextManager[None]:
        return complaining(self._complain)


def fill_checkpoints(combo: QComboBox, names: Sequence[str], chosen: str) -> None:
    """Offer checkpoints, ``chosen`` being the present one; their whole paths are tooltips."""
    with QSignalBlocker(combo):
        combo.clear()
        for name in names:
            combo.addItem(Path(name).stem, name)
            combo.setItemData(combo.count() - 1, name, Qt.ItemDataRole.ToolTipRole)
        if not combo.count():
            combo.addItem("none: load a file, or train one", "")
        combo.setCurrentIndex(max(0, combo.findData(chosen)))


@contextlib.contextmanager
def complaining(complain: Callable[[str], None]) -> Any:
    """Turn our errors, lack of memory and a disk that refuses into one sentence for the dock."""
    try:
        yield
    except (AttnSegError, MemoryError, OSError, RuntimeError) as error:
        sentence = plain_sentence(error)
        if sentence is None:
            raise
        complain(sentence)


def titles_of(description: dict[str, Any] | None) -> dict[str, str]:
    """What each architecture is called, by the engine's description of itself."""
    models = (description or {}).get("models", [])
    return {m["name"]: m["title"] for m in models if m.get("title")}


def about(card: Card | None, titles: Mapping[str, str] | None = None) -> str:
    """One line on a model: its architecture, classes, channels, and how well it did on its test
    part. ``titles``: words for the names of architectures."""
    if card is None:
        return ""
    names = ", ".join(card.class_names[1:]) or "foreground"
    color = "in colour" if card.preprocessing.channels == 3 else "in grey (colour by luminance)"
    seen = "volumes" if is_3d(card) else "slices"
    color = f"in CT {seen}" if card.preprocessing.intensity == "window" else color
    dice = dict(card.metrics.get("test") or {}).get("dice")
    test = f"; test Dice {dice:.2f}" if isinstance(dice, int | float) else ""
    name = str(card.spec.get("name", ""))
    kind = (titles or {}).get(name, name)
    return f"{kind}. Finds {names} {color}{test}." if kind else f"Finds {names} {color}{test}."


def device_label(device: dict[str, Any]) -> str:
    """Name and free memory: ``"CPU (21.4 GB free)"``."""
    label = str(device.get("label") or device["name"])
    free = device.get("free_bytes")
    return f"{label} ({free / 1e9:.1f} GB free)" if free else label


def sample_for(card: Card | None) -> str:
    """Key of the shipped sample that suits a model."""
    return "phantom" if card and card.preprocessing.intensity == "window" else "nuclei"


def model_card(name: str) -> Card | None:
    """The card of a checkpoint, or ``None`` when it cannot be read."""
    try:
        return read_card(resolve_checkpoint(name))
    except AttnSegError:
        return None
