"""What one forward costs: multiply-adds of convolutions and matrix products.

Counted operation by operation while a forward runs, so attention that streams is counted like
attention that does not: the blocks add up. Everything else (normalisation, activations, softmax,
resizing) is left out, as papers do. One multiply-add is one MAC; many papers print MACs under the
name FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from napari_attnseg.errors import InputError
from napari_attnseg.models.base import SegmentationModel

META = torch.device("meta")
UNLISTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop}
"""Operations that PyTorch's counter passes over."""


def count_macs(model: nn.Module, size: Sequence[int], in_channels: int | None = None) -> int:
    """Multiply-adds of one forward of one image (1, C, *size) in evaluation mode.

    ``size``: pixels along every axis, (H, W). ``in_channels``: C (``None``: what the model was
    made for). The forward runs on shapes alone, without numbers or memory for them; a model whose
    forward looks at its numbers is run in earnest instead. The model is left as it was.

    Raises:
        InputError: no ``in_channels`` for a module that does not know its own, or an empty size.
    """
    if in_channels is None:
        if not isinstance(model, SegmentationModel):
            raise InputError("got a module without a known number of channels; give in_channels")
        in_channels = model.spec.in_channels
    if not size or min(size) < 1:
        raise InputError(f"got size {tuple(size)}, expected at least 1 pixel along every axis")
    shape = (1, in_channels, *size)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return _counted(model, shape)
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _counted(model: nn.Module, shape: tuple[int, ...]) -> int:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    like = next((t for t in tensors.values() if t.is_floating_point()), torch.empty(0))
    shapes = {name: tensor.to(META) for name, tensor in tensors.items()}
    try:
        return _flops(model, shapes, torch.empty(shape, dtype=like.dtype, device=META)) // 2
    except (RuntimeError, NotImplementedError):
        return _flops(model, tensors, torch.zeros(shape, dtype=like.dtype, device=like.device)) // 2


def _flops(model: nn.Module, tensors: dict[str, Tensor], x: Tensor) -> int:
    with FlopCounterMode(display=False, custom_mapping=UNLISTED) as counter:
        torch.func.functional_call(model, tensors, (x,))
    return int(counter.get_total_flops())
