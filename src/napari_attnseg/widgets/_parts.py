"""Small parts that the docks are made of: layer lists that follow, groups, hints, buttons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QCoreApplication, QEvent, QObject, QSignalBlocker, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_attnseg.viewer.hub import is_result, unwrapped
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.preferences import recall, remember

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import ViewerModel


NEVER = ("errors",)
"""What we make to be looked at alone: an error map is no mask."""
LAYOUT_DEPTH = 6
"""Layouts between a label and the dock."""


def settle_layouts() -> None:
    """Every changed word moves a layout, one parent per turn of the event loop, and Qt composes
    the whole window in each of these turns: all of them now, so that one frame shows the change."""
    for _ in range(LAYOUT_DEPTH):
        QCoreApplication.sendPostedEvents(None, QEvent.Type.LayoutRequest.value)


def behind(dock: QWidget) -> bool:
    """Whether the window is open but ``dock`` is not seen: closed, or behind another tab."""
    window = dock.window()
    return window is not dock and window.isVisible() and not dock.isVisible()


class LayerCombo(QComboBox):
    """A choice of layers that follows the layer list; nobody types a name.

    ``kinds``: ``"image"``, ``"labels"``, ...; ``results``: also offer layers that we made;
    ``optional``: the words of a first entry that stands for no layer, for example ``"none"``.
    """

    layer_changed = Signal(object)  # Layer | None

    def __init__(
        self,
        viewer: ViewerModel,
        kinds: tuple[str, ...] = ("image",),
        *,
        results: bool = False,
        optional: str = "",
        empty: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        viewer = unwrapped(viewer)
        self._viewer, self._kinds = viewer, tuple(kind.capitalize() for kind in kinds)
        self._results, self._optional, self._empty = results, optional, empty
        self._renaming: set[int] = set()
        self._layers: list[Layer | None] = []
        narrow(self)
        for event in ("inserted", "removed", "reordered"):
            getattr(viewer.layers.events, event).connect(self._refill)
        self.destroyed.connect(lambda *_: disconnect_list(viewer, self._refill))
        self.currentIndexChanged.connect(lambda _: self.layer_changed.emit(self.layer))
        self._refill()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer, or ``None``."""
        i = self.currentIndex()
        return self._layers[i] if 0 <= i < len(self._layers) else None

    def choose(self, layer: Layer | None) -> None:
        """Show ``layer`` as chosen, if it is in the list."""
        if layer is not self.layer and any(x is layer for x in self._layers):
            self.setCurrentIndex(next(i for i, x in enumerate(self._layers) if x is layer))

    def _fits(self, layer: Layer) -> bool:
        entry = layer.metadata.get(METADATA)
        if isinstance(entry, dict) and entry.get("what") in NEVER:
            return False
        names = {cls.__name__ for cls in type(layer).__mro__}
        return not names.isdisjoint(self._kinds) and (self._results or not is_result(layer))

    def _refill(self, event: Any = None) -> None:
        before = self.layer
        fitting = [x for x in self._viewer.layers if self._fits(x)]
        for layer in fitting:
            if id(layer) not in self._renaming:
                self._renaming.add(id(layer))
                layer.events.name.connect(self._refill)
        with QSignalBlocker(self):
            self.clear()
            self._layers = [*([None] if self._optional else []), *reversed(fitting)]
            for layer in self._layers:
                self.addItem(layer.name if layer is not None else self._optional)
            if not self._layers and self._empty:
                self.addItem(self._empty)
            kept = next((i for i, x in enumerate(self._layers) if x is before), 0)
            self.setCurrentIndex(kept)
        self.setEnabled(bool(self._layers))
        if self.layer is not before:
            self.layer_changed.emit(self.layer)


def disconnect_list(viewer: ViewerModel, slot: Any) -> None:
    """Stop a list of layers from being followed."""
    for event in ("inserted", "removed", "reordered"):
        getattr(viewer.layers.events, event).disconnect(slot)


class _WheelPasses(QObject):
    """Who scrolls a dock must not choose another model because a combo box came under the mouse:
    the wheel is for the box only once it was pressed or tabbed to."""

    def eventFilter(self, combo: QObject, event: QEvent) -> bool:
        passes = event.type() == QEvent.Type.Wheel and not combo.hasFocus()
        if passes:
            event.ignore()  # the parents are asked
        return passes


