"""What the Refine dock works on: refinement, coarse mask, strokes, and the layers that follow.

Knows napari's model classes, no Qt and no torch; waiting until a hand rests is the dock's part.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_attnseg.cards import Card, read_card, resolve_checkpoint
from napari_attnseg.control.state import outward
from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.settings import Tunable
from napari_attnseg.viewer.coarse_map import coarse_map
from napari_attnseg.viewer.preferences import recall, remember
from napari_attnseg.viewer.refine_models import card_of, is_refined, iterations_of, kind_of
from napari_attnseg.viewer.refine_walk import Walk
from napari_attnseg.viewer.refined import RefinedLayers, hide
from napari_attnseg.viewer.shown_steps import ShownSteps
from napari_attnseg.viewer.stroke_watch import StrokeWatch
from napari_attnseg.viewer.strokes import labels_array

if TYPE_CHECKING:
    from napari.layers import Labels, Layer

    from napari_attnseg.viewer.hub import Hub


class RefineWork:
    """One refinement of the hub's image at a time. Signals come in the main thread.

    ``fresh``: slices whose refined mask is that of the present values.
    """

    changed = Signal()  # what is chosen, or how far the work is
    chosen = Signal()  # another refinement or coarse mask
    refined = Signal(object)  # Refined, its pixels are in the layers
    stepped = Signal(object)  # Refined with a value per step
    painted = Signal()  # strokes are new
    failed = Signal(str, str)  # sentence, report
    note = Signal(str)

    def __init__(self, hub: Hub) -> None:
        self.hub, self.control = hub, hub.refine
        self.checkpoint = ""
        self.card: Card | None = None
        self.coarse: Layer | None = None
        self.reference: Labels | None = None
        self.watch = StrokeWatch(hub)
        self.fresh: set[int] = set()
        self.shown = ShownSteps()
        self._layers: dict[tuple[int, str], RefinedLayers] = {}
        self._handed: Any = None
        self._seen: Any = None  # what was shown last: image, refinement, coarse mask
        self.walk = Walk(lambda z: self.control.refresh(z=z))
        self._listen()
        self._choose_first()

    def _listen(self) -> None:
        hub, control = self.hub, self.control
        hub.source_changed.connect(self._on_source)
        hub.models_changed.connect(lambda _: self._choose_first())
        hub.device_changed.connect(lambda _: self._set_checkpoint())
        hub.slice_changed.connect(self._on_slice)
        hub.live.state_changed.connect(self._on_live_state)
        hub.viewer.layers.events.removed.connect(self._on_removed)
        control.refined.connect(self._on_refined)
        control.steps_ready.connect(self._on_steps)
        control.failed.connect(self._on_failed)
        control.engine_lost.connect(self._on_lost)
        self.watch.painted.connect(self._on_painted)

    # --- choices --------------------------------------------------------------------------------

    @property
    def models(self) -> list[str]:
        """Checkpoints with a refinement in them."""
        return [name for name in self.hub.models if is_refined(card_of(name))]

    @property
    def iterations(self) -> Tunable | None:
        """The slider of the chosen refinement."""
        return iterations_of(self.card)

    @property
    def dynamic(self) -> bool:
        """Whether the chosen refinement weighs its rings anew in every iteration (DySPN)."""
        return kind_of(self.card) == "dyspn"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background and the classes of the chosen refinement."""
        return tuple(self.card.class_names) if self.card else ("background", "foreground")

    def choose(self, checkpoint: str) -> None:
        """Refine with this checkpoint (shipped name or path) from now on; remembered.

        Raises ``CheckpointError`` for a file that cannot be used and ``InputError`` for a model
        without refinement; then the former choice stays.
        """
        card = read_card(resolve_checkpoint(checkpoint))
        if not is_refined(card):
            raise InputError(
                f"{Path(checkpoint).stem} has no refinement in it; choose a checkpoint that was "
                "trained with --refine cspn or --refine dyspn"
            )
        remember("refinement", checkpoint)
        self._use(checkpoint, card)

    def set_coarse(self, layer: Layer | None) -> None:
        """Refine the mask in ``layer`` (labels, or an image of probabilities); ``None``: the
        refinement's own. Raises ``InputError`` when it does not fit, and keeps the former."""
        if layer is not None and self.hub.source is not None:
            coarse_map(layer, self.hub.source, len(self.class_names) - 1)
        self.coarse = layer
        self._handed = None
        self._stale()
        self.chosen.emit()

    def set_reference(self, layer: Labels | None) -> None:
        """Measure every step against these labels; raises ``InputError`` when they do not fit."""
        if layer is not None and self.hub.source is not None:
            labels_array(layer, self.hub.source)
        self.reference = layer
        self._handed = None

    def set_values(self, **values: Any) -> None:
        """``iterations``, ``strength`` and ``carry`` of what is asked from now on."""
        self.control.set_values(**values)
        self._stale()

    def hand_over_again(self) -> None:
        """Somebody painted on the coarse mask or the reference."""
        self._handed = None
        self._stale()

    # --- what there is --------------------------------------------------------------------------

    @property
    def results(self) -> RefinedLayers | None:
        """Layers of the chosen image and refinement, if there are any."""
        return self._layers.get((id(self.hub.source), self.checkpoint))

    @property
    def begun(self) -> bool:
        """Whether there is a refined mask of the chosen image."""
        return self.results is not None and self.results.layer("labels") is not None

    @property
    def started(self) -> bool:
        """Whether any refined mask of the chosen image was asked for: from then on it follows."""
        return any(key[0] == id(self.hub.source) for key in self._layers)

    @property
    def depth(self) -> int:
        """Slices of the chosen image; 0 without one."""
        source = self.hub.source
        return 0 if source is None else 1 if source.ndim == 2 else int(source.data.shape[0])

    # --- work -----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Refine the seen slice; a large image comes behind the window first.

        Raises ``InputError`` saying what is still to be chosen.
        """
        self._bring(self.control.refresh)

    def ask_steps(self) -> None:
        """Every iterate of the seen slice, for the curve and the layers."""
        attention = self.shown.attention
        self._bring(lambda: self.control.request_steps(attention=attention))

    def ask_affinity(self, y: int, x: int) -> None:
        """With which weights pixel (y, x) takes from its neighbours: ``control.affinity_done``."""
        self._bring(lambda: self.control.request_affinity(y, x))

    def refine_all(self, slices: set[int] | None = None) -> None:
        """Refine all slices (or some), the seen one first, then the others outward."""
        wanted = set(range(self.depth)) if slices is None else slices
        order = [z for z in outward(self.hub.visible_z(), self.depth) if z in wanted]
        if not order:
            return

        def begin() -> None:
            self.walk.begin(order)
            self.changed.emit()

        self._bring(begin)

    def follow_strokes(self) -> None:
        """Bring the neighbours to which strokes are carried up to date."""
        carry = self.control.state.carry
        if not carry or self.walk or not self.begun:
            return
        z = self.hub.visible_z()
        near = set(range(max(0, z - carry), min(self.depth, z + carry + 1)))
        if near - self.fresh:
            self.refine_all(near - self.fresh)

    def cancel(self) -> None:
        """Stop refining other slices; what was finished stays."""
        self.walk.stop()
        self.changed.emit()

    def show(self, what: str, on: bool) -> None:
        """Show or take away a layer of steps: ``MASK``, ``CHANGE`` or one of ``ATTENTION``."""
        if on:
            self.shown.wanted.add(what)
            self.ask_steps()
        else:
            self.shown.unwant(what)

    # --- inside: choices ------------------------------------------------------------------------

    def _choose_first(self) -> None:
        if not self.checkpoint:
            last, models = str(recall("refinement", "")), self.models
            name = last if last in models else next(iter(models), "")
            card = card_of(name)
            if card is not None:
                self._use(name, card)
                return
        self.changed.emit()

    def _use(self, checkpoint: str, card: Card) -> None:
        self.shown.close()
        self.checkpoint, self.card = checkpoint, card
        self._set_checkpoint()
        trained = card.tuning.get("iterations", 6)
        self.control.set_values(iterations=round(float(trained)))
        self._handed = None  # a coarse mask is read by the number of classes
        self._stale()
        self.changed.emit()
        self.chosen.emit()

    def _set_checkpoint(self) -> None:
        if self.card is None:
            return
        same = self.hub.checkpoint == self.checkpoint
        tuning = self.hub.tuning if same else self.card.tuning
        if self.control.state.tuning != tuning:
            self._stale()
        self.control.set_checkpoint(self.checkpoint, self.hub.device, tuning)

    def _stale(self) -> None:
        self.fresh.clear()
        self.walk.stop()

    def _bring(self, then: Any) -> None:
        if not self.checkpoint:
            raise InputError(
                "no refinement is chosen; load a checkpoint that was trained with --refine"
            )
        if not self.hub.checkpoint:
            self.hub.set_model(self.checkpoint)

        def go_on() -> None:
            self._hand_over()
            then()

        self.hub.bring(go_on)

    def _hand_over(self) -> None:
        """Give the engine what it has not yet of the present image."""
        image, source = self.hub.live.state.image, self.hub.source
        if image == self._handed or source is None:
            return
        if self.coarse is None:
            self.control.set_coarse(None)
        else:
            found = coarse_map(self.coarse, source, len(self.class_names) - 1)
            self.control.set_coarse(*found)
        if self.reference is None:
            self.control.set_reference(None)
        else:
            self.control.set_reference(labels_array(self.reference, source))
        self.watch.hand_over()
        self._handed = image

    # --- inside: following ----------------------------------------------------------------------

    def _on_source(self, layer: Any) -> None:
        self.shown.close()
        self.coarse = self.reference = None
        self.watch.follow(None)
        self._handed = None
        self._stale()
        self.changed.emit()

    def _on_removed(self, event: Any) -> None:
        for key in [k for k in self._layers if k[0] == id(event.value)]:
            del self._layers[key]
        if self.shown.forget_deleted(event.value):
            self.changed.emit()

    def _on_slice(self, z: int) -> None:
        if self.begun and z not in self.fresh and not self.walk:
            self._try(self.ask)

    def _on_live_state(self, state: Any) -> None:
        """The Tune dock moved a value of the same checkpoint."""
        if self.hub.checkpoint != self.checkpoint or self.control.state.tuning == state.tuning:
            return
        self._set_checkpoint()
        if self.begun:
            self._try(self.ask)

    def _on_painted(self, zs: tuple[int, ...]) -> None:
        """Strokes changed on slices ``zs``."""
        carry = self.control.state.carry
        self.fresh -= {k for z in zs for k in range(z - carry, z + carry + 1)}
        if self._handed is not None and self._handed == self.hub.live.state.image:
            self.control.refresh()
        else:
            self._try(self.ask)
        self.painted.emit()

    def _on_refined(self, event: Any, labels: Any, probability: Any) -> None:
        results = self._results_for()
        if results is None or labels.shape != results.shape[1:]:
            return
        results.take(event.z, labels, probability)
        self._step_back(results)
        coarse = self.coarse.name if self.coarse is not None else "the refinement's own"
        results.record(self.control.state, kind_of(self.card), coarse, self.watch.pixels)
        self.hub.keeper.refined(results)
        if event.generation == self.control.generation:
            self.fresh.add(event.z)
        if self.walk.answered(event.z):
            results.settle()
        self.refined.emit(event)
        self.changed.emit()

    def _step_back(self, results: RefinedLayers) -> None:
        """Other masks of the image are hidden, once: they would lie over or under this one."""
        now = (id(self.hub.source), self.checkpoint, id(self.coarse))
        if now == self._seen:
            return
        self._seen = now
        made = [*self._layers.values(), self.hub.results, *self.hub.former_results]
        others: list[Layer | None] = [r.labels for r in made if r not in (None, results)]  # type: ignore[union-attr]
        if self.coarse is not self.hub.viewer.layers.selection.active:
            others.append(self.coarse)
        names = hide(self.hub.viewer, others)
        if results.labels is not None and not self.shown.wanted:
            results.labels.visible = True  # it may have stepped back before
        if names:
            self.note.emit(
                f"Hidden, not deleted: {names}. The eye in the layer list shows it again."
            )

    def _results_for(self) -> RefinedLayers | None:
        source, shape = self.hub.source, self.hub.live.state.shape
        return source and self.layers_for(source, self.checkpoint, shape)

    def layers_for(self, source: Any, checkpoint: str, shape: tuple[int, ...]) -> RefinedLayers:
        """Layers of an image (Z, Y, X) and a refinement, new ones when there are none."""
        found = self._layers.get((id(source), checkpoint))
        if found is None or found.shape != shape:
            about = Path(checkpoint).stem, card_of(checkpoint), self.hub.scratch
            found = RefinedLayers(self.hub.viewer, source, *about)
            found.lost.connect(lambda _, words: self.hub.say(words))
            self._layers[id(source), checkpoint] = found
        return found

    def _on_steps(self, event: Any, files: dict[str, Any]) -> None:
        results = self._results_for()
        if results is None or event.z != self.hub.visible_z():
            return
        self.shown.take(results, event.z, files)
        self.stepped.emit(event)

    def _on_failed(self, event: Any) -> None:
        self.walk.stop()
        self.failed.emit(event.message, event.report)
        self.changed.emit()

    def _on_lost(self, cause: str) -> None:
        self.walk.stop()
        self.failed.emit(
            f"The engine stopped: {cause}. Your layers stay; press Refine to start it again.", ""
        )
        self.changed.emit()

    def _try(self, call: Any) -> None:
        try:
            call()
        except AttnSegError as error:
            self.failed.emit(str(error), "")


def refine_work_for(hub: Hub) -> RefineWork:
    """The one of ``hub``, which all docks share."""
    if hub.refining is None:
        hub.refining = RefineWork(hub)
    return hub.refining
