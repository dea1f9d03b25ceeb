"""Smooth Attention: self-attention that treats abrupt neighbours apart.

With Q, K, V three 1x1 convolutions of x and N = H*W positions:

- ``A = softmax(Q K^T / sqrt(d))`` over keys (eq. 4), ``value = A V``
- ``step[i] = max over the 8 neighbours j of max_k |A[j, k] - A[i, k]|`` (eq. 5, 6)
- ``m = [step > threshold]``, strictly (eq. 7)
- rule ``"paper"``: ``gamma * value + (1 - gamma * m) * x`` (eq. 8 as printed, the default)
- rule ``"authors"``: ``gamma * A' V + x``, where rows over the threshold are replaced by the mean
  of their 8 neighbours' rows (what the released code does). The mean of rows commutes with the
  product by V, so ``A' V = where(m, neighbour_mean(value), value)`` exactly.
- rule ``"suppress"``: ``gamma * (1 - m) * value + x`` (what the paper's prose says)

A threshold of 1 or more masks nothing (step <= 1): plain self-attention under every rule. The
paper's code leaves out the division by sqrt(d); ``scale=False`` does so too.

Rows of A sum to 1, so ``A V = A (x W + b) = (A x) W + b``: the rows of A mix x itself, and the
convolution of V follows; V is never made.

Nothing here holds the N x N matrix (see ``functional``), and ``forward`` is
``gate(attend(x))``: the heavy half never sees the threshold, the light half is all that runs when
it moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.attention import functional
from napari_attnseg.attention.base import Attended, AttentionModule, Structure, register_attention
from napari_attnseg.errors import InputError
from napari_attnseg.settings import RULES, Tunable

BORDERS = ("replicate", "inside")
Number: TypeAlias = float | Tensor
VALUE_STRIP = 16
"""Image rows of one step of V's convolution."""
NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


