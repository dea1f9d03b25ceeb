"""Luong attention at a skip connection (PAM-UNet, arXiv:2405.01503, equations 4, 5 and 7).

The Progressive Luong Attention gate asks with the encoder's feature (query) what the lower decoder
layer knows (key, value) and adds the answer to the skip:

    A = sigma(Q K^T / sqrt(d)),  V_att = W V,  gate = skip + V_att

The text writes sigma twice and the figure once; ``sigma`` chooses (see ``mixing``). Two more
``direction``s serve the paper's ablation: ``"cross"`` asks with the decoder's feature what the
encoder knows (Luong's own direction), ``"self"`` asks the encoder's feature about itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from napari_attnseg.attention import additive, mixing
from napari_attnseg.attention.base import AttentionModule, Structure, register_attention
from napari_attnseg.attention.recording import Geometry
from napari_attnseg.errors import InputError
from napari_attnseg.settings import Tunable

DIRECTIONS = ("progressive", "cross", "self")
SCORES = ("scaled", "dot", "general", "concat")


@register_attention(
    "luong",
    id="A28",
    title="Luong attention",
    paper="Luong, Pham & Manning: Effective Approaches to Attention-based Neural Machine "
    "Translation (EMNLP 2015); PAM-UNet: Shifting Attention on Region of Interest in Medical "
    "Images",
    kinds=("spatial", "row"),
)
class LuongAttention(AttentionModule):
    """The skip asks what the layer below knows; the answer is added to it.

    Formula:
        A = sigma(s), with the scores of query position i and key position j
        y = x + W V, with W made of A (see sigma)

        scaled:  s_ij = Q_i . K_j / sqrt(C)
        dot:     s_ij = x_i . g_j
        general: s_ij = x_i . W_g g_j
        concat:  s_ij = w . tanh(W_1 x_i + W_2 g_j)
    Symbols:
        x, y: skip and its answer (B, C, h, w)
        Q: 1 x 1 convolution of x; K, V: 1 x 1 convolutions of the context (B, C_g, h', w') to C
        A: attention, one row per position of the skip; never held whole
        g: the context itself; W_g, W_1, W_2: 1 x 1 convolutions to C without bias; w: (C)
    Cost:
        N C^2 + 2 N_ctx C_g C + 2 N N_ctx C multiply-adds; concat computes N N_ctx C tanh, which is
        for small maps. general adds C C_g parameters, concat C (C + C_g) + C, dot none
    Notes:
        The text of the paper writes sigma twice and its figure once: "softmax" is once, "double"
        a softmax of a softmax (nearly uniform for many keys), "sigmoid" is divided by the number
        of keys. Directions "cross" (the decoder asks the encoder, Luong's own) and "self" serve
        the paper's ablation; under "cross" both maps have the same size. The forward takes
        strength, which scales what is added: 1 as trained, 0 the skip as it came.
        Under dot, general and concat (Luong's and Bahdanau's scores) V is the context itself, or
        a 1 x 1 convolution of it where it has other channels than the skip; concat is also the
        additive score, and has the softmax alone.
    Args:
        score: how a query meets a key
        sigma: how scores become weights
        direction: who asks whom
        split: key and value are the two halves of a context of 2 C channels (the paper's text)
            instead of two convolutions of it; progressive only
        block_bytes: memory of one block of rows (None: by device); any value gives the same answer
    """

    role = "gate"
    maps: ClassVar[tuple[str, ...]] = ("received", "row")
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "sigma": mixing.SIGMAS,
        "direction": DIRECTIONS,
        "score": SCORES,
    }
    structure: ClassVar[Structure] = "dense"
    stochastic: ClassVar[bool] = True
    inert: ClassVar[dict[str, str]] = {
        "key.bias": "adds q_i . b to all scores of row i, and softmax ignores a row constant "
        "(it acts under sigma='sigmoid')"
    }

    def __init__(
        self,
        channels: int,
        context_channels: int | None = None,
        sigma: str = "softmax",
        direction: str = "progressive",
        split: bool = False,
        block_bytes: int | None = None,
        score: str = "scaled",
    ) -> None:
        super().__init__()
        context_channels = context_channels or channels * (2 if split else 1)
        _check(sigma, direction, split, context_channels == 2 * channels)
        asking = context_channels if direction == "cross" else channels
        asked = context_channels if direction == "progressive" else channels
        self.score = self.checked("score", score)
        self.direction = direction
        self.split = split
        self.w: nn.Parameter | None = None
        self.query: nn.Module
        self.key: nn.Module
        self.value: nn.Module
        if score == "scaled":
            self.form = mixing.Form(sigma, channels**-0.5, block_bytes)
            self.query = nn.Conv2d(asking, channels, 1)
            self.key = nn.Identity() if split else nn.Conv2d(asked, channels, 1)
            self.value = nn.Identity() if split else nn.Conv2d(asked, channels, 1)
        else:
            _check_score(score, sigma, split, asking, asked)
            self.form = mixing.Form(sigma, 1.0, block_bytes)
            self._build_score(channels, asking, asked)
        self.regulariser: Tensor | None = None

    def _build_score(self, channels: int, asking: int, asked: int) -> None:
        """Projections of the scores without keys and queries of their own."""
        self.query, self.key, self.value = (nn.Identity() for _ in range(3))
        if self.score == "general":
            self.key = nn.Conv2d(asked, asking, 1, bias=False)
        elif self.score == "concat":
            self.query = nn.Conv2d(asking, channels, 1, bias=False)
            self.key = nn.Conv2d(asked, channels, 1, bias=False)
            self.w = nn.Parameter(torch.randn(channels) * channels**-0.5)
        if asked != channels:
            self.value = nn.Conv2d(asked, channels, 1)

    @property
    def sigma(self) -> str:
        """How scores become weights."""
        return self.form.sigma

    @property
    def block_bytes(self) -> int | None:
        """Memory of one block of rows; a session that runs short of memory lowers it."""
        return self.form.block_bytes

    @block_bytes.setter
    def block_bytes(self, value: int | None) -> None:
        self.form = replace(self.form, block_bytes=value)

    @property
    def tunables(self) -> tuple[Tunable, ...]:
        """How much of the attended value is added."""
        return (Tunable("strength", "float", 1.0, "gate", _STRENGTH_DOC),)

    def attend(self, skip_BCHW: Tensor, context: Tensor) -> Tensor:
        """V_att: (B, C, h, w).

        In training mode ``regulariser`` is set to the mean over the batch of
        ``(1/N) sum_i (A_i - mean A)^2`` over all entries of A (equation 7), a scalar; else to
        ``None``.
        """
        self.regulariser = None
        asking, key, value = self._parts(skip_BCHW, context)
        query = self.query(asking)
        with _full_precision(query):
            q, k, v = (t.float() if t.dtype.itemsize < 4 else t for t in (query, key, value))
            out = self._mixed(_tokens(q), _tokens(k), _tokens(v))
        if self.probe is not None:
            self._note(q, k)
        return out.to(value.dtype).mT.unflatten(2, asking.shape[-2:]).contiguous()

    def gate(self, skip_BCHW: Tensor, value_BCHW: Tensor, strength: float = 1.0) -> Tensor:
        """``skip + strength * value``."""
        return torch.add(skip_BCHW, value_BCHW, alpha=strength)

    def forward(self, skip_BCHW: Tensor, context: Tensor, strength: float = 1.0) -> Tensor:
        """``gate(skip, attend(skip, context))``."""
        return self.gate(skip_BCHW, self.attend(skip_BCHW, context), strength)

    def _parts(self, skip: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(what asks, key, value)."""
        if self.split:
            key, value = context.chunk(2, 1)
            return skip, key, value
        asking = context if self.direction == "cross" else skip
        asked = context if self.direction == "progressive" else skip
        if asking.shape[-2:] != skip.shape[-2:]:
            raise InputError(
                f"got a context of {tuple(context.shape[-2:])} for a skip of "
                f"{tuple(skip.shape[-2:])}, expected the same size when the context asks"
            )
        return asking, self.key(asked), self.value(asked)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.w is not None:
            value, spread = additive.mix(q, k, v, self.w.to(q.dtype), self.block_bytes)
            self.regulariser = spread.mean() if self.training else None
            return value
        if not self.training:
            return mixing.mix(q, k, v, self.form)
        value, spread = mixing.mix_and_spread(q, k, v, self.form)
        self.regulariser = spread.mean()
        return value

    def _note(self, q: Tensor, k: Tensor) -> None:
        """Show what every key got from all queries, and what the asked position attends to."""
        assert self.probe is not None
        grid, asking = tuple(k.shape[2:]), tuple(q.shape[2:])
        where = Geometry() if grid == asking else Geometry.over(asking, grid)
        received = self._received(_tokens(q), _tokens(k))
        self.probe.note("received", received.unflatten(1, grid), "spatial", where)
        for number, (i, j) in enumerate(self.probe.cells(asking)):
            row = self._row(q[..., i, j], _tokens(k)).unflatten(1, grid)
            self.probe.note("row", row, "row", where, query=number)

    def _received(self, q_BNd: Tensor, k_BMd: Tensor) -> Tensor:
        if self.w is None:
            return mixing.received(q_BNd, k_BMd, self.form)
        return additive.received(q_BNd, k_BMd, self.w.to(q_BNd.dtype), self.block_bytes)

    def _row(self, q_Bd: Tensor, k_BMd: Tensor) -> Tensor:
        """W of one query: (B, M)."""
        if self.w is None:
            return mixing.row(q_Bd, k_BMd, self.form)
        return additive.weights(q_Bd[:, None], k_BMd, self.w.to(q_Bd.dtype))[:, 0].detach()

    def operator(self, *inputs: Tensor) -> Tensor:
        asking, key, _ = self._parts(*inputs)
        q, k = _tokens(self.query(asking)), _tokens(key)
        return torch.stack([self._row(q[:, i], k) for i in range(q.shape[1])], 1).unsqueeze(1)

    def values(self, *inputs: Tensor) -> Tensor:
        return self._parts(*inputs)[2].flatten(2).unsqueeze(1)

    def collect(self, mixed_BMCN: Tensor, *inputs: Tensor) -> Tensor:
        return self.gate(inputs[0], mixed_BMCN[:, 0].view_as(inputs[0]))

    def extra_repr(self) -> str:
        words = f"score={self.score!r}, sigma={self.sigma!r}, direction={self.direction!r}"
        return f"{words}, split={self.split}"


def _full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Scores of many keys in half precision lose the small weights: leave autocast for them."""
    if like.dtype.itemsize >= 4:
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def _tokens(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.flatten(2).mT


def _check_score(score: str, sigma: str, split: bool, asking: int, asked: int) -> None:
    if split:
        raise InputError(f"got score {score!r} with split=True, expected 'scaled'")
    if score == "concat" and sigma != "softmax":
        raise InputError(f"got sigma {sigma!r} with score 'concat', expected 'softmax'")
    if score == "dot" and asking != asked:
        raise InputError(
            f"got score 'dot' for {asking} and {asked} channels, expected the same on both sides; "
            "'general' brings them together"
        )


def _check(sigma: str, direction: str, split: bool, twice: bool) -> None:
    if sigma not in mixing.SIGMAS:
        raise InputError(f"got sigma {sigma!r}, expected one of {', '.join(mixing.SIGMAS)}")
    if direction not in DIRECTIONS:
        raise InputError(f"got direction {direction!r}, expected one of {', '.join(DIRECTIONS)}")
    if split and (direction != "progressive" or not twice):
        raise InputError(
            "got split=True, expected direction 'progressive' and a context of twice the channels"
        )


_STRENGTH_DOC = "How much of the attended value is added to the skip: 0 nothing, 1 as trained."
