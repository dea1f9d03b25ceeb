"""The training settings as a form: recipe, model, the main values, everything else Advanced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_attnseg.settings import RECIPE_WORDS, RECIPES, TrainSettings, with_model
from napari_attnseg.widgets._parts import Field, button, hint, narrow, row
from napari_attnseg.widgets._train_items import (
    ADVANCED,
    MAIN,
    OF_GAMMA,
    OF_SLICES,
    OF_THRESHOLD,
    OF_VOLUMES,
    ItemEditor,
    Still,
    get_value,
    grid_of,
    same,
    with_value,
)
from napari_attnseg.widgets._train_model import ModelPanel, folded

WEIGHED_AT = 256
"""Side in pixels at which a network is weighed when images keep their own size."""


class SettingsForm(QWidget):
    """``settings`` is what a training would be started with."""

    changed = Signal()

    def __init__(self, recipe: str = "threshold-matters") -> None:
        super().__init__()
        self._still = Still(self)
        self._base = RECIPES[recipe]
        self._of = ""
        self.recipe = narrow(QComboBox())
        self.recipe.addItems(list(RECIPES))
        for i, words in enumerate(RECIPE_WORDS.get(known, "") for known in RECIPES):
            self.recipe.setItemData(i, words, Qt.ItemDataRole.ToolTipRole)
        self.recipe.setCurrentText(recipe)
        self.recipe.activated.connect(lambda _: self.set_recipe(self.recipe.currentText()))
        self.about = hint()
        self.reset = button("Reset", "Back to the recipe's own values")
        self.reset.clicked.connect(lambda: self.set_recipe(self.recipe.currentText()))
        self.model = ModelPanel()
        self.model.changed.connect(self._on_edit)
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
        self.recipe.setToolTip(tip)
        box.addWidget(Field("Recipe", row(self.recipe, self.reset), tip))
        box.addWidget(self.about)
        box.addWidget(self.model)
        box.addWidget(grid_of(self.editors[item.path] for item in MAIN))
        self.advanced = folded("Advanced")
        self.advanced.toggleButton().setToolTip("Every other training value")
        self.advanced.setDuration(0)
        self.advanced.content().layout().setContentsMargins(0, 0, 0, 0)
        self.advanced.addWidget(grid_of(self.editors[item.path] for item in ADVANCED))
        box.addWidget(self.advanced)

    @property
    def settings(self) -> TrainSettings:
        """The recipe with the form's values; class names are the caller's."""
        base = with_model(self._base, self.model.name)
        settings = replace(
            base, options=dict(self.model.values), encoder_weights=self.model.weights
        )
        for path, editor in self._meant():
            if not same(editor.value, get_value(base, path)):
                settings = with_value(settings, path, editor.value)
        if self.model.ndim == 3:  # sides in pixels are of slices; a volume has its patch
            settings = with_value(settings, "preprocessing.size", None)
        return settings

    def _meant(self) -> Iterator[tuple[str, ItemEditor]]:
        """The editors whose values mean something to the model."""
        other = OF_SLICES if self.model.ndim == 3 else OF_VOLUMES
        return ((path, editor) for path, editor in self.editors.items() if path not in other)

    @property
    def changes(self) -> tuple[str, ...]:
        """Captions of the values that differ from the recipe."""
        found, base = [], with_model(self._base, self.model.name)
        if self.model.name != self._base.model:
            found.append("Model")
        found += self.model.differs(base.options)
        if self.model.weights != self._base.encoder_weights:
            found.append("Encoder weights")
        found += [
            editor.item.caption
            for path, editor in self._meant()
            if not same(editor.value, get_value(base, path))
        ]
        return tuple(found)

    @property
    def side(self) -> int:
        """Side in pixels of what the network sees: the working size, or a crop."""
        settings = self.settings
        return int(settings.preprocessing.size or settings.crop or WEIGHED_AT)

    def set_recipe(self, name: str) -> None:
        """Show a recipe's own values."""
        self._base = RECIPES[name]
        self.recipe.setCurrentText(name)
        for path, editor in self.editors.items():
            editor.show(get_value(self._base, path))
        self.model.own = self._base.model, self._base.options, self._base.encoder_weights
        self.model.show(*self.model.own)
        self._on_edit()

    def set_model(self, name: str, **options: Any) -> None:
        """Choose a model and options of it, as the person would."""
        self.model.show(name, options, "")
        self._on_edit()

    def set_value(self, path: str, value: Any) -> None:
        """Change one value, as the person would."""
        head, _, name = path.partition(".")
        if head == "options":
            self.model.set_option(name, value)
        else:
            self.editors[path].show(value)
        self._on_edit()

    def refresh(self) -> None:
        """The models were described anew: what is shown depends on it."""
        self._on_edit()

    def _on_edit(self) -> None:
        if self.model.name != self._of:  # another model starts from values of its own
            self._of = self.model.name
            start = with_model(self._base, self._of).gamma_start
            self.editors["gamma_start"].show(start)
        for path in (*OF_VOLUMES, *OF_SLICES):
            self.editors[path].set_visible((path in OF_VOLUMES) == (self.model.ndim == 3))
        for path in OF_THRESHOLD:
            self.editors[path].set_visible(self.model.has_threshold)
        for path in OF_GAMMA:
            self.editors[path].set_visible(self.model.has_gamma)
        sgd = self.editors["optimizer"].value == "sgd"
        for path in ("momentum", "nesterov"):
            self.editors[path].set_visible(sgd)
        changes = self.changes
        words = RECIPE_WORDS.get(self.recipe.currentText(), "")
        if changes:
            words += f". Changed: {', '.join(changes).lower()}."
        self.about.setText(words[:1].upper() + words[1:])
        self.reset.setVisible(bool(changes))
        self.changed.emit()
