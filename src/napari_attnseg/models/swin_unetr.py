"""Swin UNETR (Hatamizadeh et al., 2022) in two or three dimensions, made of MONAI's network.

The layers are those of ``monai.networks.nets.SwinUNETR`` with its defaults; they are run here one
stage after the other, number for number as MONAI runs them, so that each stage of windows can be
let through by degrees and its attention be seen. Nothing of MONAI is changed, and its optional
package for rearranging axes is not needed. Images of any size are padded to multiples of 32.

Legend: N = the grid, two or three axes (rows, columns; of volumes slices first).

What is shown is what the softmax of a stage's last block answers. As in the published code, zeros
that fill up the windows at the border take part in the softmax, so what a border position attends
to may sum to less than 1 over the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule
from napari_attnseg.attention.neighbourhood import Size
from napari_attnseg.attention.recording import Geometry, Probe
from napari_attnseg.errors import InputError
from napari_attnseg.models.attentive import Attentive, Standing, sketched
from napari_attnseg.models.base import (
    Encoded,
    check_ndim,
    cropped,
    register_model,
    spatial_size,
)
from napari_attnseg.models.monai_parts import monai_part, padded, padded_size

NETS = "monai.networks.nets.swin_unetr"
HEADS = (3, 6, 12, 24)
STEP = 12
"""Channels come in multiples of this."""


class WindowStage(AttentionModule):
    """The blocks of one of MONAI's stages, (B, C, N) to the same; ``layer`` is MONAI's."""

    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    emits: ClassVar[tuple[str, ...]] = ("spatial", "row")

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.blocks = layer.blocks
        self.window, self.shift = tuple(layer.window_size), tuple(layer.shift_size)
        self._mask = monai_part(NETS, "compute_mask")
        self._fit = monai_part(NETS, "get_window_size")
        self._partition = monai_part(NETS, "window_partition")

    def forward(self, x_BCN: Tensor) -> Tensor:
        """MONAI's stage without what follows it on a coarser grid."""
        grid = tuple(x_BCN.shape[2:])
        window, shift = self._fit(grid, self.window, self.shift)
        whole = [n + -n % w for n, w in zip(grid, window, strict=True)]
        mask = self._mask(whole, window, shift, x_BCN.device)
        y = x_BCN.movedim(1, -1).contiguous()
        for block in self.blocks[:-1]:  # type: ignore[index]
            y = block(y, mask)
        last = self.blocks[-1]  # type: ignore[index]
        if self.probe is None:
            y = last(y, mask)
        else:
            with _seen(last.attn.softmax) as weights:
                y = last(y, mask)
            window, shift = self._fit(grid, self.window, last.shift_size)
            self._note(self.probe, weights[0], window, shift, grid)
        return y.movedim(-1, 1).contiguous()

    # --- what is shown ----------------------------------------------------------------------------

    def _note(self, probe: Probe, weights: Tensor, window: Size, shift: Size, grid: Size) -> None:
        """``weights`` (B * windows, heads, n, n), query before key."""
        where = self._where(grid, window, shift).to(weights.device)
        weights = weights.unflatten(0, (-1, len(where)))
        geometry = Geometry(len(grid), window=tuple(window), shift=tuple(shift))
        asking = (where >= 0).to(weights.dtype)[None, :, None, :, None]
        received = (weights * asking).sum(3).mean(2, keepdim=True) / prod(grid)
        probe.note("received", _laid(received, where, grid)[:, 0], "spatial", geometry)
        numbers = torch.arange(prod(grid)).view(grid)
        for i, cell in enumerate(probe.cells(grid)):
            group, slot = (where == numbers[cell].to(where.device)).nonzero()[0].tolist()
            own = torch.full_like(where, -1)
            own[group] = where[group]
            probe.note("row", _laid(weights[:, :, :, slot], own, grid), "row", geometry, query=i)

    def _where(self, grid: Size, window: Size, shift: Size) -> Tensor:
        """Position (windows, slots) of every slot, -1 where the map was filled up; dealt out by
        MONAI's own function."""
        table = torch.arange(prod(grid)).view(grid)
        more = [-n % w for n, w in zip(grid, window, strict=True)]
        table = F.pad(table, [n for last in reversed(more) for n in (0, last)], value=-1)
        table = table.roll([-s for s in shift], list(range(len(grid))))
        found: Tensor = self._partition(table[None, ..., None], window).squeeze(-1)
        return found


