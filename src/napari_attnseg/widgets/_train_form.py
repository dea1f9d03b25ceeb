"""The training settings as a form: a recipe, the main values, everything else under Advanced."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_attnseg.settings import (
    LOSS_NAMES,
    OPTIMIZERS,
    RECIPE_WORDS,
    RECIPES,
    RULES,
    TrainSettings,
)
from napari_attnseg.widgets._parts import Field, button, hint, narrow, row


@dataclass(frozen=True)
class Item:
    """One value of the form. ``path``: field of ``TrainSettings``, or ``options.x``, or
    ``preprocessing.x``. ``none``: the number that stands for ``None`` (shown as ``special``)."""

    path: str
    caption: str
    tip: str
    low: float = 0.0
    high: float = 1.0
    decimals: int = -1
    choices: tuple[Any, ...] = ()
    none: float | None = None
    special: str = ""
    flag: bool = False


MAIN = (
    Item("epochs", "Epochs", "Passes over the training pixels; more is slower", 1, 10000, 0),
    Item("validation", "Validation part", "Part of the pairs that is not learnt from but "
         "judges the model and picks the best epoch", 0, 0.9, 2),
)  # fmt: skip
ADVANCED = (
    Item("batch", "Batch", "Crops or images per step", 1, 512, 0),
    Item("lr", "Step size", "Learning rate of all weights but gamma", 1e-6, 1.0, 6),
    Item("optimizer", "Optimiser", "Adam, AdamW with weight decay, or SGD with momentum",
         choices=OPTIMIZERS),
    Item("weight_decay", "Weight decay", "Pull of the weights towards 0 (AdamW)", 0, 1, 6),
    Item("schedule", "Schedule", "How the step size changes over the epochs",
         choices=("none", "cosine", "onecycle")),
    Item("loss", "Loss", "bce: cross-entropy; dicece: the same plus Dice; focal, tversky: for "
         "rare classes",
         choices=LOSS_NAMES),
    Item("patience", "Patience", "Stop when the validation Dice has not risen for so many epochs",
         0, 10000, 0, special="never stop early"),
    Item("crop", "Crop", "Side of the random crops in pixels", 0, 4096, 0, none=0,
         special="whole images"),
    Item("augment", "Augment", "Mirror, turn and vary contrast at random", flag=True),
    Item("options.width", "Network width", "Share of the full number of channels; 1 is the "
         "paper's network, 0.25 is about 10 times faster", 0.05, 2, 3),
    Item("options.stride", "Grid stride", "Pixels per attention cell: smaller is finer",
         choices=(8, 16, 32)),
    Item("rule", "Rule", "What the threshold does: eq. 8 of the paper, the authors' "
         "code, or the paper's prose", choices=RULES),
    Item("threshold", "Threshold", "Trained threshold, also the slider's start; 2 is plain "
         "attention", 0, 2, 3),
    Item("threshold_draw", "Drawn as", "fixed: always the threshold above; quantile: a "
         "random one for every batch, so that all thresholds work",
         choices=("fixed", "quantile")),
    Item("gamma_start", "Gamma at start", "Weight of the attention branch before training",
         -10, 10, 3),
    Item("gamma_lr_factor", "Gamma step x", "Step size of gamma as a multiple of the others",
         0, 1000, 2),
    Item("preprocessing.channels", "Channels", "1: grey; 3: colour", choices=(1, 3)),
    Item("preprocessing.intensity", "Intensity", "percentile: each image's own range; unit: the "
         "data type's range; window: the fixed range below (CT)",
         choices=("percentile", "unit", "window")),
    Item("preprocessing.low", "Low", "Percentile, or raw value of the window, that becomes 0",
         -100000, 100000, 2),
    Item("preprocessing.high", "High", "Percentile, or raw value of the window, that becomes 1",
         -100000, 100000, 2),
    Item("preprocessing.size", "Working size", "Resize every image to this square",
         0, 4096, 0, none=0, special="own size"),
    Item("seed", "Seed", "Equal seeds and data give equal models on one CPU", 0, 2**31 - 1, 0),
)  # fmt: skip
OPTION_DEFAULTS = {"width": 1.0, "stride": 32}


def get_value(settings: TrainSettings, path: str) -> Any:
    """The value at ``path``."""
    head, _, name = path.partition(".")
    if not name:
        return getattr(settings, head)
    if head == "options":
        return settings.options.get(name, OPTION_DEFAULTS[name])
    return getattr(settings.preprocessing, name)


def with_value(settings: TrainSettings, path: str, value: Any) -> TrainSettings:
    """The same settings with one value changed."""
    head, _, name = path.partition(".")
    if not name:
        return replace(settings, **{head: value})
    if head == "options":
        return replace(settings, options={**settings.options, name: value})
    pre = settings.preprocessing
    if name == "channels":  # mean and std follow
        pre = replace(pre, mean=(pre.mean[0],) * value, std=(pre.std[0],) * value)
    return replace(settings, preprocessing=replace(pre, **{name: value}))


class _Still(QObject):
    """A wheel over a closed field scrolls the dock instead of changing the value."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Let the wheel through only where the person has clicked first."""
        wheel = event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget)
        if wheel and not watched.hasFocus():
            event.ignore()
            return True
        return super().eventFilter(watched, event)


