"""Results of other models step back when a new model's arrive: hidden, never deleted."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from psygnal import Signal

if TYPE_CHECKING:
    from napari_attnseg.viewer.hub import Hub


class FormerResults:
    """Once per image and model: the first answer hides what other models made of the image.

    Whoever shows a hidden layer again keeps it shown; only the next change of model hides anew.
    """

    hidden = Signal(str)  # a sentence

    def __init__(self, hub: Hub) -> None:
        self._hub = weakref.ref(hub)
        self._done: tuple[int, str] | None = None
        hub.live.started.connect(self._step_back)
        hub.live.retuned.connect(self._step_back)

    def _step_back(self, *_: Any) -> None:
        hub = self._hub()
        if hub is None or hub.source is None:
            return
        now = (id(hub.source), hub.checkpoint)
        if now == self._done:
            return
        self._done = now
        models = []
        for results in hub.former_results:
            layers = [results.labels, *results.maps.values()]
            seen = [x for x in layers if x is not None and results.alive(x) and x.visible]
            for layer in seen:
                layer.visible = False
            models += [results.model] if seen else []
        own = hub.results
        if own is not None and own.labels is not None and models:
            own.labels.visible = True  # it may have stepped back before
        if models:
            names = " and ".join(dict.fromkeys(models))
            self.hidden.emit(
                f"The results of {names} are hidden, not deleted: the eye in the layer list shows "
                "them again."
            )


_known: weakref.WeakKeyDictionary[Any, FormerResults] = weakref.WeakKeyDictionary()


def former_for(hub: Hub) -> FormerResults:
    """The one of ``hub``; every dock may ask for it."""
    if hub not in _known:
        _known[hub] = FormerResults(hub)
    return _known[hub]