@register_attention(
    "smooth",
    id="A36",
    title="Smooth Attention",
    paper="Smooth Attention: Improving Image Semantic Segmentation",
    kinds=("spatial", "row"),
)
class SmoothAttention(AttentionModule):
    """Self-attention that treats positions apart whose attention jumps to a neighbour's.

    Formula:
        A = softmax(Q K' / sqrt(d)), value = A V
        step_i = max over the 8 neighbours j of i of max_k |A_jk - A_ik|
        m_i = 1 where step_i > threshold, else 0
        y = gamma * value + (1 - gamma * m) * x
    Symbols:
        x, y: features (B, C, H, W)
        Q, K: 1 x 1 convolutions of x to d channels, V to C
        A: attention (N, N), rows sum to 1; step: one number per position, 0 to 1
        gamma: one learned number, starts at 0, where the module is the identity
    Cost:
        N C (2 d + C) + N^2 (d + C) multiply-adds; A is made in blocks and never whole
    Notes:
        The formula is the rule "paper" (equation 8 as printed). "authors", what the released code
        does: attention rows over the threshold are replaced by their neighbours' mean, and
        y = gamma * A' V + x. "suppress", what the prose says: y = gamma * (1 - m) * value + x. A
        threshold of 1 or more masks nothing: plain self-attention under every rule.
    Args:
        key_channels: d (None: C, as in the paper's code)
        rule: what happens at positions over the threshold
        threshold: 0 to 1, or 2.0 for plain attention
        scale: whether scores are divided by sqrt(d); the paper's code leaves it out
        border: neighbours outside the map are the nearest position inside (replicate, as the
            authors pad) or do not count (inside); it matters only for the mean of rule "authors"
        block_bytes: memory of one block of attention rows (None: by device); any value gives the
            same answer
    """

    maps: ClassVar[tuple[str, ...]] = ("step", "received", "row")
    identity_at_start: ClassVar[bool] = True
    weighed_by: ClassVar[str] = "gamma"
    structure: ClassVar[Structure] = "dense"
    stochastic: ClassVar[bool] = True
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"rule": RULES, "border": BORDERS}
    inert: ClassVar[dict[str, str]] = {
        "key.bias": "adds q_i . b to all scores of row i, and softmax ignores a row constant"
    }

    def __init__(
        self,
        channels: int,
        key_channels: int | None = None,
        rule: str = "paper",
        threshold: float = 0.2,
        scale: bool = True,
        border: str = "replicate",
        block_bytes: int | None = None,
    ) -> None:
        super().__init__()
        if border not in BORDERS:
            raise InputError(f"got border {border!r}, expected one of {', '.join(BORDERS)}")
        if not threshold >= 0:
            raise InputError(f"got threshold {threshold}, expected 0 to 1, or 2.0 for plain")
        self.key_channels = key_channels or channels
        self.rule = check_rule(rule)
        self.threshold = float(threshold)
        self.border = border
        self.scale = self.key_channels**-0.5 if scale else 1.0
        self.block_bytes = block_bytes
        self.query = nn.Conv2d(channels, self.key_channels, 1)
        self.key = nn.Conv2d(channels, self.key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """Threshold, rule and gamma, with the trained values as defaults."""
        gamma = float(self.gamma.detach())
        reach = max(1.0, 2.0 * abs(gamma))
        return (
            Tunable("threshold", "float", self.threshold, "gate", _THRESHOLD_DOC),
            Tunable("rule", "choice", self.rule, "gate", _RULE_DOC, choices=RULES),
            Tunable(
                "gamma", "float", gamma, "gate", _GAMMA_DOC, min(0.0, -reach * (gamma < 0)), reach
            ),
        )

    def attend(self, x_BCHW: Tensor) -> Attended:
        """The heavy half: ``value`` (B, C, H, W), ``step`` and ``received`` (B, H, W)."""
        grid = self._grid(x_BCHW)
        mixed, step, received = functional.attend(  # no names for q, k: they are freed there
            *self._tokens(x_BCHW), x_BCHW.flatten(2).mT, grid
        )
        hw = (grid.height, grid.width)
        value = self._value(mixed.mT.unflatten(2, hw))
        return Attended(value, step.unflatten(1, hw), received.unflatten(1, hw))

    def _value(self, mixed_BCHW: Tensor) -> Tensor:
        """V's convolution of what the rows of A mixed; without gradients strip by strip in place,
        because a convolution rearranges all its input and output in memory."""
        if torch.is_grad_enabled():
            value: Tensor = self.value(mixed_BCHW)
            return value
        for strip in mixed_BCHW.split(VALUE_STRIP, dim=2):
            strip.copy_(self.value(strip))
        return mixed_BCHW

    def gate(
        self,
        x_BCHW: Tensor,
        attended: Attended,
        threshold: Number | None = None,
        rule: str | None = None,
        gamma: Number | None = None,
    ) -> Tensor:
        """The light half: (B, C, H, W) from ``x`` and ``attended``; ``None`` = the module's own.

        ``threshold`` may be a tensor of one value per item (B,). Below 0 it masks every position,
        from 1 on none.
        """
        if self.probe is not None:
            self._note(x_BCHW, attended, threshold, rule)
        mask = self.mask(attended, threshold).unsqueeze(1)
        rule = check_rule(rule or self.rule)
        gamma = self.gamma if gamma is None else gamma
        value = attended.value
        if rule == "paper":
            return gamma * value + (1 - gamma * mask.to(value.dtype)) * x_BCHW
        if rule == "authors":
            value = torch.where(mask, neighbour_mean(value, self.border), value)
        else:
            value = value.masked_fill(mask, 0.0)
        return gamma * value + x_BCHW

    def forward(
        self,
        x_BCHW: Tensor,
        threshold: Number | None = None,
        rule: str | None = None,
        gamma: Number | None = None,
    ) -> Tensor:
        """``gate(x, attend(x))``."""
        return self.gate(x_BCHW, self.attend(x_BCHW), threshold, rule, gamma)

    def _note(
        self, x_BCHW: Tensor, attended: Attended, threshold: Number | None, rule: str | None
    ) -> None:
        """Show ``step``, the attention received and, of the asked positions, their rows."""
        assert self.probe is not None
        self.probe.note("step", attended.step)
        self.probe.note("received", self.received(x_BCHW, attended, threshold, rule))
        for i, (y, x) in enumerate(self.probe.cells(x_BCHW.shape[-2:])):
            row = self.row(x_BCHW, y, x, attended, threshold, rule)
            self.probe.note("row", row, "row", query=i)

    def mask(self, attended: Attended, threshold: Number | None = None) -> Tensor:
        """``step > threshold`` (eq. 7, strict): bool (B, H, W)."""
        t = self.threshold if threshold is None else threshold
        if isinstance(t, Tensor) and t.ndim == 1:
            t = t.view(-1, 1, 1)
        return attended.step > t

    def row(
        self,
        x_BCHW: Tensor,
        y: int,
        x: int,
        attended: Attended | None = None,
        threshold: Number | None = None,
        rule: str | None = None,
    ) -> Tensor:
        """What grid position (y, x) attends to: (B, H, W), sums to 1.

        Under ``"authors"`` a masked position shows its smoothed row (the mean of its neighbours');
        the other rules do not alter A.
        """
        grid = self._grid(x_BCHW)
        if not (0 <= y < grid.height and 0 <= x < grid.width):
            raise InputError(
                f"got position ({y}, {x}), expected one inside {grid.height} x {grid.width}"
            )
        with torch.no_grad():
            q, k = self._tokens(x_BCHW)

            def at(yy: int, xx: int) -> Tensor:
                return functional.attention_row(q, k, yy * grid.width + xx, grid)

            own = at(y, x)
            if check_rule(rule or self.rule) == "authors":
                attended = attended or self.attend(x_BCHW)
                around = neighbours_of(y, x, grid.height, grid.width, self.border)
                mean = torch.stack([at(*p) for p in around]).mean(0) if around else own
                own = torch.where(self.mask(attended, threshold)[:, y, x, None], mean, own)
        return own.unflatten(1, (grid.height, grid.width))

    def received(
        self,
        x_BCHW: Tensor,
        attended: Attended,
        threshold: Number | None = None,
        rule: str | None = None,
    ) -> Tensor:
        """Attention received by every position: (B, H, W), sums to 1.

        Under ``"authors"`` of the smoothed rows A' at this threshold (one more streamed pass);
        under the other rules the threshold does not alter A, and this is ``attended.received``.
        """
        if check_rule(rule or self.rule) != "authors":
            return attended.received
        with torch.no_grad():
            mask = self.mask(attended, threshold).to(attended.value.dtype)
            weight = (1 - mask) + neighbour_mean_adjoint(mask, self.border)
            q, k = self._tokens(x_BCHW)
            out = functional.weighted_received(q, k, weight.flatten(1), self._grid(x_BCHW))
        return out.view_as(mask)

    def operator(self, *inputs: Tensor) -> Tensor:
        """All rows of A, under ``"authors"`` with the masked ones smoothed: (B, 1, N, N)."""
        x = inputs[0]
        attended = self.attend(x)
        at = [(i, j) for i in range(x.shape[-2]) for j in range(x.shape[-1])]
        return torch.stack([self.row(x, *p, attended).flatten(1) for p in at], 1).unsqueeze(1)

    def values(self, *inputs: Tensor) -> Tensor:
        value: Tensor = self.value(inputs[0])
        return value.flatten(2).unsqueeze(1)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        x, mixed = inputs[0], mixed_BMCN[:, 0].view_as(inputs[0])
        mask = self.mask(self.attend(x)).unsqueeze(1).to(x.dtype)
        if self.rule == "paper":
            return self.gamma * mixed + (1 - self.gamma * mask) * x
        return self.gamma * (mixed if self.rule == "authors" else mixed * (1 - mask)) + x

    def _tokens(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.query(x_BCHW), self.key(x_BCHW)  # half precision meets features in full
        return q.to(x_BCHW.dtype).flatten(2).mT, k.to(x_BCHW.dtype).flatten(2).mT

    def _grid(self, x_BCHW: Tensor) -> functional.Grid:
        h, w = x_BCHW.shape[-2:]
        return functional.Grid(h, w, self.scale, self.block_bytes)

    def extra_repr(self) -> str:
        return f"rule={self.rule!r}, threshold={self.threshold}, border={self.border!r}"


def check_rule(rule: str) -> str:
    """The rule itself; raises ``InputError`` with the known rules otherwise."""
    if rule not in RULES:
        raise InputError(f"got rule {rule!r}, expected one of {', '.join(RULES)}")
    return rule


def neighbours_of(y: int, x: int, h: int, w: int, border: str) -> list[tuple[int, int]]:
    """The 8 neighbours of (y, x); at the border clamped into the map, or left out."""
    around = [(y + dy, x + dx) for dy, dx in NEIGHBOURS]
    if border == "inside":
        return [(a, b) for a, b in around if 0 <= a < h and 0 <= b < w]
    return [(min(max(a, 0), h - 1), min(max(b, 0), w - 1)) for a, b in around]


def neighbour_mean(value_BCHW: Tensor, border: str = "replicate") -> Tensor:
    """Mean over the 8 neighbours of every position: (B, C, H, W), centre left out."""
    h, w = value_BCHW.shape[-2:]
    if border == "replicate":
        return _sum8(F.pad(value_BCHW, (1, 1, 1, 1), mode="replicate")) / 8
    count = _sum8(F.pad(value_BCHW.new_ones(1, 1, h, w), (1, 1, 1, 1)))
    total = _sum8(F.pad(value_BCHW, (1, 1, 1, 1)))
    return torch.where(count > 0, total / count.clamp(min=1), value_BCHW)  # a 1x1 map has none


def _sum8(padded: Tensor) -> Tensor:
    """Sum of the 8 neighbours (h, w) from a map padded by 1 (h + 2, w + 2)."""
    h, w = padded.shape[-2] - 2, padded.shape[-1] - 2
    total = None
    for dy, dx in NEIGHBOURS:
        part = padded[..., 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w]
        total = part.clone() if total is None else total.add_(part)
    assert total is not None
    return total


def neighbour_mean_adjoint(weight_BHW: Tensor, border: str = "replicate") -> Tensor:
    """Transpose of :func:`neighbour_mean`: how often every position is used, weighted."""
    with torch.enable_grad():
        probe = torch.zeros_like(weight_BHW).unsqueeze(1).requires_grad_()
        mean = neighbour_mean(probe, border)
        # as a number: for a gradient that comes with values torch loads its symbolic algebra, 2 s
        weighed = (mean * weight_BHW.unsqueeze(1)).sum()
        (grad,) = torch.autograd.grad(weighed, probe)
    return grad.squeeze(1)


_THRESHOLD_DOC = (
    "Positions whose attention differs from a neighbour's by more than this are treated apart; "
    "1 or more: plain self-attention."
)
_RULE_DOC = (
    "What happens at those positions. paper: the input is reduced (equation 8). authors: the "
    "attention is replaced by the neighbours' mean. suppress: the attention is left out."
)
_GAMMA_DOC = "Weight of the attention branch; 0 leaves the features as the encoder made them."
