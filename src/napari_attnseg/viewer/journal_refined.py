"""Refined masks in a journal and in a session: what they were made of, and the same again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_attnseg.errors import AttnSegError, InputError

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_attnseg.viewer.hub import Hub
    from napari_attnseg.viewer.results import ResultLayers


def refined_facts(hub: Hub, results: ResultLayers) -> dict[str, Any]:
    """``model``, ``tuning`` and what else a refined mask was made of; nothing for other labels."""
    work = hub.refining
    made = work._layers.items() if work is not None else ()
    name = next((key[1] for key, known in made if known is results), None)
    if work is None or name is None:
        return {}
    state, coarse, strokes = work.control.state, work.coarse, work.watch.layer
    return {
        "model": name,
        "tuning": state.tuning.to_json() if name == work.checkpoint else {},
        "refined": {
            "iterations": state.iterations,
            "strength": state.strength,
            "carry": state.carry,
            "coarse": coarse.name if coarse is not None else "",
            "strokes": strokes.name if strokes is not None else "",
        },
    }


def begin_refined(hub: Hub, layer: Image, facts: Mapping[str, Any]) -> tuple[ResultLayers, str]:
    """Choose ``layer`` and the refinement of ``facts``; empty layers for its mask, and a sentence
    when the refinement is missing or another one now.

    Raises ``InputError`` when there is such a mask already.
    """
    from napari_attnseg.viewer.refine_work import refine_work_for

    hub.set_source(layer)
    work, model, note = refine_work_for(hub), str(facts["model"]), ""
    try:
        work.choose(model)
    except AttnSegError as error:
        note = f"Its refinement is missing ({error}); choose one to go on."
    digest = str(facts.get("model_digest", ""))
    if not note and work.card is not None and digest not in ("", work.card.digest):
        note = f"{Path(model).name} is another refinement than then: it may answer otherwise."
    shape = tuple(int(n) for n in facts["shape"])
    results = work.layers_for(layer, model, shape)  # type: ignore[arg-type]
    if results.layer("labels") is not None:
        raise InputError(
            f"{results.name('refined')} stands in the window already; remove or rename it first"
        )
    return results, note


def go_on_refining(hub: Hub, facts: Mapping[str, Any]) -> None:
    """Values, strokes and coarse mask as they were; layers of these names are there now."""
    work, then = hub.refining, facts.get("refined") or {}
    if work is None or work.checkpoint != facts["model"]:
        return
    work.set_values(**{k: then[k] for k in ("iterations", "strength", "carry") if k in then})
    found = {layer.name: layer for layer in hub.viewer.layers}
    strokes, coarse = found.get(then.get("strokes")), found.get(then.get("coarse"))
    try:
        if strokes is not None:
            work.watch.follow(strokes, len(work.class_names) - 1)  # type: ignore[arg-type]
        if coarse is not None:
            work.set_coarse(coarse)
    except InputError:  # another layer has that name now
        pass
    work.hand_over_again()
    work.chosen.emit()
    work.changed.emit()
