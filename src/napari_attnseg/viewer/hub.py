"""What all docks of one viewer share: the chosen image and model, the engine, the results.

A dock never talks to another dock. It changes something here (or on ``hub.live``), and everybody
who listens follows. Knows napari's model classes, no Qt and no torch.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_attnseg.cards import Card, read_card, resolve_checkpoint
from napari_attnseg.control.child import ChildClient
from napari_attnseg.control.live import LiveController
from napari_attnseg.control.refiner import RefineController
from napari_attnseg.control.scratch import Scratch
from napari_attnseg.control.training import TrainingController
from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.settings import Tuning
from napari_attnseg.viewer.answers import Answers
from napari_attnseg.viewer.bringing import Bringing
from napari_attnseg.viewer.dispatching import Dispatch, at_once, deliver, in_turns, watch
from napari_attnseg.viewer.journal_keeper import Keeper
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.level_maps import LevelLayers
from napari_attnseg.viewer.looking import first_image, seen
from napari_attnseg.viewer.made import Made
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.viewer.results import ResultLayers
from napari_attnseg.viewer.shelf import Shelf

if TYPE_CHECKING:
    from napari.layers import Image, Layer
    from napari.viewer import ViewerModel

    from napari_attnseg.viewer.query import AttentionQuery
    from napari_attnseg.viewer.refine_work import RefineWork

_hubs: weakref.WeakKeyDictionary[Any, Hub] = weakref.WeakKeyDictionary()


def hub_for(viewer: ViewerModel) -> Hub:
    """The one hub of ``viewer`` (made at the first call; nothing is started yet)."""
    viewer = unwrapped(viewer)
    if viewer not in _hubs or _hubs[viewer].closed:
        _hubs[viewer] = Hub(viewer, deliver, in_turns)
        watch(viewer, _hubs[viewer].close)
    return _hubs[viewer]


def unwrapped(viewer: ViewerModel) -> ViewerModel:
    """The viewer itself: napari hands docks a proxy, whose layers are never identical twice."""
    return getattr(viewer, "__wrapped__", viewer)


def is_result(layer: Layer) -> bool:
    """Whether a layer was made by us from another one."""
    entry = layer.metadata.get(METADATA)
    return isinstance(entry, dict) and "result_of" in entry


class Hub:
    """Choices, engine and results of one viewer. All signals come in the main thread."""

    source_changed = Signal(object)  # Image layer | None
    model_changed = Signal(str)  # checkpoint: shipped name or path, "" when none
    models_changed = Signal(list)  # all checkpoints to choose from
    device_changed = Signal(str)
    results_changed = Signal(object)  # ResultLayers | None
    slice_changed = Signal(int)  # the visible slice of the source

    def __init__(
        self, viewer: ViewerModel, dispatch: Dispatch = at_once, turns: Dispatch = at_once
    ) -> None:
        self._viewer = weakref.ref(viewer)
        self._dispatch, self.closed, self._z = dispatch, False, 0
        self.scratch = Scratch()
        self.client = ChildClient("live", dispatch)
        self.live = LiveController(self.client, self.scratch)
        self.refine = RefineController(self.client, self.scratch, self.live)
        self._training: TrainingController | None = None
        self.source: Image | None = None
        self.checkpoint = self._offered = ""  # the second: what the hub itself chose
        self.card: Card | None = None
        self.device = str(recall("device", "auto"))
        self._shelf = Shelf()
        self._made = Made()
        self._answers = Answers(self.live, self.results_changed.emit, turns)
        self._bringing = Bringing(self.live, dispatch)
        self.levels = LevelLayers(self)
        self.query: AttentionQuery | None = None  # the docks share it, see ``query_for``
        self.refining: RefineWork | None = None  # likewise, see ``refine_work_for``
        self.keeper = Keeper(self, dispatch)
        self._made.gone.connect(self._on_labels_gone)
        self._listen(viewer)
        self._choose_first(viewer)

    # --- choices ------------------------------------------------------------------------------

    @property
    def viewer(self) -> ViewerModel:
        """The viewer; raises ``ReferenceError`` when it is gone."""
        viewer = self._viewer()
        if viewer is None:
            raise ReferenceError("the viewer is gone")
        return viewer

    @property
    def training(self) -> TrainingController:
        """The training lane: an engine of its own at low priority, made at the first call."""
        if self._training is None:
            client = ChildClient("training", self._dispatch)
            self._training = TrainingController(client, self.scratch, self._dispatch)
        return self._training

    @property
    def results(self) -> ResultLayers | None:
        """Layers of the chosen image and model, if they have any."""
        return self._made.get(self.source, self.checkpoint)

    @property
    def answered(self) -> ResultLayers | None:
        """:attr:`results` if answers are for them: one may come when another image is chosen."""
        return self.results if self.results is self._answers.layers else None

    @property
    def making(self) -> bool:
        """Whether layers of a run are still to come: a quick run ends before the window has made
        them, one a turn."""
        return self._answers.making

    @property
    def former_results(self) -> list[ResultLayers]:
        """Layers that other models made of the chosen image."""
        return self._made.former(self.source, self.checkpoint)

    @property
    def models(self) -> list[str]:
        """Checkpoints to choose from: shipped names, then files (newest last)."""
        return self._shelf.names

    @property
    def tuning(self) -> Tuning:
        """The live values."""
        return self.live.state.tuning

    def set_source(self, layer: Image | None) -> None:
        """Choose the image layer that is segmented."""
        if layer is self.source:
            return
        self.source = layer
        self._bringing.cancel()
        self._bringing.forget()
        self._follow_dims()
        self._offer_model()
        self.source_changed.emit(layer)
        self.results_changed.emit(self.results)

    def set_model(self, checkpoint: str) -> Card | None:
        """Choose a model by shipped name or path; its card's tuning becomes the live one.

        The choice is remembered. Raises ``CheckpointError`` (and keeps the former choice) when the
        file cannot be used.
        """
        card = self._use_model(checkpoint)
        if card is not None:
            self._offered = ""  # a person chose
            remember("model", checkpoint)
        return card

    def _use_model(self, checkpoint: str) -> Card | None:
        if not checkpoint:
            self.checkpoint, self.card = "", None
            self.model_changed.emit("")
            return None
        card = read_card(resolve_checkpoint(checkpoint))
        known = checkpoint in self._shelf
        self.checkpoint, self.card = checkpoint, card
        self.live.set_model(checkpoint, self.device, card.tuning)
        if not known:
            self._add(checkpoint)
        self.model_changed.emit(checkpoint)
        self.results_changed.emit(self.results)
        return card

    def set_device(self, device: str) -> None:
        """Choose ``"auto"``, ``"cpu"``, ``"cuda:0"``, ..."""
        self.device = device
        remember("device", device)
        if self.checkpoint:
            self.live.set_model(self.checkpoint, device)
        self.device_changed.emit(device)

    def add_model(self, path: str | Path) -> None:
        """Offer a checkpoint file in every dock's list (a finished training calls this)."""
        name = str(path)
        read_card(resolve_checkpoint(name))
        if name not in self._shelf:
            self._add(name)
        else:
            self.models_changed.emit(self.models)

    # --- work ---------------------------------------------------------------------------------

    def visible_z(self) -> int:
        """The slice of the source that the person looks at."""
        return seen(self.viewer, self.source)[0]

    def prepare(self) -> ResultLayers:
        """Hand the chosen image and model to the engine client; cheap when nothing changed.

        Raises ``InputError`` with a sentence saying what is still to be chosen.
        """
        self._bringing.now(self._chosen())
        self.live.set_model(self.checkpoint, self.device)
        self.live.set_slice(*seen(self.viewer, self.source))
        self._answers.layers = self.results_for(self.live.state.shape)
        return self._answers.layers

    @property
    def at_hand(self) -> bool:
        """Whether :meth:`prepare` takes no time to speak of: what nobody asked for may go on."""
        return self.source is not None and self._bringing.at_hand(self.source)

    def bring(self, then: Callable[[], object]) -> None:
        """:meth:`prepare`, then ``then``; large images come in a thread while the window lives.

        Meanwhile ``live`` is busy and :meth:`cancel` stops it. What goes wrong after this call
        has returned is told by ``live.failed``.
        """

        def go_on() -> None:
            self.prepare()
            then()

        self._bringing.then(self._chosen(), go_on)

    def run(self) -> None:
        """Segment the chosen image: the visible slice first, then the others outward."""
        self._bringing.forget()  # pixels may have been changed in place since
        self.bring(self._answers.run)

    def cancel(self) -> None:
        """Stop the run; finished slices stay."""
        self._bringing.cancel()
        self.live.cancel()

    def tune(self, **values: Any) -> None:
        """Move live values (``threshold=0.3, cut=0.4``): the visible slice follows at once."""
        tuning = self.tuning.replace(**values)
        if self._bringing.at_hand(self._chosen()):
            self.prepare()
            self.live.set_tuning(tuning, self.visible_z())
            return
        self.live.set_model(self.checkpoint, self.device, tuning)
        if not self._bringing.busy:  # else what follows has these values
            self.bring(self.live.refresh)

    def ask_row(self, y: int, x: int) -> None:
        """Ask what pixel (y, x) of the visible slice attends to; the ``row`` map follows, or
        those of several levels for models without a threshold."""
        if self.card is not None and not has_threshold(self.card):
            self.levels.ask_pixel(y, x)
        else:
            self.bring(lambda: self.live.request_row(y, x, self.visible_z()))

    def split_objects(self, watershed: bool, min_size: int = 0) -> None:
        """Number the objects of the present labels, hand edits included."""
        results = self.results
        if results is None or results.edits is None or results.layer("labels") is None:
            raise InputError("there are no labels to split yet; press Run first.")
        self.live.split_objects(results.shown, watershed=watershed, min_size=min_size)

    @property
    def every_result(self) -> list[tuple[str, ResultLayers]]:
        """Checkpoint and layers of all images and models, oldest first."""
        return self._made.every

    def say(self, words: str) -> None:
        """A sentence that the docks show, if there is one."""
        if words:
            self.live.note.emit(words)

    def close(self) -> None:
        """End engines and remove scratch; layers stay as they are. May be called twice."""
        if self.closed:
            return
        self.closed = True
        self._bringing.cancel()
        self.levels.close()
        if self.query is not None:
            self.query.kept.close()
        self.refine.close()
        self.live.close()
        self.client.close()
        if self._training is not None:
            self._training.close()
            self._training.client.close()
        self._answers.clear()
        self.keeper.close()
        self.scratch.close()

    # --- inside ---------------------------------------------------------------------------------

    def _listen(self, viewer: ViewerModel) -> None:
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        for changed in ("point", "order", "ndisplay"):
            getattr(viewer.dims.events, changed).connect(self._follow_dims)

    def _choose_first(self, viewer: ViewerModel) -> None:
        """The first opening preselects an image, if there is one, and a model."""
        last = str(recall("model", ""))
        if last in self.models:
            with contextlib.suppress(AttnSegError):
                self.set_model(last)
        self.set_source(self._first_image(viewer))
        self._offer_model()

    def _offer_model(self) -> None:
        """Until a person chooses one: a model that suits the image (CT windows are for volumes)."""
        if self.checkpoint != self._offered:
            return
        volume = self.source is None or self.source.ndim == 3
        name = self._shelf.suited(volume)
        if name != self.checkpoint:
            self._offered = name
            self._use_model(name)

    def _first_image(self, viewer: ViewerModel) -> Image | None:
        return first_image(viewer, lambda layer: not is_result(layer))

    def _on_inserted(self, event: Any) -> None:
        if self.source is None:
            self.set_source(self._first_image(self.viewer))

    def _on_removed(self, event: Any) -> None:
        self.scratch.hold(("layer", id(event.value)), "")
        if event.value is not self.source:
            return
        self.cancel()
        self.live.forget_image()
        self._made.forget(event.value)
        self._answers.layers = None
        self.set_source(self._first_image(self.viewer))

    def _on_labels_gone(self, layer: Layer, words: str) -> None:
        """Or they are back."""
        self.keeper.forget(layer)
        for results in (results for _, results in self.every_result if results.labels is layer):
            self.keeper.attach(results)
        self.results_changed.emit(self.results)
        self.say(words)

    def _follow_dims(self, event: Any = None) -> None:
        """What is looked at comes first: in live answers, and in what is left of a run."""
        z, axis = seen(self.viewer, self.source)
        self.live.set_slice(z, axis)
        if z != self._z:
            self._z = z
            self.slice_changed.emit(z)

    def _chosen(self) -> Image:
        """The image that is to be segmented; raises ``InputError`` while a choice is open."""
        if self.source is None:
            raise InputError(
                "there is no image to segment; open one with Open..., or choose File > Open Sample."
            )
        if not self.checkpoint:
            raise InputError("no model is chosen; choose one from the list or load a file.")
        return self.source

    def results_for(self, shape: tuple[int, ...], checkpoint: str = "") -> ResultLayers:
        """The layers of the chosen image by ``checkpoint`` (the chosen one)."""
        assert self.source is not None
        model = checkpoint or self.checkpoint
        found = self._made.get(self.source, model)
        if found is None or found.shape != shape:
            card = self.card if model == self.checkpoint else None
            found = ResultLayers(self.viewer, self.source, Path(model).stem, card, self.scratch)
            self._made.put(model, found)
            self.results_changed.emit(found)
        return found

    def _add(self, name: str) -> None:
        self._shelf.add(name)
        self.models_changed.emit(self.models)


def has_threshold(card: Card) -> bool:
    """Whether the model compares attention with a threshold (Smooth Attention)."""
    return any(tunable.get("name") == "threshold" for tunable in card.tunables)
