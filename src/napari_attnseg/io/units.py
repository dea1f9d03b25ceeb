"""Names of lengths, as image files spell them, in millimetres."""

from __future__ import annotations

_METRES = {
    "": 1.0,
    "deci": 1e-1,
    "centi": 1e-2,
    "milli": 1e-3,
    "micro": 1e-6,
    "nano": 1e-9,
    "pico": 1e-12,
}
_SHORT = {
    "m": 1e3,
    "cm": 10.0,
    "mm": 1.0,
    "um": 1e-3,
    "µm": 1e-3,  # micro sign
    "μm": 1e-3,  # Greek letter
    "\\u00b5m": 1e-3,  # as ImageJ escapes it
    "nm": 1e-6,
    "pm": 1e-9,
    "micron": 1e-3,
    "microns": 1e-3,
    "a": 1e-7,
    "å": 1e-7,
    "angstrom": 1e-7,
    "in": 25.4,
    "inch": 25.4,
}
_NIFTI = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}
"""Codes of ``xyzt_units`` that are not the millimetre. Nothing stated (0) counts as one."""


def nifti_unit(code: int) -> tuple[str, float]:
    """Name and millimetres of the unit of length in a NIfTI header's ``xyzt_units``."""
    return _NIFTI.get(int(code) & 7, ("millimetres", 1.0))


def millimetres(unit: str) -> float | None:
    """Millimetres in one ``unit`` (``"µm"``, ``"micrometer"``, ...); ``None`` for what is no
    length, pixels among them."""
    name = unit.strip().lower()
    if name in _SHORT:
        return _SHORT[name]
    for ending in ("meters", "metres", "meter", "metre"):
        if name.endswith(ending):
            factor = _METRES.get(name[: -len(ending)])
            return None if factor is None else factor * 1e3
    return None
