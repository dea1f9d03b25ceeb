"""Linear CKA against its definition by loops, its invariances and known figures."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_attnseg.engine.cka import GATE, cka, cka_stream, default_layers
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import create_model


class Features(nn.Module):
    """A model whose only layer gives exactly the features fed in (n, p)."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.same(x)


def of(x: np.ndarray, y: np.ndarray, biased: bool = False) -> float:
    """CKA of two feature matrices (n, p) and (n, q)."""
    batch = (torch.from_numpy(x), torch.from_numpy(y))
    return float(cka(Features(), Features(), [batch], biased=biased).values[0, 0])


def trace_form(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 exactly as it is written in Song et al. (2012)."""
    k, l = x @ x.T, y @ y.T
    n = len(k)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 * (one @ k @ l @ one) / (n - 2)) / (n * (n - 3))


def u_statistic(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC_1 as the mean over all ordered quadruples of distinct images."""
    k, l = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(len(k)), 4)
    ]
    return float(np.mean(terms))


def golden() -> tuple[np.ndarray, np.ndarray]:
    return np.sqrt(np.arange(12.0)).reshape(6, 2), np.sin(np.arange(18.0)).reshape(6, 3)


def test_golden_figures() -> None:
    assert of(*golden()) == pytest.approx(-0.1675460903, abs=1e-9)
    assert of(*golden(), biased=True) == pytest.approx(0.1059644795, abs=1e-9)


def test_closed_form_and_u_statistic_agree_and_give_the_same_cka() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 11)), rng.normal(size=(7, 5))
    y[:, 0] += x[:, 0]
    hsic = [[f(a, b) for a, b in ((x, y), (x, x), (y, y))] for f in (trace_form, u_statistic)]
    np.testing.assert_allclose(hsic[0], hsic[1], rtol=1e-10)
    xy, xx, yy = hsic[1]
    assert of(x, y) == pytest.approx(xy / np.sqrt(xx * yy), abs=1e-12)


def test_self_is_one_and_orthogonal_maps_scale_and_shift_change_nothing() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 13)), rng.normal(size=(9, 6)) ** 3
    turn, _ = np.linalg.qr(rng.normal(size=(13, 13)))
    for biased in (False, True):
        assert of(x, x, biased) == pytest.approx(1, abs=1e-12)
        assert of(x, x @ turn, biased) == pytest.approx(1, abs=1e-12)
        moved = 7.5 * (x @ turn) + rng.normal(size=13) * 100
        assert of(moved, y, biased) == pytest.approx(of(x, y, biased), abs=1e-10)


def test_independent_gaussians_are_alike_only_to_the_biased_form() -> None:
    rng = np.random.default_rng(2)
    pairs = [(rng.normal(size=(32, 100)), rng.normal(size=(32, 100))) for _ in range(8)]
    assert abs(np.mean([of(*p) for p in pairs])) < 0.03
    assert np.mean([of(*p, biased=True) for p in pairs]) == pytest.approx(0.758, abs=0.02)


def test_batches_are_averaged_before_the_ratio() -> None:
    rng = np.random.default_rng(3)
    parts = [(rng.normal(size=(n, 4)), rng.normal(size=(n, 3))) for n in (5, 8)]
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in parts]
    result = cka(Features(), Features(), batches)
    wanted = [
        np.mean([trace_form(*pick(x, y)) for x, y in parts])
        for pick in (lambda x, y: (x, y), lambda x, y: (x, x), lambda x, y: (y, y))
    ]
    assert result.values[0, 0] == pytest.approx(wanted[0] / np.sqrt(wanted[1] * wanted[2]))
    assert (result.batches, result.images) == (2, 13)


class InPlace(nn.Module):
    """The second layer overwrites the output of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.act = nn.ReLU6(inplace=True)
        self.dead = nn.Threshold(1e9, 2.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dead(self.act(self.act(self.conv(x))))


def test_in_place_layers_repeated_calls_and_constant_layers() -> None:
    torch.manual_seed(0)
    model, x = InPlace(), torch.randn(6, 1, 7, 11)
    result = cka(model, None, [x])
    assert result.layers_a == ("conv", "act", "act #2", "dead")
    assert np.isnan(result.values[3]).all()
    assert np.isnan(result.values[:, 3]).all()
    assert result.to_json()["values"][3] == [None] * 4
    before = model.conv(x).detach().flatten(1).double().numpy()
    after = before.clip(0, 6)
    assert result.values[0, 1] == pytest.approx(of(before, after), abs=1e-6)
    assert result.values[0, 1] < 0.999
    assert result.values[1, 2] == pytest.approx(1, abs=1e-6)


def test_inside_a_real_model_the_diagonal_is_one_and_the_gate_is_a_layer() -> None:
    torch.manual_seed(0)
    model = create_model("smooth_unet", in_channels=1, width=0.125, stride=8)
    model.train()
    x = torch.randn(5, 1, 33, 29)
    result = cka(model, None, [x])
    assert GATE in result.layers_a
    called = {name.split(" #")[0] for name in result.layers_a}
    assert called - {GATE} <= set(default_layers(model))
    varies = ~np.isnan(np.diag(result.values))
    assert varies.mean() > 0.9
    np.testing.assert_allclose(np.diag(result.values)[varies], 1, atol=1e-6)
    np.testing.assert_allclose(result.values, result.values.T, atol=1e-12)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_two_models_with_inputs_of_their_own_and_chosen_layers() -> None:
    torch.manual_seed(1)
    one = create_model("smooth_unet", in_channels=1, width=0.125, stride=8)
    two = create_model("smooth_unet", in_channels=3, width=0.125, stride=16)
    x = torch.randn(4, 1, 32, 32)
    result = cka(one, two, [(x, x.expand(-1, 3, -1, -1))], ["decoder.*"], ["encoder.conv1"])
    assert result.layers_b == ("encoder.conv1",)
    assert all(name.startswith("decoder.") for name in result.layers_a)
    assert result.values.shape == (len(result.layers_a), 1)


def test_words_for_what_cannot_be_done() -> None:
    model, x = Features(), torch.randn(3, 5)
    with pytest.raises(InputError, match="batch of 3 and 3"):
        cka(model, None, [x])
    with pytest.raises(InputError, match="no batch"):
        cka(model, None, [])
    with pytest.raises(InputError, match="got layer nose"):
        cka(model, None, [torch.randn(4, 5)], ["nose"])


def test_the_stream_can_be_closed() -> None:
    stream = cka_stream(Features(), None, (torch.randn(4, 5) for _ in range(1000)))
    assert next(stream) == 1
    stream.close()
