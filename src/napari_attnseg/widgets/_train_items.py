"""The values of a training as small editors, each with one way to read and write it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from napari_attnseg.settings import LOSS_NAMES, OPTIMIZERS, PATCH, RULES, TrainSettings
from napari_attnseg.widgets._parts import narrow


@dataclass(frozen=True)
class Item:
    """One value of the form. ``path``: field of ``TrainSettings``, or ``preprocessing.x``, or
    ``options.x`` of the model. ``none``: the number that stands for ``None``, as ``special``.
    ``shown``: words for the ``choices``. ``text``: any words. ``numbers``: whole numbers separated
    by commas, none for ``None``, which ``special`` stands for."""

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
    text: bool = False
    shown: tuple[str, ...] = ()
    numbers: bool = False


PATCH_WORDS = ", ".join(map(str, PATCH))
MAIN = (
    Item("preprocessing.patch", "Patch", "Slices, rows and columns of the random parts of the "
         "volume that a 3D model learns from, and of the windows it answers through; smaller takes "
         "less memory", numbers=True, special=PATCH_WORDS),
    Item("epochs", "Epochs", "Passes over the training pixels; more is slower", 1, 10000, 0),
    Item("validation", "Validation part", "Part of the pairs that is not learnt from but "
         "judges the model and picks the best epoch", 0, 0.9, 2),
)  # fmt: skip
ADVANCED = (
    Item("batch", "Batch", "Crops or images per step", 1, 512, 0),
    Item("lr", "Step size", "Learning rate of all weights but gamma", 1e-6, 1.0, 6),
    Item("optimizer", "Optimiser", "Adam, AdamW with weight decay, or SGD with momentum",
         choices=OPTIMIZERS),
    Item("momentum", "Momentum", "Of SGD: how much of the last step goes into the next", 0, 1, 3),
    Item("nesterov", "Nesterov", "Of SGD: look ahead along the momentum", flag=True),
    Item("weight_decay", "Weight decay", "Pull of the weights towards 0", 0, 1, 6),
    Item("schedule", "Schedule", "How the step size changes over the epochs",
         choices=("none", "cosine", "onecycle")),
    Item("loss", "Loss", "bce: cross-entropy; dicece: the same plus Dice; focal, tversky: for "
         "rare classes",
         choices=LOSS_NAMES),
    Item("class_weights", "Class weights", "balanced: rare classes count more, by the inverse of "
         "their share of the training masks", choices=("", "balanced"),
         shown=("equal", "balanced")),
    Item("regulariser_weight", "Regulariser x", "Weight of the model's own regulariser (PAM-UNet: "
         "0.01, DDANet: 1), added to the loss", 0, 100, 4),
    Item("patience", "Patience", "Stop when the validation Dice has not risen for so many epochs",
         0, 10000, 0, special="never stop early"),
    Item("crop", "Crop", "Side of the random crops in pixels", 0, 4096, 0, none=0,
         special="whole images"),
    Item("augment", "Augment", "Change every image a little at random", flag=True),
    Item("augmentation", "Augment by", "all: mirror, turn, scale, light; turns: mirror and turn",
         choices=("all", "turns")),
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
    Item("preprocessing.clahe_clip", "CLAHE", "Local contrast (clip limit; Joint Attention: 2)",
         0, 40, 2, special="off"),
    Item("amp", "Half precision", "Faster on CUDA devices; no effect on others", flag=True),
    Item("seed", "Seed", "Equal seeds and data give equal models on one CPU", 0, 2**31 - 1, 0),
)  # fmt: skip
OF_VOLUMES = ("preprocessing.patch",)
"""Values that mean something to 3D models alone."""
OF_SLICES = ("crop", "preprocessing.size")
"""Values that mean something to models of slices alone."""
OF_THRESHOLD = ("rule", "threshold", "threshold_draw")
"""Values that mean something to models with a threshold alone."""
OF_GAMMA = ("gamma_start", "gamma_lr_factor")
"""Values that mean something where an attention branch has a weight of its own."""


def get_value(settings: TrainSettings, path: str) -> Any:
    """The value at ``path``."""
    head, _, name = path.partition(".")
    if not name:
        return getattr(settings, head)
    return getattr(settings.preprocessing, name)


def with_value(settings: TrainSettings, path: str, value: Any) -> TrainSettings:
    """The same settings with one value changed."""
    head, _, name = path.partition(".")
    if not name:
        return replace(settings, **{head: value})
    pre = settings.preprocessing
    if name == "channels":  # mean and std follow
        pre = replace(pre, mean=(pre.mean[0],) * value, std=(pre.std[0],) * value)
    return replace(settings, preprocessing=replace(pre, **{name: value}))


class Still(QObject):
    """A wheel over a closed field scrolls the dock instead of changing the value."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Let the wheel through only where the person has clicked first."""
        wheel = event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget)
        if wheel and not watched.hasFocus():
            event.ignore()
            return True
        return super().eventFilter(watched, event)


