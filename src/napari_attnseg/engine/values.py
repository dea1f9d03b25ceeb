"""Values given for tunables, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable, Tuning


def checked_values(tunables: Iterable[Tunable], tuned: Tuning) -> dict[str, Any]:
    """All values by name, the cut included.

    Raises ``InputError`` for names the model does not have, choices it does not know and numbers
    that are not finite or, of a whole number, not one within its range.
    """
    known = {t.name: t for t in tunables}
    for name, value in tuned.values.items():
        if name not in known:
            have = ", ".join([*known, "cut"])
            raise InputError(f"got a value for {name!r}, but this model is tuned by {have}")
        tunable = known[name]
        if tunable.kind == "choice" and value not in tunable.choices:
            have = ", ".join(tunable.choices)
            raise InputError(f"got {name} = {value!r}, expected one of {have}")
        if tunable.kind != "choice" and not math.isfinite(float(value)):
            raise InputError(f"got {name} = {value}, expected a finite number")
    return {**tuned.values, **_whole(known, tuned), "cut": tuned.cut}


def _whole(known: Mapping[str, Tunable], tuned: Tuning) -> dict[str, int]:
    """The values of kind ``int``."""
    found = {}
    for name, value in tuned.values.items():
        tunable = known[name]
        if tunable.kind != "int":
            continue
        number = round(float(value))
        if number != float(value) or not tunable.minimum <= number <= tunable.maximum:
            raise InputError(
                f"got {name} = {value}, expected a whole number from {tunable.minimum:g} to "
                f"{tunable.maximum:g}"
            )
        found[name] = number
    return found
