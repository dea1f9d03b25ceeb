"""EM attention against its loop; the bases, what learns, and the published form."""

from __future__ import annotations

import numpy as np
import pytest
import slow_pairs as slow
import torch
from shelf import arrays, fresh, noise, parameters, rows_of

from napari_attnseg import create_attention
from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError


@pytest.mark.parametrize(("bases", "iterations"), [(3, 1), (4, 3), (1, 2)])
def test_equals_the_slow_twin(bases: int, iterations: int) -> None:
    module = fresh("ema", bases=bases, iterations=iterations)
    x = noise(1, 8, 5, 7)
    p, item = arrays(module), x[0].numpy()
    flat = slow.project(item, p["into.weight"], p["into.bias"]).reshape(8, -1)
    m = p["running"].copy()
    z = np.zeros((35, bases))
    for _ in range(iterations):
        for n in range(35):
            z[n] = slow.softmax(flat[:, n] @ m)
        for k in range(bases):
            mean = sum(z[n, k] * flat[:, n] for n in range(35)) / (z[:, k].sum() + 1e-6)
            m[:, k] = mean / np.linalg.norm(mean)
    rebuilt = np.maximum(m @ z.T, 0).reshape(8, 5, 7)
    expected = np.maximum(item + slow.normed(rebuilt, slow.under("out", p), relu=False), 0)
    with torch.no_grad(), recording(module) as tape:
        np.testing.assert_allclose(module(x)[0].numpy(), expected, atol=1e-11)
    (regions,) = tape.records
    np.testing.assert_allclose(regions.values[0].flatten(1).numpy(), z.T, atol=1e-12)


def test_bases_have_length_one_and_responsibilities_sum_to_one() -> None:
    module, x = fresh("ema", bases=5), noise(2, 8, 35)
    bases, z, _ = module.cluster(x)
    torch.testing.assert_close(bases.norm(dim=1), torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(z.sum(-1), torch.ones(2, 35, dtype=torch.float64))


def test_one_basis_is_the_normalised_mean() -> None:
    module, x = fresh("ema", bases=1), noise(1, 8, 35)
    bases, z, _ = module.cluster(x)
    mean = x.mean(-1, keepdim=True)
    torch.testing.assert_close(bases, mean / mean.norm())
    assert (z == 1).all()


def test_the_operator_has_the_rank_of_the_bases_and_its_rows_are_shown() -> None:
    module, x = fresh("ema", bases=3), noise(2, 8, 5, 7)
    with torch.no_grad():
        a = module.operator(x)
    assert int(torch.linalg.matrix_rank(a).max()) <= 3
    torch.testing.assert_close(rows_of(module, (4, 6), x).flatten(1), a[:, 0, 34])


def test_the_first_layer_learns_unless_it_is_the_published_form() -> None:
    x = noise(2, 8, 5, 7)
    for frozen in (False, True):
        module = fresh("ema", bases=3, frozen_em=frozen)
        module(x).square().sum().backward()
        learned = [n for n, p in module.named_parameters() if p.grad is not None]
        assert ("into.weight" in learned) != frozen
        assert "out.0.weight" in learned
    assert parameters("ema") == 8384
    assert parameters("ema", frozen_em=True) == 8384 - 64 * 64 - 64


def test_running_bases_follow_while_training_and_stand_otherwise() -> None:
    module, x = fresh("ema", bases=3), noise(2, 8, 5, 7)
    before = module.running.clone()
    module(x)
    assert torch.equal(module.running, before)
    with torch.no_grad():
        bases = module.cluster(module.into(x).flatten(2))[0].mean(0)
    out = module.train()(x)
    torch.testing.assert_close(module.running, 0.9 * before + 0.1 * bases)
    out.sum().backward()  # the update did not touch what the gradients need
    assert "running" in module.state_dict()


def test_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="got bases=0, iterations=3"):
        create_attention("ema", 8, bases=0)
    with pytest.raises(InputError, match=r"got momentum=1\.5, expected 0 to 1"):
        create_attention("ema", 8, momentum=1.5)
