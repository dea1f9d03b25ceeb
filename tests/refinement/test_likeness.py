"""What strokes say of all that looks alike: against loops over pixels, a second solver, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize
from torch import Tensor

from napari_attnseg.errors import InputError
from napari_attnseg.refinement import Anchors, create_refinement, likeness
from napari_attnseg.refinement.likeness import Look, adapt, look
from napari_attnseg.refinement.newton import Examples, fit
from napari_attnseg.refinement.strokes import carry


def case(shape: tuple[int, ...] = (1, 1, 17, 22), channels: int = 1) -> tuple[Tensor, Look]:
    torch.manual_seed(2)
    answer = torch.randn(shape, dtype=torch.float64) * 3
    image = torch.rand(shape[0], channels, *shape[2:], dtype=torch.float64)
    return answer, look(image)


def held(like: Tensor, *painted: tuple[tuple[slice, slice], int, float]) -> Anchors:
    """Anchors from (pixels, class, weight); of one map, class 1 is what it shows."""
    k = like.shape[1]
    logits, weight = torch.zeros_like(like), torch.zeros_like(like[:, :1])
    for pixels, label, strength in painted:
        for j in range(k):
            logits[(slice(None), j, *pixels)] = (
                6.0 if (label == 1 if k == 1 else label == j) else -6
            )
        weight[(slice(None), 0, *pixels)] = strength
    return Anchors(logits, weight)


BOX, LOW = np.s_[3:6, 4:8], np.s_[12:14, 15:19]


# --- the fit -------------------------------------------------------------------------------------


def objective(theta: np.ndarray, e: Examples, ridge: float) -> float:
    total = ridge / 2 * float(theta @ theta)
    for x, o, t, w in zip(*(v.tolist() for v in vars(e).values()), strict=True):
        z = o + sum(a * b for a, b in zip(x, theta, strict=True))
        total -= w * (t * -math.log1p(math.exp(-z)) + (1 - t) * -math.log1p(math.exp(z)))
    return total


def test_the_fit_is_the_minimum_that_another_solver_finds() -> None:
    torch.manual_seed(0)
    e = Examples(torch.randn(60, 3), torch.randn(60) * 4, torch.rand(60), torch.rand(60))
    got = fit(e, 0.1).numpy()
    wanted = optimize.minimize(objective, np.zeros(3), (e, 0.1), tol=1e-12)
    assert np.allclose(got, wanted.x, atol=1e-4)
    assert objective(got, e, 0.1) <= wanted.fun + 1e-9


def test_the_fit_holds_where_plain_newton_runs_away() -> None:
    """Offsets far on the wrong side: almost no curvature there, so whole steps are far too long."""
    e = Examples(torch.ones(4, 1), torch.full((4,), -14.0), torch.ones(4), torch.ones(4))
    theta = float(fit(e, 0.01))
    slope = 4 * (1 / (1 + math.exp(14 - theta)) - 1) + 0.01 * theta
    assert 10 < theta < 30
    assert slope == pytest.approx(0, abs=1e-5)


# --- looks ---------------------------------------------------------------------------------------


def test_looks_are_those_of_scipy() -> None:
    image = torch.rand(2, 3, 19, 23, dtype=torch.float64)
    got = look(image)
    for b in range(2):
        spreads = []
        for c in range(3):
            x = image[b, c].numpy()
            x = (x - x.mean()) / (x.std() + 1e-3)
            smooth, square = (ndimage.gaussian_filter(v, 2.0, mode="nearest") for v in (x, x * x))
            assert np.allclose(got.seen[b, c], x)
            assert np.allclose(got.seen[b, 3 + c], smooth)
            spreads.append(np.sqrt(np.maximum(square - smooth**2, 0)))
        assert np.allclose(got.spread[b, 0], np.mean(spreads, 0), atol=1e-7)


def test_an_image_of_one_value_looks_the_same_everywhere() -> None:
    got = look(torch.full((1, 1, 9, 9), 0.3))
    assert got.seen.abs().max() < 1e-3
    assert got.spread.abs().max() < 1e-3


# --- the correction ------------------------------------------------------------------------------


def slow(answer: Tensor, seen: Look, anchors: Anchors) -> np.ndarray:
    """The module's equations for one map and strokes in one cell per class, pixel by pixel, with a
    solver that knows nothing of derivatives by hand."""
    c = likeness
    m, w, h = (v[0, 0].numpy() for v in (answer, anchors.weight, anchors.logits))
    channels = seen.seen.shape[1] // 2
    s, v = seen.seen[0].numpy(), seen.spread[0, 0].numpy()
    pixels = [(y, x) for y in range(m.shape[0]) for x in range(m.shape[1])]

    def q(p: tuple[int, int]) -> np.ndarray:
        return np.array([*(s[i][p] / channels**0.5 for i in range(2 * channels)), m[p] / 6])

    painted = [p for p in pixels if w[p] > 0]
    groups = [[p for p in painted if (h[p] > 0) == side] for side in (False, True)]
    places = [(np.mean(g, 0), np.mean([q(p) for p in g], 0)) for g in groups if g]

    def inputs(p: tuple[int, int]) -> np.ndarray:
        found = [1, *(s[i][p] for i in range(2 * channels)), v[p], m[p] / 6]
        for (cy, cx), looks in places:
            away = ((p[0] - cy) ** 2 + (p[1] - cx) ** 2) / (2 * c.NEAR**2)
            b = math.exp(-away - ((q(p) - looks) ** 2).sum() / (2 * c.ALIKE**2))
            near = max(abs(p[0] - cy), abs(p[1] - cx)) <= 3 * c.NEAR
            found.append(b * near * (c.RIDGE / c.LOCAL_RIDGE) ** 0.5)
        return np.array(found)

    share = np.clip(np.mean(m > 0), 0.01, 0.99)
    rows, offsets, targets, weights = [], [], [], []
    for p in pixels:
        rows.append(inputs(p))
        offsets.append(m[p] / c.SOFT)
        targets.append(1 / (1 + math.exp(-m[p] / c.SOFT)))
        weights.append(c.TRUST / len(pixels) * 0.5 / (share if m[p] > 0 else 1 - share))

    def touching(p: tuple[int, int]) -> int:
        found, todo = {p}, [p]
        while todo:
            y, x = todo.pop()
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & set(painted)
            more = {n for n in near if (h[n] > 0) == (h[p] > 0)} - found
            found |= more
            todo += more
        return len(found)

    for p in painted:
        rows.append(inputs(p))
        offsets.append(m[p] / c.SOFT)
        targets.append(float(h[p] > 0))
        weights.append(w[p] / max(c.STROKE, touching(p)))
    x, o, t, u = (np.array(k) for k in (rows, offsets, targets, weights))

    def loss(theta: np.ndarray) -> float:
        z = o + x @ theta
        return float((u * (np.logaddexp(0, z) - t * z)).sum() + c.RIDGE / 2 * theta @ theta)

    theta = optimize.minimize(loss, np.zeros(x.shape[1]), tol=1e-12).x * c.SOFT
    g = (x[: len(pixels)] @ theta).reshape(m.shape)
    surest = np.abs(h[w > 0]).max()
    return np.clip(m + g, np.minimum(m, -surest), np.maximum(m, surest))


@pytest.mark.parametrize("channels", [1, 3])
def test_it_equals_the_loop(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    monkeypatch.setattr(likeness, "NEAR", 3.0)  # some pixels are further off than three of them
    monkeypatch.setattr(likeness, "CELL", 40)
    answer, seen = case(channels=channels)
    line, corner = np.s_[8:10, 1:20], np.s_[10:11, 20:22]  # 40 pixels that touch
    strokes = (BOX, 1, 1.0), (LOW, 0, 0.5), (line, 1, 1.0), (corner, 1, 1.0)
    anchors = held(answer, *strokes)
    assert np.allclose(adapt(answer, seen, anchors)[0, 0], slow(answer, seen, anchors), atol=1e-3)


def blobs() -> tuple[Tensor, Tensor, Tensor]:
    """Image, answer and truth (H, W): three faint nuclei among three bright; the answer is surely
    without the faint."""
    y, x = torch.meshgrid(torch.arange(60), torch.arange(90), indexing="ij")
    image, truth = torch.zeros(60, 90), torch.zeros(60, 90, dtype=torch.bool)
    for i, cx in enumerate((15, 45, 75)):
        for cy, bright in ((15, 1.0), (45, 0.4)):
            disc = (y - cy) ** 2 + (x - cx) ** 2 <= 49
            image[disc], truth[disc] = bright + 0.01 * i, True
    answer = torch.where(image > 0.7, 5.0, -5.0)
    return image[None, None], answer[None, None], truth


def test_one_stroke_finds_all_that_look_alike() -> None:
    image, answer, truth = blobs()
    anchors = held(answer, (np.s_[42:48, 12:18], 1, 1.0))
    mask = adapt(answer, look(image), anchors)[0, 0] > 0
    assert not (mask & ~truth).any(), "the ground was taken along"
    for cx in (15, 45, 75):  # the one that is painted and two that are not
        assert truth[38:53, cx - 7 : cx + 8].sum() < 2 * mask[38:53, cx - 7 : cx + 8].sum()


def test_much_painted_in_one_place_takes_no_other_nucleus_away() -> None:
    """A broad stroke of background on one bright nucleus: the others stay whole."""
    image, answer, truth = blobs()
    others = truth & (image[0, 0] > 0.7)
    others[:, :30] = False
    for height in (2, 7, 10):
        stroke = np.s_[15 : 15 + height, 8:23]
        mask = adapt(answer, look(image), held(answer, (stroke, 0, 1.0)))[0, 0] > 0
        assert mask[others].all(), height


def test_a_stroke_that_agrees_changes_no_class() -> None:
    image, answer, _ = blobs()
    anchors = held(answer, (np.s_[12:18, 12:18], 1, 1.0), (np.s_[28:32, 28:32], 0, 1.0))
    got = adapt(answer, look(image), anchors)
    assert torch.equal(got > 0, answer > 0)


def test_several_classes_follow_their_strokes() -> None:
    image, answer, truth = blobs()
    three = torch.cat([-answer, answer, torch.full_like(answer, -6.0)], 1)
    anchors = held(three, (np.s_[42:48, 12:18], 2, 1.0))
    found = adapt(three, look(image), anchors)[0].argmax(0)
    faint, bright = truth & (image[0, 0] < 0.7), image[0, 0] > 0.7
    assert (found[~truth] == 0).all()
    assert (found[faint] == 2).float().mean() > 0.9
    assert (found[bright] == 1).float().mean() > 0.5


def test_nothing_becomes_surer_than_the_surest_stroke() -> None:
    answer, seen = case()
    anchors = held(answer, (BOX, 1, 1.0))
    got = adapt(answer, seen, anchors)
    assert (got <= answer.clamp(min=6)).all()
    assert (got >= answer.clamp(max=-6)).all()
    assert not torch.equal(got, answer)


# --- what a person relies on ---------------------------------------------------------------------


def test_without_strokes_it_is_the_answer_itself() -> None:
    answer, seen = case()
    assert adapt(answer, seen, held(answer)) is answer
    assert adapt(answer, seen, held(answer, (BOX, 1, 0.0))) is answer


def test_slices_without_strokes_keep_their_bits() -> None:
    answer, seen = case((2, 1, 17, 22))
    anchors = held(answer, (BOX, 1, 1.0))
    anchors.weight[1] = 0
    got = adapt(answer, seen, anchors)
    assert torch.equal(got[1], answer[1])
    first = Look(seen.seen[:1], seen.spread[:1])
    alone = adapt(answer[:1], first, Anchors(anchors.logits[:1], anchors.weight[:1]))
    assert torch.equal(got[:1], alone)


def test_strokes_are_held_and_the_past_does_not_matter() -> None:
    image, answer, _ = blobs()
    seen, cspn = look(image), create_refinement("cspn")
    affinity = torch.randn(1, 8, 60, 90)
    one, two = (np.s_[42:48, 12:18], 1, 1.0), (np.s_[3:9, 40:50], 0, 1.0)

    def shown(*painted: tuple) -> Tensor:
        anchors = held(answer, *painted)
        told = adapt(answer, seen, anchors)
        out = carry(answer, affinity, None, cspn, anchors, answer=told)
        where = anchors.weight == 1
        assert torch.equal(out[where], anchors.logits[where])
        return out

    first = shown(one)
    assert not torch.equal(shown(one, two), first)
    assert torch.equal(shown(one), first)


def test_very_many_strokes_are_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the slice painted: places and points stay within their numbers."""
    monkeypatch.setattr(likeness, "POINTS", 200)
    monkeypatch.setattr(likeness, "CELL", 2)
    sizes = []
    plain = likeness.fit
    monkeypatch.setattr(
        likeness, "fit", lambda e, ridge: (sizes.append(tuple(e.inputs.shape)), plain(e, ridge))[1]
    )
    answer, seen = case((1, 1, 40, 50))
    anchors = held(answer, (np.s_[:20, :], 1, 1.0), (np.s_[20:22, :], 0, 1.0))
    got = adapt(answer, seen, anchors)
    assert torch.isfinite(got).all()
    ((pixels, columns),) = sizes
    assert pixels <= 400
    assert columns <= 5 + likeness.PLACES
    assert (got[..., :20, :] > 0).float().mean() > (answer[..., :20, :] > 0).float().mean()


def test_clear_sentences() -> None:
    answer, seen = case()
    with pytest.raises(InputError, match="expected \\(B, K, H, W\\)"):
        adapt(answer[:, :, None], seen, held(answer))
    with pytest.raises(InputError, match="got looks of shape"):
        adapt(answer, look(torch.rand(1, 1, 5, 5)), held(answer))
    with pytest.raises(InputError, match="got strokes of shape"):
        adapt(answer, seen, Anchors(answer, torch.zeros(1, 1, 17, 21)))
