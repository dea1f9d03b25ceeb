"""Training settings from words: a recipe, and what was asked for on top of it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

from napari_attnseg.errors import InputError
from napari_attnseg.settings import (
    AUGMENTATIONS,
    LOSS_NAMES,
    OPTIMIZERS,
    RULES,
    SCHEDULES,
    Preprocessing,
    TrainSettings,
    check_number,
    check_threshold,
    is_number,
    recipe,
    with_model,
)

OWN_OPTIONS = ("options", "preprocessing", "class_names", "class_colors", "sparse", "coarse")
"""Fields of ``TrainSettings`` that ``--set`` does not change."""
SETTABLE = tuple(f.name for f in fields(TrainSettings) if f.name not in OWN_OPTIONS)
CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "loss": LOSS_NAMES,
    "rule": RULES,
    "threshold_draw": ("fixed", "quantile"),
    "augmentation": AUGMENTATIONS,
    "encoder_normalisation": ("imagenet", "given"),
}
INTENSITIES = ("unit", "percentile", "window")


def parse_value(text: str) -> Any:
    """``0.5`` is a number, ``true`` a flag, ``null`` nothing, anything else a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_pairs(items: list[str], option: str) -> dict[str, Any]:
    """``["width=0.5"]`` to ``{"width": 0.5}``."""
    for item in items:
        if "=" not in item:
            raise InputError(f"got {option} {item}, expected NAME=VALUE")
    return {name: parse_value(value) for name, value in (item.split("=", 1) for item in items)}


def settings_from(
    name: str,
    classes: str | None,
    changes: dict[str, Any],
    options: dict[str, Any],
    preprocessing: dict[str, Any],
) -> TrainSettings:
    """The recipe ``name`` with what was asked for on top.

    Another model than the recipe's starts from its own options. Raises ``InputError`` for unknown
    names, with the known ones, and for values of the wrong kind.
    """
    base = recipe(name)
    unknown = set(changes) - set(SETTABLE)
    if unknown:
        raise InputError(
            f"got --set {', '.join(sorted(unknown))}, expected one of {', '.join(SETTABLE)}"
        )
    base = with_model(base, str(changes.get("model", base.model)), **options)
    check_options_of(base.model, options)
    changes = {k: checked(k, v, getattr(base, k)) for k, v in changes.items()}
    if classes:
        changes["class_names"] = ("background", *(c.strip() for c in classes.split(",")))
    if {"mean", "std"} & set(preprocessing):
        changes.setdefault("encoder_normalisation", "given")
    return replace(base, **changes, preprocessing=prepared(base.preprocessing, preprocessing))


def check_options_of(model: str, options: dict[str, Any]) -> None:
    """Raise ``InputError`` for a model or an option that does not exist, before data is read."""
    import napari_attnseg.models  # noqa: F401  (registers the models)
    from napari_attnseg.models.base import model_info, model_options

    known, choices = model_options(model), model_info(model).choices
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(
            f"got option {', '.join(unknown)} for {model}, expected some of {', '.join(known)}"
        )
    for name, value in options.items():
        if name in choices and value not in choices[name]:
            listed = ", ".join(map(str, choices[name]))
            raise InputError(f"got --option {name}={value}, expected one of {listed}")
        if name == "threshold":
            check_threshold(value, "--option threshold=")


def checked(name: str, value: Any, base: Any) -> Any:
    """The value of ``--set NAME=VALUE``, if it is of the right kind."""
    if name == "class_weights":
        return class_weights(value)
    if name in CHOICES and value not in CHOICES[name]:
        raise InputError(f"got {name} {value}, expected {' or '.join(CHOICES[name])}")
    if name == "crop":
        right, wanted = value is None or _whole(value), "a whole number of pixels, or null"
    elif isinstance(base, bool):
        right, wanted = isinstance(value, bool), "true or false"
    elif isinstance(base, int):
        right, wanted = _whole(value), "a whole number"
    elif isinstance(base, float):
        right, wanted = is_number(value), "a number"
    else:
        right, wanted = isinstance(value, str), "a word"
    if not right:
        raise InputError(f"got --set {name}={value}, expected {wanted}")
    check_number(name, value, "--set ")
    if name == "threshold":
        check_threshold(value, "--set threshold=")
    return float(value) if isinstance(base, float) else value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def class_weights(value: Any) -> Any:
    """``balanced``, or numbers as ``1,5,10`` or ``[1, 5, 10]``."""
    parts = value.split(",") if isinstance(value, str) and "," in value else value
    if isinstance(parts, list):
        try:
            return tuple(float(v) for v in parts)
        except (TypeError, ValueError):
            parts = None
    if parts in ("", "balanced"):
        return parts
    raise InputError(
        f"got class_weights {value}, expected balanced, or a number per class as 1,5,10"
    )


def prepared(base: Preprocessing, changes: dict[str, Any]) -> Preprocessing:
    """The preprocessing with ``--preprocessing`` on top; mean and std follow the channels."""
    known = [f.name for f in fields(Preprocessing)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise InputError(f"got --preprocessing {', '.join(unknown)}, expected {', '.join(known)}")
    for name, value in changes.items():
        _check_prepared(name, value, getattr(base, name))
    listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    for name in ("mean", "std"):
        if isinstance(listed.get(name), int | float):
            listed[name] = (float(listed[name]),)
    pre = replace(base, **listed)
    _check_limits(pre)
    n = pre.channels
    mean, std = (v if len(v) == n else (v[0],) * n for v in (pre.mean, pre.std))
    return replace(pre, mean=mean, std=std)


def _check_prepared(name: str, value: Any, base: Any) -> None:
    """Raise ``InputError`` for a value of ``--preprocessing`` of the wrong kind."""
    if name == "intensity":
        right, wanted = value in INTENSITIES, " or ".join(INTENSITIES)
    elif name == "size":
        right, wanted = value is None or _whole(value), "a whole number of pixels, or null"
    elif name == "patch":
        three = isinstance(value, list) and len(value) == 3 and all(map(_whole, value))
        right = value is None or (three and min(value) > 0)
        wanted = "three whole numbers: slices, rows, columns"
    elif name in ("mean", "std", "spacing_mm"):
        several = isinstance(value, list) and all(map(is_number, value))
        one = value is None if name == "spacing_mm" else is_number(value)
        right, wanted = several or one, "numbers as [0.5, 0.5, 0.5]"
    elif isinstance(base, int):
        right, wanted = _whole(value), "a whole number"
    else:
        right, wanted = is_number(value), "a number"
    if not right:
        raise InputError(f"got --preprocessing {name}={value}, expected {wanted}")
    check_number(name, value, "--preprocessing ")


def _check_limits(pre: Preprocessing) -> None:
    """Raise ``InputError`` for limits between which nothing would be left of an image."""
    percentile = pre.intensity == "percentile"
    inside = not percentile or (pre.low >= 0 and pre.high <= 100)
    if pre.intensity == "unit" or (inside and pre.low < pre.high):
        return
    ends = "low from 0 up to below high, high at most 100" if percentile else "low below high"
    raise InputError(
        f"got --preprocessing low={pre.low:g} and high={pre.high:g} with "
        f"intensity={pre.intensity}, expected {ends}"
    )