@contextmanager
def _seen(softmax: nn.Module) -> Iterator[list[Tensor]]:
    """What a softmax of MONAI answers while the block runs."""
    answers: list[Tensor] = []
    hook = softmax.register_forward_hook(
        lambda _layer, _args, answer: answers.append(answer.detach())
    )
    try:
        yield answers
    finally:
        hook.remove()


def _laid(values_BGMn: Tensor, where_Gn: Tensor, grid: Size) -> Tensor:
    """Values of slots to the map: (B, M, *grid), 0 where no slot stands."""
    batch, _, heads, _ = values_BGMn.shape
    flat = values_BGMn.transpose(1, 2).flatten(2)
    slots = where_Gn.flatten()
    out = flat.new_zeros(batch, heads, prod(grid))
    out[..., slots[slots >= 0]] = flat[..., slots >= 0]
    return out.unflatten(2, grid)


class SwinUNETR(Attentive):
    """Parts: ``net`` (MONAI's convolutions), ``stages`` (its windows, finest first) and
    ``merges``."""

    stride = 32

    def __init__(self, net: Any, ndim: int) -> None:
        super().__init__()
        self.ndim = ndim
        swin = net.swinViT
        layers = [swin.layers1[0], swin.layers2[0], swin.layers3[0], swin.layers4[0]]
        self.embed = swin.patch_embed
        self.stages = nn.ModuleList(
            Standing(WindowStage(layer), f"encoder {i + 1}", 2 ** (i + 1))
            for i, layer in enumerate(layers)
        )
        self.merges = nn.ModuleList(layer.downsample for layer in layers)
        del net.swinViT
        self.net = net
        self.name_levels()

    def padded_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return padded_size(size, self.stride)

    def encode(self, x_BCHW: Tensor) -> Encoded:
        """Patches of two pixels a side, and what the finest skip makes of the image."""
        x = padded(x_BCHW, self.stride)
        return Encoded(self.embed(x), spatial_size(x_BCHW), (self.net.encoder1(x),))

    def gate(self, encoded: Encoded, attended: Any = None, **values: Any) -> Tensor:
        at, net = self.strengths(values), self.net
        y, found = encoded.features, [encoded.features]
        for stage, merge in zip(self.stages, self.merges, strict=True):
            y = merge(stage(at, y).movedim(1, -1)).movedim(-1, 1).contiguous()
            found.append(y)
        fine, second, third, fourth, deep = (_normalised(t) for t in found)
        y = net.decoder5(net.encoder10(deep), fourth)
        y = net.decoder4(y, net.encoder4(third))
        y = net.decoder3(y, net.encoder3(second))
        y = net.decoder2(y, net.encoder2(fine))
        return net.decoder1(y, encoded.skips[0])

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return cropped(self.net.out(features), size)


def _normalised(x: Tensor) -> Tensor:
    """Over the channels of every position, without weights."""
    return F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1)


@register_model(
    title="Swin UNETR",
    paper="Hatamizadeh et al.: Swin UNETR: Swin Transformers for Semantic Segmentation of Brain "
    "Tumors in MRI Images (BrainLes 2021, LNCS 2022); MONAI's network in two or three dimensions",
    choices={"ndim": (2, 3)},
    sketch=sketched(
        6_302_203, [(f"stages.{i}.module", f"encoder {i + 1}", 2 ** (i + 1)) for i in range(4)]
    ),
)
def swin_unetr(
    in_channels: int = 3,
    classes: int = 1,
    width: float = 1.0,
    depth: int = 2,
    window: int = 7,
    ndim: int = 2,
) -> SwinUNETR:
    """``width`` multiplies all channels (in steps of 12; 24 on the finest grid are MONAI's);
    ``depth``: blocks of every stage; ``window``: positions along a side; ``ndim``: 2 for slices, 3
    for volumes as a whole."""
    check_ndim(ndim)
    if not width > 0 or depth < 1 or window < 1:
        raise InputError(
            f"got width={width}, depth={depth} and window={window}, expected a number above 0 and "
            "at least 1 of each"
        )
    device = torch.get_default_device()
    with torch.device("cpu"):  # MONAI looks at numbers while it builds, which shapes alone lack
        net = monai_part(NETS, "SwinUNETR")(
            in_channels=in_channels,
            out_channels=classes,
            depths=(depth,) * len(HEADS),
            num_heads=HEADS,
            window_size=window,
            feature_size=STEP * max(1, round(2 * width)),
            spatial_dims=ndim,
        )
    return SwinUNETR(net.to(device), ndim)
