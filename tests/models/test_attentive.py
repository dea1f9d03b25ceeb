"""Attention at fixed places: strengths between 0 and 1, and those of a tuning."""

from __future__ import annotations

import pytest
import torch

from attentive_models import OPTIONS, made, picture


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_strengths_mix_and_are_adopted(name: str) -> None:
    x = picture()
    model = made(name)
    last = model.tunables[-1].name
    half = model(x, **{last: 0.5})
    assert not torch.equal(half, model(x))
    model.adopt(model.tuning().replace(**{last: 0.5}))
    assert torch.equal(model(x), half)
    assert dict(model.tuning().items)[last] == 0.5
