"""Which network is trained: its card, its options, and the weights its encoder starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QComboBox, QFileDialog, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_attnseg.placement import parse_placements
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.widgets._parts import Field, button, hint, narrow, row
from napari_attnseg.widgets._placing import PlacingEditor
from napari_attnseg.widgets._train_items import Item, ItemEditor, Still, grid_of, same

QUIET = (
    "border", "dropout", "finest", "key_channels", "levels", "norm", "parallel_merge", "scale",
    "shortcut", "sigma", "up",
)  # fmt: skip
"""Options of the papers' fine print: under More options."""
ELSEWHERE = ("rule", "threshold")
"""Options that are training values of their own."""
AXES_WORDS = {2: "slices (2D)", 3: "volumes (3D)"}
IN_VOLUMES = "bottleneck=nonlocal"
"""What stands in a network of volumes whose own default knows slices alone."""
IMAGENET = "imagenet"
FILTER = "Weights (*.safetensors *.pt *.pth)"


class ModelPanel(QWidget):
    """Model, card, options, encoder weights. ``values``: the options that were said, by name."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, dict[str, Any]] = {}
        self.values: dict[str, Any] = {}
        self.weights = ""
        self.own: tuple[str, Mapping[str, Any], str] = ("", {}, "")  # of the recipe
        self._all: dict[str, dict[str, Any]] = {}
        self.editors: dict[str, ItemEditor | PlacingEditor] = {}
        self._still = Still(self)
        self._name = "smooth_unet"
        self.combo = narrow(QComboBox())
        self.combo.activated.connect(lambda i: self._choose(str(self.combo.itemData(i))))
        self.about = hint()
        self.about.setTextFormat(Qt.TextFormat.RichText)
        self.start = narrow(QComboBox())
        self.start.activated.connect(lambda i: self._start_from(str(self.start.itemData(i))))
        self.file = button("File...", "A local file of published weights (.safetensors, .pt)")
        self.file.clicked.connect(self._choose_file)
        tip = "Random, published ImageNet weights, or a file of them"
        self.start_field = Field("Encoder starts from", row(self.start, self.file), tip)
        self.start_field.hide()
        self.main, self.more = QWidget(), folded("More options")
        self.more.toggleButton().setToolTip("The model's fine print")
        self.more.setDuration(0)
        self.more.content().layout().setContentsMargins(0, 0, 0, 0)
        self._quiet = QWidget()
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(0, 0, 0, 0)
        self._box.setSpacing(4)
        self._box.addWidget(Field("Model", self.combo, "The network that is trained"))
        for part in (self.about, self.main, self.more, self.start_field):
            self._box.addWidget(part)
        self.more.hide()
        self._fill_combo()
        self._fill_start()

    # --- what is chosen -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    @property
    def ndim(self) -> int:
        """2 for a model of slices, 3 for one of volumes."""
        return 3 if self.values.get("ndim", self.default("ndim")) == 3 else 2

    @property
    def attentions(self) -> dict[str, dict[str, Any]]:
        """What can be placed in a model of so many axes, by name."""
        return {name: a for name, a in self._all.items() if self.ndim in a["ndim"]}

    @property
    def has_threshold(self) -> bool:
        """Whether the model compares attention with a threshold (before it is described: only
        ``smooth_unet`` is known to)."""
        known = self.models.get(self._name)
        if known is None:
            return self._name == "smooth_unet"
        return any(t["name"] == "threshold" for t in known["tunables"])

    @property
    def has_gamma(self) -> bool:
        """Whether an attention branch of the model has a learned weight, gamma."""
        words = str(self.values.get("attention", self.default("attention")) or "")
        placed = re.findall(r"=\s*(\w+)", words)
        return self.has_threshold or any(
            self.attentions.get(use, {}).get("weighed_by") for use in placed
        )

    def describe(
        self, models: list[dict[str, Any]], attentions: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Take the engine's description of all models and attentions (see ``engine.describe``)."""
        self._all = {a["name"]: a for a in attentions}
        fit = [m for m in models if m.get("ndim", 2) == 2 and not m.get("needs_coarse")]
        self.models = {m["name"]: m for m in fit}
        self._fill_combo()
        self._rebuild()

    def show(self, name: str, options: Mapping[str, Any], weights: str) -> None:  # type: ignore[override]
        """Show a model with these options, without telling anybody."""
        fresh, before = name != self._name or not self.editors, self.ndim
        self._name, self.values, self.weights = name, dict(options), weights
        fresh = fresh or self.ndim != before
        if fresh:
            self._fill_combo()
            self._rebuild()
        for option, editor in self.editors.items():
            editor.show(self.values.get(option, self.default(option)))
        self._tell_levels()
        self._fill_start()

    def set_option(self, option: str, value: Any) -> None:
        """Change one option, as the person would."""
        self.values[option] = value
        if option == "ndim":
            self._rebuild()
        if option in self.editors:
            self.editors[option].show(value)

    def default(self, option: str) -> Any:
        """An option's own default (``None`` when it is unknown)."""
        known = self.models.get(self._name, {}).get("arguments", [])
        return next((a["default"] for a in known if a["name"] == option), None)

    def differs(self, options: Mapping[str, Any]) -> list[str]:
        """Captions of the options that are not as in ``options``."""
        names = dict.fromkeys((*options, *self.values))

        def pair(name: str) -> tuple[Any, Any]:
            own = self.default(name)
            return self.values.get(name, own), options.get(name, own)

        return [caption(name) for name in names if not same(*pair(name))]

    def show_figures(self, found: Mapping[str, Any], size: int) -> None:
        """Write the card: what the chosen options cost, and where attention stands."""
        sides = "&nbsp;x&nbsp;".join(map(str, found.get("size") or (size, size)))
        words = [
            f"<b>{count(found['parameters'])}</b> parameters, <b>{found['macs'] / 1e9:.2f}</b> "
            f"GMACs at {sides}",
            where(found["places"]),
        ]
        self._about(words)
        self.start_field.setVisible(bool(found.get("weights")))

    def show_problem(self, sentence: str) -> None:
        """These options make no model."""
        self._about([f"<b>✗</b> {sentence}"])

    # --- inside -------------------------------------------------------------------------------

    def _about(self, lines: list[str]) -> None:
        paper = self.models.get(self._name, {}).get("paper", "")
        self.about.setText("<br>".join([*lines, *([f"<i>{paper}</i>"] if paper else [])]))

    def _choose(self, name: str) -> None:
        if name != self._name:
            mine, options, weights = self.own
            self.show(name, *((options, weights) if name == mine else ({}, "")))
            self.changed.emit()

    def _fill_combo(self) -> None:
        with QSignalBlocker(self.combo):
            self.combo.clear()
            for name, model in self.models.items():
                self.combo.addItem(model.get("title") or name, name)
                tip = model.get("paper") or name
                self.combo.setItemData(self.combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
            if self.combo.findData(self._name) < 0:
                self.combo.addItem(self._name, self._name)
            self.combo.setCurrentIndex(self.combo.findData(self._name))

    def _rebuild(self) -> None:
        """Editors for the options of this model, made from its builder's arguments."""
        model = self.models.get(self._name, {})
        tip = str(model.get("doc", ""))
        choices: dict[str, list[Any]] = model.get("choices", {})
        self.editors = {}
        for argument in model.get("arguments", []):
            name = argument["name"]
            if name not in ELSEWHERE:
                made = item_of(
                    name, argument["default"], argument["annotation"], choices, tip_of(name, tip)
                )
                editor = self._editor(name, made)
                editor.show(self.values.get(name, argument["default"]))
                self.editors[name] = editor
        self._tell_levels()
        self._swap(self.main, [e for n, e in self.editors.items() if n not in QUIET])
        quiet = [e for n, e in self.editors.items() if n in QUIET]
        _discard(self._quiet)
        self._quiet = grid_of(quiet)
        self.more.addWidget(self._quiet)
        self.more.setVisible(bool(quiet))
        self._about([where(model["places"])] if model else [])

    def _editor(self, name: str, item: Item) -> ItemEditor | PlacingEditor:
        edited = partial(self._edited, name)
        if name == "attention" and item.text:
            return PlacingEditor(item, edited, self._still, self.attentions, placing_item)
        return ItemEditor(item, edited, self._still)

    def _tell_levels(self) -> None:
        """Where attention is placed, the places follow the number of levels."""
        placing, levels = self.editors.get("attention"), self.editors.get("levels")
        if isinstance(placing, PlacingEditor) and levels is not None:
            placing.set_levels(int(levels.value))

    def _swap(self, old: QWidget, editors: list[ItemEditor | PlacingEditor]) -> None:
        self.main = grid_of(editors)
        self._box.replaceWidget(old, self.main)
        _discard(old)

    def _edited(self, name: str) -> None:
        self.values[name] = self.editors[name].value
        if name == "ndim":  # other attention can be placed
            self._legal_attention()
            self._rebuild()
        self._tell_levels()
        self.changed.emit()

    def _legal_attention(self) -> None:
        """The attention that nobody chose gives way to one that knows these axes."""
        default = self.default("attention")
        placing = isinstance(self.editors.get("attention"), PlacingEditor)
        if not placing or self.values.get("attention", default) not in (default, IN_VOLUMES):
            return
        legal = {p.use for p in parse_placements(str(default))} <= self.attentions.keys()
        self.values["attention"] = default if legal else IN_VOLUMES

    # --- encoder weights ----------------------------------------------------------------------

    def _fill_start(self) -> None:
        with QSignalBlocker(self.start):
            self.start.clear()
            self.start.addItem("random weights", "")
            self.start.addItem("ImageNet weights", IMAGENET)
            if self.weights not in ("", IMAGENET):
                self.start.addItem(Path(self.weights).name, self.weights)
            self.start.setCurrentIndex(max(0, self.start.findData(self.weights)))

    def _start_from(self, weights: str) -> None:
        self.weights = weights
        self.changed.emit()

    def _choose_file(self) -> None:
        folder = str(recall("weights_folder", str(Path.home())))
        path, _ = QFileDialog.getOpenFileName(self, "Encoder weights", folder, FILTER)
        if path:
            remember("weights_folder", str(Path(path).parent))
            self.weights = path
            self._fill_start()
            self.changed.emit()


def _discard(widget: QWidget) -> None:
    """Out of sight at once; it may still be telling of the edit that replaces it."""
    widget.hide()
    widget.setParent(None)
    widget.deleteLater()


def item_of(
    name: str, default: Any, annotation: str, choices: Mapping[str, list[Any]], tip: str
) -> Item:
    """The editor that suits an argument: choices, a tick, a whole number, a number, words."""
    path, words = f"options.{name}", caption(name)
    if name in choices:
        shown = tuple(AXES_WORDS.get(c, str(c)) for c in choices[name]) if name == "ndim" else ()
        return Item(path, words, tip, choices=tuple(choices[name]), shown=shown)
    if isinstance(default, bool):
        return Item(path, words, tip, flag=True)
    if isinstance(default, str):
        return Item(path, words, tip, text=True)
    if isinstance(default, float):
        return Item(path, words, tip, 0.01 if name == "width" else 0, 100, 3)
    optional = default is None or "None" in annotation
    if optional:
        return Item(path, words, tip, 0, 100_000, 0, none=0, special="as published")
    return Item(path, words, tip, 0, 100_000, 0)


def placing_item(name: str, argument: Mapping[str, Any]) -> Item:
    """The editor of an attention's option (see ``attention_info``)."""
    choices = {name: list(argument["choices"])} if argument["choices"] else {}
    tip = str(argument["doc"]).replace("``", "").replace('"', "") or caption(name)
    return item_of(name, argument["default"], str(argument["type"]), choices, tip)


def tip_of(name: str, doc: str) -> str:
    """The part of a model's description that names this option, without code marks."""
    parts = re.split(r"(?<=[.;])\s+", doc.replace(" (see the module)", ""))
    mine = [part.rstrip(";.") for part in parts if f"``{name}``" in part]
    words = "; ".join(mine).replace("``", "").replace('"', "")
    return f"{words[:1].upper()}{words[1:]}" or f"{caption(name)}: as in the model's paper"


def folded(title: str) -> QCollapsible:
    """A group that opens; its arrow points to the right while it is closed. The arrow is written,
    not drawn: an icon would keep the colour it was made in, whatever the theme."""
    made = QCollapsible(f"▸  {title}", expandedIcon=QIcon(), collapsedIcon=QIcon())
    made.toggled.connect(lambda opened: made.setText(("▾" if opened else "▸") + f"  {title}"))
    return made


def caption(name: str) -> str:
    """``parallel_merge`` as ``Parallel merge``."""
    words = {"width": "Network width", "stride": "Grid stride", "ndim": "Made for"}
    return words.get(name, name.replace("_", " ").capitalize())


def count(number: int) -> str:
    """``31.6 M``, ``656 k``."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def where(places: list[dict[str, Any]]) -> str:
    """The places of attention in one line."""
    if not places:
        return "No attention."
    titles = [str(p["title"]) for p in places]
    if len(titles) == 1:
        return f"Attention: {titles[0]}"
    strides = [int(p["stride"]) for p in places]
    grids = ", ".join("full" if s == 1 else f"1/{s}" for s in strides)
    return f"Attention on {len(titles)} grids: {grids}"
