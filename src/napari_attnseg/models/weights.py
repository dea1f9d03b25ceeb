"""Tensors from files, without ever running code that lies in them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from napari_attnseg.cards import SUFFIX, read_header
from napari_attnseg.errors import CheckpointError


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Name to tensor, on the CPU, of a ``.safetensors`` file or a foreign ``.pt``/``.pth``.

    The latter is read with ``weights_only=True``: anything but tensors and plain containers is
    refused. A training checkpoint that nests its weights under ``state_dict`` or ``model`` is
    looked into. Raises ``CheckpointError`` with one sentence otherwise.
    """
    if path.suffix == SUFFIX:
        return read_tensors(path)
    if not path.is_file():
        raise CheckpointError(f"got {path}, which does not exist; expected a file of weights")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds more than tensors, and opening it could run code; "
            "save its state_dict() alone, best as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as PyTorch weights ({_first_line(error)})"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if not isinstance(data, dict) or not all(isinstance(v, Tensor) for v in data.values()):
        raise CheckpointError(f"{path.name} holds no state dict; expected names with tensors")
    return dict(data)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a whole, undamaged safetensors file, on the CPU."""
    read_header(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} is damaged ({_first_line(error)}); copy the checkpoint again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
