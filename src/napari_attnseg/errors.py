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


class MemoryEndedError(DeviceError):
    """Memory ran out on every way down; ``tile``: side of image tiles that may fit (0: none)."""

    def __init__(self, sentence: str, tile: int = 0) -> None:
        super().__init__(sentence)
        self.tile = tile


class ExportError(AttnSegError):
    """A mask that could not be written, or that did not read back as written."""


class EngineError(AttnSegError):
    """The engine process died, or answered with an error of its own."""


ERRORS: dict[str, type[AttnSegError]] = {
    cls.__name__: cls
    for cls in (
        AttnSegError,
        InputError,
        CheckpointError,
        DeviceError,
        MemoryEndedError,
        ExportError,
        EngineError,
    )
}

MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "alloc_failed",
    "could not create a memory",
)
"""What torch and the libraries below it say when memory ran out."""


def is_memory_error(error: BaseException) -> bool:
    """Whether memory ran out, told without torch.

    The CPU's convolutions (oneDNN) only say that they "could not create a primitive"; with
    "primitive descriptor" they mean a layer they do not know.
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    primitive = "create a primitive" in text and "primitive descriptor" not in text
    return isinstance(error, RuntimeError) and (
        primitive or any(words in text for words in MEMORY_WORDS)
    )


def plain_sentence(error: BaseException) -> str | None:
    """One sentence for what may happen anywhere (no memory, a disk that refuses), else ``None``."""
    if isinstance(error, AttnSegError):
        return str(error)
    if is_memory_error(error):
        return (
            "memory ran out; what was finished stays. Close other programs, or take a smaller "
            "image, batch or crop"
        )
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk or file system refused: {error.strerror}{where}; choose another place"
    return None
