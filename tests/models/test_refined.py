"""Refined models: what coarse model, guidance network and propagation owe each other."""

from __future__ import annotations

import json

import pytest
import torch

from napari_attnseg import create_model
from napari_attnseg.errors import InputError
from napari_attnseg.models.guided import Guided, GuidedCache
from napari_attnseg.models.pam_unet import PamUNet
from napari_attnseg.models.refined import LIMIT, RefinedModel, limited
from napari_attnseg.refinement import create_refinement

COARSE = json.dumps({"name": "smooth_unet", "options": {"width": 0.125, "stride": 8}})


def tiny(refine: str = "cspn", classes: int = 1, **options) -> RefinedModel:
    torch.manual_seed(1)
    wanted = {"coarse": COARSE, "refine": refine, "width": 0.125, "levels": 2, "iterations": 3}
    model = create_model("refined", in_channels=1, classes=classes, **{**wanted, **options})
    assert isinstance(model, RefinedModel)
    return model


BOTH = pytest.mark.parametrize("refine", ["cspn", "dyspn"])


@BOTH
@pytest.mark.parametrize("classes", [1, 3])
def test_logits_of_any_size(refine: str, classes: int) -> None:
    model = tiny(refine, classes).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 1, 37, 43)).shape == (2, classes, 37, 43)


@BOTH
def test_no_iteration_is_the_coarse_model(refine: str) -> None:
    model = tiny(refine).eval()
    x = torch.rand(1, 1, 33, 29)
    with torch.no_grad():
        coarse = model.coarse(x).clamp(-LIMIT, LIMIT)
        assert torch.equal(model(x, iterations=0), coarse)
        assert not torch.equal(model(x), coarse)


def test_a_coarse_model_sure_of_two_classes_keeps_its_mask() -> None:
    """Several logits beyond the limit: cut one by one they would tie, and another class won."""
    rows = [[8.0, 7, 15], [9, 7, 8], [-9, -7, -8], [-20, 7, 8], [1, -2, 0.5], [5.9, -5.9, 0]]
    logits = torch.tensor(rows).T[None, :, None]
    start = tiny(classes=3).eval().guide_from(torch.rand(1, 1, 1, len(rows)), logits).start
    assert torch.equal(start.argmax(1), logits.argmax(1))
    assert start.abs().max() <= LIMIT
    assert torch.equal(start[..., 4:], logits[..., 4:])
    by_hand = torch.tensor([[-1.0, -2, 6], [6, 4, 5], [-6, -4, -5], [-6, 5, 6]]).T
    assert torch.equal(start[0, :, 0, :4], by_hand)


@BOTH
def test_steps_end_where_the_forward_ends(refine: str) -> None:
    model = tiny(refine).eval()
    x = torch.rand(1, 1, 33, 29)
    with torch.no_grad():
        encoded = model.encode(x)
        guided = model.guide(encoded, model.attend(encoded))
        steps = list(model.steps(guided))
        assert len(steps) == 3
        assert torch.allclose(steps[-1], model(x), atol=1e-5)
        assert torch.allclose(list(model.steps(guided, 2))[-1], model(x, iterations=2), atol=1e-5)


def test_iterations_cost_no_second_guidance() -> None:
    model = tiny().eval()
    calls = []
    model.guidance.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        encoded = model.encode(torch.rand(1, 1, 24, 24))
        attended = model.attend(encoded)
        for count in (3, 0, 1, 12):
            model.gate(encoded, attended, threshold=0.1, iterations=count)
        assert len(calls) == 1
        model.gate(encoded, attended, threshold=0.2, iterations=3)
        assert len(calls) == 2


def test_going_back_to_an_image_costs_no_second_guidance() -> None:
    model = tiny().eval()
    calls = []
    model.guidance.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        slices = [model.encode(torch.rand(1, 1, 24, 24)) for _ in range(4)]
        first = [model.guide(s) for s in slices]
        assert len(calls) == 4
        assert all(model.guide(s) is g for s, g in zip(slices, first, strict=True))
        assert len(calls) == 4
        model.forget()
        assert model.guide(slices[2]) is not first[2]
        assert len(calls) == 5