class ItemEditor:
    """The widget of one item, with one way to read and write it. ``wide``: it has the caption
    above it and the whole width."""

    wide = False

    def __init__(self, item: Item, changed: Callable[[], None], still: QObject) -> None:
        self.item = item
        self._given: Any = None
        self.label: QWidget | None = None
        self.widget: QCheckBox | QComboBox | QSpinBox | QDoubleSpinBox | QLineEdit
        if item.flag:
            self.widget = QCheckBox()
            self.widget.toggled.connect(lambda _: changed())
        elif item.choices:
            self.widget = narrow(QComboBox())
            self.widget.addItems(list(item.shown) or [str(c) for c in item.choices])
            self.widget.currentIndexChanged.connect(lambda _: changed())
        elif item.text or item.numbers:
            self.widget = QLineEdit()
            self.widget.setPlaceholderText(item.special)
            self.widget.editingFinished.connect(changed)
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
            i = self.widget.currentIndex()
            return self.item.choices[i] if i >= 0 else self._given
        if isinstance(self.widget, QLineEdit):
            words = self.widget.text().strip()
            return numbers_of(words) if self.item.numbers else words
        number = self.widget.value()
        return None if self.item.none is not None and number == self.item.none else number

    def show(self, value: Any) -> None:
        """Show a value without telling anybody (a value that is no choice is kept as it is)."""
        self._given = value
        with QSignalBlocker(self.widget):
            if isinstance(self.widget, QCheckBox):
                self.widget.setChecked(bool(value))
            elif isinstance(self.widget, QComboBox):
                known = value in self.item.choices
                self.widget.setCurrentIndex(self.item.choices.index(value) if known else -1)
            elif isinstance(self.widget, QLineEdit):
                listed = isinstance(value, list | tuple)
                self.widget.setText(", ".join(map(str, value)) if listed else str(value or ""))
            elif isinstance(self.widget, QSpinBox):
                number = self.item.none if value is None else value
                self.widget.setValue(int(number or 0))
            else:
                self.widget.setValue(float(value))

    def set_visible(self, on: bool) -> None:
        """Show or hide the whole row."""
        for part in (self.label, self.widget):
            if part is not None:
                part.setVisible(on)


def numbers_of(words: str) -> tuple[Any, ...] | None:
    """``"24, 32 32"`` as whole numbers, ``None`` for nothing; what is no number stays a word, for
    the settings to refuse."""
    parts = re.split(r"[\s,;x]+", words.strip(" ,;x[]()"))
    return tuple(int(p) if p.isdigit() else p for p in parts) if any(parts) else None


def grid_of(editors: Iterable[Any]) -> QWidget:
    """Captions and editors in two columns."""
    panel = QWidget()
    form = QFormLayout(panel)
    form.setContentsMargins(0, 0, 0, 0)
    form.setVerticalSpacing(4)
    form.setHorizontalSpacing(6)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for editor in editors:
        if editor.wide:
            form.addRow(QLabel(editor.item.caption))
            form.addRow(editor.widget)
            continue
        form.addRow(editor.item.caption, editor.widget)
        editor.label = form.labelForField(editor.widget)
        if editor.label is not None:
            editor.label.setToolTip(editor.item.tip)
    return panel


def same(a: Any, b: Any) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)
