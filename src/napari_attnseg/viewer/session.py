"""Saving a window's work in one file, and going on from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_attnseg.errors import InputError
from napari_attnseg.io.session_file import Session, pages_array, read_session, write_session
from napari_attnseg.viewer.image_changes import changes, digest_of
from napari_attnseg.viewer.journal_keeper import facts_of, kept_pixels
from napari_attnseg.viewer.journal_painted import bring_labels, labels_facts
from napari_attnseg.viewer.journal_restore import take_up
from napari_attnseg.viewer.layers import METADATA
from napari_attnseg.viewer.session_image import (
    ImageGone,
    bring_image,
    image_facts,
    image_path,
)

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer

    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers


@dataclass
class Draft:
    """A session that is ready to be written: pixels of large layers are still the layers' own."""

    data: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write it, in any thread; raises ``ExportError``. Images get their digests and their
        places relative to the file."""
        path = path.absolute()
        for facts in self.data["images"]:
            layer = facts.pop("_layer", None)
            if layer is not None and not facts.get("kept"):
                facts["digest"] = digest_of(layer)
            facts["relative"] = _relative(facts["path"], path.parent)
        write_session(path, self.data, self.arrays)


def draft_of(hub: Hub) -> Draft:
    """Images, labels with their hand edits, other labels, model and values of a window.

    Raises ``InputError`` when there is no image, or when one without a file is too large to keep.
    """
    from napari.layers import Image as ImageLayer
    from napari.layers import Labels as LabelsLayer

    layers = list(hub.viewer.layers)
    images = [x for x in layers if isinstance(x, ImageLayer) and _is_own(x)]
    if not images:
        raise InputError("there is nothing to save yet; open an image first")
    draft = Draft()
    draft.data["images"] = [_image(draft, k, layer) for k, layer in enumerate(images)]
    mine = [(m, r) for m, r in _every(hub) if r.layer("labels") is not None]
    draft.data["results"] = [
        _result(draft, hub, k, results, images.index(results.source))
        for k, (_, results) in enumerate(mine)
        if results.source in images
    ]
    kept = [results.labels for _, results in mine]
    others = [x for x in layers if isinstance(x, LabelsLayer) and x not in kept and _is_own(x)]
    draft.data["labels"] = [_labels(draft, k, layer) for k, layer in enumerate(others)]
    draft.data["chosen"] = {
        "image": images.index(hub.source) if hub.source in images else 0,
        "model": hub.checkpoint,
        "tuning": hub.tuning.to_json(),
        "z": hub.visible_z(),
        "ndisplay": int(hub.viewer.dims.ndisplay),
    }
    active = hub.viewer.layers.selection.active
    draft.data["order"] = [layer.name for layer in layers]
    draft.data["active"] = active.name if active is not None else ""
    return draft


@dataclass
class Opened:
    """What came of opening a session: ``words`` for the person, and the images that are not where
    they were (facts, with the labels that wait for them)."""

    words: str
    missing: list[dict[str, Any]] = field(default_factory=list)


Check = Callable[[], str]
"""A sentence, empty when the pixels of the images are those that were saved; takes seconds."""


def open_session(
    hub: Hub,
    path: Path | str,
    places: Mapping[str, Path] | None = None,
    later: Callable[[Check], None] | None = None,
) -> Opened:
    """Bring a session's layers, model, values and hand edits into the window of ``hub``.

    ``places``: where images are now, by name; then only these images are brought. ``later`` is
    given the check of the pixels (else it is done here and told in ``words``). Raises
    ``InputError`` when the file cannot be used; images that are missing are told in the answer.
    """
    session = read_session(path)
    try:
        return _bring(hub, session, dict(places or {}), later)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(
            f"{session.path.name} is damaged: {error} is not what was expected; use a copy"
        ) from error


def _bring(
    hub: Hub,
    session: Session,
    places: dict[str, Path],
    later: Callable[[Check], None] | None,
) -> Opened:
    data, notes = session.data, []
    standing: dict[int, Image] = {}
    opened = Opened("")
    for number, facts in enumerate(data["images"]):
        if places and facts["name"] not in places:
            continue
        try:
            standing[number] = _bring_image(hub, session, facts, places.get(facts["name"]))
        except ImageGone as error:
            opened.missing.append({**facts, "why": str(error)})
    pairs = [(data["images"][k], layer) for k, layer in standing.items()]
    if not places:
        for facts in data["labels"]:  # a refinement looks for its strokes and its coarse mask
            _bring_labels(hub, session, facts)
    last = data["chosen"]["image"]
    results = sorted(data["results"], key=lambda r: _turn(r, data))
    count = 0
    for facts in results:
        if facts["on"] in standing:
            pages = session.pages(facts["pages"], facts["index"])
            made, note = take_up(hub, standing[facts["on"]], facts, pages, "saved")
            made.labels.visible = bool(facts["visible"])  # type: ignore[union-attr]
            notes += [note] if note else []
            count += 1
    if last in standing:
        _choose(hub, standing[last], data["chosen"])
    _arrange(hub, data)
    (later or (lambda check: notes.append(check())))(lambda: _changes(pairs))
    opened.words = _words(session, standing, count, notes)
    return opened


def _arrange(hub: Hub, data: Mapping[str, Any]) -> None:
    """The layers in the order in which they stood, and the chosen one chosen."""
    layers = hub.viewer.layers
    found = {layer.name: layer for layer in layers}
    for name in data.get("order", ()):
        if name in found:
            layers.move(layers.index(found[name]), len(layers))
    if data.get("active") in found:
        layers.selection.active = found[data["active"]]


def _every(hub: Hub) -> list[tuple[str, ResultLayers]]:
    """Answers of all models and refinements, these last: they need what they were made of."""
    refined = hub.refining._layers.items() if hub.refining is not None else ()
    return [*hub.every_result, *((key[1], results) for key, results in refined)]


def _is_own(layer: Layer) -> bool:
    """Made by a person, or a refined mask: what no run brings again."""
    entry = layer.metadata.get(METADATA)
    made = isinstance(entry, dict) and "result_of" in entry
    return not made or entry.get("what") == "refined"


def _turn(facts: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[bool, ...]:
    """The chosen image and model last, refinements behind the answers that they may begin with."""
    chosen = facts["model"] == data["chosen"]["model"]
    return facts["on"] == data["chosen"]["image"], bool(facts.get("refined")), chosen


def _words(session: Session, standing: dict[int, Any], count: int, notes: list[str]) -> str:
    images = " and ".join(layer.name for layer in standing.values()) or "no image"
    masks = f", {count} mask{'' if count == 1 else 's'}" if count else ""
    told = (words for words in dict.fromkeys(notes) if words)
    return " ".join([f"{session.path.name}: {images}{masks}.", *told])


def _choose(hub: Hub, layer: Image, chosen: Mapping[str, Any]) -> None:
    """Image, model, values and slice that the person had before them."""
    from napari_attnseg.errors import AttnSegError
    from napari_attnseg.settings import Tuning

    hub.set_source(layer)
    with contextlib.suppress(AttnSegError):  # said already, where there are labels
        if chosen["model"] and chosen["model"] != hub.checkpoint:
            hub.set_model(chosen["model"])
    if chosen["model"] == hub.checkpoint:
        hub.live.set_model(hub.checkpoint, hub.device, Tuning.from_json(chosen["tuning"]))
    if layer.ndim == 3:
        hub.viewer.dims.set_point(0, layer.data_to_world((int(chosen["z"]), 0, 0))[0])
    hub.viewer.dims.ndisplay = 3 if chosen["ndisplay"] == 3 else 2


def _image(draft: Draft, number: int, layer: Image) -> dict[str, Any]:
    facts = image_facts(layer)
    path, _ = image_path(layer)
    if path is None:
        pixels = kept_pixels(layer)
        if pixels is None:
            raise InputError(
                f"image {layer.name} has no file and is too large to be kept in a session; save it "
                "as a file (File > Save Selected Layers) and open that"
            )
        facts["kept"] = f"image-{number}"
        draft.arrays[facts["kept"]] = np.asarray(pixels)
    return facts | {"_layer": layer}


def _result(draft: Draft, hub: Hub, number: int, results: Any, on: int) -> dict[str, Any]:
    index, blob = pages_array(results.edits.planes.pages())
    name = f"result-{number}"
    draft.arrays[name] = blob
    facts = facts_of(hub, results)
    return facts | {
        "on": on,
        "pages": name,
        "index": index,
        "visible": bool(results.labels.visible),
    }


def _labels(draft: Draft, number: int, layer: Labels) -> dict[str, Any]:
    name = f"labels-{number}"
    draft.arrays[name] = np.array(layer.data)  # painted on while the file is being written
    return labels_facts(layer) | {"array": name}


def image_places(
    path: Path | str, places: Mapping[str, Path] | None = None
) -> list[tuple[Path, Any]]:
    """Where a session's images are, and which part of the file; those that are missing are left
    out. Raises ``InputError``."""
    session, found = read_session(path), []
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # opening says: damaged
        for facts in session.data["images"]:
            if not facts.get("kept") and (not places or facts["name"] in places):
                where = _found(session, facts, (places or {}).get(facts["name"]))
                found += [(where, facts.get("part"))] if where is not None else []
    return found


def _found(session: Session, facts: Mapping[str, Any], place: Path | None) -> Path | None:
    beside = session.path.absolute().parent / facts["relative"] if facts["relative"] else None
    places = (place, beside, Path(facts["path"]))
    return next((where for where in places if where is not None and where.exists()), None)


def _bring_image(hub: Hub, session: Session, facts: dict[str, Any], place: Path | None) -> Image:
    if facts.get("kept"):
        return bring_image(hub.viewer, facts, None, np.array(session.array(facts["kept"])))
    where = _found(session, facts, place) or Path(facts["path"])  # bringing says that it is gone
    return bring_image(hub.viewer, facts, where)


def _bring_labels(hub: Hub, session: Session, facts: dict[str, Any]) -> None:
    layer = bring_labels(hub.viewer, facts, np.array(session.array(facts["array"])))
    hub.keeper.painted.attach(layer, saved=True)


def _changes(pairs: list[tuple[dict[str, Any], Image]]) -> str:
    told = (changes(facts, layer, image_path(layer)[0]) for facts, layer in pairs)
    return " ".join(words for words in told if words)


def _relative(path: str, folder: Path) -> str:
    try:
        return os.path.relpath(path, folder) if path else ""
    except ValueError:  # another drive
        return ""