def test_what_is_kept_has_a_limit_and_ends_with_the_features() -> None:
    features = [torch.rand(2) for _ in range(5)]
    guided = [Guided(torch.zeros(1, 1, 4, 4), torch.zeros(1, 8, 4, 4), None) for _ in features]
    assert guided[0].nbytes == 9 * 16 * 4
    kept = GuidedCache(3 * guided[0].nbytes)
    for f, g in zip(features, guided, strict=True):
        kept.put(f, (), g)
        assert kept.get(f, ()) is g
        assert kept.get(f, (("threshold", 1.0),)) is None
        assert kept.used <= kept.limit
    assert [kept.get(f, ()) is not None for f in features] == [False, False, True, True, True]
    kept.get(features[2], ())  # the youngest now
    kept.put(features[0], (), guided[0])
    assert [kept.get(f, ()) is not None for f in features] == [True, False, True, False, True]
    del f, features[2]
    assert len(kept) == 2
    small = GuidedCache(1)
    small.put(features[0], (), guided[0])
    assert small.get(features[0], ()) is guided[0]  # the last one always stays


@BOTH
def test_slices_of_a_volume_are_refined_together(refine: str) -> None:
    model = tiny(refine, 3, kernel=3).eval()
    images = torch.rand(1, 1, 24, 28).repeat(3, 1, 1, 1)
    images[2] = 1 - images[2]
    with torch.no_grad():
        model.guidance.affinity.weight.mul_(20)
        slices = [model.guide(model.encode(image[None])) for image in images]
        alone = [list(model.steps(g)) for g in slices]
        (one,) = [list(model.steps_through(slices[:1], images[:1]))]
        assert len(one) == len(alone[0]) == 3
        for a, b in zip(one, alone[0], strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        apart = list(model.steps_through(slices, images, 2, across=0.0))
        assert len(apart) == 2
        for z in range(3):
            assert torch.allclose(apart[-1][z], alone[z][1][0], atol=1e-5)
        together = list(model.steps_through(slices, images, 2))[-1]
        assert not torch.allclose(together, apart[-1], atol=1e-3)
        assert list(model.steps_through(slices, images, 0)) == []


def test_the_coarse_models_values_reach_it() -> None:
    model = tiny().eval()
    with torch.no_grad():
        model.coarse.attention.gamma.fill_(2.0)
        x = torch.rand(1, 1, 32, 32)
        assert not torch.equal(model(x, threshold=0.0), model(x, threshold=2.0))


@BOTH
def test_a_frozen_coarse_model_stays(refine: str) -> None:
    model = tiny(refine)
    assert model.training  # nobody calls train() on a fresh model
    assert not model.coarse.training
    for _ in range(2):  # every epoch begins so
        model.train()
        assert model.training
        assert model.guidance.training
        assert not model.coarse.training
    before = {k: v.clone() for k, v in model.coarse.state_dict().items()}
    model(torch.rand(2, 1, 32, 32)).square().mean().backward()
    assert all(p.grad is None for p in model.coarse.parameters())
    assert all(p.grad is not None for p in model.guidance.parameters())
    after = model.coarse.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_a_free_coarse_model_learns() -> None:
    model = tiny(frozen=False).train()
    assert model.coarse.training
    model(torch.rand(2, 1, 32, 32)).square().mean().backward()
    moved = [n for n, p in model.coarse.named_parameters() if p.grad is not None]
    assert "decoder.layers.0.weight" in moved


def test_attention_of_rings_can_be_switched_off() -> None:
    """A linear head before the sigmoid: values below one half exist (a ReLU would forbid them)."""
    model = tiny("dyspn").train()
    _, attention = model.guidance(torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32))
    assert attention is not None
    assert attention.shape == (1, 3, 4, 32, 32)
    assert float(attention.detach().min()) < 0.5


