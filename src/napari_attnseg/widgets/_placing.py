"""Attention at places of a network, as a small table: which, where, with which options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qtpy.QtCore import QObject, QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QComboBox, QFrame, QPushButton, QVBoxLayout, QWidget

from napari_attnseg.errors import InputError
from napari_attnseg.placement import SINGLE, Placement, parse_placements, write_placements
from napari_attnseg.widgets._parts import button, hint, narrow, row
from napari_attnseg.widgets._train_items import Item, ItemEditor, grid_of, same

FIRST = "cbam"
"""What a new row begins with, if it is known."""
PARTS = {
    "encoder": "encoder",
    "bottleneck": "bottleneck (deepest)",
    "skip": "skip",
    "up": "after doubling",
    "decoder": "decoder",
    "head": "before the classes",
}
"""Parts of the network in words."""
Maker = Callable[[str, Mapping[str, Any]], Item]


def places_of(legal: list[str], levels: int) -> dict[str, str]:
    """Selectors of all places where a role may stand, each with words for people."""
    found: dict[str, str] = {}
    for part in legal:
        if part in SINGLE:
            found[part] = PARTS[part]
            continue
        found[part] = f"{PARTS[part]}, all levels"
        if levels > 1:
            found[f"{part}[1:]"] = f"{PARTS[part]}, all but the finest"
        for i in range(levels):
            grid = "full" if i == 0 else f"1/{2**i}"
            found[f"{part}[{i}]"] = f"{PARTS[part]} {i} ({grid} resolution)"
    return found


class PlacementRow(QFrame):
    """One placement; ``known``: the attentions as ``attention_info`` tells of them, by name."""

    changed = Signal()
    removed = Signal()

    def __init__(
        self, known: Mapping[str, Mapping[str, Any]], levels: int, make: Maker, still: QObject
    ) -> None:
        super().__init__()
        self.known, self.levels, self._make, self._still = known, levels, make, still
        self.args: dict[str, Any] = {}
        self.editors: dict[str, ItemEditor] = {}
        self.use = narrow(QComboBox())
        for name, info in known.items():
            self.use.addItem(str(info["title"]), name)
            tip = f"{info['paper']}. {info['doc']['summary']}"
            self.use.setItemData(self.use.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.at = narrow(QComboBox())
        self.at.setToolTip("Where in the network it stands; only legal places are listed")
        self.fold = button("Options", "The options of this attention")
        self.fold.setCheckable(True)
        self.fold.toggled.connect(self._on_fold)
        self.drop = button("✕", "Take this attention out")
        self.drop.setMaximumWidth(28)
        self.drop.clicked.connect(self.removed)
        self.options = QWidget()
        for combo in (self.use, self.at):
            combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            combo.installEventFilter(still)
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(6, 2, 0, 4)
        self._box.setSpacing(2)
        self._box.addWidget(row(self.use, self.drop))
        self._box.addWidget(row(self.at, self.fold))
        self._box.addWidget(self.options)
        self.use.currentIndexChanged.connect(lambda _: self._on_use())
        self.at.currentIndexChanged.connect(lambda _: self.changed.emit())

    @property
    def placement(self) -> Placement:
        """What the row says; options at their default are left out."""
        return Placement(str(self.at.currentData()), str(self.use.currentData()), dict(self.args))

    def show_placement(self, placement: Placement) -> None:
        """Show it without telling anybody; unknown names and selectors are kept as they are."""
        with QSignalBlocker(self.use), QSignalBlocker(self.at):
            if self.use.findData(placement.use) < 0:
                self.use.addItem(placement.use, placement.use)
            self.use.setCurrentIndex(self.use.findData(placement.use))
            self._fill_places(placement.at)
        self.args = dict(placement.args)
        self._fill_options()

    def _on_use(self) -> None:
        with QSignalBlocker(self.at):
            self._fill_places(str(self.at.currentData()))
            if not self._legal():
                self.at.removeItem(self.at.currentIndex())
                self.at.setCurrentIndex(0)
        self.args = {}
        self._fill_options()
        self.changed.emit()

    def _info(self) -> Mapping[str, Any]:
        return self.known.get(str(self.use.currentData()), {})

    def _legal(self) -> bool:
        return str(self.at.currentData()) in places_of(self._places(), self.levels)

    def _places(self) -> list[str]:
        return [str(part) for part in self._info().get("places", [])]

    def _fill_places(self, at: str) -> None:
        self.at.clear()
        for selector, words in places_of(self._places(), self.levels).items():
            self.at.addItem(words, selector)
        if self.at.findData(at) < 0:
            self.at.addItem(at, at)  # a slice as skip[1:], or a place that this one cannot take
        self.at.setCurrentIndex(self.at.findData(at))

    def _fill_options(self) -> None:
        old = self.options
        arguments = {str(a["name"]): a for a in self._info().get("arguments", [])}
        self.editors = {}
        for name, argument in arguments.items():
            item = self._make(name, argument)
            editor = ItemEditor(item, lambda name=name: self._edited(name), self._still)  # type: ignore[misc]
            editor.show(self.args.get(name, argument["default"]))
            self.editors[name] = editor
        self.options = grid_of(self.editors.values())
        self.options.setVisible(self.fold.isChecked())
        self._box.replaceWidget(old, self.options)
        old.hide()
        old.setParent(None)
        old.deleteLater()
        self.fold.setVisible(bool(arguments))
        summary = self._info().get("doc", {}).get("summary", "")
        self.use.setToolTip(f"{self._info().get('paper', '')}. {summary}".strip(". "))

    def _edited(self, name: str) -> None:
        default = next(a["default"] for a in self._info()["arguments"] if a["name"] == name)
        value = self.editors[name].value
        self.args.pop(name, None)
        if not same(value, default):
            self.args[name] = value
        self.changed.emit()

    def _on_fold(self, opened: bool) -> None:
        self.options.setVisible(opened)


class PlacingEditor:
    """All placements of a network; reads and writes as ``ItemEditor`` does."""

    wide = True

    def __init__(
        self,
        item: Item,
        changed: Callable[[], None],
        still: QObject,
        known: Mapping[str, Mapping[str, Any]],
        make: Maker,
    ) -> None:
        self.item, self._changed, self._still = item, changed, still
        self.known, self._make = known, make
        self.levels = 4
        self.label: QWidget | None = None
        self.rows: list[PlacementRow] = []
        self.widget = QWidget()
        self.widget.setToolTip(item.tip)
        self.words = hint()
        self.add = QPushButton("+ Add attention")
        self.add.setToolTip("Put one more attention into the network")
        self.add.clicked.connect(self._add)
        self._box = QVBoxLayout(self.widget)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._box.setSpacing(2)
        self._box.addWidget(self.words)
        self._box.addWidget(self.add)
        self._say()

    @property
    def value(self) -> str:
        """The placements in words (see ``placement``)."""
        return write_placements(r.placement for r in self.rows)

    def show(self, value: Any) -> None:
        """Show placements without telling anybody; raises nothing: what is no placement is said."""
        problem = ""
        try:
            placements = parse_placements(str(value or ""))
        except InputError as error:
            placements, problem = (), str(error)
        while len(self.rows) > len(placements):
            self._take(self.rows[-1])
        while len(self.rows) < len(placements):
            self._insert()
        for shown, placement in zip(self.rows, placements, strict=True):
            if shown.placement != placement:
                shown.show_placement(placement)
        self._say(problem)

    def set_levels(self, levels: int) -> None:
        """The network has so many skips now."""
        if levels == self.levels:
            return
        self.levels = levels
        for shown in self.rows:
            shown.levels = levels
            shown.show_placement(shown.placement)

    def set_visible(self, on: bool) -> None:
        """Show or hide the whole table."""
        self.widget.setVisible(on)

    def _add(self) -> None:
        use = FIRST if FIRST in self.known else next(iter(self.known), "smooth")
        legal = [str(p) for p in self.known.get(use, {}).get("places", ["skip"])]
        at = "skip" if "skip" in legal else legal[0]
        self._insert().show_placement(Placement(at, use))
        self._edited()

    def _insert(self) -> PlacementRow:
        made = PlacementRow(self.known, self.levels, self._make, self._still)
        made.changed.connect(self._edited)
        made.removed.connect(lambda: self._remove(made))
        self.rows.append(made)
        self._box.insertWidget(self._box.count() - 2, made)
        return made

    def _remove(self, gone: PlacementRow) -> None:
        self._take(gone)
        self._edited()

    def _take(self, gone: PlacementRow) -> None:
        self.rows.remove(gone)
        self._box.removeWidget(gone)
        gone.hide()
        gone.setParent(None)
        gone.deleteLater()

    def _edited(self) -> None:
        self._say()
        self._changed()

    def _say(self, problem: str = "") -> None:
        nothing = "" if self.rows else "No attention: a plain U-Net."
        self.words.setText(problem or nothing)
        self.words.setVisible(bool(problem or nothing))
