"""Dot-product self-attention without softmax, in whichever order is cheaper.

Legend: B batch, d inner channels of theta and phi, e channels of g, N = H*W positions. Joint
Attention, equation 5 with ``A_1(x_i, x_j) = theta(x_i) . phi(x_j) / N``:

``y_i = sum_j (theta_i . phi_j / N) g_j``

Nothing nonlinear stands between the two products, so they associate: ``(g phi^T / N) theta`` costs
2 N d e multiply-adds and no N x N matrix, ``g (theta^T phi / N)^T`` costs N^2 (d + e) and one. Both
give the same answer; with d = e the first is cheaper where d < N.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from napari_attnseg.attention.recording import Probe
from napari_attnseg.errors import InputError

Order = Literal["auto", "linear", "quadratic"]


def is_linear_cheaper(d: int, e: int, n: int) -> bool:
    """Whether ``(g phi^T) theta`` takes fewer multiply-adds than ``g (theta^T phi)^T``."""
    return 2 * d * e < n * (d + e)


def mix(theta_BdN: Tensor, phi_BdN: Tensor, g_BeN: Tensor, order: Order = "auto") -> Tensor:
    """``y_i = sum_j (theta_i . phi_j / N) g_j``: (B, e, N), differentiable.

    ``order`` decides cost and memory alone: by association, with the N x N matrix, or what is
    cheaper.
    """
    d, n = phi_BdN.shape[1:]
    linear = is_linear_cheaper(d, g_BeN.shape[1], n) if order == "auto" else order == "linear"
    if linear:
        return _over_n(g_BeN, phi_BdN.mT, n) @ theta_BdN
    return g_BeN @ _over_n(phi_BdN.mT, theta_BdN, n)


def _over_n(a: Tensor, b: Tensor, n: int) -> Tensor:
    """``a @ b / n``, divided inside the product: half precision does not overflow in between."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=1 / n)


def row(theta_BdN: Tensor, phi_BdN: Tensor, index: int) -> Tensor:
    """Row ``index`` of the attention matrix, ``theta_index . phi_j / N``: (B, N), signed."""
    return torch.einsum("bd,bdn->bn", theta_BdN[:, :, index], phi_BdN) / phi_BdN.shape[-1]


def received(theta_BdN: Tensor, phi_BdN: Tensor) -> Tensor:
    """Mean over all queries i of ``theta_i . phi_j / N``: (B, N), signed, in O(N d)."""
    return torch.einsum("bd,bdn->bn", theta_BdN.mean(-1), phi_BdN) / phi_BdN.shape[-1]


class NonLocal(nn.Module):
    """``A(x) = W_z NL(x)``, without a residual: (B, C, *grid) to the same.

    theta, phi, g: 1x1 convolutions C to d; W_z: 1x1 convolution back to C that starts at zero, so
    a fresh module adds nothing. 4 C d + 3 d + C parameters. ``inner_channels``: d (``None``: C/2,
    as in non-local networks). It ignores where positions lie: permuted pixels give permuted
    answers.
    """

    order: Order = "auto"

    def __init__(self, channels: int, inner_channels: int | None = None, ndim: int = 2) -> None:
        super().__init__()
        d = max(1, channels // 2) if inner_channels is None else inner_channels
        if d < 1:
            raise InputError(f"got inner_channels={inner_channels}, expected at least 1")
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        self.theta = conv(channels, d, 1)
        self.phi = conv(channels, d, 1)
        self.g = conv(channels, d, 1)
        self.w_z = conv(d, channels, 1)
        nn.init.zeros_(self.w_z.weight)
        nn.init.zeros_(self.w_z.bias)

    def forward(self, x: Tensor, probe: Probe | None = None) -> Tensor:
        """A(x); into ``probe`` go the attention received and the queried positions' rows."""
        flat, grid = x.flatten(2), x.shape[2:]
        if probe is not None:
            self._show(probe, flat, tuple(grid))
        mixed = mix(  # no names for theta, phi and g: they are freed before W_z
            pixelwise(self.theta, flat),
            pixelwise(self.phi, flat),
            pixelwise(self.g, flat),
            self.order,
        )
        return pixelwise(self.w_z, mixed).unflatten(2, grid)

    def _show(self, probe: Probe, x_BCN: Tensor, grid: tuple[int, ...]) -> None:
        theta, phi = pixelwise(self.theta, x_BCN), pixelwise(self.phi, x_BCN)
        probe.note("received", received(theta, phi).unflatten(1, grid), "signed")
        for i, at in enumerate(probe.cells(grid)):
            index = 0
            for a, n in zip(at, grid, strict=True):
                index = index * n + a
            probe.note("row", row(theta, phi, index).unflatten(1, grid), "row", query=i)

    def operator(self, x: Tensor) -> Tensor:
        """``theta_i . phi_j / N`` on a tiny grid: (B, N, N)."""
        theta, phi = (pixelwise(f, x.flatten(2)) for f in (self.theta, self.phi))
        return theta.mT @ phi / phi.shape[-1]


def pixelwise(conv: nn.Conv2d | nn.Conv3d, x_BCN: Tensor) -> Tensor:
    """A 1x1 convolution as the matrix product it is, which copies nothing into other layouts."""
    assert conv.bias is not None
    weight = conv.weight.flatten(1).expand(x_BCN.shape[0], -1, -1)
    return torch.baddbmm(conv.bias[:, None], weight, x_BCN)
