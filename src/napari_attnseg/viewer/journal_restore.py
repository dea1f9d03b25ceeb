"""Bringing back what a window that ended left behind: image, model, live values, labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import AttnSegError, InputError
from napari_attnseg.io.journal import Page
from napari_attnseg.io.journal_folder import Left, discard, kept_file
from napari_attnseg.settings import Tuning
from napari_attnseg.viewer.image_changes import changes
from napari_attnseg.viewer.journal_painted import bring_labels
from napari_attnseg.viewer.journal_planes import HELD
from napari_attnseg.viewer.journal_refined import begin_refined, go_on_refining
from napari_attnseg.viewer.journal_tiles import box, codes_of, ids_of, is_held, tiles_of
from napari_attnseg.viewer.session_image import ImageGone, bring_image, image_path

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers


Later = Callable[[Callable[[], str]], None]
"""Is given a check that takes seconds and answers a sentence, or nothing."""


def restore(
    hub: Hub,
    left: Left,
    path: Path | None = None,
    later: Later | None = None,
    brought: dict[Path, Image] | None = None,
) -> str:
    """Bring back one journal; what it was and what is missing, in words.

    ``path``: where the image is now; ``later`` is given the check whether it is still the same
    one (without it the answer has its words). ``brought``: images whose pixels were kept and that
    other journals of the same window have brought. The journal goes once the new window's own is
    on the disk. Raises :class:`ImageGone` when the image is not where it was, ``InputError`` when
    its labels stand in the window already or do not fit; then the journal stays.
    """
    facts, notes = left.facts, []
    layer = None if facts["image"].get("bare") else _image(hub, left, path, brought)
    if layer is not None:
        check = partial(_check, facts["image"], layer, path)
        (later or (lambda check: notes.append(check())))(check)
    if facts.get("painted"):
        labels = paint_again(hub, facts, left.state.pages, restored=True)
        kept, held, on, note = hub.keeper.painted.kept(labels), 0, labels.name, ""
        if layer is not None:
            hub.set_source(layer)
    else:
        assert layer is not None
        results, note = take_up(hub, layer, facts, left.state.pages)
        kept, on = hub.keeper.kept(results), layer.name
        held = results.edits.count if results.edits else 0
    if kept:
        discard(left)  # else it is the only one: it stays
    what = f"{held:,} painted pixel{'' if held == 1 else 's'} on" if held else "the labels on"
    words = f"Brought back: {on if facts.get('painted') else f'{what} {on}'}."
    return " ".join(x for x in (words, *notes, note) if x)


def order_of(left: Left) -> tuple[int, float]:
    """What is brought first: what is painted, then answers, then what refines them."""
    kind = 0 if left.facts.get("painted") else 2 if left.facts.get("refined") else 1
    return kind, left.time


def _check(facts: Mapping[str, Any], layer: Image, path: Path | None) -> str:
    return changes(facts, layer, image_path(layer)[0] if facts.get("path") or path else None)


def _image(hub: Hub, left: Left, path: Path | None, brought: dict[Path, Image] | None) -> Image:
    kept = kept_file(left)
    known = (brought or {}).get(kept) if kept is not None else None
    if known is not None and known in hub.viewer.layers:
        return known
    layer = bring_image(hub.viewer, left.facts["image"], path, kept_image(left))
    if kept is not None and brought is not None:
        brought[kept] = layer
    return layer


def paint_again(
    hub: Hub, facts: Mapping[str, Any], pages: Mapping[Page, bytes], **more: Any
) -> Labels:
    """A labels layer that a person painted, and its journal; ``more`` are facts of that.

    Raises ``InputError`` when the tiles do not fit.
    """
    shape = tuple(int(n) for n in facts["shape"])
    try:
        dtype = np.dtype(facts["dtype"])
        if len(shape) != 3 or dtype.kind not in "ui":
            raise ValueError(f"{shape} of {dtype}")
        stack = np.zeros(shape, dtype)
        for (plane, key), data in pages.items():
            if plane != HELD or key not in tiles_of(key[0], shape):
                raise ValueError(f"tile {key} lies outside {shape}")
            codes = codes_of(data, key, shape)
            stack[box(key, shape)] = np.where(is_held(codes), ids_of(codes), 0)
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"the kept labels are damaged: {error}") from error
    layer = bring_labels(
        hub.viewer, dict(facts["painted"]), stack[0] if facts["axes"] == 2 else stack
    )
    hub.keeper.painted.attach(layer, **more)
    return layer


def kept_image(left: Left) -> npt.NDArray[Any] | None:
    """Pixels that were kept because the image has no file; ``None`` when it has one.

    Raises :class:`ImageGone` when they were to be kept and are not there.
    """
    kept = kept_file(left)
    if kept is None:
        return None
    try:
        return np.load(kept, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ImageGone(
            f"the pixels of {left.image} had no file and were not kept in time; say which file "
            "holds them"
        ) from error


def take_up(
    hub: Hub,
    layer: Image,
    facts: Mapping[str, Any],
    pages: Mapping[Page, bytes],
    name: str = "restored",
) -> tuple[ResultLayers, str]:
    """Choose ``layer`` and the model of ``facts``, and show the labels of ``pages`` on it.

    Returns the layers and, when the model is missing or another one now, a sentence. Raises
    ``InputError`` when there are labels already or the tiles do not fit.
    """
    shape, refined = tuple(int(n) for n in facts["shape"]), bool(facts.get("refined"))
    if len(shape) != 3 or int(np.prod(shape)) != int(np.prod(facts["image"]["shape"][:3])):
        raise InputError(f"labels of {shape} do not fit the image; this file is damaged")
    results, note = (begin_refined if refined else _begin)(hub, layer, facts)
    labels = results.ensure_labels()
    assert results.edits is not None
    try:
        _convert(labels, str(facts.get("dtype", "")))
        results.edits.restore(pages)
    except (ValueError, TypeError) as error:
        hub.viewer.layers.remove(labels)
        raise InputError(f"the kept labels do not fit the image: {error}") from error
    results.edits.tuning = Tuning.from_json(facts.get("tuning") or {})
    results.provenance = dict(facts.get("provenance") or {})
    labels.name = str(facts.get("labels") or labels.name)
    if refined:
        go_on_refining(hub, facts)
    hub.keeper.attach(results, **{name: True})
    if layer.ndim == 3:
        hub.viewer.dims.set_point(0, layer.data_to_world((int(facts.get("z", 0)), 0, 0))[0])
    hub.results_changed.emit(hub.results)
    return results, note


def _begin(hub: Hub, layer: Image, facts: Mapping[str, Any]) -> tuple[ResultLayers, str]:
    """As :func:`begin_refined` for the answers of a model."""
    model, shape = str(facts["model"]), tuple(int(n) for n in facts["shape"])
    hub.set_source(layer)
    note = _choose_model(hub, model, str(facts.get("model_digest", "")))
    if hub.checkpoint == model and facts.get("tuning"):
        hub.live.set_model(model, hub.device, Tuning.from_json(facts["tuning"]))
    results = hub.results_for(shape, model)  # type: ignore[arg-type]
    if results.layer("labels") is not None:
        raise InputError(
            f"{results.name('labels')} stands in the window already; remove or rename it first"
        )
    return results, note


def _convert(labels: Labels, kind: str) -> None:
    """Give a layer the type that a person had converted it to; ``TypeError`` for one that is
    none of labels."""
    dtype = np.dtype(kind or np.uint8)
    if dtype.kind not in "ui":
        raise TypeError(f"labels of type {dtype}")
    if dtype != labels.data.dtype:
        labels.data = labels.data.astype(dtype)


def _choose_model(hub: Hub, model: str, digest: str) -> str:
    try:
        card = hub.set_model(model) if model else None
    except AttnSegError as error:
        return f"Its model is missing ({error}); choose one to go on."
    if card is not None and digest and card.digest and card.digest != digest:
        return f"{Path(model).name} is another model than then: a new run may differ."
    return ""
