"""Hard gates: a mask of zeros and ones that learns."""

from __future__ import annotations

import pytest
import torch
from gate_inputs import SIZES, C, features, filled

from napari_attnseg.attention.hard import HardAttention
from napari_attnseg.errors import InputError


@pytest.mark.parametrize("mode", ["learned", "topk", "gumbel"])
@pytest.mark.parametrize("size", SIZES)
def test_the_mask_is_zero_or_one_and_learns(mode: str, size: tuple[int, ...]) -> None:
    module = HardAttention(C, mode, ndim=len(size))
    filled(module)
    module.train()
    x = features(size)
    mask = module.weights(x)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    (module(x) * torch.randn_like(x)).sum().backward()
    assert module.score is not None
    for p in module.score.parameters():
        assert p.grad is not None
        assert p.grad.abs().max() > 0


def test_the_straight_gradient_is_that_of_the_score() -> None:
    module = HardAttention(C)
    filled(module)
    x, g = features((7, 11)), features((7, 11), seed=9)
    (module(x) * g).sum().backward()
    assert module.score is not None
    found = module.score.weight.grad  # type: ignore[union-attr]
    module.zero_grad()
    (x * torch.sigmoid(module.score(x)) * g).sum().backward()
    torch.testing.assert_close(found, module.score.weight.grad)  # type: ignore[union-attr]


def test_the_threshold_decides() -> None:
    module = HardAttention(C)
    filled(module)
    x = features((7, 11))
    assert module.score is not None
    p = torch.sigmoid(module.score(x))
    for t in (0.0, 0.3, 0.5, 0.9):
        assert torch.equal(module(x, t), x * (p > t))
    assert torch.equal(module(x, 0.0), x)
    assert not module(x, 1.0).any()
    assert module.tunables[0].name == "threshold"


@pytest.mark.parametrize(("keep", "kept"), [(0.25, 19), (1.0, 77), (0.001, 1)])
def test_the_best_share_is_kept(keep: float, kept: int) -> None:
    module = HardAttention(C, "topk", keep=keep)
    filled(module)
    x = features((7, 11))
    assert module.score is not None
    mask, score = module.weights(x).flatten(1), module.score(x).flatten(1)
    assert mask.sum(1).tolist() == [kept, kept]
    for m, s in zip(mask, score, strict=True):
        assert s[m == 1].min() >= s.sort(descending=True).values[kept - 1]


def test_drawn_masks_follow_the_score() -> None:
    module = HardAttention(1, "gumbel")
    filled(module, 0.0)
    assert module.score is not None
    with torch.no_grad():
        module.score.bias.fill_(1.0)  # type: ignore[union-attr,operator]
    module.train()
    torch.manual_seed(0)
    share = module.weights(torch.zeros(1, 1, 200, 200, dtype=torch.float64)).mean()
    assert abs(float(share.detach()) - 0.7311) < 0.01  # sigmoid(1)
    assert module.eval().weights(torch.zeros(1, 1, 5, 5, dtype=torch.float64)).all()


def test_a_given_mask_is_held() -> None:
    module = HardAttention(C, "given")
    x = features((6, 8))
    assert torch.equal(module(x), x)
    mask = torch.zeros(3, 4)
    mask[1, 2] = 5
    module.hold(mask)
    expected = torch.zeros_like(x)
    expected[..., 2:4, 4:6] = x[..., 2:4, 4:6]
    assert torch.equal(module(x), expected)
    module.hold(torch.stack([mask, 0 * mask]))
    assert torch.equal(module(x)[0], expected[0])
    assert not module(x)[1].any()
    module.hold(None)
    assert torch.equal(module(x), x)
    with pytest.raises(InputError, match="got a mask for mode 'learned'"):
        HardAttention(C).hold(mask)
    volume = HardAttention(C, "given", ndim=3)
    volume.hold(torch.ones(3, 5, 4))
    x = features((3, 5, 4))
    assert torch.equal(volume(x), x)
