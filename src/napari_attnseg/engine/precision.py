"""Mixed precision: float16 where it is safe, with a scaled loss; on CUDA only."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


class Precision:
    """Full precision, or on CUDA with ``wanted`` autocast to float16 and a ``GradScaler``.

    Elsewhere the wish is left aside with a note: on a CPU float16 is slower and less exact.
    """

    def __init__(self, wanted: bool, device: torch.device, notes: list[str]) -> None:
        self.mixed = wanted and device.type == "cuda"
        if wanted and not self.mixed:
            notes.append(f"mixed precision is for CUDA; on {device.type} all is in float32")
        self._scaler = torch.amp.GradScaler("cuda") if self.mixed else None

    def on(self) -> AbstractContextManager[Any]:
        """Where the forward pass runs."""
        if not self.mixed:
            return nullcontext()
        return torch.autocast("cuda", dtype=torch.float16)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of ``loss``, scaled so that small ones do not vanish in float16."""
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of the optimiser; left out, and the scale halved, after an overflow."""
        if self._scaler is None:
            optimizer.step()
            return
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """The scale and its history, as plain data; empty in full precision."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)
