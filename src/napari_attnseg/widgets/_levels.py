"""Attention of every level: which maps are shown, and the mask before and after a level."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QGridLayout, QPushButton, QVBoxLayout, QWidget

from napari_attnseg.cards import Card
from napari_attnseg.errors import AttnSegError
from napari_attnseg.viewer.level_stacks import Key, overview
from napari_attnseg.viewer.query import query_for
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._compare import TUNED, ComparePanel, Words
from napari_attnseg.widgets._entry_slider import EntrySlider
from napari_attnseg.widgets._figures import FigureView
from napari_attnseg.widgets._keep_buttons import KeepButtons
from napari_attnseg.widgets._parts import Field, Section, button, hint, narrow, row

if TYPE_CHECKING:
    from napari_attnseg.control.questions import LevelMapFile
    from napari_attnseg.viewer.hub import Hub

FOLLOW_MS = 150
"""The maps follow the sliders when these have rested for so long: a map costs a whole pass."""
WORDS = Words(
    ("After", "Before", "Difference"),
    (
        "The labels at the values chosen above",
        "The labels with this level's attention turned off",
        "Pixels gained, lost and kept by this level's attention",
    ),
    "Before: the same network, with what attention adds at this level left out.",
    "At these values the attention of this level changes no pixel.",
)
TIPS = {
    "row": "What the asked pixel attends to (press Ask a pixel)",
    "received": "How much all other places attend to this one",
    "pointwise": "The weight that this attention gives to every pixel",
    "gate": "The share of the skip connection that is let through",
}


def _discard(widget: QWidget) -> None:
    widget.hide()
    widget.setParent(None)
    widget.deleteLater()


def words_of(found: LevelMapFile) -> str:
    """A map's words beside its box."""
    return "row of the pixel" if found.kind == "row" else found.name


def tip_of(found: LevelMapFile) -> str:
    """What a map is."""
    return TIPS.get(found.name, f"The map “{found.name}” of this place")


def range_words(ends: tuple[float, float] | None) -> str:
    """``", 0 to 0.0011"``: levels may differ by orders of magnitude, colours do not show it."""
    if ends is None:
        return ""
    low, high = (0.0 if abs(end) < 1e-3 * max(map(abs, ends)) else end for end in ends)
    return f", {low:.2g} to {high:.2g}"


def level_names(card: Card | None) -> list[str]:
    """The tunables that scale attention at a level, finest first."""
    names = [str(t.get("name", "")) for t in card.tunables] if card else []
    found = [name for name in names if re.fullmatch(r"level_\d+", name)]
    return sorted(found, key=lambda name: int(name[6:]))


def placed(card: Card | None) -> bool:
    """Whether attention stands somewhere in the model, though nothing may scale it."""
    options = dict(card.spec.get("options", {})) if card else {}
    return options.get("attention") not in (None, "", "none")