def test_a_constant_image_gets_no_row_stripes() -> None:
    model = tiny("cspn").eval()
    with torch.no_grad():
        affinity, _ = model.guidance(torch.full((1, 1, 64, 64), 0.5), torch.zeros(1, 1, 64, 64))
    inner = affinity[..., 24:40, 24:40]
    assert torch.allclose(inner[..., ::2, :], inner[..., 1::2, :], atol=1e-4)


@pytest.mark.parametrize("classes", [1, 3])
def test_without_a_propagation_it_is_a_plain_second_u_net(classes: int) -> None:
    model = tiny("none", classes).eval()
    x = torch.rand(1, 1, 33, 29)
    with torch.no_grad():
        coarse = limited(model.coarse(x))
        residual, _ = model.guidance(x, coarse / LIMIT)
        assert residual.shape == coarse.shape
        assert torch.allclose(model(x), coarse + residual, atol=1e-6)
    like = sum(p.numel() for p in tiny("cspn", classes).guidance.parameters())
    own = sum(p.numel() for p in model.guidance.parameters())
    assert abs(own / like - 1) < 0.05  # but for the head, the same network


def test_with_its_propagation_off_only_the_coarse_model_learns() -> None:
    with pytest.raises(InputError, match="where nothing could learn; add --fine-tune"):
        tiny("off")
    model = tiny("off", frozen=False).eval()
    x = torch.rand(1, 1, 33, 29)
    with torch.no_grad():
        assert torch.equal(model(x), model.coarse(x).clamp(-LIMIT, LIMIT))
    model.train()(torch.rand(2, 1, 32, 32)).square().mean().backward()
    assert all(p.grad is None for p in model.guidance.parameters())
    assert any(p.grad is not None for p in model.coarse.parameters())


@pytest.mark.parametrize("refine", ["cspn", "dyspn", "cspn_fold", "dyspn_fold"])
def test_every_class_may_have_its_own_affinity(refine: str) -> None:
    model = tiny(refine, 3, per_class=True, kernel=5).eval()
    assert model.guidance.affinity.out_channels == 3 * (8 + 16)
    x = torch.rand(1, 1, 33, 29)
    with torch.no_grad():
        guided = model.guide(model.encode(x))
        last = list(model.steps(guided))[-1]
        assert torch.allclose(model(x), last, atol=1e-5)
        for k in range(3):
            alone = create_refinement(refine, iterations=3, kernel=5)
            part = slice(24 * k, 24 * k + 24)
            one = alone.refine(
                guided.start[:, k : k + 1], guided.affinity[:, part], guided.attention
            )
            assert torch.allclose(one[:, 0], last[:, k], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"refine": "x"}, "got refine='x'"),
        ({"coarse": "refined"}, "without refinement"),
        ({"coarse": "{"}, "expected a model's name or JSON"),
        ({"coarse": "nothing"}, "got model 'nothing'"),
    ],
)
def test_bad_wishes_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tiny(**options)


def test_too_many_iterations_are_refused() -> None:
    with pytest.raises(InputError, match="got iterations=4, expected 0 to 3"):
        tiny("dyspn")(torch.rand(1, 1, 16, 16), iterations=4)


def test_forgetting_reaches_the_coarse_model() -> None:
    pam = json.dumps({"name": "pam_unet", "options": {"plan": "tiny", "width": 0.25}})
    model = tiny(coarse=pam).eval()
    with torch.no_grad():
        encoded = model.encode(torch.rand(1, 1, 32, 32))
        model.gate(encoded, None, level_1=0.5, iterations=1)
    assert isinstance(model.coarse, PamUNet)
    assert model.coarse._kept is not None
    model.forget()
    assert model.coarse._kept is None
