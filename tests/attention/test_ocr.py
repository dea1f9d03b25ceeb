"""Object context against its loop; regions from hard guesses, one class, low rank."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, rows_of

from napari_attnseg import create_attention
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError

H, W, K = 5, 7, 3


@pytest.mark.parametrize("norm", [False, True])
def test_equals_the_slow_twin(norm: bool) -> None:
    module = fresh("ocr", classes=K, norm=norm)
    x, logits = noise(1, 8, H, W), noise(1, K, H, W, seed=9)
    p, item, scores = arrays(module), x[0].numpy(), logits[0].numpy()

    def through(name: str, v: np.ndarray) -> np.ndarray:
        layers = slow.under(name, p)
        return (
            slow.normed(v, layers)
            if norm
            else slow.project(v, layers["weight"], layers.get("bias"))
        )

    shares = np.stack([slow.softmax(scores[k].ravel()).reshape(H, W) for k in range(K)])
    regions = np.stack([(shares[k] * item).sum((1, 2)) for k in range(K)], 1)[:, :, None]
    query, key, value = through("phi", item), through("psi", regions), through("delta", regions)
    context, relation = np.zeros((4, H, W)), np.zeros((K, H, W))
    for y in range(H):
        for i in range(W):
            w = slow.softmax(key[:, :, 0].T @ query[:, y, i] / 2.0)
            relation[:, y, i] = w
            context[:, y, i] = value[:, :, 0] @ w
    expected = through("join", np.concatenate([item, through("rho", context)]))
    with torch.no_grad(), recording(module) as tape:
        np.testing.assert_allclose(module(x, logits)[0].numpy(), expected, atol=1e-12)
    found = {r.name: r.values[0].numpy() for r in tape.records}
    np.testing.assert_allclose(found["regions"], shares, atol=1e-12)
    np.testing.assert_allclose(found["relation"], relation, atol=1e-12)
    row = np.einsum("k,khw->hw", relation[:, 4, 1], shares)
    np.testing.assert_allclose(rows_of(module, (4, 1), x, logits)[0], row, atol=1e-12)


def test_sure_guesses_gather_the_mean_of_each_class() -> None:
    module, x = fresh("ocr", classes=2), noise(1, 8, 4, 6)
    left = torch.zeros(4, 6, dtype=torch.bool)
    left[:, :2] = True
    logits = torch.stack([left, ~left])[None].double() * 80
    shares, regions, _ = module.weights(x, logits)
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 2, dtype=torch.float64))
    torch.testing.assert_close(regions[0, :, 0, 0], x[0][:, left].mean(-1))
    torch.testing.assert_close(regions[0, :, 1, 0], x[0][:, ~left].mean(-1))


def test_one_class_gives_every_pixel_the_same_context() -> None:
    module, x = fresh("ocr", classes=1), noise(1, 8, H, W)
    _, _, relation = module.weights(x, noise(1, 1, H, W))
    assert (relation == 1).all()


def test_the_operator_has_the_rank_of_the_classes() -> None:
    module, x = fresh("ocr", classes=K, norm=False), noise(2, 8, H, W)
    a = module.operator(x, noise(2, K, H, W, seed=9))
    assert module.rank == K
    assert int(torch.linalg.matrix_rank(a).max()) <= K
    torch.testing.assert_close(a.sum(-1), torch.ones(2, 1, H * W, dtype=torch.float64))
    with pytest.raises(InputError, match="expected norm=False"):
        fresh("ocr", classes=K).operator(x, noise(2, K, H, W))


def test_guesses_of_another_size_are_resized_and_of_other_classes_refused() -> None:
    module, x = fresh("ocr", classes=2), noise(1, 8, 6, 8)
    coarse = noise(1, 2, 3, 4)
    up = torch.nn.functional.interpolate(coarse, (6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(x, coarse), module(x, up))
    with pytest.raises(InputError, match="got 3 class scores, expected 2"):
        module(x, noise(1, 3, 6, 8))


def test_parameters() -> None:
    made = create_attention("ocr", 64, classes=2, norm=False)
    assert sum(p.numel() for p in made.parameters()) == 16_576
    # with a layer of its own for the guess (130) and a key's bias that does nothing (32): 16 738