class ItemEditor:
    """The widget of one item, with one way to read and write it."""

    def __init__(self, item: Item, changed: Callable[[], None], still: QObject) -> None:
        self.item = item
        self.widget: QCheckBox | QComboBox | QSpinBox | QDoubleSpinBox
        if item.flag:
            self.widget = QCheckBox()
            self.widget.toggled.connect(lambda _: changed())
        elif item.choices:
            self.widget = narrow(QComboBox())
            self.widget.addItems([str(c) for c in item.choices])
            self.widget.currentIndexChanged.connect(lambda _: changed())
        else:
            self.widget = self._number(item)
            self.widget.valueChanged.connect(lambda _: changed())
        self.widget.setToolTip(item.tip)
        self.widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.widget.installEventFilter(still)

    def _number(self, item: Item) -> QSpinBox | QDoubleSpinBox:
        box: QSpinBox | QDoubleSpinBox
        if item.decimals == 0:
            box = QSpinBox()
            box.setRange(int(item.low), int(item.high))
        else:
            box = QDoubleSpinBox()
            box.setDecimals(item.decimals)
            box.setRange(item.low, item.high)
            if item.decimals > 4:
                box.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
            else:
                box.setSingleStep(0.05)
        if item.special:
            box.setSpecialValueText(item.special)
        box.setMinimumWidth(80)
        return box

    @property
    def value(self) -> Any:
        """The value as ``TrainSettings`` wants it."""
        if isinstance(self.widget, QCheckBox):
            return self.widget.isChecked()
        if isinstance(self.widget, QComboBox):
            return self.item.choices[self.widget.currentIndex()]
        number = self.widget.value()
        return None if self.item.none is not None and number == self.item.none else number

    def show(self, value: Any) -> None:
        """Show a value without telling anybody."""
        with QSignalBlocker(self.widget):
            if isinstance(self.widget, QCheckBox):
                self.widget.setChecked(bool(value))
            elif isinstance(self.widget, QComboBox):
                self.widget.setCurrentIndex(self.item.choices.index(value))
            elif isinstance(self.widget, QSpinBox):
                number = self.item.none if value is None else value
                self.widget.setValue(int(number or 0))
            else:
                self.widget.setValue(float(value))


class SettingsForm(QWidget):
    """Recipe, main values, Advanced. ``settings`` is what a training would be started with."""

    changed = Signal()

    def __init__(self, recipe: str = "threshold-matters") -> None:
        super().__init__()
        self._still = _Still(self)
        self._base = RECIPES[recipe]
        self.recipe = narrow(QComboBox())
        self.recipe.addItems(list(RECIPES))
        self.recipe.setCurrentText(recipe)
        self.recipe.activated.connect(lambda _: self.set_recipe(self.recipe.currentText()))
        self.about = hint()
        self.reset = button("Reset", "Back to the recipe's own values")
        self.reset.clicked.connect(lambda: self.set_recipe(self.recipe.currentText()))
        self.editors = {
            item.path: ItemEditor(item, self._on_edit, self._still) for item in (*MAIN, *ADVANCED)
        }
        self._lay_out()
        self.set_recipe(recipe)

    def _lay_out(self) -> None:
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        tip = "A named set of all training values; change any of them below"
        box.addWidget(Field("Recipe", row(self.recipe, self.reset), tip))
        box.addWidget(self.about)
        box.addWidget(self._grid(MAIN))
        self.advanced = QCollapsible("Advanced")
        self.advanced.setDuration(0)
        self.advanced.content().layout().setContentsMargins(0, 0, 0, 0)
        self.advanced.addWidget(self._grid(ADVANCED))
        box.addWidget(self.advanced)

    def _grid(self, items: tuple[Item, ...]) -> QWidget:
        panel = QWidget()
        form = QFormLayout(panel)
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(4)
        form.setHorizontalSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for item in items:
            form.addRow(item.caption, self.editors[item.path].widget)
            label = form.labelForField(self.editors[item.path].widget)
            if label is not None:
                label.setToolTip(item.tip)
        return panel

    @property
    def settings(self) -> TrainSettings:
        """The recipe with the form's values; class names are the caller's."""
        settings = self._base
        for path, editor in self.editors.items():
            if not _same(editor.value, get_value(self._base, path)):
                settings = with_value(settings, path, editor.value)
        return settings

    @property
    def changes(self) -> tuple[str, ...]:
        """Captions of the values that differ from the recipe."""
        return tuple(
            editor.item.caption
            for path, editor in self.editors.items()
            if not _same(editor.value, get_value(self._base, path))
        )

    def set_recipe(self, name: str) -> None:
        """Show a recipe's own values."""
        self._base = RECIPES[name]
        self.recipe.setCurrentText(name)
        for path, editor in self.editors.items():
            editor.show(get_value(self._base, path))
        self._on_edit()

    def set_value(self, path: str, value: Any) -> None:
        """Change one value, as the person would."""
        self.editors[path].show(value)
        self._on_edit()

    def _on_edit(self) -> None:
        changes = self.changes
        words = RECIPE_WORDS.get(self.recipe.currentText(), "")
        if changes:
            words += f". Changed: {', '.join(changes).lower()}."
        self.about.setText(words[:1].upper() + words[1:])
        self.reset.setVisible(bool(changes))
        self.changed.emit()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)
