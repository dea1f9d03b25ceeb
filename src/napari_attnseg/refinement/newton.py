"""Logistic regression with an offset and targets in [0, 1], by Newton's method.

Minimises ``sum_i w_i H(t_i, sigma(o_i + x_i . theta)) + ridge / 2 |theta|^2``, H the
cross-entropy. Convex, with one minimum when ``ridge > 0``; a step that does not lower it is halved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 30
HALVINGS = 10
ENOUGH = 1e-8
"""The share of the loss that a step must gain for another to follow."""


@dataclass(frozen=True, eq=False)
class Examples:
    """``inputs`` x (I, D), ``offset`` o, ``target`` t and ``weight`` w, each (I,)."""

    inputs: Tensor
    offset: Tensor
    target: Tensor
    weight: Tensor


def fit(examples: Examples, ridge: float) -> Tensor:
    """theta (D,), float64 on the processor, whatever the examples are."""
    x, o, t, w = (
        v.detach().double().cpu()
        for v in (examples.inputs, examples.offset, examples.target, examples.weight)
    )

    def loss(theta: Tensor) -> tuple[float, Tensor]:
        z = o + x @ theta
        return float((w * (F.softplus(z) - t * z)).sum() + ridge / 2 * theta @ theta), z

    theta = x.new_zeros(x.shape[1])
    value, z = loss(theta)
    for _ in range(STEPS):
        p = torch.sigmoid(z)
        slope = x.T @ (w * (p - t)) + ridge * theta
        bend = (x * (w * p * (1 - p))[:, None]).T @ x
        bend.diagonal().add_(ridge)
        step = torch.linalg.solve(bend, slope)
        for _ in range(HALVINGS):
            lower, z_new = loss(theta - step)
            if lower <= value:
                break
            step = step / 2
        else:
            return theta
        theta, gained, value, z = theta - step, value - lower, lower, z_new
        if gained <= ENOUGH * max(value, 1e-3):
            break
    return theta
