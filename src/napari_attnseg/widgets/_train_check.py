"""Can it learn one image by heart? A minute that tells more than an hour of curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_attnseg.widgets._bridge import Paced, connect_alive
from napari_attnseg.widgets._parts import button

if TYPE_CHECKING:
    from napari_attnseg.widgets.train import TrainWidget

MARKS = {"learns": "✓", "slow": "○", "stuck": "✗"}


class OverfitCheck:
    """The button, and what the engine answers in the dock's status line."""

    def __init__(self, dock: TrainWidget) -> None:
        self.dock, self.training = dock, dock.training
        self.button = button(
            "Check: overfit one image",
            "Train on a single image for up to a minute: a model that cannot learn one by heart "
            "will not learn many. Nothing is kept.",
        )
        self.verdict = ""
        self._paced = Paced(0.5)
        self.button.clicked.connect(dock.check)
        connect_alive(dock, self.training.overfit_step, self._on_step)
        connect_alive(dock, self.training.overfit_done, self._on_done)

    def _on_step(self, event: Any) -> None:
        if not self._paced.due(event.step, event.steps):
            return
        self.dock.progress.setRange(0, event.steps)
        self.dock.progress.setValue(event.step)
        self.dock.say(
            f"Check: step {event.step} of {event.steps}, loss {event.loss:.3f}, "
            f"Dice {event.dice:.2f} on this image"
        )

    def _on_done(self, event: Any) -> None:
        self.verdict = f"{MARKS.get(event.verdict, '')} {event.text}".strip()

    def closing_words(self, event: Any) -> str:
        """The verdict, or that there is none."""
        stopped = "The check was stopped; it has no verdict."
        return self.verdict or (stopped if event.reason == "cancelled" else "")
