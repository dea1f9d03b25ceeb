"""What strokes say of all that looks alike: a correction of the answer, learned from them alone.

A model that is wrong about one nucleus is mostly wrong about others in the same way: it misses the
faint ones, or draws all of them too small. So a stroke is also an example. For every map with the
margin ``m`` (its logit; of several maps, its logit less the log-sum-exp of the others) a correction

    ``g(p) = sum_d theta_d f_d(p) + sum_j beta_j b_j(p)``

is fitted. ``f``: 1, the image, the image blurred, its local spread, ``m / 6``. ``b_j``: pixels near
place j of the strokes *and* looking alike there, ``exp(-|p - p_j|^2 / (2 NEAR^2) -
|q(p) - q_j|^2 / (2 ALIKE^2))`` with q = (image, blurred, m / 6) and 0 further than 3 NEAR off in
any direction: what holds only here needs no exception made everywhere. With sigma the logistic
function and H the cross-entropy, theta and beta minimise

    ``TRUST mean_p v(p) H(sigma(m / SOFT), sigma((m + g) / SOFT))``  (the answer is kept, ...)
    ``+ sum_i w_i / max(STROKE, n_i) H(t_i, sigma((m + g) / SOFT))``  (strokes are met)
    ``+ RIDGE / 2 |theta / SOFT|^2 + LOCAL_RIDGE / 2 |beta / SOFT|^2``  (and g is small)

over a grid of at most POINTS pixels p, where v gives each side of the answer half of the weight,
and the painted pixels i with weight w and class t; n_i: painted pixels of that class that touch
each other and pixel i. One stroke counts once at most, however long: a line between two nuclei is
one decision, and drawn over bright pixels it must not outweigh all bright nuclei. The function is
convex; Newton's method with halved steps finds its only minimum. Without strokes it is g = 0.

This is logistic regression with an offset; to adapt a network's answer to clicks by a few values
that are fitted while its answer is kept is the idea of f-BRS (Sofiiuk et al., CVPR 2020), here
after the network, where it costs milliseconds.

Legend: B = batch, K = maps, C = channels of the image, D = features, J = places, P = pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.errors import InputError
from napari_attnseg.refinement.anchors import Anchors
from napari_attnseg.refinement.newton import Examples, fit

NEAR = 30.0
"""Pixels to which a place's own correction goes."""
ALIKE = 1.0
"""Difference in looks (standard deviations of the image) at which pixels hardly count as alike."""
CELL = 64
"""Painted pixels of a class in such a square are one place; larger where there are too many."""
PLACES = 24
TRUST = 8.0
SOFT = 3.0
STROKE = 29.0
"""Pixels of a stroke that counts once: a disc of radius 3."""
RIDGE = 0.03
LOCAL_RIDGE = 0.3
POINTS = 2048
BLUR = 2.0
"""Standard deviation of the blur, in pixels."""
UNIT = 6.0


@dataclass(frozen=True, eq=False)
class Look:
    """What there is to see at every pixel. ``seen``: (B, 2 C, H, W), the image in standard
    deviations from its mean and the same blurred; ``spread``: (B, 1, H, W), its local standard
    deviation."""

    seen: Tensor
    spread: Tensor


def look(image_BCHW: Tensor) -> Look:
    """The looks of slices, as a network sees them."""
    x = image_BCHW.detach()
    over = tuple(range(2, x.dim()))
    x = (x - x.mean(over, keepdim=True)) / (x.std(over, correction=0, keepdim=True) + 1e-3)
    smooth = _blurred(x)
    spread = (_blurred(x * x) - smooth * smooth).clamp_min(0).sqrt().mean(1, keepdim=True)
    return Look(torch.cat([x, smooth], 1), spread)


def _blurred(x_BCHW: Tensor) -> Tensor:
    radius = round(4 * BLUR)
    taps = torch.arange(-radius, radius + 1, dtype=x_BCHW.dtype, device=x_BCHW.device)
    taps = torch.exp(taps.square() / (-2 * BLUR**2))
    taps = taps / taps.sum()
    single = x_BCHW.flatten(0, 1)[:, None]
    single = F.pad(single, [radius] * 4, mode="replicate")
    single = F.conv2d(F.conv2d(single, taps[None, None, None]), taps[None, None, :, None])
    return single.reshape(x_BCHW.shape)