def narrow(combo: QComboBox) -> QComboBox:
    """Let a combo box be narrower than its longest entry (docks are 300 px wide), and leave the
    wheel to the dock."""
    combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # by default the wheel itself takes the focus
    combo.installEventFilter(_WheelPasses(combo))
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(6)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def button(text: str, tip: str, shortcut: str = "") -> QPushButton:
    """A button with a tooltip and, if it has one, its shortcut in its text."""
    made = QPushButton(text)
    made.setToolTip(tip)
    if shortcut:
        set_shortcut(made, text, shortcut)
    return made


def set_shortcut(made: QPushButton, text: str, shortcut: str) -> None:
    """Change a button's words and keep its shortcut (Qt drops it with the text)."""
    keys = QKeySequence(shortcut)
    made.setText(f"{text} ({keys.toString(QKeySequence.SequenceFormat.NativeText)})")
    made.setShortcut(keys)


def thin_bar() -> QProgressBar:
    """A progress bar that takes no more room than it needs to be seen."""
    bar = QProgressBar()
    bar.setTextVisible(False)
    bar.setFixedHeight(6)
    return bar


def ask_target(parent: QWidget, title: str, name: str, kinds: str) -> str:
    """Ask where to write a file; ``""``: nowhere. The folder is remembered for the next export."""
    folder = Path(str(recall("export_folder", recall("folder", str(Path.home())))))
    path, _ = QFileDialog.getSaveFileName(parent, title, str(folder / name), kinds)
    if path:
        remember("export_folder", str(Path(path).parent))
    return str(path)


def later(owner: QWidget, milliseconds: int, call: Callable[[], None]) -> None:
    """Call once after a while, unless ``owner`` is gone by then."""
    timer = QTimer(owner)
    timer.setSingleShot(True)
    timer.timeout.connect(call)
    timer.timeout.connect(timer.deleteLater)
    timer.start(milliseconds)


class Words(QLabel):
    """Words that wrap: their height is that of their width, and nothing more is asked for.

    Qt asks for the height of a narrower label, and the dock would scroll with room to spare.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.setWordWrap(True)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def minimumSizeHint(self) -> QSize:
        return QSize(0, self.fontMetrics().height())


def hint(text: str = "") -> QLabel:
    """A quiet line of explanation that wraps and never widens the dock."""
    label = Words(text)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.setStyleSheet("font-size: 11px;")
    return label


def row(*widgets: QWidget, stretch: int = 0) -> QWidget:
    """Widgets side by side; the one at ``stretch`` takes the free room."""
    box = QWidget()
    line = QHBoxLayout(box)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(4)
    for i, widget in enumerate(widgets):
        line.addWidget(widget, 1 if i == stretch else 0)
    return box


class Field(QWidget):
    """A caption above its widget, so that both have the whole width of a narrow dock."""

    def __init__(self, caption: str, widget: QWidget, tip: str = "") -> None:
        super().__init__()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(2)
        self.caption = QLabel(caption)
        self.caption.setToolTip(tip)
        widget.setToolTip(widget.toolTip() or tip)
        box.addWidget(self.caption)
        box.addWidget(widget)


class Section(QFrame):
    """A titled group with a line above it."""

    def __init__(self, title: str, *widgets: QWidget) -> None:
        super().__init__()
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 6, 0, 0)
        box.setSpacing(4)
        heading = QLabel(title)
        heading.setStyleSheet("font-weight: bold;")
        for widget in (separator(), heading, *widgets):
            box.addWidget(widget)


def separator() -> QFrame:
    """A thin line across the dock, to be seen in both themes."""
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    line.setFixedHeight(1)
    line.setStyleSheet("background: rgba(128, 128, 128, 90); border: none;")
    return line


def into_view(widget: QWidget) -> None:
    """Scroll the dock so far that ``widget`` is seen, once its layout has settled."""
    area = widget.parentWidget()
    while area is not None and not isinstance(area, QScrollArea):
        area = area.parentWidget()
    if area is None:
        return

    def look() -> None:
        settle_layouts()
        area.ensureWidgetVisible(widget, 0, 8)

    later(widget, 150, look)


def scrolling(content: QWidget) -> QScrollArea:
    """``content`` in an area that scrolls up and down only."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(content)
    return area
