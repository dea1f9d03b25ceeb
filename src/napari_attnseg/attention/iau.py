"""Interaction-aggregation-update (Hou et al., TNNLS 2020): parts, frames and channels interact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import AttentionModule, register_attention
from napari_attnseg.attention.layers import Norm, conv, squeezed
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError

MODES = ("both", "parts", "channels")


class ChannelUnit(nn.Module):
    """``x + norm(W A x)`` with ``A = softmax(x x')`` over channels; the identity when fresh."""

    def __init__(self, channels: int, ndim: int) -> None:
        super().__init__()
        self.mix = conv(ndim, channels, channels, bias=False)
        self.norm = _zero_norm(channels)

    def affinity(self, x_BCN: Tensor) -> Tensor:
        """A: (B, C, C), rows sum to 1."""
        x = x_BCN.flatten(2)
        return torch.softmax(x @ x.mT, -1)

    def forward(self, x_BCN: Tensor, a_BCC: Tensor) -> Tensor:
        mixed = (a_BCC @ x_BCN.flatten(2)).unflatten(2, x_BCN.shape[2:])
        out: Tensor = x_BCN + self.norm(self.mix(mixed))
        return out


class PartUnit(nn.Module):
    """The parts of every frame exchange what they hold; see :class:`InteractionUpdate`."""

    def __init__(self, channels: int, parts: int, reduction: int) -> None:
        super().__init__()
        c = squeezed(channels, reduction)
        self.parts = nn.Sequential(nn.Conv1d(channels, parts, 1, bias=False), Norm(parts))
        self.edge = nn.Sequential(nn.Linear(channels, 1, bias=False), Norm(1, affine=False))
        self.node = nn.Sequential(nn.Linear(2 * channels, c, bias=False), Norm(c), nn.ReLU())
        self.update = nn.Linear(c + channels, channels, bias=False)
        self.norm = _zero_norm(channels)

    def masks(self, x_BTCn: Tensor) -> Tensor:
        """a: (B, T, P, n) in (0, 1)."""
        return torch.sigmoid(self.parts(x_BTCn.flatten(0, 1))).unflatten(0, x_BTCn.shape[:2])

    def edges(self, p_BVC: Tensor, frames: int) -> Tensor:
        """Weights (B, V, V) with which nodes hear each other; rows sum to 1, strangers and the
        node itself get 0."""
        gap = (p_BVC.unsqueeze(2) - p_BVC.unsqueeze(1)).abs()
        scores = self.edge(gap.flatten(0, 2)).view(gap.shape[:3])
        allowed = neighbours(frames, p_BVC.shape[1] // frames).to(scores.device)
        return torch.softmax(scores.masked_fill(~allowed, float("-inf")), -1)

    def forward(self, x_BTCn: Tensor, masks_BTPn: Tensor) -> Tensor:
        batch, frames, channels, n = x_BTCn.shape
        p = (masks_BTPn @ x_BTCn.mT / n).flatten(1, 2)
        heard = self.edges(p, frames) @ p
        s = self.node(torch.cat([p, heard], -1).flatten(0, 1))
        s = s.view(batch, frames, -1, s.shape[-1]).mean(2)
        told = self.norm(self.update(torch.cat([s, x_BTCn.mean(-1)], -1).flatten(0, 1)))
        out: Tensor = x_BTCn + told.view(batch, frames, channels, 1)
        return out


def neighbours(frames: int, parts: int) -> Tensor:
    """Which nodes hear each other, (T P, T P) bool: different parts of one frame, the same part
    of different frames."""
    node = torch.arange(frames * parts)
    frame, part = node // parts, node % parts
    return (frame[:, None] == frame) != (part[:, None] == part)


def _zero_norm(channels: int) -> Norm:
    norm = Norm(channels)
    nn.init.zeros_(norm.weight)
    return norm


@register_attention(
    "iau",
    id="A31",
    title="Interaction-aggregation-update",
    paper="Hou, Ma, Chang, Gu, Shan & Chen: IAUnet: Global Context-Aware Feature Learning for "
    "Person Re-Identification (TNNLS 2020)",
    kinds=("region", "matrix"),
    ndim=(2, 3),
)
class InteractionUpdate(AttentionModule):
    """Soft parts of the image (and of its neighbouring slices) inform each other, then channels do.

    Formula:
        a_k = sigmoid(norm(W_k x)), p_k = mean of a_k * x, u = mean of x
        e_kl = softmax over l of norm(w |p_k - p_l|), only between neighbours
        s_k = relu(norm(W [p_k, sum_l e_kl p_l]))
        x1 = x + norm0(W [mean_k s_k, u])
        y = x1 + norm0(W (softmax(x1 x1') x1))
    Symbols:
        x, y: features (B, C, H, W); in volumes (B, C, D, H, W) with D frames
        a_k: part maps, P in every frame; p_k, u: (B, C) per part and per frame
        e: weights between parts; s: (B, C / r)
        norm0: normalisation that starts at zero, so that a fresh module is the identity
    Cost:
        2 N C^2 + 4 N C multiply-adds; maps of P N, C^2 and (P D)^2 numbers
    Notes:
        Neighbours are the other parts of the same frame and the same part of other frames; a part
        does not hear itself. The published score of an edge also sees u of the listening frame,
        which adds the same number to a whole row and so does nothing under the softmax; it is
        left out. p_k is divided by the number of positions, so that image sizes do not matter.
    Args:
        parts: P, at least 2
        reduction: r
        mode: "both", or "parts" or "channels" alone
    """

    maps: ClassVar[tuple[str, ...]] = ("parts", "channels")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"mode": MODES}
    identity_at_start: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        parts: int = 4,
        reduction: int = 2,
        mode: str = "both",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.checked("mode", mode)
        if parts < 2:
            raise InputError(f"got parts={parts}, expected at least 2")
        self.part = None if mode == "channels" else PartUnit(channels, parts, reduction)
        self.channel = None if mode == "parts" else ChannelUnit(channels, ndim)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """(B, C, N) to the same."""
        x = x_BCN
        if self.part is not None:
            x = self._parts(self.part, x)
        if self.channel is not None:
            a = self.channel.affinity(x)
            if self.probe is not None:
                self.probe.note("channels", a, "matrix")
            x = self.channel(x, a)
        return x

    def _parts(self, unit: PartUnit, x_BCN: Tensor) -> Tensor:
        flat = x_BCN.ndim == 4
        frames = x_BCN.unsqueeze(2) if flat else x_BCN
        x_BTCn = frames.transpose(1, 2).flatten(3)
        masks = unit.masks(x_BTCn)
        if self.probe is not None:
            shown = masks.transpose(1, 2).unflatten(3, frames.shape[3:])
            where = Geometry(x_BCN.ndim - 2)
            self.probe.note("parts", shown.squeeze(2) if flat else shown, "region", where)
        y = unit(x_BTCn, masks).transpose(1, 2).unflatten(3, frames.shape[3:])
        return y.squeeze(2) if flat else y
