"""Facts about models for the Train dock: the engine's description, and what a choice costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from napari_attnseg.control.describing import read_description
from napari_attnseg.control.questions import Weighed
from napari_attnseg.settings import TrainSettings
from napari_attnseg.widgets._bridge import connect_alive
from napari_attnseg.widgets._train_form import SettingsForm

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub

SETTLE_MS = 400
FORMAT = 2
"""Layout of the description from which models have a title, a paper and choices."""


class ModelFacts:
    """Fills the form's model card. ``settings`` gives what a training would be started with."""

    def __init__(
        self, dock: QWidget, hub: Hub, form: SettingsForm, settings: Callable[[], TrainSettings]
    ) -> None:
        self.hub, self.form, self._settings = hub, form, settings
        self._asked: tuple[Any, ...] | None = None
        self._awake = False
        self._timer = QTimer(dock)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLE_MS)
        self._timer.timeout.connect(self._weigh)
        form.changed.connect(self._soon)
        connect_alive(dock, hub.live.described, self._on_described)
        connect_alive(dock, hub.training.weighed, self._on_weighed)
        known = read_description()
        if known is not None:
            self._on_described(known)

    def wake(self) -> None:
        """The dock is seen: from now on engines may be asked (which starts them)."""
        if self._awake or self.hub.closed:
            return
        self._awake = True
        self.hub.live.describe()
        self._weigh()

    def _on_described(self, data: dict[str, Any]) -> None:
        if data.get("format", 0) >= FORMAT:
            self.form.model.describe(data["models"], data["attentions"])
            self.form.refresh()

    def _soon(self) -> None:
        if self._awake:
            self._timer.start()

    def _weigh(self) -> None:
        if self.hub.closed or self.hub.training.busy:
            return
        asked = self._question()
        if asked != self._asked:
            self._asked = asked
            self.hub.training.weigh(*asked)

    def _question(self) -> tuple[str, dict[str, Any], int, int, int]:
        """Model, options, channels, classes, side."""
        s = self._settings()
        return s.model, dict(s.options), s.preprocessing.channels, s.classes, self.form.side

    def _on_weighed(self, asked: Any, event: Any) -> None:
        model, options, channels, _, side = self._question()
        told = (asked.model, asked.options, asked.in_channels, asked.size[0])
        if told != (model, options, channels, side):
            return  # of an older choice; the newer question is on its way
        if isinstance(event, Weighed):
            self.form.model.show_figures(event.data, side)
        else:
            self.form.model.show_problem(event.message)