def adapt(answer_BKHW: Tensor, seen: Look, anchors: Anchors) -> Tensor:
    """The answer of slices, (B, K, H, W), corrected by what their strokes say of pixels alike.

    ``seen``: :func:`look` of the image; ``anchors``: strokes of the slices; a class is held where
    the margin of what is held there is above 0. Painted pixels are corrected, not held (see
    ``strokes.carry``, for which this is an ``answer``). Nothing becomes surer than the surest
    stroke. Without strokes ``answer`` itself is given back. A pure function.
    Raises ``InputError`` when shapes disagree.
    """
    _check(answer_BKHW, seen, anchors)
    if not bool(anchors.weight.any()):
        return answer_BKHW
    with torch.no_grad():
        out = answer_BKHW.clone()
        margins, targets = _margins(answer_BKHW), _margins(anchors.logits) > 0
        for b in range(len(out)):
            weight = anchors.weight[b, 0]
            if not bool(weight.any()):
                continue
            surest = anchors.logits[b][:, weight > 0].abs().max()
            for k, m in enumerate(margins[b]):
                scene = _Scene(m, seen.seen[b], seen.spread[b])
                changed = out[b, k] + _correction(scene, weight, targets[b, k])
                least, most = out[b, k].clamp(max=-surest), out[b, k].clamp(min=surest)
                out[b, k] = changed.clamp(least, most)
        return out


def _check(answer: Tensor, seen: Look, anchors: Anchors) -> None:
    b, _, *n = answer.shape
    if len(n) != 2:
        raise InputError(f"got an answer of shape {tuple(answer.shape)}, expected (B, K, H, W)")
    if tuple(seen.spread.shape) != (b, 1, *n):
        raise InputError(
            f"got looks of shape {tuple(seen.spread.shape)}, expected {(b, 1, *n)}: those of the "
            "same slices"
        )
    if tuple(anchors.weight.shape) != (b, 1, *n) or anchors.logits.shape != answer.shape:
        raise InputError(
            f"got strokes of shape {tuple(anchors.weight.shape)} and "
            f"{tuple(anchors.logits.shape)}, expected {(b, 1, *n)} and {tuple(answer.shape)}"
        )


def _margins(logits_BKHW: Tensor) -> Tensor:
    """By how much each map stands above all others, in logits."""
    k = logits_BKHW.shape[1]
    if k == 1:
        return logits_BKHW
    others = [[j for j in range(k) if j != i] for i in range(k)]
    above = [logits_BKHW[:, i] - logits_BKHW[:, o].logsumexp(1) for i, o in enumerate(others)]
    return torch.stack(above, 1)


@dataclass(frozen=True, eq=False)
class _Scene:
    """One map of one slice: margin (H, W), ``seen`` (2 C, H, W) and ``spread`` (1, H, W)."""

    margin: Tensor
    seen: Tensor
    spread: Tensor

    def features(self, at: tuple[Tensor | slice, ...]) -> Tensor:
        """(P, D) of pixels: 1, what is seen, spread, margin."""
        m = self.margin[at].flatten()[:, None]
        seen = self.seen[(slice(None), *at)].flatten(1).T
        spread = self.spread[(slice(None), *at)].flatten(1).T
        return torch.cat([torch.ones_like(m), seen, spread, m / UNIT], 1)

    def weighed(self, theta: Tensor) -> Tensor:
        """All features of all pixels with their weights, (H, W), without a copy of them."""
        seen = torch.tensordot(theta[1:-2], self.seen, 1)
        return (
            seen.add_(theta[0])
            .add_(theta[-2] * self.spread[0])
            .add_(theta[-1] / UNIT * self.margin)
        )

    def looks(self, at: tuple[Tensor | slice, ...]) -> Tensor:
        """(P, 2 C + 1) of pixels, weighed so that channels count together as one."""
        seen = self.seen[(slice(None), *at)].flatten(1).T
        share = (2 / len(self.seen)) ** 0.5
        return torch.cat([seen * share, self.margin[at].flatten()[:, None] / UNIT], 1)


