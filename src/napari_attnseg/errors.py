"""Errors that speak to the person: what was got, what was expected, what to do."""

from __future__ import annotations


class AttnSegError(Exception):
    """A problem said in one clear sentence (got / expected / do this)."""


class InputError(AttnSegError):
    """An image, mask, label layer or folder that cannot be used."""


class CheckpointError(AttnSegError):
    """A model file that is missing, damaged, foreign or too new."""


class DeviceError(AttnSegError):
    """A device that is absent, out of memory, or computes wrong numbers."""


class ExportError(AttnSegError):
    """A mask that could not be written, or that did not read back as written."""


class EngineError(AttnSegError):
    """The engine process died, or answered with an error of its own."""


ERRORS: dict[str, type[AttnSegError]] = {
    cls.__name__: cls
    for cls in (AttnSegError, InputError, CheckpointError, DeviceError, ExportError, EngineError)
}
