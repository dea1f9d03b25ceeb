"""Who takes part in a bake-off: mechanisms ticked in a list, and placements of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QFrame,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_attnseg.errors import InputError
from napari_attnseg.placement import NATURAL, Placement, parse_placements, write_placements
from napari_attnseg.widgets._parts import button, hint, row
from napari_attnseg.widgets._placing import PARTS, PlacingEditor
from napari_attnseg.widgets._train_items import Item, Still
from napari_attnseg.widgets._train_model import placing_item

PLAIN = "plain U-Net"
WAITING = "Asking the engine which mechanisms there are ..."
OWN = Item("contestant", "Own", "Any mechanisms at any legal places, with options", text=True)
NAMED = 6
"""So many contestants are named below the list."""
Known = Mapping[str, Mapping[str, Any]]


def natural_words(info: Mapping[str, Any]) -> str:
    """The placement of a mechanism that stands where its role most naturally does."""
    return write_placements([Placement(NATURAL[str(info["role"])], str(info["name"]))])


def contestant_name(words: str, known: Known) -> str:
    """A contestant for people: ``"CBAM"``, ``"CBAM at bottleneck + Joint Attention"``."""
    if not words:
        return PLAIN
    return " + ".join(_placement_name(p, known) for p in parse_placements(words))


def _placement_name(placement: Placement, known: Known) -> str:
    info = known.get(placement.use, {})
    name = str(info.get("title", placement.use)).split(" (")[0]
    args = ", ".join(f"{k} {v}" for k, v in placement.args.items())
    where = "" if NATURAL.get(str(info.get("role"))) == placement.at else f" at {placement.at}"
    return f"{name}{where}" + (f" ({args})" if args else "")


class ContestantPanel(QWidget):
    """The contestants beside the plain U-Net, which always takes part."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Mapping[str, Any]] = {}
        self.own: list[tuple[QFrame, PlacingEditor]] = []
        self.levels = 4
        self._given: tuple[str, ...] = ()
        self._still = Still(self)
        self.find = QLineEdit()
        self.find.setPlaceholderText("find a mechanism")
        self.find.setClearButtonEnabled(True)
        self.find.setToolTip("Show only mechanisms whose name or paper has these words")
        self.find.textChanged.connect(self._filter)
        self.list = QListWidget()
        self.list.setFixedHeight(168)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setToolTip("Tick as many as you like; each stands in its natural place")
        self.list.itemChanged.connect(lambda _: self._edited())
        self.none = button("None", "Take all ticks away")
        self.none.clicked.connect(self.clear)
        self.add = button("+ Placement of your own", "A contestant with places and options chosen")
        self.add.clicked.connect(lambda: self.add_own(""))
        self.words = hint(WAITING)
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._box.setSpacing(4)
        for part in (row(self.find, self.none), self.list, self.add, self.words):
            self._box.addWidget(part)

    # --- reading and writing ------------------------------------------------------------------

    @property
    def value(self) -> tuple[str, ...]:
        """The contestants in words, each once; what cannot be shown yet is kept."""
        if not self.known:
            return self._given
        own = (editor.value for _, editor in self.own)
        return tuple(dict.fromkeys(w for w in (*self.ticked, *own) if w))

    @property
    def ticked(self) -> list[str]:
        """Placements of the ticked mechanisms, in the order of the list."""
        return [
            natural_words(self.known[str(item.data(Qt.ItemDataRole.UserRole))])
            for item in self._items()
            if item.checkState() == Qt.CheckState.Checked
        ]

    def show_contestants(self, value: Iterable[str]) -> None:
        """Show these contestants, without telling anybody; what is no placement is left out."""
        self._given = tuple(w for w in value if _readable(w))
        if not self.known:
            return
        wanted = list(self._given)
        with QSignalBlocker(self.list):
            for item in self._items():
                words = natural_words(self.known[str(item.data(Qt.ItemDataRole.UserRole))])
                on = words in wanted
                item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
                wanted = [w for w in wanted if w != words]
        for frame, _ in list(self.own):
            self._take(frame)
        for words in wanted:
            self.add_own(words, tell=False)
        self._say()

    def describe(self, attentions: Sequence[Mapping[str, Any]]) -> None:
        """Take the engine's description of all attentions (see ``engine.describe``)."""
        known = {str(a["name"]): a for a in attentions if 2 in a["ndim"]}
        if known == self.known:
            return  # said again: what a person is editing stays as it is
        kept = self.value
        self.known = known
        with QSignalBlocker(self.list):
            self.list.clear()
            for name, info in self.known.items():
                item = QListWidgetItem(str(info["title"]))
                item.setData(Qt.ItemDataRole.UserRole, name)
                place = PARTS[NATURAL[str(info["role"])]]
                tip = f"{info['doc']['summary']}\n{info['paper']}\nHere: {place}, all levels"
                item.setToolTip(tip)
                item.setCheckState(Qt.CheckState.Unchecked)
                self.list.addItem(item)
        self.show_contestants(kept)
        self._filter()

    def clear(self) -> None:
        """No contestant but the plain U-Net."""
        self.show_contestants(())
        self.changed.emit()

    def set_levels(self, levels: int) -> None:
        """The networks have so many skips now."""
        self.levels = levels
        for _, editor in self.own:
            editor.set_levels(levels)

    # --- own placements -----------------------------------------------------------------------

    def add_own(self, words: str, tell: bool = True) -> PlacingEditor:
        """One more contestant with a table of placements."""
        editor = PlacingEditor(OWN, self._edited, self._still, self.known, placing_item)
        editor.set_levels(self.levels)
        frame = QFrame()
        drop = button("✕", "Take this contestant out")
        drop.setMaximumWidth(28)
        drop.clicked.connect(lambda: self._remove(frame))
        box = QVBoxLayout(frame)
        box.setContentsMargins(0, 4, 0, 0)
        box.setSpacing(2)
        title = QLabel("Placement of your own")
        title.setStyleSheet("font-weight: bold;")
        box.addWidget(row(title, drop))
        box.addWidget(editor.widget)
        editor.show(words)
        self.own.append((frame, editor))
        self._box.insertWidget(self._box.indexOf(self.add), frame)
        if not words:
            editor.add.click()  # an empty one would be the plain U-Net once more
        if tell:
            self._edited()
        return editor

    def _remove(self, frame: QFrame) -> None:
        self._take(frame)
        self._edited()

    def _take(self, frame: QFrame) -> None:
        self.own = [pair for pair in self.own if pair[0] is not frame]
        frame.hide()
        frame.setParent(None)
        frame.deleteLater()

    # --- inside -------------------------------------------------------------------------------

    def _items(self) -> list[QListWidgetItem]:
        found = (self.list.item(i) for i in range(self.list.count()))
        return [item for item in found if item is not None]

    def _edited(self) -> None:
        self._given = self.value
        self._say()
        self.changed.emit()

    def _filter(self) -> None:
        wanted = self.find.text().casefold().split()
        for item in self._items():
            text = f"{item.text()} {item.data(Qt.ItemDataRole.UserRole)} {item.toolTip()}"
            item.setHidden(not all(word in text.casefold() for word in wanted))

    def _say(self) -> None:
        names = [contestant_name(words, self.known) for words in self.value]
        if not names:
            self.words.setText(
                "Tick the mechanisms that shall be compared; the plain U-Net always takes part."
            )
            return
        seen, more = ", ".join(names[:NAMED]), len(names) - NAMED
        seen += f" and {more} more" if more > 0 else ""
        self.words.setText(f"<b>{len(names)}</b> and the {PLAIN}: {seen}.{self._twice()}")

    def _twice(self) -> str:
        """An own placement that is ticked as well, or stands there twice."""
        own = [editor.value for _, editor in self.own if editor.value]
        left = len(self.ticked) + len(own) - len(self.value)
        return " One that stands there twice counts once." if left else ""


def _readable(words: str) -> bool:
    try:
        return bool(parse_placements(words))
    except InputError:
        return False