def _correction(scene: _Scene, weight: Tensor, target: Tensor) -> Tensor:
    """g (H, W) of one map."""
    rows, cols = painted = torch.nonzero(weight, as_tuple=True)
    places, looks = _places(painted, target[painted], scene)
    every = -(-len(rows) // POINTS)
    rows, cols = rows[::every], cols[::every]
    h, w = scene.margin.shape
    grid = _grid((h, w), weight.device)
    y, x = torch.cat([grid[0], rows]), torch.cat([grid[1], cols])
    local = _bumps(y, x, scene.looks((y, x)), places, looks) * (RIDGE / LOCAL_RIDGE) ** 0.5
    inputs = torch.cat([scene.features((y, x)), local], 1)
    offset = scene.margin[y, x] / SOFT
    trust = _trust(offset[: len(grid[0])])
    held = _counted(weight, target)[rows, cols] * every
    kept = torch.sigmoid(offset[: len(grid[0])])
    examples = Examples(
        inputs, offset, torch.cat([kept, target[rows, cols].to(kept)]), torch.cat([trust, held])
    )
    theta = fit(examples, RIDGE).to(scene.margin) * SOFT
    split = inputs.shape[1] - local.shape[1]
    g = scene.weighed(theta[:split])
    return _add_bumps(g, scene, places, looks, theta[split:] * (RIDGE / LOCAL_RIDGE) ** 0.5)


def _grid(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of at most ``POINTS`` pixels, evenly spread."""
    step, (h, w) = 1, size
    while len(range(step // 2, h, step)) * len(range(step // 2, w, step)) > POINTS:
        step += 1
    ys = torch.arange(step // 2, h, step, device=device)
    xs = torch.arange(step // 2, w, step, device=device)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    return y.flatten(), x.flatten()


def _trust(offset: Tensor) -> Tensor:
    """Weights of the answer's own pixels: half for either side, but for none beyond 50 times."""
    inside = offset > 0
    share = inside.to(offset).mean().clamp(0.01, 0.99)
    return TRUST / len(offset) * torch.where(inside, 0.5 / share, 0.5 / (1 - share))


def _counted(weight: Tensor, target: Tensor) -> Tensor:
    """(H, W): the weight of every painted pixel as an example."""
    painted, side = (weight != 0).cpu().numpy(), target.cpu().numpy()
    touching = np.zeros(painted.shape, np.float32)
    for stroke in (painted & side, painted & ~side):
        which, _ = ndimage.label(stroke, np.ones((3, 3)))
        touching += np.where(stroke, np.bincount(which.ravel())[which], 0)
    return weight / torch.from_numpy(touching).to(weight).clamp(min=STROKE)


def _places(painted: tuple[Tensor, Tensor], target: Tensor, scene: _Scene) -> tuple[Tensor, Tensor]:
    """Means of painted pixels by class and cell: where (J, 2) and looks (J, 2 C + 1)."""
    rows, cols = painted
    cell, width = CELL, scene.margin.shape[1]
    while True:
        key = ((rows // cell) * width + cols // cell) * 2 + target
        kinds, which = torch.unique(key, return_inverse=True)
        if len(kinds) <= PLACES:
            break
        cell *= 2
    what = torch.cat([torch.stack(painted, 1).to(scene.margin), scene.looks(painted)], 1)
    member = (which == torch.arange(len(kinds), device=which.device)[:, None]).to(what)
    mean = member @ what / member.sum(1, keepdim=True)  # no atomic adds: the same bits on a GPU
    return mean[:, :2], mean[:, 2:]


def _bumps(y: Tensor, x: Tensor, looks: Tensor, places: Tensor, at_places: Tensor) -> Tensor:
    """b (P, J) of pixels."""
    dy, dx = y[:, None] - places[:, 0], x[:, None] - places[:, 1]
    unlike = (looks[:, None] - at_places).square().sum(2) / (2 * ALIKE**2)
    b = torch.exp(-(dy * dy + dx * dx) / (2 * NEAR**2) - unlike)
    return torch.where((dy.abs() <= 3 * NEAR) & (dx.abs() <= 3 * NEAR), b, 0)


def _add_bumps(g: Tensor, scene: _Scene, places: Tensor, at_places: Tensor, beta: Tensor) -> Tensor:
    """``g`` with every place's own correction, in place."""
    share, weights = 2 / len(scene.seen), beta.tolist()
    for centre, looks, value in zip(places.tolist(), at_places.tolist(), weights, strict=True):
        (rows, fall_y), (cols, fall_x) = (
            _fall(c, n, g) for c, n in zip(centre, g.shape, strict=True)
        )
        unlike = (scene.margin[rows, cols] / UNIT - looks[-1]).square_()
        for channel, own in zip(scene.seen, looks, strict=False):
            off = channel[rows, cols] - own / share**0.5
            unlike.addcmul_(off, off, value=share)
        b = unlike.mul_(-1 / (2 * ALIKE**2)).exp_()
        g[rows, cols] += b.mul_(value * fall_y[:, None]).mul_(fall_x)
    return g


def _fall(centre: float, size: int, like: Tensor) -> tuple[slice, Tensor]:
    """Along one axis, where a place at ``centre`` counts and how much."""
    part = slice(max(0, int(centre - 3 * NEAR)), min(size, int(centre + 3 * NEAR) + 2))
    off = torch.arange(part.start, part.stop, dtype=like.dtype, device=like.device) - centre
    fall = torch.exp(off.square() / (-2 * NEAR**2))
    return part, torch.where(off.abs() <= 3 * NEAR, fall, 0)
