"""Non-local U-Net: everywhere attends to everywhere, also from the finer grid to the coarser."""

from __future__ import annotations

import pytest
import torch

from napari_attnseg.attention.recording import recording
from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.models.nonlocal_unet import Aggregation, NonLocalUNet


def small(**options: float) -> NonLocalUNet:
    torch.manual_seed(4)
    model = create_model("nonlocal_unet", in_channels=1, **{"width": 0.125, **options})
    assert isinstance(model, NonLocalUNet)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("up", [False, True])
def test_aggregation_is_its_formula(up: bool) -> None:
    torch.manual_seed(5)
    module = Aggregation(6, 4, heads=2, up=up).eval()
    x = torch.randn(1, 6, 3, 5)
    base = torch.randn(1, 4, 6, 10) if up else torch.randn(1, 4, 3, 5)
    y = module(base, x)
    z = module.ready(x)
    pairs = module.pairs
    assert pairs.key is not None
    q, k, v = pairs.query(z), pairs.key(z), pairs.value(z)
    assert q.shape == base.shape
    for i, j in ((0, 0), (2, 4), (base.shape[2] - 1, 1)):
        mixed = []
        for head in (slice(0, 2), slice(2, 4)):
            scores = torch.einsum("d,dn->n", q[0, head, i, j], k[0, head].flatten(1)) / 2**0.5
            mixed.append(v[0, head].flatten(1) @ torch.exp(scores) / torch.exp(scores).sum())
        gathered = pairs.out(torch.cat(mixed).view(1, 4, 1, 1))[0, :, 0, 0]
        assert torch.allclose(y[0, :, i, j], base[0, :, i, j] + gathered, atol=1e-5)


def test_a_corner_reaches_the_other_through_attention_alone() -> None:
    model = small()
    x = torch.rand(1, 1, 96, 96, requires_grad=True)
    for strength, reaches in ((1.0, True), (0.0, False)):
        answer = model(x, level_1=strength, level_2=strength)[0, 0, 0, 0]
        (grad,) = torch.autograd.grad(answer, x)
        assert bool(grad[0, 0, -8:, -8:].any()) == reaches


@torch.no_grad()
def test_skips_are_added() -> None:
    model = small()
    torch.nn.init.zeros_(model.shortcut.weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(model.shortcut.bias)  # type: ignore[arg-type]
    seen: list[torch.Tensor] = []
    model.blocks[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.rand(1, 1, 20, 28)
    model(x, level_1=0.0)
    assert torch.equal(seen[0], model.encode(x).skips[-1])


@torch.no_grad()
def test_the_finer_grid_asks_the_coarser() -> None:
    model = small()
    with recording(model, query=(0.5, 0.5)) as tape:
        model(torch.rand(1, 1, 32, 48))
    rows = {r.place: r for r in tape.records if r.name == "row"}
    assert rows["first_up.module"].values.shape == (1, 8, 12)
    assert rows["first_up.module"].geometry.stride == (2.0, 2.0)
    assert rows["bottom.module"].values.shape == (1, 2, 8, 12)
    assert all(r.values.sum((-2, -1)).allclose(torch.ones(())) for r in rows.values())
    assert [p.stride for p in model.places] == [2, 4]


@torch.no_grad()
def test_weights_are_dropped_only_while_training_and_only_if_asked() -> None:
    x = torch.rand(2, 1, 16, 16)
    for dropout, moves in ((0.5, True), (0.0, False)):
        model = small(dropout=dropout)
        assert torch.equal(model(x), model(x))
        model.train()
        assert torch.equal(model(x), model(x)) != moves


def test_refused() -> None:
    with pytest.raises(InputError, match=r"dropout=1\.0"):
        create_model("nonlocal_unet", dropout=1.0)