class LevelsPanel(QWidget):
    """Folded at first; opened, it asks the model what it can show on the visible slice."""

    failed = Signal(str, str)  # sentence, report

    def __init__(self, hub: Hub, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.hub, self.maps = hub, hub.levels
        self.query = query_for(hub)
        self.boxes: dict[Key, QCheckBox] = {}
        self.entries: dict[Key, EntrySlider] = {}
        self.figures: dict[Key, FigureView] = {}
        self._spots: dict[Key, QVBoxLayout] = {}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(FOLLOW_MS)
        self._timer.timeout.connect(self.maps.refresh)
        self._timer.timeout.connect(self.query.kept.refresh)
        self._build()
        self.ask.toggled.connect(self._toggle_query)
        connect_alive(self, self.maps.changed, self._fill)
        connect_alive(self, self.query.toggled, self.ask.setChecked)
        connect_alive(self, hub.model_changed, lambda _: self._on_model())
        connect_alive(self, hub.live.retuned, lambda *_: self._timer.start())
        self._on_model()

    def _build(self) -> None:
        self.fold = QPushButton()
        self.fold.setToolTip("Heat maps of every place where attention stands in this model")
        self.fold.setCheckable(True)
        self.fold.setStyleSheet("text-align: left; padding: 4px 6px;")
        self.fold.toggled.connect(self._on_fold)
        self.words = hint()
        self.list = QWidget()
        self.grid = QVBoxLayout(self.list)
        self.grid.setContentsMargins(0, 0, 0, 0)
        self.grid.setSpacing(2)
        self.ask = button(
            "Ask a pixel",
            "Shows a ring: drag it or click the image to see what attends to what. Shift+click "
            "keeps a pixel, with a number and a map of its own",
        )
        self.ask.setCheckable(True)
        self.kept = KeepButtons(self.query, self._try)
        self.keep, self.clear = self.kept.keep, self.kept.clear
        self.level = narrow(QComboBox())
        self.level.activated.connect(lambda _: self._on_level())
        self.compare = ComparePanel(self.hub, self, words=WORDS, against=self.against)
        self.compare.failed.connect(self.failed)
        tip = "The level whose attention is turned off in the comparison"
        self.before = Section("Before and after attention", Field("At", self.level, tip))
        self.before.layout().addWidget(self.compare)
        self.body = QWidget()
        inner = QVBoxLayout(self.body)
        inner.setContentsMargins(0, 2, 0, 0)
        inner.setSpacing(4)
        for part in (self.words, self.list, row(self.ask, self.kept, stretch=-1)):
            inner.addWidget(part)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(5)
        for part in (self.before, self.fold, self.body):
            box.addWidget(part)
        self._on_fold(False)

    # --- what a person can do -----------------------------------------------------------------

    def against(self) -> dict[str, float]:
        """The values of the answer that is compared with: this level off, or all of them."""
        chosen = self.level.currentData()
        names = level_names(self.hub.card) if chosen == "all" else [str(chosen)]
        return {name: 0.0 for name in names if name != "None"}

    def _on_fold(self, opened: bool) -> None:
        self.body.setVisible(opened)
        self.fold.setText(("▾" if opened else "▸") + "  Attention of every level")
        if opened and not self.maps.known:
            self._look()

    def _look(self) -> None:
        if self.hub.source is None or self.hub.card is None:
            self.words.setText("Open an image and choose a model; then its maps are listed here.")
            return
        self.words.setText("Looking at what this model shows ...")
        self._try(self.maps.look)

    def _on_level(self) -> None:
        if self.compare.mode != TUNED:
            self.compare.set_mode(self.compare.mode, again=True)

    def _on_ticked(self, key: Key, on: bool) -> None:
        if on and key[1] == "row" and not self.query.on:
            self.maps.chosen.add(key)
            self._try(self.query.start)
            return
        self._try(lambda: self.maps.choose(key, on))
        self._fill()

    def _on_entry(self, key: Key, entry: int) -> None:
        self._try(lambda: self.maps.choose_entry(key, entry))

    def _toggle_query(self, on: bool) -> None:
        if on == self.query.on:
            return
        if not self._try(self.query.start if on else self.query.stop):
            self.ask.setChecked(False)

    # --- what the model shows -----------------------------------------------------------------

    def _on_model(self) -> None:
        names = level_names(self.hub.card)
        self.setVisible(bool(names) or placed(self.hub.card))
        self.before.setVisible(bool(names))
        with QSignalBlocker(self.level):
            self.level.clear()
            for name in names:
                self.level.addItem(name.replace("_", " "), name)
            if len(names) > 1:
                self.level.addItem("all levels", "all")
        if self.fold.isChecked():
            self._look()

    def _fill(self) -> None:
        """List the maps by place; a box that is there already stays."""
        known = {(m.place, m.name): m for m in self.maps.known}
        if list(known) != list(self.boxes):
            self._rebuild(self.maps.known)
        for key, box in self.boxes.items():
            with QSignalBlocker(box):
                box.setChecked(key in self.maps.chosen)
            words = f"{words_of(known[key])}{range_words(self.maps.ranges.get(key))}"
            if key in self.maps.peaks:  # a volume: it may be somewhere else that it is strong
                words += f", most on slice {self.maps.peaks[key]}"
            box.setText(words)
            box.setToolTip(f"{tip_of(known[key])}\nHere: {words}")
            self._fill_part(known[key], key)
        words = "Tick a map to see it over the image, on its own grid; weights are drawn here."
        words = f"{words} {self.maps.about}".strip()
        self.words.setText(words if known else "This model has shown no attention map.")
        self._name_levels(self.maps.known)

    def _fill_part(self, found: LevelMapFile, key: Key) -> None:
        """What belongs to a box that is ticked: a slider through its pictures, or a figure."""
        names, values = self.maps.entries.get(key), self.maps.figures.get(key)
        shown = self.boxes[key].isChecked()
        if names is not None:
            self._fill_entries(found, key, names, shown)
        if values is None:
            return
        if shown and key not in self.figures:  # a plot is made when it is wanted: it costs
            self.figures[key] = FigureView()
            self._spots[key].addWidget(self.figures[key])
        if key in self.figures:
            self.figures[key].setVisible(shown)
        if shown:
            self.figures[key].show_figure(found, values)

    def _fill_entries(
        self, found: LevelMapFile, key: Key, names: tuple[str, ...], shown: bool
    ) -> None:
        slider = self.entries.get(key)
        if slider is None:
            slider = self.entries[key] = EntrySlider(overview(found), names)
            slider.set_entry(self.maps.stacks.entry(key))
            slider.chosen.connect(lambda entry, key=key: self._on_entry(key, entry))
            self._spots[key].addWidget(slider)
        elif slider.names != names:
            slider.set_names(names)
        slider.setVisible(shown)

    def _rebuild(self, known: tuple[LevelMapFile, ...]) -> None:
        while (item := self.grid.takeAt(0)) is not None:
            _discard(item.widget())
        self.boxes, self.entries, self.figures, self._spots = {}, {}, {}, {}
        for place in dict.fromkeys(m.place for m in known):
            mine = [m for m in known if m.place == place]
            self.grid.addWidget(self._place(mine))

    def _place(self, maps: list[LevelMapFile]) -> QWidget:
        """Title of one place, and its maps below each other."""
        panel = QWidget()
        grid = QGridLayout(panel)
        grid.setContentsMargins(0, 2, 0, 0)
        grid.setVerticalSpacing(1)
        number = maps[0].level.replace("_", " ").capitalize()
        title = hint(f"<b>{number}</b>  {maps[0].title}" if number else maps[0].title)
        grid.addWidget(title, 0, 0)
        for i, found in enumerate(maps):
            key = (found.place, found.name)
            box = QCheckBox(words_of(found))
            box.setMinimumWidth(60)  # long words are cut, they do not widen the dock
            box.toggled.connect(lambda on, key=key: self._on_ticked(key, on))
            self.boxes[key] = box
            spot = self._spots[key] = QVBoxLayout()
            spot.setContentsMargins(0, 0, 0, 0)
            spot.addWidget(box)
            grid.addLayout(spot, 1 + i, 0)
        return panel

    def _name_levels(self, known: tuple[LevelMapFile, ...]) -> None:
        """Say in the list of levels where each of them lies."""
        titles = {m.level: m.title for m in known}
        for i in range(self.level.count()):
            name = self.level.itemData(i)
            if name in titles:
                self.level.setItemText(i, f"{name.replace('_', ' ')}: {titles[name]}")

    def _try(self, call: Any) -> bool:
        try:
            call()
        except AttnSegError as error:
            self.words.setText("")
            self.failed.emit(str(error), "")
            return False
        return True
